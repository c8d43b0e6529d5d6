//! The faults a test went through, held against the table of `docs/reference/faults.md`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

const HEAD: &str = "# Faults that were survived

Each row was produced by the end-to-end test of its last column, which fails when a row is missing or has changed: `make e2e` runs them. Made by
`SOMA_ACCEPT=1 make e2e`. The numbers of messages and writes are printed by the run.

| fault | outcome | test |
|---|---|---|
";

/// What a test survived, in order of its end.
#[derive(Debug, Default)]
pub struct Faults(Mutex<BTreeSet<(String, String)>>);

impl Faults {
    /// Notes and prints that a fault was survived, and with which outcome.
    pub fn survived(&self, fault: &str, outcome: &str) {
        println!("survived: {fault}: {outcome}");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((fault.to_owned(), outcome.to_owned()));
    }

    /// Fails unless the table says of this test what the test has noted; with `SOMA_ACCEPT` set the table is rewritten.
    pub fn check(&self, test: &str) -> Result<()> {
        let path = page();
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let (mine, others): (Vec<&str>, Vec<&str>) =
            rows(&written).partition(|row| row.ends_with(&format!("| {test} |")));
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(fault, outcome): &(String, String)| format!("| {fault} | {outcome} | {test} |");
        let mut wanted: Vec<_> = noted.iter().map(row).collect();
        wanted.sort();
        if std::env::var_os("SOMA_ACCEPT").is_some() {
            let mut all: Vec<_> = others.iter().map(|row| (*row).to_owned()).chain(wanted).collect();
            all.sort();
            std::fs::write(&path, format!("{HEAD}{}\n", all.join("\n")))?;
            return Ok(());
        }
        ensure!(
            mine == wanted,
            "docs/reference/faults.md says\n{}\nand the test\n{}",
            mine.join("\n"),
            wanted.join("\n")
        );
        Ok(())
    }
}

fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip_while(|line| !line.starts_with("|---")).skip(1).filter(|line| line.starts_with('|'))
}

fn page() -> PathBuf {
    soma_testenv::checkout().join("docs/reference/faults.md")
}
