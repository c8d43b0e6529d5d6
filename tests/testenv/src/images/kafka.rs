//! The local stand-in for `apache/kafka`: the same jars with the upstream image's file layout, and scripts of our own.

use std::path::{Path, PathBuf};

use crate::{
    cache::Cache,
    checkout,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        closure::{linked_files, with_libraries},
        layer::Layer,
        system::Account,
    },
    java, maven,
};

/// Its name without the version, the upstream image's.
const NAME: &str = "docker.io/apache/kafka";
const ACCOUNT: Account = Account { name: "appuser", user: 1000, group: 1000, home: "/home/appuser" };
const HOME: &str = "/opt/kafka";
const JAVA: &str = "/opt/java/openjdk";

/// Builds it from the pinned jars and a Java runtime made by the installed JDK.
pub fn kafka(cache: &Cache) -> Result<Image, ImageError> {
    let (jars, java) = (maven::KAFKA.ensure(cache)?, java::runtime(cache)?);
    let scripts = checkout().join("kind/kafka");
    let layers = [
        ("java", system(&java)?),
        ("kafka-jars", Layer::default().tree(&format!("{HOME}/libs"), &jars, |_| true)?),
        (
            "kafka",
            Layer::default()
                .tree(&format!("{HOME}/bin"), &scripts.join("bin"), |_| true)?
                .tree(&format!("{HOME}/config"), &scripts.join("config"), |_| true)?
                .folder("/var/lib/kafka/data", 0o775, ACCOUNT.user)
                .folder("/mnt/shared/config", 0o775, ACCOUNT.user),
        ),
    ];
    let layers: Result<Vec<_>, _> = layers.iter().map(|(label, layer)| layer.build(cache, label)).collect();
    let config = ImageConfig {
        user: ACCOUNT.name.into(),
        env: vec![
            format!("PATH={JAVA}/bin:/usr/local/bin:/usr/bin:/bin"),
            format!("JAVA_HOME={JAVA}"),
            "LANG=C.UTF-8".into(),
        ],
        // Upstream's default makes a configuration from the environment; here a pod always names its command.
        cmd: vec![format!("{HOME}/bin/kafka-server-start.sh")],
        exposed_ports: [("9092/tcp".to_owned(), [].into())].into(),
        ..Default::default()
    };
    Image::new(&format!("{NAME}:{}", maven::KAFKA.version("kafka_2.13")?), layers?, &config)
}

/// Java, the libraries it loads, a shell, and the user.
fn system(java: &Path) -> Result<Layer, ImageError> {
    // The second archive is for heaps of more than 32 GB; licences are of Debian's package.
    let keep = |path: &Path| !path.ends_with("classes_nocoops.jsa") && !path.ends_with("legal");
    let layer = Layer::default()
        .accounts(&[ACCOUNT])
        .authorities()
        .shell(&[
            "awk", "basename", "cut", "date", "dirname", "echo", "find", "head", "hostname", "ps", "sed",
            "seq", "sort", "tail", "test", "timeout", "touch", "tr", "wc",
        ])
        .folder(ACCOUNT.home, 0o755, ACCOUNT.user)
        .tree(JAVA, java, keep)?;
    // What the library for zstd asks for, which is unpacked from its jar when it is first used.
    let threads = format!("/lib/{}-linux-gnu/libpthread.so.0", std::env::consts::ARCH);
    let layer = layer.file(&threads, Path::new(&threads), 0o755);
    let files = linked_files(["bin", "lib", "lib/server"].map(|folder| java.join(folder)), |_| true)?;
    with_libraries(layer, files.iter().map(PathBuf::as_path))
}
