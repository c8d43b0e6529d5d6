//! A snapshot of Vault, streamed to a file and checked by the hashes inside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;
use futures::StreamExt;
use ring::digest::{Context, SHA256};

use super::client::{Client, VaultError};

/// File of a snapshot, as `vault operator raft snapshot restore` takes it.
pub const FILE: &str = "vault.snap";
/// File in the archive with the hashes of the others, as `sha256sum` writes them.
const SUMS: &str = "SHA256SUMS";

/// Why there is no snapshot, or none to rely on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the stream of the snapshot broke off")]
    Stream(#[source] reqwest::Error),
    #[error("the snapshot is not what Vault took: {0}. Try again")]
    Damaged(String),
    #[error("cannot write or read the snapshot")]
    File(#[from] io::Error),
}

/// Writes a snapshot, and what is known about it, into a folder.
pub async fn take(
    http: &reqwest::Client,
    url: &str,
    role: &str,
    jwt: &str,
    folder: &Path,
) -> Result<(), SnapshotError> {
    let any = Client { http, url: url.to_owned() };
    let token = any.login(role, jwt).await?;
    save(&any, &token, folder).await
}

/// Only the leader gives a snapshot.
async fn save(any: &Client<'_>, token: &str, folder: &Path) -> Result<(), SnapshotError> {
    let leader = any.leader().await?;
    let at =
        if leader.is_self || leader.leader_address.is_empty() { &any.url } else { &leader.leader_address };
    let client = Client { http: any.http, url: at.trim_end_matches('/').to_owned() };
    let version = client.seal_status().await?.version;
    let answer = client.snapshot(token).await?;
    let path = folder.join(FILE);
    let mut file = File::create(&path)?;
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        file.write_all(&chunk.map_err(SnapshotError::Stream)?)?;
    }
    drop(file);
    check(File::open(&path)?)?;
    let facts = format!("version={version}\nchecked=sha256 of its parts\n");
    Ok(std::fs::write(folder.join("facts"), facts)?)
}

/// Every file of the archive has the hash the archive says; those that matter are there.
fn check(archive: impl Read) -> Result<(), SnapshotError> {
    let damaged = |what: &str| SnapshotError::Damaged(what.to_owned());
    let (mut found, mut sums) = (BTreeMap::new(), String::new());
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if name == SUMS {
            entry.read_to_string(&mut sums)?;
            continue;
        }
        let mut context = Context::new(&SHA256);
        io::copy(&mut entry, &mut Hashing(&mut context))?;
        found.insert(name, HEXLOWER.encode(context.finish().as_ref()));
    }
    let said: BTreeMap<_, _> = sums
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect();
    if !said.contains_key("state.bin") || !said.contains_key("meta.json") {
        return Err(damaged("it ends too early"));
    }
    match said.iter().find(|(name, sum)| found.get(*name) != Some(sum)) {
        Some((name, _)) => Err(damaged(&format!("{name} has another hash"))),
        None => Ok(()),
    }
}

struct Hashing<'a>(&'a mut Context);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use soma_testenv::{RunDir, Vault};
    use std::time::Duration;

    struct Server {
        vault: Vault,
        key: String,
        root: String,
    }

    /// Opens a new Vault and waits until it leads.
    async fn server(http: &reqwest::Client) -> Server {
        let vault = Vault::start().await.unwrap();
        let client = Client { http, url: vault.url() };
        let made = client.initialise().await.unwrap();
        let server = Server { key: made.key, root: made.root, vault };
        opened(http, &server, &server.key).await;
        server
    }

    async fn opened(http: &reqwest::Client, server: &Server, key: &str) {
        let client = Client { http, url: server.vault.url() };
        client.unseal(key).await.unwrap();
        for _ in 0..300 {
            if client.leader().await.is_ok_and(|leader| leader.is_self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader");
    }

    #[tokio::test]
    async fn a_snapshot_of_a_real_vault_is_restored_into_another() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::new();
        let first = server(&http).await;
        let client = Client { http: &http, url: first.vault.url() };
        let kv = json!({"type": "kv", "options": {"version": "2"}});
        client.write(&first.root, "sys/mounts/secret", kv, "mount").await.unwrap();
        let secret = json!({"data": {"a": "kept"}});
        for _ in 0..100 {
            // The engine upgrades itself for a moment after it was mounted.
            if client.write(&first.root, "secret/data/x", secret.clone(), "write").await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        // With a token that may do nothing else.
        let policy = json!({"policy": super::super::configure::BACKUP_POLICY});
        client.write(&first.root, "sys/policies/acl/soma-backup", policy, "write the policy").await.unwrap();
        let body = json!({"policies": ["soma-backup"], "no_default_policy": true});
        let made: serde_json::Value = http
            .post(format!("{}/v1/auth/token/create", first.vault.url()))
            .header("X-Vault-Token", &first.root)
            .json(&body)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let token = made["auth"]["client_token"].as_str().unwrap();
        assert!(client.read(token, "secret/data/x", "read").await.unwrap_err().is_forbidden());
        assert!(client.read(token, "sys/mounts", "read").await.unwrap_err().is_forbidden());
        let dir = RunDir::new("snapshot").unwrap();
        save(&client, token, dir.path()).await.unwrap();
        assert!(std::fs::read_to_string(dir.path().join("facts")).unwrap().contains("version="));

        let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let second = server(&http).await;
        let restored = http
            .post(format!("{}/v1/sys/storage/raft/snapshot-force", second.vault.url()))
            .header("X-Vault-Token", &second.root)
            .body(bytes.clone())
            .send()
            .await
            .unwrap();
        assert!(restored.status().is_success(), "{restored:?}");
        // It is the first Vault now: sealed until it has the first one's key, and known by its tokens only.
        let other = Client { http: &http, url: second.vault.url() };
        for _ in 0..100 {
            if other.seal_status().await.is_ok_and(|status| status.sealed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        opened(&http, &second, &first.key).await;
        let mut read = other.read(&first.root, "secret/data/x", "read").await;
        for _ in 0..100 {
            if read.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            read = other.read(&first.root, "secret/data/x", "read").await;
        }
        assert_eq!(read.unwrap()["data"]["data"]["a"], "kept");

        // Damaged, or cut off.
        assert!(check(&bytes[..bytes.len() / 2]).is_err());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert!(check(&bytes[..]).is_err());
    }
}
