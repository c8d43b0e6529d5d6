//! What a long command is doing, and where its seconds went.

use std::time::{Duration, Instant};

/// Prints each step as it starts and ends, and remembers how long it took.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    steps: Vec<(String, Duration)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { started: Instant::now(), steps: Vec::new() }
    }
}

impl Progress {
    /// Runs `work` as the step `name`.
    pub fn step<T, E>(&mut self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        eprintln!("{:7.1} s  {name}", self.started.elapsed().as_secs_f64());
        let value = work()?;
        self.steps.push((name.to_owned(), begun.elapsed()));
        Ok(value)
    }

    /// A table of the steps and their seconds, with the total.
    pub fn table(&self) -> String {
        let width = self.steps.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let line = |name: &str, time: Duration| format!("  {name:width$} {:6.1} s\n", time.as_secs_f64());
        let mut table: String = self.steps.iter().map(|(name, time)| line(name, *time)).collect();
        table.push_str(&line("total", self.started.elapsed()));
        table
    }
}
