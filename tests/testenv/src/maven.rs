//! Jars from Maven Central, each pinned by its coordinates and SHA-256 in a lock file.
//!
//! Maven fetches them, so that the machine's own settings and mirrors are honoured; it resolves nothing, and what it
//! brings is checked here.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::{
    cache::{Cache, CacheError, fingerprint},
    exec::{ExecError, on_path, run_long},
    packages::install_command,
};

/// The plugin that copies artifacts, pinned as well.
const PLUGIN: (&str, &str, &str) = ("org.apache.maven.plugins", "maven-dependency-plugin", "3.8.1");

/// Why jars could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MavenError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The lock file has a line of another form.
    #[error("not a line of a lock file of jars, `group:artifact:version[:classifier] sha256`: {0}")]
    Lock(String),
    /// The lock file does not have an artifact.
    #[error("the lock file of jars does not pin {0}")]
    Unpinned(String),
    /// Maven is missing.
    #[error("jars of {0} are fetched with Maven, which is not on PATH; {remedy}", remedy = install_command(&["maven"]))]
    NoMaven(&'static str),
    /// Maven failed.
    #[error("cannot fetch the jars of {name} with Maven (a mirror is set in its settings.xml)")]
    Fetch {
        /// The set of jars.
        name: &'static str,
        /// What Maven said.
        source: ExecError,
    },
    /// A jar is not the one that was pinned.
    #[error("{jar} has the SHA-256 {found}, which is not the pinned {}", jar.sha256)]
    Changed {
        /// The jar as it was pinned.
        jar: Box<Jar>,
        /// The hash of what was fetched.
        found: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A set of jars with its lock file.
#[derive(Clone, Copy, Debug)]
pub struct Jars {
    name: &'static str,
    lock: &'static str,
}

/// Apache Kafka: the server, its tools, and all they need.
pub const KAFKA: Jars = Jars { name: "kafka", lock: include_str!("../../../kind/kafka/jars.lock") };

/// A jar as the lock file pins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jar {
    group: String,
    artifact: String,
    version: String,
    classifier: Option<String>,
    sha256: String,
}

impl fmt::Display for Jar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.group, self.artifact, self.version)?;
        self.classifier.iter().try_for_each(|classifier| write!(f, ":{classifier}"))
    }
}

impl Jar {
    /// The jar of one line; none when the line has another form.
    fn parse(line: &str) -> Option<Self> {
        let (coordinates, sha256) = line.split_once(' ')?;
        let mut parts = coordinates.split(':').map(str::to_owned);
        let (group, artifact, version) = (parts.next()?, parts.next()?, parts.next()?);
        let classifier = parts.next();
        let hash = HEXLOWER.decode(sha256.as_bytes()).ok()?;
        (parts.next().is_none() && hash.len() == 32).then(|| Self {
            group,
            artifact,
            version,
            classifier,
            sha256: sha256.to_owned(),
        })
    }

    fn file_name(&self) -> String {
        let classifier =
            self.classifier.as_ref().map_or_else(String::new, |classifier| format!("-{classifier}"));
        format!("{}-{}{classifier}.jar", self.artifact, self.version)
    }

    /// An error when the jar in `folder` is not the pinned one.
    fn check(&self, folder: &Path) -> Result<(), MavenError> {
        let path = folder.join(self.file_name());
        let bytes = fs::read(&path).map_err(|source| MavenError::Io { path, source })?;
        let found = HEXLOWER.encode(&Sha256::digest(bytes));
        if found == self.sha256 {
            Ok(())
        } else {
            Err(MavenError::Changed { jar: Box::new(self.clone()), found })
        }
    }
}

impl Jars {
    /// The folder with exactly these jars, fetching them first when it is not in the cache.
    pub fn ensure(&self, cache: &Cache) -> Result<PathBuf, MavenError> {
        let key = fingerprint([self.lock.as_bytes()]);
        cache.ensure(&format!("jars/{}-{key}", self.name), |folder| self.fetch(folder))
    }

    /// The version pinned for `artifact`.
    pub fn version(&self, artifact: &str) -> Result<String, MavenError> {
        let jar = self.pinned()?.into_iter().find(|jar| jar.artifact == artifact);
        jar.map(|jar| jar.version).ok_or_else(|| MavenError::Unpinned(artifact.to_owned()))
    }

