//! The passwords of a managed Postgres: made once, never again while anything could need them.

use super::build;
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
        Postgres::Managed(Managed { passwords: Some(passwords), .. }) => {
            Ok(Credentials::Managed(passwords.clone()))
        }
        Postgres::Managed(_) => {
            let fresh = Passwords { superuser: crate::random::secret(), memory: crate::random::secret() };
            let stored = writer.create_once(&build::password_secret(site, &fresh)?).await?;
            let unreadable = || Error::UnsoundPlan(format!("Secret {} lacks a key", object::POSTGRES_SECRET));
            read_passwords(&stored).map(Credentials::Managed).ok_or_else(unreadable)
        }
    }
}
