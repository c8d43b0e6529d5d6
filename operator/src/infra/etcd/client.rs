//! The few calls of etcd the operator makes: JSON through etcd's own HTTP gateway, and the list of members as the port
//! between members gives it.

use std::time::Duration;

use k8s_openapi::ByteString;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Longest time one call may take. etcd itself gives up on a proposal after seven seconds.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Longest time a defragmentation may take: it copies the whole database.
const DEFRAGMENT: Duration = Duration::from_mins(2);

/// Longest time a snapshot may take; as a Job may.
const LONGEST: Duration = Duration::from_hours(12);
const SNAPSHOT: &str = "maintenance/snapshot";

/// Code of an answer by which etcd says that it is in no state for the call.
const FAILED_PRECONDITION: i64 = 9;
/// Code of an answer by which etcd says that it may be in one later.
const UNAVAILABLE: i64 = 14;

/// One member, or an address in front of several.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    pub http: &'a reqwest::Client,
    /// Base URL, such as `http://10.0.0.7:2379`.
    pub url: &'a str,
}

/// An answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("no answer from {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("etcd refused to {what} ({status}): {said}")]
    Refused { what: &'static str, status: StatusCode, code: i64, said: String },
    #[error("etcd's answer to `{what}` cannot be read")]
    Unreadable {
        what: &'static str,
        #[source]
        source: reqwest::Error,
    },
    #[error("no member with a leader answers; look at the pods of etcd")]
    NoMember,
}

impl EtcdError {
    /// What was to be made is there already.
    pub fn is_there_already(&self) -> bool {
        self.says(FAILED_PRECONDITION, "already exist")
    }

    /// etcd wants the change of a member tried again later: a learner has not caught up, or a member was connected
    /// for less than the five seconds etcd asks for before it changes any.
    pub fn is_too_early(&self) -> bool {
        self.says(FAILED_PRECONDITION, "in sync with leader") || self.says(UNAVAILABLE, "unhealthy cluster")
    }

    /// The member votes already.
    pub fn is_promoted_already(&self) -> bool {
        self.says(FAILED_PRECONDITION, "can only promote a learner member") && !self.is_too_early()
    }

    /// Nobody has to log in.
    pub fn is_without_authentication(&self) -> bool {
        self.says(FAILED_PRECONDITION, "authentication is not enabled")
    }

    /// The password is not the user's.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Refused { said, .. } if said.contains("invalid user ID or password"))
    }

    /// The member is gone already.
    pub fn is_gone_already(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    fn says(&self, wanted: i64, text: &str) -> bool {
        matches!(self, Self::Refused { code, said, .. } if *code == wanted && said.contains(text))
    }
}

/// Why etcd refused.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

/// `maintenance/status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub header: Header,
    pub version: String,
    /// Bytes on the disk.
    #[serde(deserialize_with = "number")]
    pub db_size: u64,
    /// Bytes of them that hold something.
    #[serde(deserialize_with = "number")]
    pub db_size_in_use: u64,
    /// Id of the leader; 0 when there is none.
    #[serde(deserialize_with = "number")]
    pub leader: u64,
    #[serde(deserialize_with = "number")]
    pub raft_index: u64,
    #[serde(deserialize_with = "number")]
    pub raft_term: u64,
    #[serde(deserialize_with = "number")]
    pub raft_applied_index: u64,
    pub is_learner: bool,
    /// Alarms among them.
    pub errors: Vec<String>,
}

/// Who answered.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub member_id: u64,
}

/// One entry of the list of members.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Peer {
    #[serde(alias = "ID", deserialize_with = "id")]
    pub id: u64,
    #[serde(rename = "peerURLs")]
    pub urls: Vec<String>,
    /// Empty until the member has started once.
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
    #[serde(rename = "isLearner")]
    pub is_learner: bool,
}

/// The list of members, as one of them has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub cluster: u64,
    pub peers: Vec<Peer>,
}

/// The gateway writes a number of 64 bits as text, and leaves out a 0.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The gateway writes an id as text, the port between members as a number.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(id) => Ok(id),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Bytes as the gateway takes them.
pub fn bytes(text: &str) -> Value {
    json!(ByteString(text.as_bytes().to_vec()))
}

