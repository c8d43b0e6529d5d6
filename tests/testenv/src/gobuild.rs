//! Building the pinned Go programs under `kind/`: Kubernetes, etcd and its commands, CoreDNS, Vault, OPA and OpenFGA.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{Cache, CacheError, fingerprint},
    checkout,
    exec::{self, ExecError, run_long},
};

/// Why a Go program could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Go toolchain is missing.
    #[error(
        "{0} is built from source with Go, which is not on PATH: install Go 1.26 or newer from https://go.dev/dl/"
    )]
    NoGo(&'static str),
    /// The module's files cannot be read, or do not name the version.
    #[error("cannot read {path}")]
    Source {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `go.mod` does not require the module whose version names the build.
    #[error("{path} does not require {module}")]
    NoVersion {
        /// The `go.mod`.
        path: PathBuf,
        /// The module looked for.
        module: &'static str,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// `go build` failed.
    #[error("the build of {program} failed")]
    Build {
        /// The program.
        program: &'static str,
        /// What `go build` said.
        source: ExecError,
    },
}

/// A program under `kind/` that is one Go module with a committed `go.sum`.
#[derive(Clone, Copy, Debug)]
pub struct GoProgram {
    /// Its folder under `kind/` and the name of the binary.
    pub name: &'static str,
    /// The module whose version is the program's.
    module: &'static str,
    /// Where the program keeps its version, as `-X` variables that take `VERSION`, `MAJOR` and `MINOR`.
    stamps: &'static [&'static str],
    /// Build tags, with commas; empty for none.
    tags: &'static str,
}

/// kube-apiserver, controller-manager, scheduler, kubelet, kube-proxy and kubectl in one binary.
pub const KUBE: GoProgram = GoProgram {
    name: "kube",
    module: "k8s.io/kubernetes",
    stamps: &[
        "k8s.io/component-base/version.gitVersion=VERSION",
        "k8s.io/component-base/version.gitMajor=MAJOR",
        "k8s.io/component-base/version.gitMinor=MINOR",
        "k8s.io/component-base/version.gitTreeState=clean",
    ],
    tags: "",
};

/// The etcd server.
pub const ETCD: GoProgram =
    GoProgram { name: "etcd", module: "go.etcd.io/etcd/server/v3", stamps: &[], tags: "" };

/// etcdctl and, called by that name, etcdutl.
pub const ETCDCTL: GoProgram =
    GoProgram { name: "etcdctl", module: "go.etcd.io/etcd/etcdctl/v3", stamps: &[], tags: "" };

/// CoreDNS with the plugins a cluster needs.
pub const COREDNS: GoProgram =
    GoProgram { name: "coredns", module: "github.com/coredns/coredns", stamps: &[], tags: "" };

/// HashiCorp Vault, server and command, without the plugins for the clouds.
pub const VAULT: GoProgram =
    GoProgram { name: "vault", module: "github.com/hashicorp/vault", stamps: &[], tags: "minimal" };

/// The Open Policy Agent, without WebAssembly and without bundles from image registries.
pub const OPA: GoProgram =
    GoProgram { name: "opa", module: "github.com/open-policy-agent/opa", stamps: &[], tags: "opa_no_oci" };

/// OpenFGA, server and migrations.
pub const OPENFGA: GoProgram = GoProgram {
    name: "openfga",
    module: "github.com/openfga/openfga",
    stamps: &["github.com/openfga/openfga/internal/build.Version=VERSION"],
    tags: "",
};

impl GoProgram {
    /// The path of the built binary, building it first when it is not in the cache.
    pub fn ensure(&self, cache: &Cache) -> Result<PathBuf, BuildError> {
        let folder = self.folder();
        let version = self.version()?;
        let flags = self.linker_flags(&version);
        let mut parts = vec![flags.clone().into_bytes(), self.tags.into()];
        // A program without tags keeps the name it had before there were any.
        parts.retain(|part| !part.is_empty());
        for file in ["main.go", "go.mod", "go.sum"] {
            parts.push(read(&folder.join(file))?.into_bytes());
        }
        let key = fingerprint(parts.iter().map(Vec::as_slice));
        cache.ensure(&format!("bin/{}-{version}-{key}", self.name), |path| self.build(&folder, &flags, path))
    }

    /// The version `go.mod` pins.
    pub fn version(&self) -> Result<String, BuildError> {
        let path = self.folder().join("go.mod");
        read(&path)?
            .lines()
            .filter_map(|line| {
                line.trim().trim_start_matches("require ").strip_prefix(self.module)?.strip_prefix(' ')
            })
            .find_map(|rest| rest.split_whitespace().next().map(str::to_owned))
            .ok_or(BuildError::NoVersion { path, module: self.module })
    }

    fn folder(&self) -> PathBuf {
        checkout().join("kind").join(self.name)
    }

    fn linker_flags(&self, version: &str) -> String {
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let mut flags = String::from("-s -w");
        for stamp in self.stamps {
            let stamp = stamp.replace("VERSION", version).replace("MAJOR", major).replace("MINOR", minor);
            flags.push_str(" -X ");
            flags.push_str(&stamp);
        }
        flags
    }

    fn build(&self, folder: &Path, flags: &str, output: &Path) -> Result<(), BuildError> {
        if !exec::on_path("go") {
            return Err(BuildError::NoGo(self.name));
        }
        eprintln!("   building {} {} from source (once)", self.name, self.version()?);
        let mut command = Command::new("go");
        command
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .args(["build", "-trimpath", "-tags", self.tags, "-ldflags", flags, "-o"])
            .arg(output)
            .arg(".");
        run_long(&format!("building {}", self.name), &mut command)
            .map(drop)
            .map_err(|source| BuildError::Build { program: self.name, source })
    }
}

fn read(path: &Path) -> Result<String, BuildError> {
    fs::read_to_string(path).map_err(|source| BuildError::Source { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_names_its_version() {
        for program in [KUBE, ETCD, ETCDCTL, COREDNS, VAULT, OPA] {
            assert!(program.version().unwrap().starts_with('v'), "{}", program.name);
        }
    }

    #[test]
    fn etcd_and_its_commands_are_of_one_version() {
        assert_eq!(ETCD.version().unwrap(), ETCDCTL.version().unwrap());
    }

    #[test]
    fn the_kubernetes_binary_knows_its_version() {
        let flags = KUBE.linker_flags("v1.34.4");
        assert!(flags.contains("gitVersion=v1.34.4") && flags.contains("gitMinor=34"), "{flags}");
    }
}
