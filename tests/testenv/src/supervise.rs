//! Child processes that never outlive this one, even when it is killed.
//!
//! `setpriv --pdeathsig` asks the kernel to kill the child when the thread that started it ends. Tests run on threads
//! that end early, so every child is started by one thread that lives as long as the process. A child whose parent was
//! killed before it could ask finds another parent, and does not start.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A shell script: `$0` is the parent's id, the rest is what to become.
const ONLY_IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// Why a child process could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// It could not be started.
    #[error("cannot start {name}")]
    Start {
        /// The server's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended although it should serve.
    #[error("{name} ended ({status}); the end of {log}:\n{said}")]
    Ended {
        /// The server's name.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        said: String,
    },
    /// A signal could not be sent.
    #[error("cannot signal {name}")]
    Signal {
        /// The server's name.
        name: String,
        /// What the system said.
        source: nix::Error,
    },
    /// The process could not be waited for.
    #[error("cannot wait for {name}")]
    Wait {
        /// The server's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// How a server process is started.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(String, OsString)>,
    user: Option<String>,
    folder: Option<PathBuf>,
    log: PathBuf,
}

impl Launch {
    /// `program`, called `name` in messages, writing to the file `log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            user: None,
            folder: None,
            log: log.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.envs.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it as another user; only root may.
    #[must_use]
    pub fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// Runs it in `folder`.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_path_buf());
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Supervised, SuperviseError> {
        let error = |source| SuperviseError::Start { name: self.name.clone(), source };
        let log = File::options().create(true).append(true).open(&self.log).map_err(error)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = &self.user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.args(["--", "sh", "-c", ONLY_IF_PARENT_LIVES]).arg(std::process::id().to_string());
        command.arg(&self.program).args(&self.args).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(error)?).stderr(log);
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = spawn(command).map_err(error)?;
        Ok(Supervised { name: self.name, log: self.log, child })
    }
}

/// A running server process; dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Supervised {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it no longer runs.
    pub fn check(&mut self) -> Result<(), SuperviseError> {
        let wait = |source| SuperviseError::Wait { name: self.name.clone(), source };
        match self.child.try_wait().map_err(wait)? {
            None => Ok(()),
            Some(status) => Err(SuperviseError::Ended {
                name: self.name.clone(),
                status,
                log: self.log.clone(),
                said: last_lines(&self.log),
            }),
        }
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<(), SuperviseError> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).map_err(|source| SuperviseError::Signal { name: self.name.clone(), source })
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> Result<ExitStatus, SuperviseError> {
        self.child.wait().map_err(|source| SuperviseError::Wait { name: self.name.clone(), source })
    }

    /// Kills it with SIGKILL and waits until it is gone; a process that has ended already is no error.
    pub fn kill(&mut self) -> Result<ExitStatus, SuperviseError> {
        self.child.kill().map_err(|source| SuperviseError::Wait { name: self.name.clone(), source })?;
        self.wait()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Nothing is left to do about a process that cannot be killed.
        let _ = self.kill();
    }
}

struct Job {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, waiting) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for mut job in waiting {
            // The asker waits for the reply; when it is gone nobody needs it.
            let _ = job.reply.send(job.command.spawn());
        }
    });
    jobs
});

fn spawn(command: Command) -> io::Result<Child> {
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes has ended");
    SPAWNER.send(Job { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn last_lines(path: &Path) -> String {
    const KEPT: usize = 15;
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(KEPT)..].join("\n")
}
