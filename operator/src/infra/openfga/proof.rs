//! Store and model in a real OpenFGA on a real Postgres, with the role and the settings that pods have.

use std::sync::Mutex;
use std::time::Duration;

use reqwest::{Client as Http, Method};
use serde_json::{Value, json};
use soma_testenv::{OpenFga as Server, Postgres};

use super::client::{Client, ClientError};
use super::external;
use super::kept::{self, Kept, Notebook};
use super::model;
use super::store::{self, FormError, Formed, NAME, Undecided};
use super::validate::External;
use super::{build, tenants, validate};
use crate::error::Error;
use crate::infra::component::State;
use crate::infra::postgres::proof as postgres;
use crate::infra::{Site, fixture};

const TOKEN: &str = "right";
/// Longer than a start takes.
const EARLY: Duration = Duration::from_secs(3);

fn http() -> Http {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Http::new()
}

fn client<'a>(http: &'a Http, server: &Server, token: Option<&'a str>) -> Client<'a> {
    Client { http, url: server.url(), token }
}

/// What the pods' variables hold, once the kubelet has read the Secret.
fn settings(postgres: &Postgres) -> Vec<(String, String)> {
    let (port, passwords) = (postgres.port().to_string(), postgres::passwords());
    let secret = [
        ("host", "127.0.0.1"),
        ("port", &port),
        ("database", "openfga"),
        ("username", "openfga"),
        ("password", &passwords.services["openfga"]),
    ];
    let infra = fixture::infra(json!({"openfga": {"managed": {}}}));
    let database = Some(fixture::secret(&secret));
    let observed = validate::Observed { database, ..Default::default() };
    let wanted = validate::validate(&Site::new(&infra), &observed).unwrap();
    let validate::OpenFga::Managed(managed) = wanted else { panic!("{wanted:?}") };
    let value = |variable: &Value| match variable["valueFrom"]["secretKeyRef"]["key"].as_str() {
        Some(key) => secret.iter().find(|(name, _)| *name == key).unwrap().1.to_owned(),
        None => variable["value"].as_str().unwrap().to_owned(),
    };
    let variables = build::datastore(&managed.database.unwrap());
    variables
        .iter()
        .map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable)))
        .collect()
}

/// The Secret, and before which of its keys the operator ends.
#[derive(Default)]
struct Notes {
    kept: Mutex<Kept>,
    ends_at: Mutex<Option<&'static str>>,
}

impl Notes {
    /// One reconcile.
    async fn form(&self, client: &Client<'_>) -> Result<Formed, FormError> {
        let before = self.kept.lock().unwrap().clone();
        store::form(client, &before, self).await
    }

    fn end_at(&self, key: Option<&'static str>) {
        *self.ends_at.lock().unwrap() = key;
    }
}

impl Notebook for Notes {
    async fn keep(&self, key: &'static str, id: &str) -> Result<(), Error> {
        if *self.ends_at.lock().unwrap() == Some(key) {
            return Err(Error::ApplyFailed("the operator ended".into()));
        }
        let mut kept = self.kept.lock().unwrap();
        match key {
            kept::STORE => kept.store = Some(id.to_owned()),
            _ => kept.model = Some(id.to_owned()),
        }
        Ok(())
    }
}

