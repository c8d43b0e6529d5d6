//! `GET /bundles/<namespace>/<SomaInfra>`: the policies of an OPA, as any replica of the operator has them.
//!
//! What is served comes from a watch, so that a request asks nothing of the API server. A request with `Prefer: wait`
//! waits until there is something new: a change of a policy is active within a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::controllers::Stop;
use crate::infra::{BUNDLE_BYTES, BUNDLE_TOKEN};
use crate::names::{label, object};

/// Requests that wait or are answered at a time.
const REQUESTS: usize = 256;
/// Longest wait for something new.
const LONGEST: Duration = Duration::from_mins(1);
/// What says that this server knows how to wait.
const MEDIA_TYPE: &str = "application/vnd.openpolicyagent.bundles";

/// The bundles by namespace and name of their SomaInfra.
pub type Shelf = BTreeMap<(String, String), Served>;

/// One bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub etag: String,
    bytes: Bytes,
    token: String,
}

impl Served {
    pub fn new(bytes: Vec<u8>, token: String) -> Self {
        Self { etag: format!("\"{}\"", HEXLOWER.encode(&Sha256::digest(&bytes))), bytes: bytes.into(), token }
    }
}

#[derive(Clone)]
struct Server {
    shelf: watch::Receiver<Shelf>,
    room: Arc<Semaphore>,
    stop: Stop,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, client: Client, stop: Stop) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serves bundles of policies");
    let (sender, shelf) = watch::channel(Shelf::new());
    let filling = fill(client, sender);
    let serving = axum::serve(listener, router(shelf, stop.clone())).with_graceful_shutdown(stop);
    tokio::select! {
        served = serving => served,
        () = filling => Ok(()),
    }
}

/// The routes over a shelf.
pub fn router(shelf: watch::Receiver<Shelf>, stop: Stop) -> Router {
    let server = Server { shelf, room: Arc::new(Semaphore::new(REQUESTS)), stop };
    Router::new().route("/bundles/{namespace}/{name}", get(bundle)).with_state(server)
}

/// Keeps the shelf as the cluster has it.
async fn fill(client: Client, shelf: watch::Sender<Shelf>) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (bundles, writer) = reflector::store();
    let watched = watcher(Api::<ConfigMap>::all(client.clone()), named(object::OPA_BUNDLE));
    let maps = watched.default_backoff().reflect(writer).map(|_| ());
    let (secrets, writer) = reflector::store();
    let watched = watcher(Api::<Secret>::all(client), named(object::OPA_SIGNING));
    let tokens = watched.default_backoff().reflect(writer).map(|_| ());
    futures::stream::select(maps, tokens)
        .for_each(|()| {
            let now = arrange(&bundles, &secrets);
            shelf.send_if_modified(|shelf| {
                let changed = *shelf != now;
                *shelf = now;
                changed
            });
            futures::future::ready(())
        })
        .await;
}

fn arrange(bundles: &Store<ConfigMap>, secrets: &Store<Secret>) -> Shelf {
    let served = |map: &Arc<ConfigMap>| {
        let (namespace, name) = (map.namespace()?, map.labels().get(label::INSTANCE)?.clone());
        let secret = secrets.get(&ObjectRef::new(object::OPA_SIGNING).within(&namespace))?;
        let token = secret.data.as_ref()?.get(BUNDLE_TOKEN).filter(|token| !token.0.is_empty())?;
        let token = String::from_utf8(token.0.clone()).ok()?;
        let bytes = map.binary_data.as_ref()?.get(BUNDLE_BYTES)?.0.clone();
        Some(((namespace, name), Served::new(bytes, token)))
    };
    bundles.state().iter().filter_map(served).collect()
}

async fn bundle(
    State(mut server): State<Server>,
    Path(key): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Ok(_room) = server.room.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many requests wait already\n").into_response();
    };
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (known, token) = (text(header::IF_NONE_MATCH), text(header::AUTHORIZATION));
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let wait = headers.get("prefer").and_then(|value| wait_of(value.to_str().ok()?)).unwrap_or_default();
    let fits = |shelf: &Shelf| shelf.get(&key).is_none_or(|served| known != Some(served.etag.as_str()));
    let Some(first) = server.shelf.borrow_and_update().get(&key).cloned() else { return unknown() };
    if !bool::from(first.token.as_bytes().ct_eq(token.as_bytes())) {
        return (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            "the bearer token is not that of Secret opa-signing\n",
        )
            .into_response();
    }
    if known == Some(first.etag.as_str()) {
        tokio::select! {
            _ = server.shelf.wait_for(fits) => {}
            () = tokio::time::sleep(wait) => {}
            () = server.stop => {}
        }
    }
    let now = server.shelf.borrow().get(&key).cloned();
    let Some(now) = now.filter(|now| now.token == first.token) else { return unknown() };
    let head = [(header::CONTENT_TYPE, MEDIA_TYPE.to_owned()), (header::ETAG, now.etag.clone())];
    if known == Some(now.etag.as_str()) {
        (StatusCode::NOT_MODIFIED, head).into_response()
    } else {
        (head, now.bytes).into_response()
    }
}

fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "no SomaInfra of this namespace and name has policies\n").into_response()
}

/// `modes=snapshot,delta;wait=60`. It is answered a little earlier, before whoever asks gives up.
fn wait_of(prefer: &str) -> Option<Duration> {
    let seconds = prefer.split(&[';', ','][..]).find_map(|part| part.trim().strip_prefix("wait="))?;
    Some(Duration::from_secs(seconds.parse().ok()?).min(LONGEST).mul_f64(0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded() {
        let wait = |text| wait_of(text).map(|wait| wait.as_secs());
        assert_eq!(wait("modes=snapshot,delta;wait=10"), Some(9));
        assert_eq!(wait("wait=100000"), Some(54));
        assert_eq!(wait("modes=snapshot"), None);
        assert_eq!(wait("wait=-1"), None);
    }
}
