//! The passwords of a managed Postgres: made once, never again while anything could need them.

use std::collections::BTreeMap;

use serde_json::json;

use super::build;
use super::service::SERVICES;
use super::validate::{External, Managed, Passwords, Postgres, read_passwords};
use crate::apply::Writer;
use crate::error::Error;
use crate::infra::Site;
use crate::names::object;

/// How to reach the database, with everything secret in it.
pub enum Credentials {
    Managed(Passwords),
    External(External),
}

/// Returns the credentials; on the first install it makes the passwords and stores them before anything uses them.
///
/// `create` decides between two operators: whoever comes second reads what the first has stored. A crash before it
/// leaves nothing behind, a crash after it leaves passwords the next attempt reads.
pub async fn credentials(writer: &Writer, site: &Site<'_>, wanted: &Postgres) -> Result<Credentials, Error> {
    match wanted {
        Postgres::External(external) => Ok(Credentials::External(external.clone())),
        Postgres::Managed(managed) => passwords(writer, site, managed).await.map(Credentials::Managed),
    }
}

async fn passwords(writer: &Writer, site: &Site<'_>, managed: &Managed) -> Result<Passwords, Error> {
    let kept = if let Some(kept) = &managed.kept {
        kept.clone()
    } else {
        let services = complete(&BTreeMap::new(), &managed.given);
        let fresh = Passwords { superuser: crate::random::secret(), services };
        let stored = writer.create_once(&build::password_secret(site, &fresh)?).await?;
        let unreadable = || Error::UnsoundPlan(format!("Secret {} lacks a key", object::POSTGRES_SECRET));
        read_passwords(&stored).ok_or_else(unreadable)?
    };
    let services = complete(&kept.services, &managed.given);
    let wanted = Passwords { services, ..kept.clone() };
    if wanted != kept {
        // Kept before Postgres is told: a service's Secret that is lost is made from this one again.
        let patch = json!({"stringData": wanted.services});
        writer.merge(&build::password_secret(site, &kept)?, &patch).await?;
    }
    Ok(wanted)
}

/// A password for every service: the one it has been given, else the one kept, else a new one.
fn complete(
    kept: &BTreeMap<&'static str, String>,
    given: &BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let of = |database| given.get(database).or_else(|| kept.get(database)).cloned();
    let complete = SERVICES.iter().map(|service| service.database);
    complete.map(|database| (database, of(database).unwrap_or_else(crate::random::secret))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_installation_gains_passwords_and_keeps_its_own() {
        let kept = BTreeMap::from([(object::MEMORY_DATABASE, "old".to_owned())]);
        let all = complete(&kept, &BTreeMap::new());
        assert_eq!(all[object::MEMORY_DATABASE], "old");
        assert_eq!(all.len(), SERVICES.len());
        assert!(all.values().all(|password| !password.is_empty()));
        assert_eq!(complete(&all, &BTreeMap::new()), all, "the second time nothing is made");
        let given = BTreeMap::from([(object::MEMORY_DATABASE, "edited".to_owned())]);
        assert_eq!(complete(&all, &given)[object::MEMORY_DATABASE], "edited");
    }
}
