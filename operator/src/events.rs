//! Events for people: the one place that publishes them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::names::MANAGED_BY;

/// Longest note the events API accepts, in bytes.
const NOTE_LIMIT: usize = 1024;

/// Something worth telling the owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// Publishes notes. One per process, so that repeated events become a series.
#[derive(Clone)]
pub struct Publisher {
    recorder: Recorder,
}

impl Publisher {
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: MANAGED_BY.into(), instance: Some(identity.into()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes a note about an object. An event that cannot be published is logged: it must not fail a reconcile.
    pub async fn publish(&self, about: &ObjectReference, note: &Note) {
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.into(),
            note: Some(cut(&note.message)),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%error, reason = note.reason, "event not published");
        }
    }
}

fn cut(message: &str) -> String {
    let end = (0..=message.len().min(NOTE_LIMIT)).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_note_is_cut_between_characters() {
        let text = "é".repeat(600);
        assert_eq!(super::cut(&text).len(), 1024);
        assert_eq!(super::cut(&format!("a{text}")).len(), 1023);
        assert_eq!(super::cut("short"), "short");
    }
}
