//! Soma's store and model in OpenFGA: made once, added to, never replaced. Everything is read first, done, and read back.

use super::client::{Client, ClientError, Store};
use super::kept::{self, Kept, Notebook};
use super::model;
use crate::error::Error;

/// Name of the store.
pub const NAME: &str = "soma";

/// What to do about the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is known and there.
    Use(String),
    /// It was made, and the operator ended before it wrote that down.
    Record(String),
    Create,
}

/// Why nothing is done about the store: people have to decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error(
        "the store {0} is gone, so the database of OpenFGA is another one or was emptied. Restore it from a backup, or, to begin with an empty store, remove the keys `store` and `model` of Secret openfga-store"
    )]
    Lost(String),
    #[error(
        "OpenFGA has {} stores named soma ({}), and nothing says which is Soma's. Set the key `store` of the Secret to the right id",
        .0.len(), .0.join(", ")
    )]
    Ambiguous(Vec<String>),
}

impl Undecided {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Lost(_) => "StoreLost",
            Self::Ambiguous(_) => "StoreAmbiguous",
        }
    }
}

/// What to do, from the id that was written down and the stores of the name. Pure.
pub fn step(kept: Option<&str>, found: &[Store]) -> Result<Step, Undecided> {
    match (kept, found) {
        (Some(id), found) if found.iter().any(|store| store.id == id) => Ok(Step::Use(id.to_owned())),
        (Some(id), _) => Err(Undecided::Lost(id.to_owned())),
        (None, []) => Ok(Step::Create),
        (None, [only]) => Ok(Step::Record(only.id.clone())),
        (None, several) => Err(Undecided::Ambiguous(several.iter().map(|store| store.id.clone()).collect())),
    }
}

/// Why store and model are not there.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Undecided(#[from] Undecided),
    #[error(transparent)]
    Keep(#[from] Error),
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    pub store: String,
    pub model: String,
    /// This attempt added the model.
    pub added: bool,
}

/// Makes what is missing.
pub async fn form(client: &Client<'_>, kept: &Kept, notebook: &impl Notebook) -> Result<Formed, FormError> {
    let store = match step(kept.store.as_deref(), &client.stores(NAME).await?)? {
        Step::Use(id) => id,
        Step::Record(id) => {
            notebook.keep(kept::STORE, &id).await?;
            id
        }
        Step::Create => {
            let made = client.create_store(NAME).await?;
            // Of two that were made at the same time, neither is taken.
            let (Step::Use(id) | Step::Record(id)) = step(None, &client.stores(NAME).await?)? else {
                return Err(Undecided::Lost(made.id).into());
            };
            notebook.keep(kept::STORE, &id).await?;
            id
        }
    };
    let wanted = model::wanted();
    let latest = client.latest_model(&store).await?;
    let latest = latest.filter(|latest| model::same(latest, &wanted));
    let (model, added) = match latest.and_then(|latest| Some(latest["id"].as_str()?.to_owned())) {
        Some(id) => (id, false),
        None => (client.write_model(&store, &wanted).await?, true),
    };
    if kept.model.as_deref() != Some(&model) {
        notebook.keep(kept::MODEL, &model).await?;
    }
    Ok(Formed { store, model, added })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_made_only_where_none_is_and_none_was() {
        let store = |id: &str| Store { id: id.into(), name: NAME.into() };
        let (a, b) = (store("a"), store("b"));
        let lost = Err(Undecided::Lost("a".into()));
        let ambiguous = Err(Undecided::Ambiguous(vec!["a".into(), "b".into()]));
        let use_a = Ok(Step::Use("a".into()));
        for (kept, found, expected) in [
            (None, vec![], Ok(Step::Create)),
            (None, vec![a.clone()], Ok(Step::Record("a".into()))),
            (None, vec![a.clone(), b.clone()], ambiguous),
            (Some("a"), vec![a.clone()], use_a.clone()),
            (Some("a"), vec![b.clone(), a.clone()], use_a),
            (Some("a"), vec![], lost.clone()),
            (Some("a"), vec![b.clone()], lost),
        ] {
            assert_eq!(step(kept, &found), expected, "{kept:?} {found:?}");
        }
    }
}