async fn models(client: &Client<'_>, store: &str) -> Vec<String> {
    let path = format!("/stores/{store}/authorization-models");
    let page: Value = client.ask(Method::GET, &path, &[], None).await.unwrap();
    let all = page["authorization_models"].as_array().unwrap();
    all.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

async fn relate(client: &Client<'_>, formed: &Formed, user: &str, relation: &str, object: &str) {
    let tuple = json!({"user": user, "relation": relation, "object": object});
    let body = json!({"writes": {"tuple_keys": [tuple]}, "authorization_model_id": formed.model});
    let path = format!("/stores/{}/write", formed.store);
    let _: Value = client.ask(Method::POST, &path, &[], Some(&body)).await.unwrap();
}

async fn check(client: &Client<'_>, formed: &Formed, user: &str, relation: &str, object: &str) -> bool {
    let tuple = json!({"user": user, "relation": relation, "object": object});
    let body = json!({"tuple_key": tuple, "authorization_model_id": formed.model});
    let path = format!("/stores/{}/check", formed.store);
    let answer: Value = client.ask(Method::POST, &path, &[], Some(&body)).await.unwrap();
    answer["allowed"].as_bool().unwrap()
}

async fn started() -> (Postgres, Server) {
    let postgres = postgres::server().await;
    postgres::provisioned(&postgres, &postgres::passwords()).await;
    let settings = settings(&postgres);
    // A pod that is earlier than its migration does not serve.
    let early = tokio::time::timeout(EARLY, Server::start_with(TOKEN, &settings)).await;
    assert!(!matches!(early, Ok(Ok(_))));
    Server::migrate(&settings).await.unwrap();
    Server::migrate(&settings).await.unwrap();
    let server = Server::start_with(TOKEN, &settings).await.unwrap();
    (postgres, server)
}

#[tokio::test]
async fn the_store_is_made_once_and_models_are_added() {
    let http = http();
    let (_postgres, server) = started().await;
    let client = client(&http, &server, Some(TOKEN));
    let notes = Notes::default();
    let stores = async || client.stores(NAME).await.unwrap().len();

    // It ends twice after it made the store, and before it wrote that down.
    notes.end_at(Some(kept::STORE));
    for _ in 0..2 {
        assert!(matches!(notes.form(&client).await, Err(FormError::Keep(_))));
        assert_eq!(stores().await, 1);
    }
    // And twice after it added the model.
    notes.end_at(Some(kept::MODEL));
    for _ in 0..2 {
        assert!(matches!(notes.form(&client).await, Err(FormError::Keep(_))));
    }
    notes.end_at(None);
    let formed = notes.form(&client).await.unwrap();
    assert!(!formed.added, "the one of the attempt that ended is taken");
    assert_eq!(stores().await, 1);
    assert_eq!(models(&client, &formed.store).await, std::slice::from_ref(&formed.model));
    assert_eq!(notes.kept.lock().unwrap().model.as_ref(), Some(&formed.model));

    // Nothing is written as long as nothing differs.
    notes.end_at(Some(kept::MODEL));
    assert_eq!(notes.form(&client).await.unwrap(), formed);

    // Somebody, perhaps another release, added one that says something else: ours is added again, and all stay.
    notes.end_at(None);
    let mut other = model::wanted();
    other["type_definitions"].as_array_mut().unwrap().pop();
    let strange = client.write_model(&formed.store, &other).await.unwrap();
    let again = notes.form(&client).await.unwrap();
    assert!(again.added && again.store == formed.store);
    let all = models(&client, &formed.store).await;
    assert_eq!(all, [again.model.clone(), strange, formed.model.clone()], "the newest first");
    assert!(!notes.form(&client).await.unwrap().added);

    // A store that is gone, or one of two, is for people.
    let lost = Notes::default();
    lost.kept.lock().unwrap().store = Some("01J00000000000000000000000".into());
    assert!(matches!(lost.form(&client).await, Err(FormError::Undecided(Undecided::Lost(_)))));
    client.create_store(NAME).await.unwrap();
    let undecided = Notes::default().form(&client).await;
    assert!(matches!(undecided, Err(FormError::Undecided(Undecided::Ambiguous(ids))) if ids.len() == 2));
    assert_eq!(notes.form(&client).await.unwrap().store, formed.store, "who knows its store is not confused");
}

#[tokio::test]
async fn it_answers_to_its_token_and_knows_who_may_what() {
    let http = http();
    let (_postgres, mut server) = started().await;
    for wrong in [Some("wrong"), None] {
        let refused = client(&http, &server, wrong).stores(NAME).await;
        assert!(matches!(refused, Err(ClientError::Token(_))), "{refused:?}");
    }
    let client = client(&http, &server, Some(TOKEN));
    let formed = Notes::default().form(&client).await.unwrap();
    relate(&client, &formed, "user:ann", "owner", "tenant:acme").await;
    relate(&client, &formed, "user:bob", "member", "tenant:acme").await;
    relate(&client, &formed, "user:eve", "viewer", "namespace:notes").await;
    relate(&client, &formed, "tenant:acme", "tenant", "namespace:notes").await;
    server.kill().await.unwrap();
    assert!(matches!(client.serves().await, Err(ClientError::Http(_))));
    server.start_again().await.unwrap();
    for (user, relation, object, expected) in [
        ("user:ann", "member", "tenant:acme", true),
        ("user:ann", "editor", "namespace:notes", true),
        ("user:ann", "viewer", "namespace:other", false),
        ("user:bob", "member", "tenant:acme", true),
        ("user:bob", "viewer", "namespace:notes", false),
        ("user:eve", "viewer", "namespace:notes", true),
        ("user:eve", "editor", "namespace:notes", false),
        ("user:eve", "member", "tenant:acme", false),
    ] {
        let allowed = check(&client, &formed, user, relation, object).await;
        assert_eq!(allowed, expected, "{user} {relation} {object}");
    }
}

#[tokio::test]
async fn whose_a_memory_namespace_is_comes_and_goes_with_it() {
    let http = http();
    let (_postgres, server) = started().await;
    let client = client(&http, &server, Some(TOKEN));
    let formed = Notes::default().form(&client).await.unwrap();
    relate(&client, &formed, "user:ann", "owner", "tenant:acme").await;
    let infra = fixture::managed();
    let mut site = Site::new(&infra);
    site.tenants.all =
        ["notes", "notes2"].map(|name| fixture::tenant("soma", name, json!({}))).into_iter().collect();
    // The operator ended before it wrote down that it was done.
    for _ in 0..2 {
        let provided = tenants::provide(&site, &client, &formed.store).await.unwrap();
        assert_eq!(provided.keys().collect::<Vec<_>>(), ["soma.notes", "soma.notes2"]);
    }
    relate(&client, &formed, "user:eve", "viewer", "namespace:soma.notes").await;
    let leaving = &mut site.tenants.all[0];
    (leaving.leaving, leaving.secret) = (true, Some(fixture::secret(&[])));
    for (ann, eve, other) in [(true, true, true), (false, false, true), (false, false, true)] {
        assert_eq!(check(&client, &formed, "user:ann", "editor", "namespace:soma.notes").await, ann);
        assert_eq!(check(&client, &formed, "user:eve", "viewer", "namespace:soma.notes").await, eve);
        assert_eq!(check(&client, &formed, "user:ann", "editor", "namespace:soma.notes2").await, other);
        tenants::provide(&site, &client, &formed.store).await.unwrap();
    }
}

#[tokio::test]
async fn one_elsewhere_is_asked_for_store_and_model_and_gets_none() {
    let http = http();
    let server = Server::start(TOKEN).await.unwrap();
    let client = client(&http, &server, Some(TOKEN));
    let probe = async |token: &str, store: Option<&str>| {
        let external = External {
            url: server.url(),
            host: "127.0.0.1".into(),
            port: 1,
            token: Some(token.to_owned()),
            store: store.map(str::to_owned),
        };
        external::probe(&http, &external).await
    };
    let reason = |state: State| match state {
        State::Stuck { reason, serving: false, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(probe(TOKEN, None).await.0), "StoreMissing");
    let store = client.create_store(NAME).await.unwrap().id;
    assert_eq!(reason(probe(TOKEN, None).await.0), "ModelMissing");
    assert_eq!(client.stores(NAME).await.unwrap().len(), 1);
    let id = client.write_model(&store, &model::wanted()).await.unwrap();
    let mut other = model::wanted();
    other["type_definitions"].as_array_mut().unwrap().pop();
    client.write_model(&store, &other).await.unwrap();
    let (state, connection) = probe(TOKEN, None).await;
    let connection = connection.unwrap();
    assert!(state.is_ready());
    assert_eq!((connection.store, connection.model), (store.clone(), id), "an older model will do");
    client.create_store(NAME).await.unwrap();
    assert_eq!(reason(probe(TOKEN, None).await.0), "StoreAmbiguous");
    assert!(probe(TOKEN, Some(&store)).await.0.is_ready());
    assert_eq!(reason(probe(TOKEN, Some("01J00000000000000000000000")).await.0), "StoreLost");
    assert!(matches!(probe("wrong", None).await.0, State::Unreachable(why) if why.contains("token")));
}

/// Every page is read: with more stores than one page holds, the one that was made first is found.
#[tokio::test]
async fn a_store_is_found_among_many() {
    let http = http();
    let server = Server::start(TOKEN).await.unwrap();
    let client = client(&http, &server, Some(TOKEN));
    let first = client.create_store(NAME).await.unwrap();
    for n in 0..60 {
        client.create_store(&format!("other-{n}")).await.unwrap();
    }
    assert_eq!(client.stores(NAME).await.unwrap(), [first]);
}
