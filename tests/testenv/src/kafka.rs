//! A real Kafka server, broker and controller in one, that tests may stop, kill and start again.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    cache::{Cache, CacheError},
    checkout,
    exec::{self, ExecError},
    java::{self, JavaError},
    maven::{self, MavenError},
    ports::free_port,
    rundir::RunDir,
    supervise::{Launch, SuperviseError, Supervised},
};

const ADMIN: &str = "soma-operator";
const PASSWORD: &str = "test-only";
const CLUSTER_ID: &str = "c29tYS10ZXN0LWNsdXN0ZQ";
const ATTEMPTS: u32 = 3;
const POLL: Duration = Duration::from_millis(50);
/// Kafka says this when the broker is registered and serves.
const STARTED: &str = "Kafka Server started";

/// Why a Kafka server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The jars cannot be had.
    #[error(transparent)]
    Jars(#[from] MavenError),
    /// There is no Java.
    #[error(transparent)]
    Java(#[from] JavaError),
    /// A file or port cannot be used.
    #[error("cannot prepare the server")]
    Io(#[from] io::Error),
    /// A script of Kafka failed.
    #[error(transparent)]
    Script(#[from] ExecError),
    /// The server ended.
    #[error(transparent)]
    Server(#[from] SuperviseError),
    /// A step in the background did not end.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A running server with its own data folder; dropping it ends the server and removes the data.
///
/// Clients are known by SASL with SCRAM-SHA-512, without TLS, and may do what access rules say; [`Kafka::user`] may do
/// everything.
#[derive(Debug)]
pub struct Kafka {
    jars: PathBuf,
    java: PathBuf,
    port: u16,
    controller_port: u16,
    server: Option<Supervised>,
    dir: RunDir,
}

impl Kafka {
    /// Starts a server and waits until it serves. Jars and Java come from the cache, and are fetched first when they
    /// are not there.
    pub async fn start() -> Result<Self, KafkaError> {
        let (jars, java) = tokio::task::spawn_blocking(|| {
            let cache = Cache::open()?;
            Ok::<_, KafkaError>((maven::KAFKA.ensure(&cache)?, java::runtime(&cache)?))
        })
        .await??;
        let mut attempt = 1;
        loop {
            let (port, controller_port) = (free_port()?, free_port()?);
            let (jars, java) = (jars.clone(), java.clone());
            let dir = RunDir::new("kafka")?;
            let mut kafka = Self { jars, java, port, controller_port, server: None, dir };
            kafka.format().await?;
            match kafka.start_again().await {
                Err(KafkaError::Server(SuperviseError::Ended { .. }))
                    if attempt < ATTEMPTS && kafka.said("Address already in use") =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| kafka),
            }
        }
    }

    /// `host:port` of the client listener; it stays the same when the server is started again.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the controller listener, where [`Kafka::user`] is known by SASL PLAIN.
    pub fn controllers(&self) -> String {
        format!("127.0.0.1:{}", self.controller_port)
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
        self.dir.path().join("client.properties")
    }

    /// Runs a script of Kafka, such as `kafka-topics.sh`, with `input` as its standard input, and returns what it
    /// prints on standard output.
    pub async fn script(&self, name: &str, args: &[&str], input: &str) -> Result<String, KafkaError> {
        let mut command = Command::new(script(name));
        command.args(args).envs(self.environment()).current_dir(self.dir.path());
        // From a file, not a pipe: the script may end without reading it.
        let path = self.dir.path().join(format!("{name}.input"));
        fs::write(&path, input)?;
        let input = fs::File::open(path)?;
        Ok(tokio::task::spawn_blocking(move || exec::run_with(&mut command, input)).await??)
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub async fn kill(&mut self) -> Result<(), KafkaError> {
        self.end(Signal::SIGKILL).await
    }

    /// Shuts the server down in order.
    pub async fn stop(&mut self) -> Result<(), KafkaError> {
        self.end(Signal::SIGTERM).await
    }

    /// Starts a stopped or killed server again on the same data and ports, and waits until it serves.
    pub async fn start_again(&mut self) -> Result<(), KafkaError> {
        if self.server.is_none() {
            // What an earlier start said would be taken for this one's.
            fs::File::create(self.log())?;
            self.server = Some(self.launch()?);
        }
        while !self.said(STARTED) || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(server) = &mut self.server {
                server.check()?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn format(&self) -> Result<(), KafkaError> {
        fs::write(
            self.server_properties(),
            server_properties(self.dir.path(), self.port, self.controller_port),
        )?;
        let login = format!("sasl.jaas.config={}", login("scram.Scram", ""));
        fs::write(
            self.client_properties(),
            format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n{login}\n"),
        )?;
        let config = self.server_properties().display().to_string();
        let credential = format!("SCRAM-SHA-512=[name={ADMIN},password={PASSWORD}]");
        let args = ["format", "--standalone", "--cluster-id", CLUSTER_ID, "--add-scram", &credential];
        let args = [&args[..], &["--config", &config]].concat();
        self.script("kafka-storage.sh", &args, "").await.map(drop)
    }

    fn launch(&self) -> Result<Supervised, SuperviseError> {
        let launch = Launch::new("kafka", script("kafka-server-start.sh"), self.log())
            .args([self.server_properties()])
            .folder(self.dir.path());
        let heap = [("KAFKA_HEAP_OPTS", "-Xms64m -Xmx256m".to_owned())];
        let environment = self.environment().into_iter().chain(heap);
        environment.fold(launch, |launch, (name, value)| launch.env(name, value)).start()
    }

    /// What the scripts need; temporary files stay in this server's folder.
    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("JAVA_HOME", self.java.display().to_string()),
            ("CLASSPATH", format!("{}/*", self.jars.display())),
            // The slower compiler and the simpler collector start sooner and take less of a small machine.
            ("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1".to_owned()),
            ("KAFKA_OPTS", format!("-Djava.io.tmpdir={}", self.dir.path().display())),
        ]
    }

    async fn end(&mut self, signal: Signal) -> Result<(), KafkaError> {
        if let Some(mut server) = self.server.take() {
            server.signal(signal)?;
            tokio::task::spawn_blocking(move || server.wait()).await??;
        }
        Ok(())
    }

    fn said(&self, text: &str) -> bool {
        fs::read(self.log()).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text))
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("kafka.log")
    }

    fn server_properties(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }
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
fn server_properties(dir: &Path, port: u16, controller_port: u16) -> String {
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
