//! The local stand-in for `hashicorp/vault`: the same program, built from source, with the upstream image's file layout.

use crate::{
    cache::Cache,
    gobuild,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        layer::Layer,
        system::Account,
    },
};

/// Its name, the upstream image's.
const REFERENCE: &str = "docker.io/hashicorp/vault:1.21";
const ACCOUNT: Account = Account { name: "vault", user: 100, group: 1000, home: "/home/vault" };
const ENTRYPOINT: &str = include_str!("../../../../kind/vault/docker-entrypoint.sh");

/// Builds it from the Go module.
pub fn vault(cache: &Cache) -> Result<Image, ImageError> {
    let binary = gobuild::VAULT.ensure(cache)?;
    let mut layer = Layer::default()
        .accounts(&[ACCOUNT])
        .authorities()
        .shell(&["chown", "su"])
        .file("/bin/vault", &binary, 0o755)
        .text("/usr/local/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
        .folder(ACCOUNT.home, 0o755, ACCOUNT.user);
    for folder in ["config", "data", "file", "logs"] {
        layer = layer.folder(&format!("/vault/{folder}"), 0o755, ACCOUNT.user);
    }
    let config = ImageConfig {
        user: ACCOUNT.user.to_string(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "HOME=/home/vault".into()],
        entrypoint: vec!["docker-entrypoint.sh".into()],
        cmd: vec!["server".into(), "-dev".into()],
        exposed_ports: [("8200/tcp".to_owned(), [].into())].into(),
        ..Default::default()
    };
    Image::new(REFERENCE, vec![layer.build(cache, "vault")?], &config)
}
