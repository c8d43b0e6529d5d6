//! The local stand-in for `postgres:15`: Debian's server with the upstream image's file layout and environment.

use std::path::{Path, PathBuf};

use crate::{
    cache::Cache,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        closure::{linked_files, with_libraries},
        layer::Layer,
        system::Account,
    },
};

/// Its name, the upstream image's.
const REFERENCE: &str = "docker.io/library/postgres:15";
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const LIBRARIES: &str = "/usr/lib/postgresql/15/lib";
const ACCOUNT: Account = Account { name: "postgres", user: 999, group: 999, home: "/var/lib/postgresql" };
const ENTRYPOINT: &str = include_str!("../../../../kind/postgres/docker-entrypoint.sh");

/// Builds it from the installed package `postgresql-15`.
pub fn image(cache: &Cache) -> Result<Image, ImageError> {
    let system = system_layer()?.build(cache, "postgres")?;
    let config = ImageConfig {
        user: ACCOUNT.user.to_string(),
        env: vec![
            format!("PATH=/usr/local/bin:/usr/bin:/bin:{PROGRAMS}"),
            "LANG=C.UTF-8".into(),
            "PG_MAJOR=15".into(),
            "PGDATA=/var/lib/postgresql/data".into(),
        ],
        entrypoint: vec!["docker-entrypoint.sh".into()],
        cmd: vec!["postgres".into()],
        exposed_ports: [("5432/tcp".to_owned(), [].into())].into(),
        stop_signal: "SIGINT".into(),
        ..Default::default()
    };
    Image::new(REFERENCE, vec![system], &config)
}

fn system_layer() -> Result<Layer, ImageError> {
    // The JIT compiler's libraries are larger than everything else together, and small databases never use it.
    let keep = |path: &Path| {
        !path.to_string_lossy().contains("llvmjit") && !path.ends_with("bitcode")
        // A second name of the server, kept as a link.
        && !path.ends_with("postmaster")
    };
    let layer = Layer::default()
        .accounts(&[ACCOUNT])
        .shell(&["date", "sed", "sync", "tar", "test", "touch"])
        .text("/usr/local/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
        .link(&format!("{PROGRAMS}/postmaster"), "postgres")
        .folder("/docker-entrypoint-initdb.d", 0o755, 0)
        .folder(ACCOUNT.home, 0o1777, ACCOUNT.user)
        .folder("/var/lib/postgresql/data", 0o1777, ACCOUNT.user)
        .folder("/var/run/postgresql", 0o3777, ACCOUNT.user)
        .tree(PROGRAMS, Path::new(PROGRAMS), keep)?
        .tree(LIBRARIES, Path::new(LIBRARIES), keep)?
        .tree("/usr/share/postgresql/15", Path::new("/usr/share/postgresql/15"), |path| {
            !path.ends_with("man")
        })?
        .tree("/usr/share/zoneinfo", Path::new("/usr/share/zoneinfo"), |path| {
            !path.ends_with("right") && !path.ends_with("posix")
        })?
        .tree("/usr/lib/locale/C.utf8", Path::new("/usr/lib/locale/C.utf8"), |_| true)?;
    let files = linked_files([PROGRAMS, LIBRARIES], keep)?;
    with_libraries(layer, files.iter().map(PathBuf::as_path))
}
