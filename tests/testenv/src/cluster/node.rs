//! A node: a process tree in its own process, mount and network namespaces, with an init that keeps its programs
//! running.
//!
//! `up` starts a *holder*, which makes the namespaces and starts the *init* in them. When the init dies the kernel
//! kills everything in its process namespace, and with the last process every mount and link of the node is gone.

use std::{
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait,
    },
    unistd::{Pid, setsid},
};

use crate::cluster::{
    cgroup,
    network::{self, NetworkError},
    programs::{Program, of_node},
    spec::{CLUSTER_DIR, NODE_DIR, Spec, VOLUMES_DIR},
};

const RESTART_AFTER: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(20);

/// Why a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or process cannot be used.
    #[error("cannot {doing}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A namespace, mount or signal was refused.
    #[error("cannot {doing}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        source: nix::Error,
    },
    /// The node cannot be joined to the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The holder ended early; its log says why.
    #[error("{node} did not start; see {log}")]
    Ended {
        /// The node's name.
        node: String,
        /// The holder's log file.
        log: String,
    },
    /// No cluster is recorded in the folder the node was started for.
    #[error("{0} records no cluster")]
    NoSpec(String),
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |source| NodeError::Io { doing, source }
}

fn system(doing: &'static str) -> impl FnOnce(nix::Error) -> NodeError {
    move |source| NodeError::System { doing, source }
}

