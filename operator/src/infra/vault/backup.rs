//! How Vault is backed up: a snapshot that the operator's own program takes, with an account and a policy that allow no more.

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;

use super::client::Client;
use super::configure::{self, AUDIENCE, BACKUP_ROLE};
use super::validate::{Managed, PORT};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::infra::Site;
use crate::infra::backup::{self, Backup, Task, Told, UID};
use crate::names::object;
use crate::workload::typed;

const FOLDER: &str = "/etc/soma/vault";

/// `image` is the operator's own.
fn task(site: &Site<'_>, backup: &Backup, image: &str, account: &'static str) -> Task {
    let url = format!("http://{}:{PORT}", site.host(object::VAULT));
    let (keep, token) = (backup.keep.to_string(), format!("{FOLDER}/token"));
    let args: Vec<_> = ["--url", &url, "--role", BACKUP_ROLE, "--token-file", &token]
        .into_iter()
        .chain(backup::end(&keep))
        .collect();
    let token = json!({"name": "token", "projected": {"defaultMode": 0o440, "sources": [
        {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}},
    ]}});
    Task {
        component: object::VAULT,
        uid: UID,
        before: Vec::new(),
        container: backup::operator(image, object::VAULT, "vault", &args, &[("token", FOLDER)]),
        volumes: vec![token],
        secret: None,
        account: Some(account),
    }
}

/// Account of the Jobs.
const ACCOUNT: &str = "vault-backup";

fn account(site: &Site<'_>) -> Result<ServiceAccount, Error> {
    typed(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": site.metadata(object::VAULT, ACCOUNT),
        "automountServiceAccountToken": false,
    }))
}

/// Sees to the backups. `open` is a member that is open and configured, where there is one. Vault is told who takes them
/// before the first, and again after one failed: a Vault that was restored may not know.
pub async fn save(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    open: Option<&Client<'_>>,
) -> Result<(Option<Told>, Option<String>), Error> {
    let live = backup::observe(ctx, site, object::VAULT).await?;
    let Some(wanted) = &managed.backup else {
        return Box::pin(backup::settle(writer, &live, None, object::VAULT)).await;
    };
    let mut unknown = None;
    if live.cron.is_none() || live.fails() {
        // Without it there is nothing to take a backup with: the CronJob is made once Vault knows.
        let Some(vault) = open else { return Ok((None, None)) };
        let admitted = configure::admit_backup(ctx, vault, &site.owner.namespace, ACCOUNT).await;
        unknown = admitted.err().map(|error| chain(&error));
    }
    writer.apply(&account(site)?).await?;
    let objects = backup::objects(site, wanted, task(site, wanted, &ctx.addresses.image, ACCOUNT))?;
    let (told, refusal) =
        Box::pin(backup::settle(writer, &live, Some((wanted, objects)), object::VAULT)).await?;
    let told = told.map(|told| match &unknown {
        Some(why) => Told {
            warning: Some((
                "BackupFailed",
                format!(
                    "Vault cannot be told who takes backups: {why}. Write the policy and the role {BACKUP_ROLE} yourself, as docs/components/vault.md has them"
                ),
            )),
            ..told
        },
        None => told,
    });
    Ok((told, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;

    #[test]
    fn the_backup_of_vault_is_sound_and_has_no_token_for_the_api_server() {
        let infra = fixture::infra(json!({"vault": {"managed": {"backup": {"schedule": "0 3 * * *"}}}}));
        let site = Site::new(&infra);
        let spec = infra.spec.vault.as_ref().unwrap().managed.as_ref().unwrap().backup.as_ref();
        let backup = backup::validate(&site, object::VAULT, spec).unwrap().unwrap();
        let objects = backup::objects(&site, &backup, task(&site, &backup, "operator:1", ACCOUNT)).unwrap();
        let mut plan = Plan::default();
        objects.plan(&mut plan);
        check::sound(&plan).unwrap();
        let cron = serde_json::to_value(&objects.cron).unwrap();
        let pod = &cron["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["serviceAccountName"], ACCOUNT);
        account(&site).unwrap();
    }
}
