//! How the volumes of a set grow.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::DeleteParams;
use serde_json::json;
use soma_crds::Quantity;

use super::set::{Applied, Live};
use crate::apply::{Batch, Writer};
use crate::events::Note;
use crate::names::reason;

/// A claim template cannot change, so volumes grow in two steps: the claims themselves, then the set is deleted
/// without its pods and made again. Returns true while the set must not be applied.
pub async fn grow(
    writer: &Writer,
    live: &Live,
    wanted: &StatefulSet,
    batch: &mut Batch,
    applied: &mut Applied,
) -> bool {
    let Some(set) = &live.set else { return false };
    if set.metadata.deletion_timestamp.is_some() {
        return true;
    }
    let (have, want) = (template_size(set), template_size(wanted));
    if bytes(have.as_ref()) == bytes(want.as_ref()) {
        return false;
    }
    for claim in live.claims.values() {
        let Some(size) = want.as_ref().filter(|size| bytes(claim_size(claim).as_ref()) < bytes(Some(size)))
        else {
            continue;
        };
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        if batch.note(writer.merge(claim, &patch).await).is_none() {
            return true;
        }
    }
    applied.notes.push(Note::normal(
        reason::VOLUME_GROWS,
        format!("the volumes grow to {}; the pods keep running", want.unwrap_or_default()),
    ));
    batch.note(writer.delete(set, DeleteParams::orphan()).await);
    true
}

fn template_size(set: &StatefulSet) -> Option<String> {
    claim_size(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?)
}

fn claim_size(claim: &PersistentVolumeClaim) -> Option<String> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|q| q.0.clone())
}

fn bytes(size: Option<&String>) -> Option<u64> {
    Quantity(size?.clone()).bytes()
}
