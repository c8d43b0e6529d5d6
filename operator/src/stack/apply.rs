//! Writes what was built: what is mounted first, then the pods, then the Service that sends them traffic.

use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use super::build::Objects;
use super::dereference::Observed;
use super::release::Release;
use crate::apply::{Batch, Writer};
use crate::events::Note;
use crate::names::reason;

/// What applying came to.
pub struct Applied {
    pub notes: Vec<Note>,
    pub refusal: Option<String>,
}

pub async fn apply(writer: &Writer, observed: &Observed, release: &Release, objects: Objects) -> Applied {
    let Objects { token, conn, config, deployment, budget, service } = objects;
    let mut batch = Batch::default();
    if let Some(token) = token {
        batch.note(writer.create_once(&token).await);
    }
    if let Some(conn) = conn {
        batch.apply(writer, &conn).await;
    }
    batch.apply(writer, &config).await;
    batch.apply(writer, &deployment).await;
    match (&budget, &observed.budget) {
        (Some(budget), _) => {
            batch.apply(writer, budget).await;
        }
        (None, Some(stray)) => {
            batch.note(writer.delete(stray, DeleteParams::default()).await);
        }
        (None, None) => {}
    }
    let moved = batch.apply(writer, &service).await.is_some();
    // Nothing is taken away while traffic may still go where it went.
    if moved {
        retire(writer, observed, release, &config.name_any(), &mut batch).await;
    }
    let put_back = |what: &String| {
        Note::normal(reason::DRIFT_REPAIRED, format!("{what} was changed by somebody and is put back"))
    };
    Applied { notes: batch.repaired.iter().map(put_back).collect(), refusal: batch.refusal() }
}

/// Scales the revision before to 0 and collects older ones with the configuration only they mount.
async fn retire(writer: &Writer, observed: &Observed, release: &Release, config: &str, batch: &mut Batch) {
    for deployment in release.scale_down.iter().filter_map(|name| observed.deployment(name)) {
        batch.note(writer.merge(deployment, &json!({"spec": {"replicas": 0}})).await);
    }
    for deployment in release.collect.iter().filter_map(|name| observed.deployment(name)) {
        batch.note(writer.delete(deployment, DeleteParams::background()).await);
    }
    let kept = observed.deployments.iter().filter(|d| !release.collect.contains(&d.name_any()));
    let mounted: Vec<_> = kept.filter_map(super::status::config_map_of).collect();
    for map in &observed.config_maps {
        let name = map.name_any();
        if name != config && !mounted.contains(&name) {
            batch.note(writer.delete(map, DeleteParams::default()).await);
        }
    }
}
