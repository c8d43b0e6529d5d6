//! A real Kafka server, broker and controller in one, that tests may stop, kill and start again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::Cache,
    checkout, exec, java, maven,
    ports::free_port,
    server::{Program, Server, ServerError, has_said, listens},
    supervise::Launch,
};

const ADMIN: &str = "soma-operator";
const PASSWORD: &str = "test-only";
const CLUSTER_ID: &str = "c29tYS10ZXN0LWNsdXN0ZQ";
/// Kafka says this when the broker is registered and serves.
const STARTED: &str = "Kafka Server started";

/// A running server with its own data folder.
///
/// Clients are known by SASL with SCRAM-SHA-512, without TLS, and may do what access rules say; the user
/// `soma-operator` may do everything.
pub type Kafka = Server<Setup>;

/// What is Kafka's own.
#[derive(Debug)]
pub struct Setup {
    jars: PathBuf,
    java: PathBuf,
    port: u16,
    controller_port: u16,
}

impl Server<Setup> {
    /// Starts a server and waits until it serves. Jars and Java come from the cache, and are fetched first when they
    /// are not there.
    pub async fn start() -> Result<Self, ServerError> {
        let (jars, java) = tokio::task::spawn_blocking(|| {
            let cache = Cache::open()?;
            Ok::<_, ServerError>((maven::KAFKA.ensure(&cache)?, java::runtime(&cache)?))
        })
        .await??;
        Self::begin(async |dir: &Path| {
            let (port, controller_port) = (free_port()?, free_port()?);
            let setup = Setup { jars: jars.clone(), java: java.clone(), port, controller_port };
            setup.format(dir).await?;
            Ok(setup)
        })
        .await
    }

    /// `host:port` of the client listener; it stays the same when the server is started again.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.program().port)
    }

    /// `host:port` of the controller listener, where [`Kafka::user`] is known by SASL PLAIN.
    pub fn controllers(&self) -> String {
        format!("127.0.0.1:{}", self.program().controller_port)
    }

    /// The user no access rule binds.
    pub fn user(&self) -> &'static str {
        ADMIN
    }

    /// The password of [`Kafka::user`].
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// A properties file with which Kafka's own commands connect as [`Kafka::user`].
    pub fn client_properties(&self) -> PathBuf {
        client_properties(self.dir())
    }

    /// Runs a script of Kafka, such as `kafka-topics.sh`, with `input` as its standard input, and returns what it
    /// prints on standard output.
    pub async fn script(&self, name: &str, args: &[&str], input: &str) -> Result<String, ServerError> {
        self.program().script(self.dir(), name, args, input).await
    }
}

impl Setup {
    async fn script(
        &self,
        dir: &Path,
        name: &str,
        args: &[&str],
        input: &str,
    ) -> Result<String, ServerError> {
        let mut command = Command::new(script(name));
        command.args(args).envs(self.environment(dir)).current_dir(dir);
        // From a file, not a pipe: the script may end without reading it.
        let path = dir.join(format!("{name}.input"));
        fs::write(&path, input)?;
        let input = fs::File::open(path)?;
        Ok(tokio::task::spawn_blocking(move || exec::run_with(&mut command, input)).await??)
    }

    async fn format(&self, dir: &Path) -> Result<(), ServerError> {
        let config = server_properties(dir);
        fs::write(&config, settings(dir, self.port, self.controller_port))?;
        let login = format!("sasl.jaas.config={}", login("scram.Scram", ""));
        fs::write(
            client_properties(dir),
            format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n{login}\n"),
        )?;
        let config = config.display().to_string();
        let credential = format!("SCRAM-SHA-512=[name={ADMIN},password={PASSWORD}]");
        let args = ["format", "--standalone", "--cluster-id", CLUSTER_ID, "--add-scram", &credential];
        let args = [&args[..], &["--config", &config]].concat();
        self.script(dir, "kafka-storage.sh", &args, "").await.map(drop)
    }

    /// What the scripts need; temporary files stay in this server's folder.
    fn environment(&self, dir: &Path) -> [(&'static str, String); 4] {
        [
            ("JAVA_HOME", self.java.display().to_string()),
            ("CLASSPATH", format!("{}/*", self.jars.display())),
            // The slower compiler and the simpler collector start sooner and take less of a small machine.
            ("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1".to_owned()),
            ("KAFKA_OPTS", format!("-Djava.io.tmpdir={}", dir.display())),
        ]
    }
}

impl Program for Setup {
    const NAME: &'static str = "kafka";

    fn launch(&self, dir: &Path) -> Launch {
        let launch = Launch::new(Self::NAME, script("kafka-server-start.sh"), Self::log(dir))
            .args([server_properties(dir)])
            .folder(dir);
        let heap = [("KAFKA_HEAP_OPTS", "-Xms64m -Xmx256m".to_owned())];
        let environment = self.environment(dir).into_iter().chain(heap);
        environment.fold(launch, |launch, (name, value)| launch.env(name, value))
    }

    async fn serves(&self, dir: &Path) -> bool {
        has_said::<Self>(dir, STARTED) && listens(self.port).await
    }
}

fn server_properties(dir: &Path) -> PathBuf {
    dir.join("server.properties")
}

fn client_properties(dir: &Path) -> PathBuf {
    dir.join("client.properties")
}

fn script(name: &str) -> PathBuf {
    checkout().join("kind/kafka/bin").join(name)
}

/// A JAAS line that logs in as the administrator; `more` is what the module takes besides.
fn login(module: &str, more: &str) -> String {
    format!(
        "org.apache.kafka.common.security.{module}LoginModule required username=\"{ADMIN}\" password=\"{PASSWORD}\"{more};"
    )
}

/// The settings that are the same for every server. Controllers know each other by PLAIN, because a credential of SCRAM
/// is kept in the log they first have to agree on.
const SETTINGS: &str = "\
process.roles=broker,controller
node.id=0
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed server's registration lasts this long, and the same server is refused until it is gone.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Not the 128 MB of its default, which a small heap does not have.
log.cleaner.dedupe.buffer.size=8388608
";

/// [`SETTINGS`] and those of the server in `dir`.
fn settings(dir: &Path, port: u16, controller_port: u16) -> String {
    let listeners = format!("CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}");
    let own = [
        ("log.dirs", dir.join("data").display().to_string()),
        ("listeners", listeners.clone()),
        ("advertised.listeners", listeners),
        ("controller.quorum.bootstrap.servers", format!("127.0.0.1:{controller_port}")),
        ("listener.name.client.scram-sha-512.sasl.jaas.config", login("scram.Scram", "")),
        (
            "listener.name.controller.plain.sasl.jaas.config",
            login("plain.Plain", &format!(" user_{ADMIN}=\"{PASSWORD}\"")),
        ),
        ("super.users", format!("User:{ADMIN}")),
    ];
    SETTINGS.to_owned() + &own.map(|(name, value)| format!("{name}={value}\n")).concat()
}
