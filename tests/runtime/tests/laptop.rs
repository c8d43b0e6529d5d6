//! `soma dev`, as its user meets it: memories stay between runs, and `--reset` alone removes them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use soma_testenv::cache::Cache;
use soma_testenv::programs::program;
use soma_testenv::{Launch, RunDir, Supervised, exec, free_port};

/// A laptop: a folder for the data, the ports, and the examples of the project.
struct Laptop {
    folder: RunDir,
    http: SocketAddr,
    grpc: SocketAddr,
    examples: PathBuf,
    model: PathBuf,
}

impl Laptop {
    fn new() -> Self {
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        Self {
            folder: RunDir::new("laptop").unwrap(),
            http: address(),
            grpc: address(),
            examples: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples"),
            model: soma_testenv::model::ensure(&Cache::open().unwrap()).unwrap(),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join(".soma")
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.data().join("token")).unwrap().trim().to_owned()
    }

    /// Starts `soma dev` and waits until it serves; what it printed until then.
    async fn dev(&self, more: &[&str]) -> (Supervised, String) {
        let log = self.folder.path().join("log");
        let _ = std::fs::remove_file(&log);
        let mut process = Launch::new("soma dev", program("soma").unwrap(), &log)
            .args(["dev", "--folder"])
            .args([self.data()])
            .args(["--http", &self.http.to_string(), "--grpc", &self.grpc.to_string()])
            .args(["-f".into(), self.examples.join("quickstart")])
            .args(more)
            .env("SOMA_MODEL_DIR", &self.model)
            .start()
            .unwrap();
        loop {
            process.check().unwrap();
            let printed = std::fs::read_to_string(&log).unwrap_or_default();
            if printed.contains("serving on") {
                return (process, printed);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn memory(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("soma").unwrap());
        command.args(["memory", "--url", &format!("http://{}", self.http)]).args(arguments);
        command.env("SOMA_API_TOKEN", self.token());
        exec::run(&mut command).unwrap()
    }
}

fn stop(mut process: Supervised) {
    process.signal(Signal::SIGTERM).unwrap();
    assert!(process.wait().unwrap().success(), "asked to stop, it stops cleanly");
}

#[tokio::test]
async fn memories_stay_until_reset() {
    let laptop = Laptop::new();
    let conversation = laptop.examples.join("data/greenhouse.json").display().to_string();
    let (process, printed) = laptop.dev(&["--import", &conversation, "--ask"]).await;
    assert_eq!(printed.lines().filter(|line| line.starts_with("? ")).count(), 3, "{printed}");
    assert!(printed.contains("parasitic wasps"), "{printed}");
    assert!(printed.contains(&format!("SOMA_API_TOKEN={}", laptop.token())), "{printed}");
    laptop.memory(&["add", "The boat is called Perdita."]);
    stop(process);

    // Another run: the same token, the same memories.
    let token = laptop.token();
    let (process, _) = laptop.dev(&[]).await;
    assert_eq!(laptop.token(), token);
    let question = ["search", "what is the name of the ship?", "-k", "1"];
    assert!(laptop.memory(&question).contains("Perdita"));
    stop(process);

    // `--reset` without manifests removes the data and starts nothing; the token stays.
    let mut reset = Command::new(program("soma").unwrap());
    let printed = exec::run(reset.args(["dev", "--reset", "--folder"]).arg(laptop.data())).unwrap();
    assert!(printed.starts_with("removed "), "{printed}");
    assert!(!laptop.data().join("data").exists());
    let (process, _) = laptop.dev(&[]).await;
    assert_eq!(laptop.token(), token);
    assert!(!laptop.memory(&question).contains("Perdita"));
    stop(process);
}
