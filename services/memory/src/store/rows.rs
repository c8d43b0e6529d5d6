//! From rows to values, and vectors to bytes.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::model::{Embedding, Kind, Namespace, Quota, Record, Usage, parse_stored};
use crate::{Coordinate, Error};

pub(super) fn namespace(row: &AnyRow) -> Result<Namespace, sqlx::Error> {
    Ok(Namespace {
        name: row.try_get("name")?,
        uid: row.try_get("uid")?,
        tenant: row.try_get("tenant")?,
        embedding: Embedding {
            provider: row.try_get("provider")?,
            model: row.try_get("model")?,
            dimension: row.try_get("dimension")?,
        },
        quota: Quota { memories: row.try_get("quota_memories")?, bytes: row.try_get("quota_bytes")? },
        usage: Usage { memories: row.try_get("memories")?, bytes: row.try_get("bytes")? },
        clock: row.try_get("clock")?,
    })
}

pub(super) fn memory(row: &AnyRow) -> Result<Record, Error> {
    Ok(Record {
        coordinate: coordinate(row, "coordinate")?,
        kind: Kind::stored(row.try_get("kind")?),
        payload: parse_stored(row.try_get("payload")?, "payload")?,
        importance: row.try_get("importance")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        indexed: row.try_get::<i64, _>("pending")? == 0,
    })
}

pub(super) fn coordinate(row: &AnyRow, column: &str) -> Result<Coordinate, sqlx::Error> {
    row.try_get(column).map(Coordinate::stored)
}

/// Little-endian, whatever the machine.
pub(super) fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(super) fn to_vector(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