/// Starts `node` and joins it to the network. Its processes outlive this one.
pub fn start(spec: &Spec, node: u8) -> Result<(), NodeError> {
    let log = spec.node_dir(node).join("log/node.log");
    let errors = File::create(&log).map_err(io_error("write the node's log"))?;
    let mut holder = Command::new(spec.dir.join("bin/testenv"))
        .arg("node")
        .arg(&spec.dir)
        .arg(node.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(io_error("start the node"))?;
    let ended = || NodeError::Ended { node: spec.node_name(node), log: log.display().to_string() };
    // The holder says "isolated" when its namespaces exist, waits to be joined, and answers with its init's id.
    if answer(&mut holder)?.as_deref() != Some("isolated") {
        return Err(ended());
    }
    network::join(spec, node, holder.id())?;
    let mut input = holder.stdin.take().ok_or_else(ended)?;
    input.write_all(b"joined\n").map_err(io_error("speak to the node"))?;
    let init = answer(&mut holder)?.ok_or_else(ended)?;
    fs::write(spec.node_dir(node).join("init.pid"), init).map_err(io_error("record the node"))
}

/// The host's id of the process that is `node`'s init, as recorded when it was started.
pub fn init_pid(spec: &Spec, node: u8) -> Option<u32> {
    fs::read_to_string(spec.node_dir(node).join("init.pid")).ok()?.trim().parse().ok()
}

/// One line of the holder's output; none when it has closed it.
fn answer(holder: &mut Child) -> Result<Option<String>, NodeError> {
    let Some(output) = &mut holder.stdout else { return Ok(None) };
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte: the next line is read by the next call.
    while output.read(&mut byte).map_err(io_error("hear from the node"))? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
}

/// The holder's life: namespaces, then the init, until the init ends.
pub fn hold(dir: &Path, node: u8) -> Result<(), NodeError> {
    let spec = load(dir)?;
    cgroup::enter(&format!("{}/{}/programs", spec.cgroup(), spec.node_name(node)))
        .map_err(io_error("enter the node's control group"))?;
    setsid().map_err(system("leave the terminal"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)
        .map_err(system("make the node's namespaces"))?;
    say("isolated")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(io_error("hear from the start"))?;
    if line.trim() != "joined" {
        return Ok(());
    }
    let log = File::options().append(true).open(spec.node_dir(node).join("log/node.log"));
    let mut init = Command::new(spec.dir.join("bin/testenv"))
        .arg("node-init")
        .arg(dir)
        .arg(node.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.map_err(io_error("open the node's log"))?)
        .spawn()
        .map_err(io_error("start the node's init"))?;
    say(&init.id().to_string())?;
    let status = init.wait().map_err(io_error("wait for the node's init"))?;
    eprintln!("the node's init ended: {status}");
    Ok(())
}

/// The init's life: mounts, then the node's programs, each started again when it ends.
pub fn init(dir: &Path, node: u8) -> Result<(), NodeError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(system("follow the holder"))?;
    let spec = load(dir)?;
    mount_all(&spec, node)?;
    let programs = of_node(&spec, node);
    let mut running: Vec<(Option<Pid>, &Program)> = programs.iter().map(|program| (None, program)).collect();
    loop {
        for (pid, program) in running.iter_mut().filter(|(pid, _)| pid.is_none()) {
            // With the init everything on the node would go: a program that cannot be started now is tried again.
            match start_program(program) {
                Ok(started) => *pid = Some(started),
                Err(error) => eprintln!("{} does not start: {error:?}", program.name),
            }
        }
        if running.iter().any(|(pid, _)| pid.is_none()) {
            thread::sleep(RESTART_AFTER);
            continue;
        }
        // As process 1 it also inherits, and must reap, every orphan of the node. One that a real-time signal ended has a
        // status without a name.
        let ended =
            wait::wait().inspect_err(|error| eprintln!("waiting: {error}")).ok().and_then(|s| s.pid());
        for (pid, program) in &mut running {
            if pid.is_some_and(|one| Some(one) == ended || kill(one, None) == Err(Errno::ESRCH)) {
                eprintln!("{} ended; starting it again", program.name);
                *pid = None;
                thread::sleep(RESTART_AFTER);
            }
        }
    }
}

fn start_program(program: &Program) -> Result<Pid, NodeError> {
    while program.after.is_some_and(|socket| !socket.exists()) {
        thread::sleep(POLL);
    }
    let log = File::options()
        .create(true)
        .append(true)
        .open(Path::new(NODE_DIR).join(format!("log/{}.log", program.name)))
        .map_err(io_error("open a program's log"))?;
    let errors = log.try_clone().map_err(io_error("open a program's log"))?;
    let child = program
        .command()
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(io_error("start a program of the node"))?;
    // The handle is dropped without waiting: the init waits for all of its children at once.
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Gives the node its own `/proc`, `/run`, `/var/lib` and `/var/log`; the rest of the host's files it shares.
fn mount_all(spec: &Spec, node: u8) -> Result<(), NodeError> {
    let attach = |source: &Path, target: &Path, kind: Option<&str>, flags| {
        mount(Some(source), target, kind, flags, None::<&str>).map_err(system("mount the node's folders"))
    };
    let unnamed = Path::new("none");
    let bind = |source: &Path, target: &Path| attach(source, target, None, MsFlags::MS_BIND);
    attach(unnamed, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    attach(Path::new("proc"), Path::new("/proc"), Some("proc"), MsFlags::empty())?;

    // The new /run is put together under the node's folder, which may itself lie under the old one.
    let run = spec.node_dir(node).join("run");
    let folder = |path: &Path| fs::create_dir_all(path).map_err(io_error("make a folder for a mount"));
    folder(&run)?;
    attach(Path::new("tmpfs"), &run, Some("tmpfs"), MsFlags::empty())?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).map_err(io_error("open up a folder"))?;
    let sources = [
        (NODE_DIR, spec.node_dir(node)),
        (CLUSTER_DIR, spec.dir.clone()),
        (VOLUMES_DIR, spec.dir.join("volumes")),
    ];
    for (seen, source) in sources {
        let target = run.join(seen.trim_start_matches("/run/"));
        folder(&target)?;
        bind(&source, &target)?;
    }
    folder(&run.join("lock"))?;
    attach(&run, Path::new("/run"), None, MsFlags::MS_MOVE)?;
    for (source, target) in [("var-lib", "/var/lib"), ("var-log", "/var/log")] {
        bind(&Path::new(NODE_DIR).join(source), Path::new(target))?;
    }
    attach(unnamed, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_SHARED)
}

fn load(dir: &Path) -> Result<Spec, NodeError> {
    Spec::load(dir)
        .map_err(io_error("read the cluster's record"))?
        .ok_or_else(|| NodeError::NoSpec(dir.display().to_string()))
}

fn say(line: &str) -> Result<(), NodeError> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(io_error("speak to the start"))
}
