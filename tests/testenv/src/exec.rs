//! Running a program to its end and keeping what it said when it fails.

use std::{
    io,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Why a program could not be run to a good end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is missing or may not be executed.
    #[error("cannot run {program}")]
    Spawn {
        /// The program as it was called.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program ended with a failure.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its standard error.
        said: String,
    },
}

/// Runs `command` and returns its standard output, trimmed.
pub fn run(command: &mut Command) -> Result<String, ExecError> {
    run_with(command, Stdio::null())
}

/// Runs `command` like [`run`] with `input` as its standard input.
pub fn run_with(command: &mut Command, input: impl Into<Stdio>) -> Result<String, ExecError> {
    let output = command.stdin(input).output().map_err(|source| spawn_error(command, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(ExecError::Failed {
        program: shown(command),
        status: output.status,
        said: tail(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// Runs `command` like [`run`] and reports every 15 seconds on standard error that `what` still goes on.
pub fn run_long(what: &str, command: &mut Command) -> Result<String, ExecError> {
    let started = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while waiting.recv_timeout(Duration::from_secs(15)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("   … {what}, {:.0} s so far", started.elapsed().as_secs_f64());
            }
        });
        let result = run(command);
        drop(done);
        result
    })
}

/// Whether `program` is found on `PATH`.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub(crate) fn spawn_error(command: &Command, source: io::Error) -> ExecError {
    ExecError::Spawn { program: command.get_program().to_string_lossy().into_owned(), source }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn tail(text: &str) -> String {
    const KEPT_LINES: usize = 12;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo nope >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("nope"), "{error}");
        assert!(error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_message_is_kept() {
        let text = (0..40).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
        assert!(tail(&text).ends_with("line 39"));
        assert!(!tail(&text).contains("line 27\n"));
    }
}
