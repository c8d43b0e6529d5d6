//! The local stand-in for `quay.io/coreos/etcd`: the same programs, built from source, with the upstream image's file
//! layout, and a shell, which upstream leaves out.

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
const NAME: &str = "quay.io/coreos/etcd";
const PROGRAMS: &str = "/usr/local/bin";

/// Builds it from the Go modules.
pub fn etcd(cache: &Cache) -> Result<Image, ImageError> {
    let (server, commands) = (gobuild::ETCD.ensure(cache)?, gobuild::ETCDCTL.ensure(cache)?);
    let layer = Layer::default()
        .accounts(&[])
        .authorities()
        .shell(&["date", "hostname", "sed", "sync", "tail", "test", "timeout", "touch", "wc"])
        .file(&format!("{PROGRAMS}/etcd"), &server, 0o755)
        .file(&format!("{PROGRAMS}/etcdctl"), &commands, 0o755)
        // One program, which is the other when called by its name.
        .link(&format!("{PROGRAMS}/etcdutl"), "etcdctl");
    let config = ImageConfig {
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
        cmd: vec![format!("{PROGRAMS}/etcd")],
        exposed_ports: ["2379/tcp", "2380/tcp"].map(|port| (port.to_owned(), [].into())).into(),
        ..Default::default()
    };
    Image::new(&format!("{NAME}:{}", gobuild::ETCD.version()?), vec![layer.build(cache, "etcd")?], &config)
}
