//! The conversation format `soma memory import` reads.
//!
//! A file holds one conversation or a list of them, as JSON:
//! `{"id", "sessions": [{"session", "time", "turns": [{"id", "speaker", "role", "text"}]}], "questions": [...]}`.
//! `questions` serve `soma bench recall`: `{"question", "evidence": [turn ids]}`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// A conversation: sessions of turns.
#[derive(Debug, Deserialize)]
pub struct Conversation {
    /// Unique name; a file with several conversations is imported into one namespace per id.
    pub id: String,
    /// The sessions, in order.
    pub sessions: Vec<Session>,
    /// Questions whose answers lie in the turns.
    #[serde(default)]
    pub questions: Vec<Question>,
}

/// Turns that belong together.
#[derive(Debug, Deserialize)]
pub struct Session {
    /// Number or name of the session.
    #[serde(rename = "session")]
    pub id: Value,
    /// When it took place: RFC 3339 or free text.
    #[serde(default)]
    pub time: Option<String>,
    /// What was said, in order.
    pub turns: Vec<Turn>,
}

/// One thing said.
#[derive(Debug, Deserialize)]
pub struct Turn {
    /// Unique within the conversation.
    pub id: String,
    /// Who said it.
    #[serde(default)]
    pub speaker: Option<String>,
    /// `user` or `assistant`.
    #[serde(default)]
    pub role: Option<String>,
    /// What was said.
    pub text: String,
}

/// A question and the turns that answer it.
#[derive(Debug, Deserialize)]
pub struct Question {
    /// The question.
    pub question: String,
    /// Ids of the turns that answer it; none when the conversation does not say.
    #[serde(default)]
    pub evidence: Vec<String>,
}

impl Conversation {
    /// One item of `/store_bulk` per turn. The key makes a second import an update of the same memories.
    pub fn items(&self) -> Vec<Value> {
        let mut items = Vec::new();
        for session in &self.sessions {
            let name = session.id.as_str().map_or_else(|| session.id.to_string(), str::to_owned);
            for turn in &session.turns {
                let mut payload = json!({"content": turn.text, "session": name, "turn": turn.id});
                for (key, value) in
                    [("speaker", &turn.speaker), ("role", &turn.role), ("time", &session.time)]
                {
                    if let Some(value) = value {
                        payload[key] = json!(value);
                    }
                }
                items.push(json!({"key": format!("{}/{}", self.id, turn.id), "payload": payload}));
            }
        }
        items
    }

    /// The memory namespace of this conversation, where a file holds several: its id as a DNS label.
    pub fn namespace(&self) -> String {
        let label: String = self
            .id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        label.trim_matches('-').to_owned()
    }
}

/// Reads a file of conversations.
pub fn read(path: &Path) -> Result<Vec<Conversation>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| {
        format!("{} is not JSON (see the format with `soma memory import --help`)", path.display())
    })?;
    let list = if value.is_array() { value } else { Value::Array(vec![value]) };
    let conversations: Vec<Conversation> = serde_json::from_value(list).with_context(|| {
        format!("{} is not a conversation (see the format with `soma memory import --help`)", path.display())
    })?;
    if conversations.iter().all(|c| c.sessions.is_empty()) {
        bail!("{} holds no turns", path.display());
    }
    Ok(conversations)
}
