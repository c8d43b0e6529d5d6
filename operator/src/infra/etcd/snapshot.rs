//! A snapshot of etcd, streamed to a file and checked by the hash etcd sends at its end.

use std::io::{self, Write};
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use k8s_openapi::ByteString;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::Deserialize;

use super::auth;
use super::client::{Client, EtcdError};

/// File of a snapshot, as `etcdutl snapshot restore` takes it.
pub const FILE: &str = "snapshot.db";
/// Pages of etcd's database are multiples of this; the hash comes after them.
const SECTOR: u64 = 512;

/// Why there is no snapshot, or none to rely on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("the stream of the snapshot broke off")]
    Stream(#[source] reqwest::Error),
    #[error("etcd sent something that is no part of a snapshot: {0}")]
    Unreadable(String),
    #[error("the snapshot is not what etcd sent: {0}. Try again; if it stays so, look at etcd's alarms")]
    Damaged(&'static str),
    #[error("cannot write the snapshot")]
    Write(#[source] io::Error),
}

/// One part of the stream.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    result: Option<Blob>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Blob {
    #[serde(default)]
    blob: Option<ByteString>,
}

/// Writes a snapshot, and what is known about it, into a folder.
pub async fn take(
    http: &reqwest::Client,
    url: &str,
    password: &str,
    folder: &Path,
) -> Result<(), SnapshotError> {
    let client = Client { http, url };
    let token = match client.authenticate(auth::ROOT, password).await {
        Err(error) if error.is_without_authentication() => None,
        other => Some(other?),
    };
    let what = "tell its status";
    let status: serde_json::Value =
        client.call("maintenance/status", token.as_deref(), &serde_json::json!({}), what).await?;
    let (version, revision) = (&status["version"], &status["header"]["revision"]);
    let answer = client.snapshot(token.as_deref()).await?;
    let mut file = std::fs::File::create(folder.join(FILE)).map_err(SnapshotError::Write)?;
    let mut check = Check::default();
    let (mut stream, mut rest) = (answer.bytes_stream(), BytesMut::new());
    while let Some(chunk) = stream.next().await {
        rest.extend_from_slice(&chunk.map_err(SnapshotError::Stream)?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end);
            rest.advance(1);
            write(&mut file, &mut check, &line)?;
        }
    }
    write(&mut file, &mut check, &rest)?;
    check.end()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let facts = format!("version={}\nrevision={} or later\nchecked=sha256\n", text(version), text(revision));
    std::fs::write(folder.join("facts"), facts).map_err(SnapshotError::Write)
}

fn write(file: &mut impl Write, check: &mut Check, line: &[u8]) -> Result<(), SnapshotError> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let unreadable = |what: String| SnapshotError::Unreadable(what.chars().take(200).collect());
    let part: Part = serde_json::from_slice(line).map_err(|error| unreadable(error.to_string()))?;
    if let Some(error) = part.error {
        return Err(unreadable(error.to_string()));
    }
    let blob = part.result.and_then(|result| result.blob).map(|blob| Bytes::from(blob.0)).unwrap_or_default();
    check.add(&blob);
    file.write_all(&blob).map_err(SnapshotError::Write)
}

/// Hashes all but the last bytes, which are the hash.
struct Check {
    context: Context,
    size: u64,
    tail: Vec<u8>,
}

impl Default for Check {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), size: 0, tail: Vec::new() }
    }
}

impl Check {
    fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let known = self.tail.len().saturating_sub(SHA256_OUTPUT_LEN);
        self.context.update(&self.tail[..known]);
        self.tail.drain(..known);
    }

    fn end(self) -> Result<(), SnapshotError> {
        let data = self.size.checked_sub(SHA256_OUTPUT_LEN as u64).filter(|size| *size > 0);
        if data.is_none_or(|size| size % SECTOR != 0) {
            return Err(SnapshotError::Damaged("it ends too early"));
        }
        if self.context.finish().as_ref() != self.tail {
            return Err(SnapshotError::Damaged("its hash is another"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use soma_testenv::{Etcd, RunDir};

    fn checked(parts: &[&[u8]]) -> Result<(), SnapshotError> {
        let mut check = Check::default();
        for part in parts {
            check.add(part);
        }
        check.end()
    }

    #[test]
    fn the_last_bytes_are_the_hash_of_those_before() {
        let data = [7; 1024];
        let hash = ring::digest::digest(&SHA256, &data);
        assert!(checked(&[&data[..1000], &data[1000..], hash.as_ref()]).is_ok());
        assert!(checked(&[&data, &hash.as_ref()[..3], &hash.as_ref()[3..]]).is_ok(), "in any parts");
        assert!(checked(&[&data, &hash.as_ref()[..31]]).is_err(), "cut off");
        assert!(checked(&[&data[..512], hash.as_ref()]).is_err(), "a page is missing");
        assert!(checked(&[]).is_err());
    }

    #[tokio::test]
    async fn a_snapshot_of_a_real_etcd_is_restored_by_etcd_s_own_program() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let etcd = Etcd::start().await.unwrap();
        let value = "v".repeat(100_000);
        for n in 0..20 {
            etcd.ctl(&["put", &format!("/soma/{n}"), &value]).await.unwrap();
        }
        etcd.ctl(&["user", "add", "root", "--new-user-password", "secret"]).await.unwrap();
        etcd.ctl(&["user", "grant-role", "root", "root"]).await.unwrap();
        etcd.ctl(&["auth", "enable"]).await.unwrap();

        let dir = RunDir::new("snapshot").unwrap();
        let http = reqwest::Client::new();
        let wrong = take(&http, &etcd.url(), "wrong", dir.path()).await.unwrap_err();
        assert!(matches!(&wrong, SnapshotError::Etcd(error) if error.is_wrong_password()), "{wrong:?}");
        take(&http, &etcd.url(), "secret", dir.path()).await.unwrap();
        let facts = std::fs::read_to_string(dir.path().join("facts")).unwrap();
        assert!(facts.contains("version=3.") && facts.contains("revision=21 or later"), "{facts}");

        let file = dir.path().join(FILE);
        let (file, into) = (file.to_str().unwrap(), dir.path().join("restored"));
        let told = etcd.utl(&["snapshot", "status", file, "-w", "json"]).await.unwrap();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["revision"], 21, "{told}");
        etcd.utl(&["snapshot", "restore", file, "--data-dir", into.to_str().unwrap()]).await.unwrap();
        assert!(into.join("member/snap/db").exists(), "etcdutl checked the hash and restored it");

        // A byte that changed is noticed by the same hash.
        let mut bytes = std::fs::read(file).unwrap();
        bytes[5000] ^= 1;
        assert!(checked(&[&bytes]).is_err());
    }
}
