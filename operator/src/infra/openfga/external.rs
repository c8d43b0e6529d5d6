//! An OpenFGA elsewhere: whether it has Soma's store and model. Nothing is made in it.

use super::build::Connection;
use super::client::{Client, ClientError};
use super::model;
use super::store::{self, NAME, Step, Undecided};
use super::validate::External;
use crate::error::chain;
use crate::infra::component::State;

/// What an OpenFGA elsewhere lacks.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Undecided(#[from] Undecided),
    #[error(
        "OpenFGA at {0} has no store named {NAME}. Make one with `fga store create --name {NAME} --model config/authorization/model.json`"
    )]
    Store(String),
    #[error(
        "the store {0} has no model that says what config/authorization/model.json of this release says. Add it with `fga model write --store-id {0} --file config/authorization/model.json`"
    )]
    Model(String),
}

/// Returns the state, and the connection where it can be used.
pub async fn probe(http: &reqwest::Client, openfga: &External) -> (State, Option<Connection>) {
    let stuck = |reason, lack: &Lack| State::Stuck { reason, message: lack.to_string(), serving: false };
    match look(http, openfga).await {
        // OpenFGA does not tell its version.
        Ok(connection) => (State::Ready { version: "elsewhere".into() }, Some(connection)),
        Err(Lack::Client(error)) => (State::Unreachable(chain(&error)), None),
        Err(lack @ Lack::Store(_)) => (stuck("StoreMissing", &lack), None),
        Err(lack @ Lack::Model(_)) => (stuck("ModelMissing", &lack), None),
        Err(Lack::Undecided(undecided)) => (stuck(undecided.reason(), &Lack::Undecided(undecided)), None),
    }
}

async fn look(http: &reqwest::Client, openfga: &External) -> Result<Connection, Lack> {
    let External { url, host, port, token, store } = openfga;
    let client = Client { http, url: url.clone(), token: token.as_deref() };
    client.serves().await?;
    let store = match store::step(store.as_deref(), &client.stores(NAME).await?)? {
        Step::Use(id) | Step::Record(id) => id,
        Step::Create => return Err(Lack::Store(url.clone())),
    };
    let wanted = model::wanted();
    let found = client.find_model(&store, |found| model::same(found, &wanted)).await?;
    let Some(model) = found.and_then(|found| Some(found["id"].as_str()?.to_owned())) else {
        return Err(Lack::Model(store));
    };
    let (url, host, port, token) = (url.clone(), host.clone(), *port, token.clone());
    Ok(Connection { url, host, port, token, store, model })
}
