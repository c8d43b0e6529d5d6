//! `testenv`: the local cluster, its images, and what the tests' servers need.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use soma_testenv::{
    cache::Cache,
    cluster::{self, Place, kind, node, policy, volumes},
    doctor, gobuild,
    images::{self, Image},
    java, maven, model, packages, programs,
    progress::Progress,
};

/// Real servers for tests, and a local Kubernetes cluster.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the local cluster, install Soma and the quickstart example, and wait until all of it is ready.
    Up {
        /// How many nodes the cluster has.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20))]
        nodes: u8,
        /// Only the cluster itself: DNS and volumes, without Soma.
        #[arg(long)]
        bare: bool,
        /// Load the images of these components too, so that a SomaInfra can ask for them.
        #[arg(long, value_delimiter = ',')]
        with: Vec<Component>,
        /// The folder for the cluster's files; `.soma` of the checkout when not given.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Remove the local cluster and everything it made.
    Down {
        /// The folder given to `up`.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Wait until standard input is closed first: removes the cluster of a process that was killed.
        #[arg(long)]
        when_closed: bool,
    },
    /// Build the images and say how large they are.
    Images {
        /// Without those of Soma.
        #[arg(long)]
        bare: bool,
        /// Those of these components too.
        #[arg(long, value_delimiter = ',')]
        with: Vec<Component>,
    },
    /// Fetch or build what is kept in the cache.
    Fetch {
        /// What to fetch.
        #[arg(default_value = "all")]
        what: What,
    },
    /// Say what is missing on this machine and how to get it.
    Doctor,
    /// Hold the namespaces of a node (started by `up`).
    #[command(hide = true)]
    Node { dir: PathBuf, node: u8 },
    /// Run the programs of a node inside its namespaces (started by `node`).
    #[command(hide = true)]
    NodeInit { dir: PathBuf, node: u8 },
    /// Enforce network policies on a node (started by it).
    #[command(hide = true)]
    Policy {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long)]
        prefix: String,
    },
    /// Serve volumes to the cluster (started by the first node).
    #[command(hide = true)]
    Volumes {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long)]
        folder: PathBuf,
    },
}

/// A component whose image is only made and loaded when it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Component {
    Kafka,
    Vault,
    Etcd,
    Redis,
    Opa,
    #[value(name = "openfga")]
    OpenFga,
}

