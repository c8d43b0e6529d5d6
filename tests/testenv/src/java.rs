//! A Java runtime with only what the servers need, made by `jlink` of an installed JDK 17.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{Cache, CacheError, fingerprint},
    exec::{ExecError, run_long},
    packages::install_command,
};

/// The Debian package of the JDK.
pub(crate) const PACKAGE: &str = "openjdk-17-jdk-headless";
/// The program of that package, where Debian puts it.
pub(crate) const JLINK: &str = if cfg!(target_arch = "aarch64") {
    "/usr/lib/jvm/java-17-openjdk-arm64/bin/jlink"
} else {
    "/usr/lib/jvm/java-17-openjdk-amd64/bin/jlink"
};

/// What Kafka's jars load, by `jdeps` and by trying; `java.desktop` has the events log4j uses.
const MODULES: [&str; 11] = [
    "java.base",
    "java.desktop",
    "java.logging",
    "java.management",
    "java.naming",
    "java.security.jgss",
    "java.security.sasl",
    "java.sql",
    "jdk.crypto.ec",
    "jdk.management",
    "jdk.unsupported",
];

const OPTIONS: [&str; 7] = [
    // Libraries for screens, printers and sound, which need a desktop's libraries.
    "--exclude-files=/java.desktop/lib/**",
    "--strip-debug",
    "--no-header-files",
    "--no-man-pages",
    "--compress=2",
    // The classes of Java itself, ready to be mapped: a command starts in two thirds of the time.
    "--generate-cds-archive",
    "--output",
];

/// Why there is no Java runtime.
#[derive(Debug, thiserror::Error)]
pub enum JavaError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No JDK is installed.
    #[error("no JDK 17 found: set SOMA_JDK to its folder, or {}", install_command(&[PACKAGE]))]
    NotInstalled,
    /// The JDK does not say what it is.
    #[error("cannot read {path}")]
    Release {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `jlink` failed.
    #[error("cannot make a Java runtime")]
    Link(#[source] ExecError),
}

/// The folder of a Java 17 runtime, for `JAVA_HOME`; made first when it is not in the cache.
pub fn runtime(cache: &Cache) -> Result<PathBuf, JavaError> {
    let jdk = find_jdk().ok_or(JavaError::NotInstalled)?;
    let path = jdk.join("release");
    let release = fs::read(&path).map_err(|source| JavaError::Release { path, source })?;
    let asked = [MODULES.join(","), OPTIONS.join(" ")];
    let key = fingerprint([release.as_slice(), asked[0].as_bytes(), asked[1].as_bytes()]);
    cache.ensure(&format!("java/17-{key}"), |target| {
        let mut jlink = Command::new(jdk.join("bin/jlink"));
        jlink.arg("--add-modules").arg(&asked[0]).args(OPTIONS).arg(target);
        run_long("making a Java runtime", &mut jlink).map(drop).map_err(JavaError::Link)
    })
}

/// The folder of a JDK 17: the one that was named, or Debian's.
pub(crate) fn find_jdk() -> Option<PathBuf> {
    let named = std::env::var_os("SOMA_JDK").filter(|value| !value.is_empty()).map(PathBuf::from);
    let debians = || Path::new(JLINK).exists().then(|| Path::new(JLINK).ancestors().nth(2)).flatten();
    named.or_else(|| debians().map(Path::to_path_buf))
}
