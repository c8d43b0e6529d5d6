//! What the test servers share: a folder and a process of their own, another try when a port was taken, and being ended
//! and started again.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cache::CacheError,
    exec::ExecError,
    gobuild::BuildError,
    java::JavaError,
    maven::MavenError,
    rundir::RunDir,
    supervise::{Launch, SuperviseError, Supervised},
};

// A server that lost its port to another process ends at once; a third loss in a row is no coincidence.
const ATTEMPTS: u32 = 3;
const POLL: Duration = Duration::from_millis(20);

/// Why a server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A Go program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The jars cannot be had.
    #[error(transparent)]
    Jars(#[from] MavenError),
    /// There is no Java.
    #[error(transparent)]
    Java(#[from] JavaError),
    /// The server's programs are not installed.
    #[error("no {name} server found: {remedy}")]
    NotInstalled {
        /// The server's name.
        name: &'static str,
        /// How to get it.
        remedy: String,
    },
    /// PostgreSQL refuses to run as root and there is no other user to run it as.
    #[error(
        "PostgreSQL does not run as root, and neither user `postgres` nor `nobody` exists: run as another user, or add one"
    )]
    NoUser,
    /// The data folder cannot be given to the server's user.
    #[error("cannot give the data folder away")]
    Owner(#[from] nix::Error),
    /// A file or port cannot be used.
    #[error("cannot prepare the server")]
    Io(#[from] io::Error),
    /// A command that prepares or asks the server failed.
    #[error(transparent)]
    Command(#[from] ExecError),
    /// The server ended.
    #[error(transparent)]
    Process(#[from] SuperviseError),
    /// A step in the background did not end.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// What sets one kind of server apart from the others.
pub trait Program {
    /// What it is called in messages and in the names of its files.
    const NAME: &'static str;
    /// The signal that shuts it down in order.
    const STOP: Signal = Signal::SIGTERM;
    /// The signal that ends it when it is dropped.
    const DROP: Signal = Signal::SIGKILL;
    /// What it says when it ends because others of a killed server's processes have not ended yet.
    const TOO_EARLY: Option<&'static str> = None;

    /// How it is started on what `dir` holds; the same each time.
    fn launch(&self, dir: &Path) -> Launch;

    /// Whether it serves now.
    fn serves(&self, dir: &Path) -> impl Future<Output = bool> + Send;

    /// The file it writes what it has to say to.
    fn log(dir: &Path) -> PathBuf {
        dir.join(Self::NAME).with_extension("log")
    }
}

/// A server with data of its own; dropping it ends the server and removes the data.
#[derive(Debug)]
pub struct Server<P: Program> {
    program: P,
    // Dropped in this order: the process first, its data last.
    process: Option<Supervised>,
    dir: RunDir,
}

impl<P: Program> Server<P> {
    /// Starts a server that `prepare` sets up in an empty folder, and waits until it serves. When another process took a
    /// port in between, a new one is prepared.
    pub(crate) async fn begin(
        prepare: impl AsyncFn(&Path) -> Result<P, ServerError>,
    ) -> Result<Self, ServerError> {
        let mut attempt = 1;
        loop {
            let dir = RunDir::new(P::NAME)?;
            let program = prepare(dir.path()).await?;
            let mut server = Self { program, process: None, dir };
            match server.start_again().await {
                Err(ServerError::Process(SuperviseError::Ended { .. }))
                    if attempt < ATTEMPTS && has_said::<P>(server.dir(), "address already in use") =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| server),
            }
        }
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub async fn kill(&mut self) -> Result<(), ServerError> {
        self.end(Signal::SIGKILL).await
    }

    /// Shuts the server down in order.
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        self.end(P::STOP).await
    }

    /// Starts a stopped or killed server again on the same data and ports, and waits until it serves.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        loop {
            if self.process.is_none() {
                // What an earlier start said would be taken for this one's.
                fs::File::create(P::log(self.dir()))?;
                self.process = Some(self.program.launch(self.dir()).start()?);
            }
            match self.wait_until_it_serves().await {
                Err(SuperviseError::Ended { .. })
                    if P::TOO_EARLY.is_some_and(|text| has_said::<P>(self.dir(), text)) =>
                {
                    self.process = None;
                    tokio::time::sleep(POLL).await;
                }
                result => return Ok(result?),
            }
        }
    }

    /// What is its own.
    pub(crate) fn program(&self) -> &P {
        &self.program
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn wait_until_it_serves(&mut self) -> Result<(), SuperviseError> {
        while !self.program.serves(self.dir()).await {
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn end(&mut self, signal: Signal) -> Result<(), ServerError> {
        if let Some(mut process) = self.process.take() {
            process.signal(signal)?;
            tokio::task::spawn_blocking(move || process.wait()).await??;
        }
        Ok(())
    }
}

impl<P: Program> Drop for Server<P> {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process
            && process.signal(P::DROP).is_ok()
        {
            // Whatever is left is killed when the process handle is dropped.
            let _ = process.wait();
        }
    }
}

/// Whether the server in `dir` has written `text` to its log since it was last started, in any case of letters.
pub(crate) fn has_said<P: Program>(dir: &Path, text: &str) -> bool {
    let log = fs::read(P::log(dir)).unwrap_or_default();
    String::from_utf8_lossy(&log).to_lowercase().contains(&text.to_lowercase())
}

/// Whether something listens on `port`.
pub(crate) async fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

/// Whether a GET of `path` on `port` is answered with status 200.
pub(crate) async fn is_ok(port: u16, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut start = *b"HTTP/1.1 200";
        stream.read_exact(&mut start).await?;
        io::Result::Ok(&start == b"HTTP/1.1 200")
    };
    ask.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A shell script; it serves once its log says so.
    struct Script(&'static str);

    impl Program for Script {
        const NAME: &'static str = "script";
        const TOO_EARLY: Option<&'static str> = Some("still here");

        fn launch(&self, dir: &Path) -> Launch {
            Launch::new(Self::NAME, "sh", Self::log(dir)).args(["-c", self.0]).folder(dir)
        }

        async fn serves(&self, dir: &Path) -> bool {
            has_said::<Self>(dir, "serving")
        }
    }

    const SERVES: &str = "echo x >> starts; echo serving; exec sleep 600";
    const PORT_TAKEN: &str = "echo 'bind: Address already in use' >&2; exit 1";

    /// Starts `scripts` in turn, the last one again and again, and returns how many were.
    async fn begin(scripts: &[&'static str]) -> (Result<Server<Script>, ServerError>, usize) {
        let begun = Cell::new(0);
        let server = Server::begin(async |_: &Path| {
            let script = scripts[begun.get().min(scripts.len() - 1)];
            begun.set(begun.get() + 1);
            Ok(Script(script))
        });
        (server.await, begun.get())
    }

    #[tokio::test]
    async fn a_taken_port_is_tried_again_and_anything_else_is_not() {
        let (server, begun) = begin(&[PORT_TAKEN, PORT_TAKEN, SERVES]).await;
        assert!(server.is_ok() && begun == 3, "{begun}");
        let (server, begun) = begin(&[PORT_TAKEN]).await;
        assert!(server.is_err() && begun == 3, "{begun}");
        let (server, begun) = begin(&["echo no such option; exit 1", SERVES]).await;
        assert!(server.err().is_some_and(|error| error.to_string().contains("no such option")));
        assert_eq!(begun, 1);
    }

    #[tokio::test]
    async fn it_waits_for_what_is_left_of_a_killed_one() {
        let (server, begun) = begin(&["echo x >> starts; [ $(wc -l <starts) = 3 ] || { echo still here; exit 1; }; echo serving; exec sleep 600"]).await;
        assert!(server.is_ok() && begun == 1, "{begun}");
    }

    #[tokio::test]
    async fn it_is_started_again_in_the_same_folder_which_goes_with_it() {
        let mut server = begin(&[SERVES]).await.0.unwrap();
        let starts = server.dir().join("starts");
        server.kill().await.unwrap();
        assert!(server.process.is_none());
        server.start_again().await.unwrap();
        server.stop().await.unwrap();
        server.start_again().await.unwrap();
        assert_eq!(fs::read_to_string(&starts).unwrap(), "x\nx\nx\n");
        drop(server);
        assert!(!starts.exists());
    }
}