    fn pinned(&self) -> Result<Vec<Jar>, MavenError> {
        let lines = self.lock.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| Jar::parse(line).ok_or_else(|| MavenError::Lock(line.to_owned()))).collect()
    }

    fn fetch(&self, folder: &Path) -> Result<(), MavenError> {
        if !on_path("mvn") {
            return Err(MavenError::NoMaven(self.name));
        }
        let jars = self.pinned()?;
        let io = |source| MavenError::Io { path: folder.to_path_buf(), source };
        let project = tempfile::tempdir().map_err(io)?;
        let pom = project.path().join("pom.xml");
        fs::write(&pom, copy_of(&jars, folder)).map_err(io)?;
        fs::create_dir_all(folder).map_err(io)?;
        let (group, artifact, version) = PLUGIN;
        // Maven tells its errors on standard output.
        let mut maven = Command::new("sh");
        maven.args(["-c", r#"exec mvn "$@" >&2"#, "mvn", "--batch-mode", "--quiet", "--file"]);
        maven.arg(&pom).arg(format!("{group}:{artifact}:{version}:copy"));
        run_long(&format!("fetching the jars of {}", self.name), &mut maven)
            .map_err(|source| MavenError::Fetch { name: self.name, source })?;
        jars.iter().try_for_each(|jar| jar.check(folder))
    }
}

/// A project whose dependency plugin copies `jars`, and nothing they depend on, to `folder`.
fn copy_of(jars: &[Jar], folder: &Path) -> String {
    let tag = |name: &str, value: &str| format!("<{name}>{value}</{name}>");
    let named = |(group, artifact, version): (&str, &str, &str)| {
        tag("groupId", group) + &tag("artifactId", artifact) + &tag("version", version)
    };
    let items: String = jars
        .iter()
        .map(|jar| {
            let classifier =
                jar.classifier.as_ref().map_or_else(String::new, |value| tag("classifier", value));
            tag("artifactItem", &(named((&jar.group, &jar.artifact, &jar.version)) + &classifier))
        })
        .collect();
    let configuration = tag("artifactItems", &items) + &tag("outputDirectory", &folder.display().to_string());
    let plugin = tag("plugin", &(named(PLUGIN) + &tag("configuration", &configuration)));
    let project = tag("modelVersion", "4.0.0")
        + &named(("soma.local", "jars", "1"))
        + &tag("packaging", "pom")
        + &tag("build", &tag("plugins", &plugin));
    tag("project", &project)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_of_the_lock_is_a_jar_of_its_own_name() {
        let jars = KAFKA.pinned().unwrap();
        let names: BTreeSet<String> = jars.iter().map(Jar::file_name).collect();
        assert_eq!(names.len(), jars.len());
        let version = KAFKA.version("kafka-clients").unwrap();
        assert!(names.contains(&format!("kafka-clients-{version}.jar")), "{names:?}");
    }

    #[test]
    fn the_lock_has_the_versions_the_project_asks_for() {
        let pom = include_str!("../../../kind/kafka/pom.xml");
        for (property, artifact) in [
            ("kafka.version", "kafka_2.13"),
            ("kafka.version", "kafka-tools"),
            ("log4j.version", "log4j-slf4j-impl"),
            ("log4j.version", "log4j-core"),
        ] {
            let version = KAFKA.version(artifact).unwrap();
            assert!(
                pom.contains(&format!("<{property}>{version}</{property}>")),
                "{artifact} {version}: kind/kafka/lock.sh writes the lock anew"
            );
        }
    }

    #[test]
    fn a_classifier_is_optional_and_a_hash_is_not() {
        let hash = "0".repeat(64);
        let jar = Jar::parse(&format!("g.h:a:1:linux {hash}")).unwrap();
        assert_eq!((jar.to_string(), jar.file_name()), ("g.h:a:1:linux".into(), "a-1-linux.jar".into()));
        assert_eq!(Jar::parse(&format!("g:a:1 {hash}")).unwrap().file_name(), "a-1.jar");
        for wrong in
            ["g:a:1".to_owned(), "g:a:1 00".into(), format!("g:a {hash}"), format!("g:a:1:c:d {hash}")]
        {
            assert_eq!(Jar::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_jar_than_the_pinned_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let jar = Jar::parse(&format!("g:a:1 {}", HEXLOWER.encode(&Sha256::digest("right")))).unwrap();
        fs::write(folder.path().join("a-1.jar"), "right").unwrap();
        jar.check(folder.path()).unwrap();
        fs::write(folder.path().join("a-1.jar"), "wrong").unwrap();
        assert!(matches!(jar.check(folder.path()), Err(MavenError::Changed { .. })));
    }
}
