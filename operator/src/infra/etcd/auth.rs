//! Users of a new cluster. Every step can be repeated.

use serde_json::json;

use super::client::{Client, EtcdError, bytes};
use super::marker::Marker;

/// Owner of everything; the operator's own user.
pub const ROOT: &str = "root";
/// User and role of the services.
pub const USER: &str = "soma";
/// Prefix of the keys the services may read and write.
pub const PREFIX: &str = "/soma/";
/// The first key behind those of the prefix.
const PREFIX_END: &str = "/soma0";

/// Makes both users, then enables authentication: in that order, because afterwards only `root` may make any.
pub async fn enable(etcd: Client<'_>, marker: &Marker) -> Result<(), EtcdError> {
    add_user(etcd, ROOT, &marker.root).await?;
    add_role(etcd, ROOT).await?;
    grant(etcd, ROOT).await?;
    add_role(etcd, USER).await?;
    let permission = json!({"name": USER, "perm": {
        "permType": "READWRITE", "key": bytes(PREFIX), "range_end": bytes(PREFIX_END),
    }});
    etcd.tell("auth/role/grant", None, &permission, "give a role its keys").await?;
    add_user(etcd, USER, &marker.user).await?;
    grant(etcd, USER).await?;
    etcd.tell("auth/enable", None, &json!({}), "enable authentication").await
}

async fn add_user(etcd: Client<'_>, name: &str, password: &str) -> Result<(), EtcdError> {
    let body = json!({"name": name, "password": password});
    made(etcd.tell("auth/user/add", None, &body, "add a user").await)
}

async fn add_role(etcd: Client<'_>, name: &str) -> Result<(), EtcdError> {
    made(etcd.tell("auth/role/add", None, &json!({"name": name}), "add a role").await)
}

/// The role has its user's name.
async fn grant(etcd: Client<'_>, name: &str) -> Result<(), EtcdError> {
    etcd.tell("auth/user/grant", None, &json!({"user": name, "role": name}), "give a user its role").await
}

fn made(result: Result<(), EtcdError>) -> Result<(), EtcdError> {
    match result {
        Err(error) if error.is_there_already() => Ok(()),
        other => other,
    }
}
