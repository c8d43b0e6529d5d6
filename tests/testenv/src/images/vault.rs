//! The local stand-in for `hashicorp/vault`: the same program, built from source, with the upstream image's file layout.

use std::path::Path;

use crate::{
    cache::Cache,
    gobuild,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        catalog::{AUTHORITIES, BUSYBOX},
        layer::Layer,
    },
};

/// Its name, the upstream image's.
const REFERENCE: &str = "docker.io/hashicorp/vault:1.21";
const USER: u64 = 100;
const GROUP: u64 = 1000;
const ENTRYPOINT: &str = include_str!("../../../../kind/vault/docker-entrypoint.sh");

/// Builds it from the Go module.
pub fn vault(cache: &Cache) -> Result<Image, ImageError> {
    let binary = gobuild::VAULT.ensure(cache)?;
    let mut layer = Layer::default()
        .file(BUSYBOX, Path::new(BUSYBOX), 0o755)
        .file("/bin/vault", &binary, 0o755)
        .file(AUTHORITIES, Path::new(AUTHORITIES), 0o644)
        .text("/usr/local/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
        .text(
            "/etc/passwd",
            &format!("root:x:0:0:root:/root:/bin/sh\nvault:x:{USER}:{GROUP}::/home/vault:/bin/sh\n"),
            0o644,
        )
        .text("/etc/group", &format!("root:x:0:\nvault:x:{GROUP}:\n"), 0o644)
        .folder("/tmp", 0o1777, 0)
        .folder("/home/vault", 0o755, USER);
    for folder in ["config", "data", "file", "logs"] {
        layer = layer.folder(&format!("/vault/{folder}"), 0o755, USER);
    }
    for applet in
        ["sh", "cat", "chmod", "chown", "cp", "env", "grep", "id", "ls", "mkdir", "mv", "rm", "sleep", "su"]
    {
        layer = layer.link(&format!("/bin/{applet}"), "busybox");
    }
    let config = ImageConfig {
        user: USER.to_string(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "HOME=/home/vault".into()],
        entrypoint: vec!["docker-entrypoint.sh".into()],
        cmd: vec!["server".into(), "-dev".into()],
        exposed_ports: [("8200/tcp".to_owned(), [].into())].into(),
        ..Default::default()
    };
    Image::new(REFERENCE, vec![layer.build(cache, "vault")?], &config)
}
