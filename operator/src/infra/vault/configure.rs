//! What a new Vault is set up with, and how the operator proves who it is afterwards. Every step can be repeated.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::client::{Client, VaultError};
use crate::context::Context;

/// Audience of the tokens Vault accepts.
pub const AUDIENCE: &str = "vault";
/// Role and policy of the operator.
const ROLE: &str = "soma-operator";
/// What the operator may do once the root token is gone: keep the roles and policies of services and tenants.
const POLICY: &str = r#"
path "sys/policies/acl/soma-*"    { capabilities = ["create", "read", "update", "delete"] }
path "auth/kubernetes/role/soma-*" { capabilities = ["create", "read", "update", "delete"] }
path "secret/metadata/soma/*"     { capabilities = ["read", "list", "delete"] }
path "sys/storage/raft/*"         { capabilities = ["read"] }
path "sys/step-down"              { capabilities = ["update", "sudo"] }
"#;

/// Account, role and policy of the Jobs that take snapshots.
pub const BACKUP_ROLE: &str = "soma-backup";
/// What they may do, and nothing else.
pub const BACKUP_POLICY: &str = r#"
path "sys/storage/raft/snapshot" { capabilities = ["read"] }
"#;

/// Why Vault is not configured.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("cannot get a token of the operator's own service account")]
    Token(#[source] kube::Error),
    #[error("the operator runs as {0}, which is no service account; run it in a pod, or use unseal Manual")]
    NoServiceAccount(String),
}

/// Who the operator is, as its API server knows it.
struct Identity {
    namespace: String,
    name: String,
}

/// Secrets engine, authentication, the operator's own role; then the root token is revoked.
pub async fn configure(ctx: &Context, vault: &Client<'_>, root: &str) -> Result<(), Failure> {
    let identity = identity(ctx).await?;
    match prepare(vault, root, &identity).await {
        // An earlier attempt ended between revoking the token and forgetting it.
        Err(error) if error.is_forbidden() => {}
        other => other?,
    }
    login(ctx, vault, &identity).await?;
    match vault.write(root, "auth/token/revoke-self", json!({}), "revoke the root token").await {
        Err(error) if error.is_forbidden() => Ok(()),
        other => Ok(other?),
    }
}

async fn prepare(vault: &Client<'_>, root: &str, identity: &Identity) -> Result<(), VaultError> {
    let mounts = vault.read(root, "sys/mounts", "list its secrets engines").await?;
    if mounts["data"]["secret/"].is_null() {
        let body = json!({"type": "kv", "options": {"version": "2"}});
        vault.write(root, "sys/mounts/secret", body, "enable the key-value engine").await?;
    }
    let methods = vault.read(root, "sys/auth", "list its authentication methods").await?;
    if methods["data"]["kubernetes/"].is_null() {
        let body = json!({"type": "kubernetes"});
        vault.write(root, "sys/auth/kubernetes", body, "enable authentication by Kubernetes").await?;
    }
    // Vault asks with its own pod's token and certificate authority, which it reads anew when they rotate.
    let host = json!({"kubernetes_host": "https://kubernetes.default.svc"});
    vault.write(root, "auth/kubernetes/config", host, "configure authentication by Kubernetes").await?;
    let policy = json!({"policy": POLICY});
    vault.write(root, &format!("sys/policies/acl/{ROLE}"), policy, "write the operator's policy").await?;
    let role = json!({
        "bound_service_account_names": [identity.name],
        "bound_service_account_namespaces": [identity.namespace],
        "audience": AUDIENCE,
        "token_policies": [ROLE],
        "token_ttl": "10m",
    });
    vault.write(root, &format!("auth/kubernetes/role/{ROLE}"), role, "write the operator's role").await
}

/// Lets a service account take snapshots.
pub async fn admit_backup(
    ctx: &Context,
    vault: &Client<'_>,
    namespace: &str,
    account: &str,
) -> Result<(), Failure> {
    let token = login(ctx, vault, &identity(ctx).await?).await?;
    let policy = json!({"policy": BACKUP_POLICY});
    vault
        .write(&token, &format!("sys/policies/acl/{BACKUP_ROLE}"), policy, "write the backups' policy")
        .await?;
    let role = json!({
        "bound_service_account_names": [account],
        "bound_service_account_namespaces": [namespace],
        "audience": AUDIENCE,
        "token_policies": [BACKUP_ROLE],
        "token_no_default_policy": true,
        "token_ttl": "1h",
    });
    Ok(vault
        .write(&token, &format!("auth/kubernetes/role/{BACKUP_ROLE}"), role, "write the backups' role")
        .await?)
}

/// Asks the leader to become a standby.
pub async fn step_down(ctx: &Context, leader: &Client<'_>) -> Result<(), Failure> {
    let identity = identity(ctx).await?;
    let token = login(ctx, leader, &identity).await?;
    Ok(leader.write(&token, "sys/step-down", json!({}), "hand over").await?)
}

async fn login(ctx: &Context, vault: &Client<'_>, identity: &Identity) -> Result<String, Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), &identity.namespace);
    let spec = TokenRequestSpec {
        audiences: vec![AUDIENCE.into()],
        expiration_seconds: Some(600),
        ..Default::default()
    };
    let request = TokenRequest { spec, ..Default::default() };
    let made = accounts.create_token_request(&identity.name, &PostParams::default(), &request).await;
    let token = made.map_err(Failure::Token)?.status.map(|status| status.token).unwrap_or_default();
    Ok(vault.login(ROLE, &token).await?)
}

async fn identity(ctx: &Context) -> Result<Identity, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(ctx.client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let status = review.map_err(Failure::Token)?.status;
    let name = status.and_then(|s| s.user_info?.username).unwrap_or_default();
    let parts = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match parts {
        Some((namespace, account)) => Ok(Identity { namespace: namespace.into(), name: account.into() }),
        None => Err(Failure::NoServiceAccount(name)),
    }
}
