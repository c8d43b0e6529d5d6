//! Debian packages the servers come from.

use std::{path::Path, process::Command};

use crate::{
    exec::{ExecError, on_path, run_long},
    java,
};

/// A program this project uses and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// The program, on `PATH` or as an absolute path.
    pub program: &'static str,
    /// The Debian package.
    pub package: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
}

const fn needed(program: &'static str, package: &'static str, purpose: &'static str) -> Needed {
    Needed { program, package, purpose }
}

/// What control-plane and runtime tests need.
pub const FOR_TESTS: [Needed; 2] = [
    needed("setpriv", "util-linux", "servers that end with the test that started them"),
    needed("/usr/lib/postgresql/15/bin/postgres", "postgresql-15", "PostgreSQL in tests and in the image"),
];

/// What Kafka is fetched with, and its Java made from.
pub const FOR_KAFKA: [Needed; 2] = [
    needed("mvn", "maven", "fetching Kafka's jars (once)"),
    needed(java::JLINK, java::PACKAGE, "Kafka's Java, in tests and in the image (once)"),
];

/// Redis, and the command that talks to it.
pub const FOR_REDIS: [Needed; 1] =
    [needed("redis-server", "redis-server", "Redis in tests and in the image")];

/// What the native cluster needs besides.
pub const FOR_CLUSTER: [Needed; 10] = [
    needed("containerd", "containerd", "running pods"),
    needed("ctr", "containerd", "loading images"),
    needed("runc", "runc", "running pods"),
    needed("/usr/lib/cni/bridge", "containernetworking-plugins", "pod addresses"),
    needed("nft", "nftables", "Services (kube-proxy)"),
    needed("ip", "iproute2", "nodes' links"),
    needed("nsenter", "util-linux", "entering a node"),
    // The other package of busybox has the same path but needs libraries.
    needed("/var/lib/dpkg/info/busybox-static.list", "busybox-static", "the shell of images"),
    needed("strip", "binutils", "small images"),
    needed("/etc/ssl/certs/ca-certificates.crt", "ca-certificates", "the authorities images trust"),
];

impl Needed {
    /// What to call it: the program's name, or its package where it has none.
    pub fn name(&self) -> &'static str {
        if self.program.starts_with('/') { self.package } else { self.program }
    }

    /// Whether it is installed.
    pub fn is_installed(&self) -> bool {
        if self.program.starts_with('/') { Path::new(self.program).exists() } else { on_path(self.program) }
    }
}

/// Why packages are missing.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// They cannot be installed by this process.
    #[error("missing: {missing}\n{remedy}")]
    Missing {
        /// The programs and what each is for.
        missing: String,
        /// The command that installs them.
        remedy: String,
    },
    /// apt-get failed.
    #[error("cannot install packages")]
    Install(#[from] ExecError),
}

/// The packages of `needed` that are not installed, without repetition.
pub fn missing(needed: &[Needed]) -> Vec<Needed> {
    needed.iter().filter(|item| !item.is_installed()).copied().collect()
}

/// Installs what is missing of `needed` when this process is root on Debian; otherwise says the command that does.
pub fn ensure(needed: &[Needed]) -> Result<(), PackageError> {
    let absent = missing(needed);
    if absent.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = absent.iter().map(|item| item.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !on_path("apt-get") || !nix::unistd::geteuid().is_root() {
        let missing = absent.iter().map(|item| format!("{} ({})", item.name(), item.purpose));
        return Err(PackageError::Missing {
            missing: missing.collect::<Vec<_>>().join(", "),
            remedy: install_command(&packages),
        });
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(args);
        run_long("installing Debian packages", &mut command)
    };
    apt(&["update"])?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(&packages);
    apt(&args)?;
    match missing(needed).first() {
        None => Ok(()),
        Some(item) => Err(PackageError::Missing {
            missing: format!("{} ({})", item.name(), item.purpose),
            remedy: format!("package {} did not bring it on this system", item.package),
        }),
    }
}

/// The command that installs `packages` on Debian.
pub fn install_command(packages: &[&str]) -> String {
    format!("on Debian: sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}
