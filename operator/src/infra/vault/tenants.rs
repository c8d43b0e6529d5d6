//! What Vault holds for each tenant: a folder of secrets, a policy that opens it and nothing else, and a role by which
//! service accounts of the tenant's namespace get a token with that policy.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use super::client::{Client, VaultError};
use super::configure::{self, AUDIENCE, Failure};
use super::validate::PORT;
use crate::context::Context;
use crate::infra::Site;
use crate::infra::tenants::{Grant, Provided, Tenant};
use crate::names::object;

/// What policies and roles of tenants begin with.
const PREFIX: &str = "soma-tenant-";
const POLICIES: &str = "sys/policies/acl";
const ROLES: &str = "auth/kubernetes/role";
/// How long a token of a tenant is good for without renewal.
const TOKEN_TTL: &str = "1h";
/// Tenants seen to at a time.
const CONCURRENCY: usize = 8;

/// Name of the tenant's policy and role.
fn role_name(tenant: &Tenant) -> String {
    format!("{PREFIX}{}", tenant.external())
}

/// Folder of its secrets, in the key-value engine `secret`.
fn folder(tenant: &Tenant) -> String {
    format!("soma/tenants/{}", tenant.external())
}

fn policy(tenant: &Tenant) -> String {
    let folder = folder(tenant);
    format!(
        r#"path "secret/data/{folder}/*" {{ capabilities = ["create", "read", "update", "patch", "delete"] }}
path "secret/metadata/{folder}/*" {{ capabilities = ["read", "list", "delete"] }}
path "secret/metadata/{folder}" {{ capabilities = ["list"] }}
"#
    )
}

fn role(tenant: &Tenant) -> Value {
    let named: Vec<_> = tenant.spec.access.iter().map(|access| access.service_account.as_str()).collect();
    let accounts = if named.is_empty() { vec![tenant.name.as_str()] } else { named };
    json!({
        "bound_service_account_names": accounts,
        "bound_service_account_namespaces": [tenant.namespace],
        "audience": AUDIENCE,
        "token_policies": [role_name(tenant)],
        "token_ttl": TOKEN_TTL,
    })
}

fn grant(site: &Site<'_>, tenant: &Tenant) -> Grant {
    let all = json!({"policy": policy(tenant), "role": role(tenant)});
    let data = [
        ("VAULT_ADDR", format!("http://{}:{PORT}", site.host(object::VAULT))),
        ("VAULT_ROLE", role_name(tenant)),
        ("VAULT_PREFIX", format!("secret/data/{}", folder(tenant))),
    ];
    Grant { hash: ConfigHash::of(&canonical_json(&all)).short().to_owned(), data: data.into() }
}

/// Gives each tenant what it shall have, and takes back what nobody has any more. What is there by name and was written
/// with the same content is left alone: a policy that somebody with more rights changed in Vault stays changed.
pub async fn provide(ctx: &Context, site: &Site<'_>, vault: &Client<'_>) -> Result<Provided, Failure> {
    let tenants = &site.tenants;
    let wanted: Provided = tenants.staying().map(|tenant| (tenant.external(), grant(site, tenant))).collect();
    if tenants.all.is_empty() && tenants.strays.is_empty() {
        return Ok(wanted);
    }
    let token = configure::own_token(ctx, vault).await?;
    // Roles first: without one nobody gets a token with the policy.
    let mut complete: BTreeSet<String> = wanted.keys().cloned().collect();
    for (path, what) in [(ROLES, "list its roles"), (POLICIES, "list its policies")] {
        let names = vault.list(&token, path, what).await?;
        let found: BTreeSet<_> = names.iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
        complete.retain(|external| found.contains(external.as_str()));
        let strays: Vec<_> = found.into_iter().filter(|external| !wanted.contains_key(*external)).collect();
        for stray in strays {
            vault.delete(&token, &format!("{path}/{PREFIX}{stray}"), "forget a tenant").await?;
        }
    }
    let done = |tenant: &&Tenant| {
        let external = tenant.external();
        let before = tenant.given(object::VAULT).map(|given| given.hash);
        complete.contains(&external) && before.as_ref() == wanted.get(&external).map(|grant| &grant.hash)
    };
    let news: Vec<_> = tenants.staying().filter(|tenant| !done(tenant)).collect();
    let with_data: Vec<_> = tenants.all.iter().filter(|tenant| tenant.takes_data_along()).collect();
    for tenant in with_data {
        empty(vault, &token, &format!("secret/metadata/{}/", folder(tenant))).await?;
    }
    let token = &token;
    let write = |tenant: &Tenant| {
        let (policy, role, name) = (json!({"policy": policy(tenant)}), role(tenant), role_name(tenant));
        async move {
            vault.write(token, &format!("{POLICIES}/{name}"), policy, "write a tenant's policy").await?;
            vault.write(token, &format!("{ROLES}/{name}"), role, "write a tenant's role").await
        }
        .boxed()
    };
    let writes: Vec<_> = news.into_iter().map(write).collect();
    stream::iter(writes).buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
    Ok(wanted)
}

/// Deletes every secret of a folder, with all its versions. The path ends with a slash.
async fn empty(vault: &Client<'_>, token: &str, folder: &str) -> Result<(), VaultError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in vault.list(token, &folder, "list a tenant's secrets").await? {
            let path = format!("{folder}{name}");
            if name.ends_with('/') {
                folders.push(path);
            } else {
                vault.delete(token, &path, "delete a tenant's secret").await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn a_tenant_reaches_its_own_folder_as_its_own_service_accounts() {
        let one = fixture::tenant("soma", "notes", json!({}));
        let text = policy(&one);
        let paths: Vec<_> = text.lines().filter_map(|line| line.split('"').nth(1)).collect();
        let own = |path: &&str| {
            let rest = path.strip_prefix("secret/data/").or_else(|| path.strip_prefix("secret/metadata/"));
            rest.is_some_and(|rest| rest == "soma/tenants/soma.notes" || rest == "soma/tenants/soma.notes/*")
        };
        assert!(paths.len() == 3 && paths.iter().all(own), "{text}");
        let role = role(&one);
        assert_eq!(role["bound_service_account_names"], json!(["notes"]), "by default");
        assert_eq!(role["bound_service_account_namespaces"], json!(["soma"]));
        assert_eq!(role["token_policies"], json!(["soma-tenant-soma.notes"]));
        let named = fixture::tenant("soma", "notes", json!({"access": [{"serviceAccount": "app"}]}));
        assert_eq!(super::role(&named)["bound_service_account_names"], json!(["app"]));
    }

    #[test]
    fn a_change_of_what_is_given_changes_its_hash() {
        let infra = fixture::managed();
        let site = Site::new(&infra);
        let hash = |spec| grant(&site, &fixture::tenant("soma", "notes", spec)).hash;
        let before = hash(json!({}));
        assert_eq!(hash(json!({"quota": {"memories": 1}})), before, "nothing that Vault knows of");
        assert_ne!(hash(json!({"access": [{"serviceAccount": "app"}]})), before);
    }
}