impl Component {
    fn image(self, cache: &Cache) -> anyhow::Result<Image> {
        Ok(match self {
            Self::Kafka => {
                packages::ensure(&packages::FOR_KAFKA)?;
                images::kafka(cache)?
            }
            Self::Redis => {
                packages::ensure(&packages::FOR_REDIS)?;
                images::redis(cache)?
            }
            Self::Vault => images::vault(cache)?,
            Self::Etcd => images::etcd(cache)?,
            Self::Opa => images::opa(cache)?,
            Self::OpenFga => images::openfga(cache)?,
        })
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    All,
    /// Debian packages: PostgreSQL and, where kind does not run, what the native cluster needs.
    Packages,
    Model,
    Kube,
    /// The server and its commands.
    Etcd,
    Coredns,
    Vault,
    Opa,
    #[value(name = "openfga")]
    OpenFga,
    /// Kafka's jars and its Java runtime.
    Kafka,
    /// Debian's server.
    Redis,
}

fn main() -> ExitCode {
    // The chain of causes without a backtrace: these errors are for the person at the terminal.
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Up { nodes, bare, with, dir } => up(&place(dir), nodes, bare, &with)?,
        Command::Down { dir, when_closed } => down(&place(dir), when_closed)?,
        Command::Images { bare, with } => show_images(bare, &with)?,
        Command::Fetch { what } => fetch(what)?,
        Command::Doctor => return Ok(examine()),
        Command::Node { dir, node } => node::hold(&dir, node)?,
        Command::NodeInit { dir, node } => node::init(&dir, node)?,
        Command::Policy { kubeconfig, prefix } => {
            tokio::runtime::Runtime::new()?.block_on(policy::enforce(&kubeconfig, &prefix))?;
        }
        Command::Volumes { kubeconfig, folder } => {
            tokio::runtime::Runtime::new()?.block_on(volumes::serve(&kubeconfig, &folder))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn place(dir: Option<PathBuf>) -> Place {
    dir.map_or_else(Place::of_checkout, |root| Place { root })
}

fn up(place: &Place, nodes: u8, bare: bool, with: &[Component]) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    let with_kind = kind::is_usable();
    if with_kind {
        kind::up(place, nodes, bare, &mut progress)?;
    } else {
        let images = build_images(bare, with, &mut progress)?;
        cluster::up(place, nodes, &images, &mut progress)?;
    }
    if bare {
        eprint!("\n{}", progress.table());
        println!("export KUBECONFIG={}", place.kubeconfig().display());
        return Ok(());
    }
    let installed = cluster::install(place, &mut progress)?;
    install_soma(place).context("cannot put `soma` beside kubectl")?;
    eprint!("\n{}\n", progress.table());
    if with_kind {
        println!("kubectl -n {} port-forward service/memory 9595 &", installed.namespace);
        print!("{}", installed.next_steps(place, "http://127.0.0.1:9595"));
    } else {
        print!("{}", installed.next_steps(place, &format!("http://{}:9595", installed.address)));
    }
    Ok(())
}

/// Puts the command `soma` of this build beside `kubectl`.
fn install_soma(place: &Place) -> anyhow::Result<()> {
    let (source, target) = (programs::program("soma")?, place.bin().join("soma"));
    if target.exists() {
        std::fs::remove_file(&target)?;
    }
    std::fs::hard_link(&source, &target).or_else(|_| std::fs::copy(&source, &target).map(drop))?;
    Ok(())
}

fn down(place: &Place, when_closed: bool) -> anyhow::Result<()> {
    if when_closed {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
            .context("cannot wait for standard input")?;
    }
    if kind::is_usable() {
        kind::down(place)?;
    }
    cluster::down(place)?;
    Ok(())
}

fn build_images(bare: bool, with: &[Component], progress: &mut Progress) -> anyhow::Result<Vec<Image>> {
    let cache = Cache::open()?;
    packages::ensure(&packages::FOR_CLUSTER)?;
    packages::ensure(&packages::FOR_TESTS)?;
    let mut all = progress.step("images of the cluster", || images::system(&cache))?;
    if !bare {
        all.extend(progress.step("images of Soma", || images::services(&cache))?);
    }
    for component in Component::value_variants().iter().filter(|component| with.contains(component)) {
        all.push(progress.step(&format!("image of {component:?}"), || component.image(&cache))?);
    }
    Ok(all)
}

fn show_images(bare: bool, with: &[Component]) -> anyhow::Result<()> {
    for image in build_images(bare, with, &mut Progress::default())? {
        println!("{:44} {} {:7.1} MB", image.reference, &image.id()[..12], megabytes(image.size()));
    }
    Ok(())
}

/// Millions of bytes, exact for anything an image can be.
fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1000.0
}

fn fetch(what: What) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    if matches!(what, What::All | What::Packages) {
        packages::ensure(&packages::FOR_TESTS)?;
        if !kind::is_usable() {
            packages::ensure(&packages::FOR_CLUSTER)?;
        }
    }
    let programs = [
        (What::Etcd, gobuild::ETCD),
        (What::Etcd, gobuild::ETCDCTL),
        (What::Coredns, gobuild::COREDNS),
        (What::Vault, gobuild::VAULT),
        (What::Opa, gobuild::OPA),
        (What::OpenFga, gobuild::OPENFGA),
        (What::Kube, gobuild::KUBE),
    ];
    for (_, program) in programs.iter().filter(|(name, _)| what == *name || what == What::All) {
        println!("{}", program.ensure(&cache)?.display());
    }
    if matches!(what, What::All | What::Kafka) {
        packages::ensure(&packages::FOR_KAFKA)?;
        println!("{}", maven::KAFKA.ensure(&cache)?.display());
        println!("{}", java::runtime(&cache)?.display());
    }
    if matches!(what, What::All | What::Redis) {
        packages::ensure(&packages::FOR_REDIS)?;
    }
    if matches!(what, What::All | What::Model) {
        println!("{}", model::ensure(&cache)?.display());
    }
    Ok(())
}

/// Prints every finding; fails when something is missing.
fn examine() -> ExitCode {
    let findings = doctor::examine();
    for finding in &findings {
        match &finding.remedy {
            None => println!("ok       {}", finding.subject),
            Some(remedy) => println!("missing  {}\n         {remedy}", finding.subject),
        }
    }
    if findings.iter().all(|finding| finding.remedy.is_none()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
