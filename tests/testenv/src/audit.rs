//! The API server's audit log: who wrote what, for tests that count writes.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// An audit log at level `Metadata`, one JSON event per line, written before the response is sent.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// One request that changed, or tried to change, the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The user that asked, for example `system:kube-controller-manager`.
    pub user: String,
    /// The client program, as its `User-Agent` header says.
    pub user_agent: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// The resource, with its subresource after a slash: `pods`, `somastacks/status`.
    pub resource: String,
    /// The object's namespace, empty for cluster-scoped ones.
    pub namespace: String,
    /// The object's name, empty when the server chose it.
    pub name: String,
    /// The HTTP status the server answered.
    pub code: u16,
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The position after the last event so far; [`AuditLog::writes_since`] takes it.
    pub fn mark(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(&self.path)?.len())
    }

    /// The writes after `mark`, in order.
    pub fn writes_since(&self, mark: u64) -> io::Result<Vec<Write>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(mark))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        text.lines().filter_map(|line| parse(line).transpose()).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

/// The write an audit line reports, if it is one.
fn parse(line: &str) -> io::Result<Option<Write>> {
    const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
    let event: Event = serde_json::from_str(line)?;
    if event.stage != "ResponseComplete" || !WRITES.contains(&event.verb.as_str()) {
        return Ok(None);
    }
    let ObjectRef { resource, subresource, namespace, name } = event.object_ref;
    Ok(Some(Write {
        user: event.user.username,
        user_agent: event.user_agent,
        verb: event.verb,
        resource: if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") },
        namespace,
        name,
        code: event.response_status.code,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_a_write_and_a_get_is_not() {
        let line = |verb: &str| {
            format!(
                r#"{{"stage":"ResponseComplete","verb":"{verb}","user":{{"username":"u"}},"userAgent":"op",
                "objectRef":{{"resource":"pods","subresource":"status","namespace":"n","name":"p"}},
                "responseStatus":{{"code":200}}}}"#
            )
        };
        let write = parse(&line("patch")).unwrap().unwrap();
        assert_eq!((write.resource.as_str(), write.code), ("pods/status", 200));
        assert_eq!(parse(&line("get")).unwrap(), None);
    }
}
