//! The local stand-in for `redis`: Debian's server with the upstream image's file layout.

use std::{path::Path, process::Command};

use crate::{
    cache::Cache,
    exec::run,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        closure::with_libraries,
        layer::Layer,
        system::Account,
    },
};

/// Its name without the version, the upstream image's.
const NAME: &str = "docker.io/library/redis";
const SERVER: &str = "/usr/bin/redis-server";
const COMMAND: &str = "/usr/bin/redis-cli";
const DATA: &str = "/data";
const ENTRYPOINT: &str = include_str!("../../../../kind/redis/docker-entrypoint.sh");
const ACCOUNT: Account = Account { name: "redis", user: 999, group: 999, home: DATA };

/// Builds it from the installed package `redis-server`.
pub fn redis(cache: &Cache) -> Result<Image, ImageError> {
    let layer = Layer::default()
        .accounts(&[ACCOUNT])
        .shell(&[
            "awk", "cut", "date", "head", "hostname", "sed", "seq", "tail", "test", "timeout", "touch", "tr",
            "wc",
        ])
        .file("/usr/local/bin/redis-server", Path::new(SERVER), 0o755)
        .file("/usr/local/bin/redis-cli", Path::new(COMMAND), 0o755)
        .text("/usr/local/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
        .folder(DATA, 0o755, ACCOUNT.user);
    let layer = with_libraries(layer, [SERVER, COMMAND].map(Path::new))?;
    let config = ImageConfig {
        user: ACCOUNT.user.to_string(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
        entrypoint: vec!["docker-entrypoint.sh".into()],
        cmd: vec!["redis-server".into()],
        exposed_ports: [("6379/tcp".to_owned(), [].into())].into(),
        working_dir: DATA.into(),
        ..Default::default()
    };
    Image::new(&format!("{NAME}:{}", version()?), vec![layer.build(cache, "redis")?], &config)
}

/// The installed server's, without the last number, which Debian raises at any time.
fn version() -> Result<String, ImageError> {
    let said = run(Command::new(SERVER).arg("--version"))?;
    release_in(&said).ok_or(ImageError::Version { program: SERVER, said })
}

/// `7.0` of `Redis server v=7.0.15 sha=…`.
fn release_in(said: &str) -> Option<String> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    version.rsplit_once('.').map(|(release, _)| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_release_without_its_fixes() {
        let said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d";
        assert_eq!(release_in(said).as_deref(), Some("7.0"));
        assert_eq!(release_in("Redis server sha=0"), None);
    }
}
