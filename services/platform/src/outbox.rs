//! The transactional outbox: an event is a row written in the transaction of the change it tells of.
//!
//! The table is `outbox(seq, event_id, topic, key, payload, created_at)`, made by the owning service's migrations.

use serde_json::Value;
use sqlx::AnyConnection;
use uuid::Uuid;

use crate::database::{CHUNK, placeholders};

/// An event to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Deterministic: the same change never makes two events.
    pub id: Uuid,
    /// The topic, such as `memory.events`.
    pub topic: &'static str,
    /// The partition key.
    pub key: String,
    /// The message.
    pub payload: Value,
    /// Microseconds since 1970.
    pub created_at: i64,
}

/// Writes events in the caller's transaction.
pub async fn enqueue(tx: &mut AnyConnection, events: &[Event]) -> Result<(), sqlx::Error> {
    for chunk in events.chunks(CHUNK) {
        let sql = format!(
            "INSERT INTO outbox (event_id, topic, key, payload, created_at) VALUES {}",
            placeholders(chunk.len(), 5)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(chunk.len() == 1);
        for event in chunk {
            query = query
                .bind(event.id.to_string())
                .bind(event.topic)
                .bind(&event.key)
                .bind(event.payload.to_string())
                .bind(event.created_at);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Keeps the newest `keep` events. Until a relay publishes them, this bounds the table.
pub async fn trim(connection: &mut AnyConnection, keep: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query("DELETE FROM outbox WHERE seq <= (SELECT MAX(seq) FROM outbox) - $1")
        .bind(keep)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}
