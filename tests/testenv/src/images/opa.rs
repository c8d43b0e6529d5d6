//! The local stand-in for `openpolicyagent/opa`, its static build: the same program, built from source, and no shell.

use crate::{
    cache::Cache,
    gobuild,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        layer::Layer,
    },
};

/// Its name without the version, the upstream image's.
const NAME: &str = "docker.io/openpolicyagent/opa";

/// Builds it from the Go module.
pub fn opa(cache: &Cache) -> Result<Image, ImageError> {
    let layer =
        Layer::default().accounts(&[]).authorities().file("/opa", &gobuild::OPA.ensure(cache)?, 0o755);
    let config = ImageConfig {
        user: "1000:1000".into(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/".into()],
        entrypoint: vec!["/opa".into()],
        cmd: vec!["run".into()],
        ..Default::default()
    };
    let version = gobuild::OPA.version()?;
    let reference = format!("{NAME}:{}-static", version.trim_start_matches('v'));
    Image::new(&reference, vec![layer.build(cache, "opa")?], &config)
}