impl Client<'_> {
    /// How the member is. Needs a token once authentication is enabled.
    pub async fn status(&self, token: Option<&str>) -> Result<Status, EtcdError> {
        self.call("maintenance/status", token, &json!({}), "tell its status").await
    }

    /// A token for a user.
    pub async fn authenticate(&self, username: &str, password: &str) -> Result<String, EtcdError> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let body = json!({"name": username, "password": password});
        let answer: Answer = self.call("auth/authenticate", None, &body, "log the user in").await?;
        Ok(answer.token)
    }

    /// The members as a majority has them.
    pub async fn list(&self, token: Option<&str>) -> Result<Vec<Peer>, EtcdError> {
        #[derive(Deserialize)]
        struct Answer {
            members: Vec<Peer>,
        }
        let body = json!({"linearizable": true});
        let answer: Answer = self.call("cluster/member/list", token, &body, "list its members").await?;
        Ok(answer.members)
    }

    /// The members as this one has them, asked at the port between members: it answers without a token and without a majority.
    pub async fn members(&self) -> Result<Members, EtcdError> {
        let what = "list its members";
        let unreachable = |source| EtcdError::Unreachable { url: self.url.to_owned(), source };
        let request = self.http.get(format!("{}/members", self.url)).timeout(TIMEOUT);
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(EtcdError::Refused { what, status, code: 0, said: String::new() });
        }
        let id = answer.headers().get("X-Etcd-Cluster-Id").and_then(|id| id.to_str().ok());
        let cluster = id.and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or_default();
        let peers = answer.json().await.map_err(|source| EtcdError::Unreadable { what, source })?;
        Ok(Members { cluster, peers })
    }

    /// Adds a learner: it counts towards no majority before it is promoted.
    pub async fn add_learner(&self, token: Option<&str>, peer_url: &str) -> Result<(), EtcdError> {
        let body = json!({"peerURLs": [peer_url], "isLearner": true});
        self.tell("cluster/member/add", token, &body, "add a learner").await
    }

    /// Gives a learner a vote.
    pub async fn promote(&self, token: Option<&str>, member: u64) -> Result<(), EtcdError> {
        self.tell("cluster/member/promote", token, &json!({"ID": member.to_string()}), "promote a learner")
            .await
    }

    /// Takes a member out for good: its data can never join again.
    pub async fn remove_member(&self, token: Option<&str>, member: u64) -> Result<(), EtcdError> {
        self.tell("cluster/member/remove", token, &json!({"ID": member.to_string()}), "remove a member").await
    }

    /// Gives space back to the disk. The member answers nobody meanwhile.
    pub async fn defragment(&self, token: Option<&str>) -> Result<(), EtcdError> {
        self.tell("maintenance/defragment", token, &json!({}), "defragment").await
    }

    /// A call whose answer is dropped.
    pub async fn tell(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        what: &'static str,
    ) -> Result<(), EtcdError> {
        self.call::<Value>(path, token, body, what).await.map(|_| ())
    }

    /// A call of the gateway.
    pub async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        what: &'static str,
    ) -> Result<T, EtcdError> {
        let answer = self.send(path, token, body, what).await?;
        answer.json().await.map_err(|source| EtcdError::Unreadable { what, source })
    }

    /// The stream of a snapshot, however long it takes.
    pub async fn snapshot(&self, token: Option<&str>) -> Result<reqwest::Response, EtcdError> {
        self.send(SNAPSHOT, token, &json!({}), "give a snapshot").await
    }

    async fn send(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        what: &'static str,
    ) -> Result<reqwest::Response, EtcdError> {
        let timeout = match path {
            "maintenance/defragment" => DEFRAGMENT,
            SNAPSHOT => LONGEST,
            _ => TIMEOUT,
        };
        let mut request = self.http.post(format!("{}/v3/{path}", self.url)).timeout(timeout).json(body);
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let unreachable = |source| EtcdError::Unreachable { url: self.url.to_owned(), source };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let Problem { code, message } = answer.json().await.unwrap_or_default();
        Err(EtcdError::Refused { what, status, code, said: message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_text_and_an_absent_one_is_0() {
        let said =
            json!({"header": {"cluster_id": "14971558712265587833"}, "dbSize": "20480", "isLearner": true});
        let status: Status = serde_json::from_value(said).unwrap();
        assert_eq!(status.header.cluster_id, 14_971_558_712_265_587_833);
        assert_eq!((status.db_size, status.db_size_in_use, status.leader), (20_480, 0, 0));
        assert!(status.is_learner && status.errors.is_empty());
        assert_eq!(bytes("/soma/"), json!("L3NvbWEv"));
        for id in [json!({"ID": "17185119425599647930"}), json!({"id": 17_185_119_425_599_647_930_u64})] {
            assert_eq!(serde_json::from_value::<Peer>(id).unwrap().id, 17_185_119_425_599_647_930);
        }
    }
}
