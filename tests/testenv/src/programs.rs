//! The workspace's own programs, as tests and images use them.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use crate::{
    checkout,
    exec::{ExecError, run_long},
};

/// Names a folder whose programs are used as they are, instead of asking cargo to bring them up to date.
pub const BIN_DIR: &str = "SOMA_BIN_DIR";

/// Why a program of the workspace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Cargo failed.
    #[error(transparent)]
    Cargo(#[from] ExecError),
    /// Cargo reported no such program.
    #[error("cargo reported no program {0}")]
    Unknown(String),
    /// The folder holds no such program.
    #[error("{0} is missing: run `cargo build --workspace --bins`, or unset SOMA_BIN_DIR")]
    Absent(PathBuf),
}

/// The path of a program of the workspace, such as `soma-memory`.
pub fn program(name: &str) -> Result<PathBuf, ProgramError> {
    if let Some(folder) = std::env::var_os(BIN_DIR) {
        let path = PathBuf::from(folder).join(name);
        return if path.is_file() { Ok(path) } else { Err(ProgramError::Absent(path)) };
    }
    executable(&cargo_messages()?, name).ok_or_else(|| ProgramError::Unknown(name.to_owned()))
}

/// Builds the workspace's programs, once a process, and returns cargo's messages, one JSON object per line. All of
/// them, because choosing some would choose other features of their dependencies and compile those again.
fn cargo_messages() -> Result<String, ExecError> {
    static MESSAGES: Mutex<Option<String>> = Mutex::new(None);
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(messages) = &*messages {
        return Ok(messages.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout()).args(["build", "--quiet", "--workspace", "--bins"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let built = run_long("building the workspace's programs", &mut cargo)?;
    Ok(messages.insert(built).clone())
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"soma-memory","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"soma-memory","kind":["bin"]},"executable":"/t/soma-memory"}"#;
        assert_eq!(executable(messages, "soma-memory"), Some(PathBuf::from("/t/soma-memory")));
        assert_eq!(executable(messages, "soma-operator"), None);
    }
}
