//! The local stand-in for `openfga/openfga`: the same program, built from source, with the upstream image's file layout
//! and no shell; without its probe for gRPC, which nothing here uses.

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
const NAME: &str = "docker.io/openfga/openfga";

/// Builds it from the Go module.
pub fn openfga(cache: &Cache) -> Result<Image, ImageError> {
    let layer = Layer::default().accounts(&[]).authorities().file(
        "/openfga",
        &gobuild::OPENFGA.ensure(cache)?,
        0o755,
    );
    let config = ImageConfig {
        user: "65532".into(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
        entrypoint: vec!["/openfga".into()],
        exposed_ports: ["8080/tcp", "8081/tcp", "3000/tcp"].map(|port| (port.to_owned(), [].into())).into(),
        ..Default::default()
    };
    let reference = format!("{NAME}:{}", gobuild::OPENFGA.version()?);
    Image::new(&reference, vec![layer.build(cache, "openfga")?], &config)
}
