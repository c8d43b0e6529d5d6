//! Reading the texts of a file of conversations.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

#[derive(Deserialize)]
struct Conversation {
    sessions: Vec<Session>,
}

#[derive(Deserialize)]
struct Session {
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    text: String,
}

/// The text of every turn, in the file's order.
pub fn turns(path: &Path) -> anyhow::Result<Vec<String>> {
    let shown = path.display();
    let json = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let conversations: Vec<Conversation> =
        serde_json::from_slice(&json).with_context(|| format!("{shown} is not a file of conversations"))?;
    let sessions = conversations.into_iter().flat_map(|conversation| conversation.sessions);
    Ok(sessions.flat_map(|session| session.turns).map(|turn| turn.text).collect())
}
