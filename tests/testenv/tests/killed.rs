//! Servers end with the test that started them, even when it is killed.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself would")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use soma_testenv::{Launch, RunDir};

const CHILD: &str = "SOMA_TESTENV_CHILD";

fn alive(pid: &str) -> bool {
    // A zombie has ended; only its parent has not looked yet.
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The test runs itself again as the one that is killed.
#[test]
fn a_killed_test_leaves_no_server() {
    if std::env::var_os(CHILD).is_some() {
        hold_a_server();
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_server", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let server =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("server ").map(str::to_owned)).unwrap();
    assert!(alive(&server));
    holder.kill().unwrap();
    holder.wait().unwrap();
    while alive(&server) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hold_a_server() -> ! {
    let dir = RunDir::new("held").unwrap();
    let log = dir.path().join("log");
    // Started by a thread that ends at once: the server must not end with the thread.
    let server =
        std::thread::spawn(move || Launch::new("sleep", "sleep", log).args(["600"]).start().unwrap());
    let server = server.join().unwrap();
    println!("\nserver {}", server.pid());
    loop {
        std::thread::park();
    }
}
