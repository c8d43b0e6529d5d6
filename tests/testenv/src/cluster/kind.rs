//! The cluster where Docker runs: kind, with images built by Docker.

use std::process::Command;

use crate::{
    checkout,
    cluster::Place,
    exec::{ExecError, on_path, run, run_long},
    gobuild::{BuildError, KUBE},
    progress::Progress,
};

const PROGRAMS: [(&str, &str); 2] = [("operator", "soma-operator"), ("memory", "soma-memory")];

/// Why kind's cluster could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KindError {
    /// kind, docker or kubectl failed.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// kubectl could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The model could not be fetched.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// A file of the cluster cannot be written.
    #[error("cannot prepare kind's files")]
    Io(#[from] std::io::Error),
}

/// Whether Docker answers and kind is installed.
pub fn is_usable() -> bool {
    on_path("kind")
        && on_path("docker")
        && run(Command::new("docker").arg("info")).is_ok_and(|said| said.contains("Server Version"))
}

/// Makes the cluster of `place` with `nodes` nodes and loads the project's images into it; an existing one is kept.
pub fn up(place: &Place, nodes: u8, bare: bool, progress: &mut Progress) -> Result<(), KindError> {
    std::fs::create_dir_all(place.bin())?;
    let cache = crate::cache::Cache::open()?;
    let name = name(place);
    let kubectl = KUBE.ensure(&cache)?;
    let link = place.bin().join("kubectl");
    if !link.exists() {
        std::fs::copy(kubectl, link)?;
    }
    let known = run(Command::new("kind").args(["get", "clusters"]))?;
    if !known.lines().any(|line| line == name) {
        let config = place.root.join("kind-config.yaml");
        std::fs::write(
            &config,
            config_for(nodes, &std::fs::read_to_string(checkout().join("kind/kind-config.yaml"))?),
        )?;
        progress.step("create the kind cluster", || {
            run_long(
                "creating the kind cluster",
                Command::new("kind")
                    .args(["create", "cluster", "--wait", "120s", "--name", &name, "--config"])
                    .arg(&config)
                    .arg("--kubeconfig")
                    .arg(place.kubeconfig()),
            )
        })?;
    }
    if bare {
        return Ok(());
    }
    let model = crate::model::ensure(&cache)?;
    for (image, program) in PROGRAMS {
        let reference = format!("docker.io/somastack/{image}:{}", env!("CARGO_PKG_VERSION"));
        progress.step(&format!("image {reference}"), || -> Result<(), KindError> {
            let mut build = Command::new("docker");
            build.args([
                "build",
                "--quiet",
                "--target",
                image,
                "--build-arg",
                &format!("PROGRAM={program}"),
                "--tag",
                &reference,
            ]);
            build.arg(format!("--build-context=model={}", model.display()));
            build.arg("--file").arg(checkout().join("kind/Dockerfile")).arg(checkout());
            run_long(&format!("building {reference}"), &mut build)?;
            run_long(
                "loading the image",
                Command::new("kind").args(["load", "docker-image", "--name", &name, &reference]),
            )?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Removes kind's cluster of `place`, if there is one.
pub fn down(place: &Place) -> Result<(), KindError> {
    run(Command::new("kind").args(["delete", "cluster", "--name", &name(place)]))?;
    Ok(())
}

/// A name of its own for every checkout.
fn name(place: &Place) -> String {
    crate::cluster::spec::bridge_of(&place.root)
}

/// kind's configuration with `nodes` nodes: the file's control plane and `nodes - 1` workers.
fn config_for(nodes: u8, base: &str) -> String {
    let workers = "  - role: worker\n".repeat(usize::from(nodes.saturating_sub(1)));
    format!("{}\n{workers}", base.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_is_the_control_plane() {
        let config = config_for(3, "nodes:\n  - role: control-plane\n");
        assert_eq!(config, "nodes:\n  - role: control-plane\n  - role: worker\n  - role: worker\n");
    }
}
