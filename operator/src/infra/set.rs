//! What the stateful components have in common: their objects, how a volume grows, how pods are replaced.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use soma_crds::{Footprint, MemberStatus};

use super::Site;
use super::blocked::Blocked;
use super::component::State;
use super::footprint;
use super::grow;
use super::network;
use super::roll::{self, PodView, Roll, Step};
use crate::apply::{Batch, Writer};
use crate::check::Plan;
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{reason, selector_text};
use crate::pods;
use crate::workload::{self, Resources, typed};

/// Name of the claim template of every component.
pub const VOLUME: &str = "data";
/// What the names of all claims begin with.
pub const CLAIM_PREFIX: &str = "data-";

/// What a stateful component is made of.
pub struct Shape<'a> {
    /// Its name, and that of its Service and its StatefulSet.
    pub component: &'static str,
    pub replicas: u16,
    /// Ports by name: `(name, port)`. The first are those of the Service; the headless Service has them all.
    pub ports: &'a [(&'static str, u16)],
    /// Further ports, between members only.
    pub peer_ports: &'a [(&'static str, u16)],
    /// `spec` of the pod.
    pub pod: Value,
    pub volume: &'a Volume,
}

/// The volume of each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub size: String,
    pub class: Option<String>,
}

/// What each member runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub image: String,
    pub volume: Volume,
    pub resources: Resources,
}

/// What a component's member runs on where the manifest says nothing.
pub struct Defaults {
    pub image: &'static str,
    /// Of the volume.
    pub size: &'static str,
    pub resources: Resources,
}

impl Member {
    /// What the manifest gives, over the defaults.
    pub fn of(
        component: &'static str,
        given: &soma_crds::Member,
        defaults: &Defaults,
    ) -> Result<Self, Blocked> {
        let storage = &given.storage;
        Ok(Self {
            image: given.image.clone().unwrap_or_else(|| defaults.image.into()),
            volume: Volume {
                size: storage.size.as_ref().map_or(defaults.size, |q| &q.0).to_owned(),
                class: storage.storage_class_name.clone(),
            },
            resources: workload::resources(given.resources.as_ref(), &defaults.resources)
                .map_err(|e| Blocked::ResourcesInvalid { component, problem: e.to_string() })?,
        })
    }
}

/// The objects of a stateful component. Destructured without `..` where they are applied.
pub struct Objects {
    /// Immutable and named by its content; where the component has one.
    pub config: Option<ConfigMap>,
    pub headless: Service,
    pub service: Service,
    pub budget: PodDisruptionBudget,
    pub policy: NetworkPolicy,
    pub set: StatefulSet,
}

/// What the cluster holds of a stateful component.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub set: Option<StatefulSet>,
    /// By ordinal.
    pub pods: BTreeMap<u16, Pod>,
    /// By ordinal.
    pub claims: BTreeMap<u16, PersistentVolumeClaim>,
    pub configs: Vec<ConfigMap>,
}

impl Live {
    /// Anything that may hold data.
    pub fn has_volume(&self) -> bool {
        !self.claims.is_empty() || self.set.is_some()
    }

    /// The members to run: a profile that changes back to `dev` must not take any away.
    pub fn members(&self, wanted: u16) -> u16 {
        let running = self.set.as_ref().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
        wanted.max(u16::try_from(running).unwrap_or(0))
    }

    /// `address:port` of a member's pod, once it has an address.
    pub fn address(&self, ordinal: u16, port: u16) -> Option<String> {
        let ip = self.pods.get(&ordinal)?.status.as_ref()?.pod_ip.as_ref()?;
        Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
    }
}

/// What applying came to.
#[derive(Default)]
pub struct Applied {
    pub notes: Vec<Note>,
    /// A pod runs an older template, and why it stays for now.
    pub waiting: Option<String>,
    pub refusal: Option<String>,
    /// Every member, for the status.
    pub members: Vec<MemberStatus>,
    /// What they cost.
    pub footprint: Option<Footprint>,
}

/// Name of a member's pod.
pub fn pod_name(component: &str, ordinal: u16) -> String {
    format!("{component}-{ordinal}")
}

/// Name of a member's claim.
pub fn claim_name(component: &str, ordinal: u16) -> String {
    format!("{VOLUME}-{component}-{ordinal}")
}

/// Name of the headless Service.
pub fn headless_name(component: &str) -> String {
    format!("{component}-headless")
}

/// Why a member's pod is not ready; `None` when it is.
pub fn unready(live: &Live, component: &str, ordinal: u16) -> Option<State> {
    let name = pod_name(component, ordinal);
    let Some(pod) = live.pods.get(&ordinal) else {
        return Some(State::Starting(format!("waiting for pod {name} to be created")));
    };
    if pods::is_ready(pod) {
        return None;
    }
    Some(match pods::trouble([pod]) {
        Some(trouble) => State::Broken(trouble),
        None => State::Starting(format!("waiting for pod {name} to become ready")),
    })
}

/// Reads what the cluster holds of a component.
pub async fn observe(ctx: &Context, site: &Site<'_>, component: &str) -> Result<Live, Error> {
    let namespace = &site.owner.namespace;
    let ours = ListParams::default().labels(&selector_text(&site.owner.selector(component)));
    let set = ctx.api::<StatefulSet>(namespace).get_opt(component).await;
    let pods = ctx.api::<Pod>(namespace).list(&ours).await.map_err(Error::read("the pods"))?;
    let configs = ctx.api::<ConfigMap>(namespace).list(&ours).await.map_err(Error::read("the ConfigMaps"))?;
    // Claims carry no labels of ours: their template could never change again.
    let all = ctx.api::<PersistentVolumeClaim>(namespace).list(&ListParams::default()).await;
    let prefix = format!("{VOLUME}-{component}");
    let claims = all.map_err(Error::read("the volume claims"))?.items;
    Ok(Live {
        set: set.map_err(Error::read(format!("StatefulSet {namespace}/{component}")))?,
        pods: pods
            .items
            .into_iter()
            .filter_map(|pod| Some((ordinal(component, &pod.name_any())?, pod)))
            .collect(),
        claims: claims
            .into_iter()
            .filter_map(|claim| Some((ordinal(&prefix, &claim.name_any())?, claim)))
            .collect(),
        configs: configs.items,
    })
}

fn ordinal(prefix: &str, name: &str) -> Option<u16> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}

/// Builds the objects. Pure.
pub fn objects(site: &Site<'_>, shape: &Shape<'_>, config: Option<ConfigMap>) -> Result<Objects, Error> {
    let Shape { component, replicas, ports, peer_ports, pod, volume } = shape;
    let meta = |name: &str| site.metadata(component, name);
    let selector = site.owner.selector(component);
    let port = |(name, port): &(&str, u16)| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"});
    let own: Vec<_> = ports.iter().map(port).collect();
    let every: Vec<_> = ports.iter().chain(*peer_ports).map(port).collect();
    Ok(Objects {
        config,
        headless: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(&headless_name(component)),
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": selector, "ports": every},
        }))?,
        service: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(component),
            "spec": {"selector": selector, "ports": own},
        }))?,
        budget: typed(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(component),
            "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector}},
        }))?,
        policy: network::policy(site, component, ports)?,
        set: typed(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(component),
            "spec": {
                "replicas": replicas,
                "serviceName": headless_name(component),
                "podManagementPolicy": "Parallel",
                // The operator rolls the pods itself, when the component's predicates allow it.
                "updateStrategy": {"type": "OnDelete"},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "selector": {"matchLabels": selector},
                "template": {"metadata": {"labels": site.owner.labels(component)}, "spec": pod},
                "volumeClaimTemplates": [claim(volume)],
            },
        }))?,
    })
}

/// No labels of a release: a claim template cannot change.
pub fn claim(volume: &Volume) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    });
    if let Some(class) = &volume.class {
        spec["storageClassName"] = class.as_str().into();
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": VOLUME}, "spec": spec})
}

impl Objects {
    /// Adds them to a plan, for its lints.
    pub fn plan(&self, plan: &mut Plan) {
        let Self { config, headless, service, budget, policy, set } = self;
        if let Some(config) = config {
            plan.config_map(config);
        }
        plan.service(headless);
        plan.service(service);
        plan.budget(budget);
        plan.policy(policy);
        plan.stateful_set(set);
    }
}

/// Writes the objects: what pods mount and are reached by comes before the pods. Returns the set as it is then.
pub async fn apply(
    writer: &Writer,
    live: &Live,
    objects: Objects,
    applied: &mut Applied,
) -> Option<StatefulSet> {
    let Objects { config, headless, service, budget, policy, set } = objects;
    applied.footprint = Some(footprint::of(live, &set));
    let mut batch = Batch::default();
    if let Some(config) = &config {
        batch.apply(writer, config).await;
    }
    batch.apply(writer, &headless).await;
    batch.apply(writer, &service).await;
    batch.apply(writer, &budget).await;
    batch.apply(writer, &policy).await;
    let grows = grow::grow(writer, live, &set, &mut batch, applied).await;
    let now = if grows { None } else { batch.apply(writer, &set).await };
    for stray in live.configs.iter().filter(|map| is_stray(map, config.as_ref(), live.pods.values())) {
        batch.note(writer.delete(stray, DeleteParams::default()).await);
    }
    applied.absorb(&batch);
    now
}

/// A configuration that neither the newest template nor any pod mounts.
pub fn is_stray<'a>(
    map: &ConfigMap,
    newest: Option<&ConfigMap>,
    mut pods: impl Iterator<Item = &'a Pod>,
) -> bool {
    let name = map.name_any();
    let mounts = |pod: &Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter_map(|v| v.config_map.as_ref()).any(|source| source.name == name)
    };
    newest.is_none_or(|newest| newest.name_any() != name) && !pods.any(mounts)
}

impl Applied {
    /// Takes over what a batch repaired, and what was refused.
    pub fn absorb(&mut self, batch: &Batch) {
        self.notes.extend(batch.repaired.iter().map(|what| {
            Note::normal(reason::DRIFT_REPAIRED, format!("{what} was changed by somebody and is put back"))
        }));
        self.refusal = self.refusal.take().or_else(|| batch.refusal());
    }
}

/// Replaces at most one pod that runs an older template, when the component's predicates allow it. Returns the member
/// that has to hand its role over first, where that is so.
pub async fn roll(
    writer: &Writer,
    live: &Live,
    set: &StatefulSet,
    rules: &impl Roll,
    applied: &mut Applied,
) -> Option<u16> {
    let view = roll::View::new(set, &live.pods);
    let component = set.name_any();
    applied.members =
        (0..).zip(&view.pods).map(|(n, pod)| member(&component, n, pod.as_ref(), rules)).collect();
    match roll::next(&view, rules) {
        Step::Replace(ordinal, why) => {
            let pod = live.pods.get(&ordinal)?;
            let mut batch = Batch::default();
            if batch.note(writer.delete(pod, DeleteParams::default()).await).is_some() {
                applied.notes.push(Note::normal(
                    reason::POD_ROLLED,
                    format!("pod {} is replaced: {why}", pod.name_any()),
                ));
                applied.waiting = Some(format!("pod {} is being replaced", pod.name_any()));
            }
            applied.absorb(&batch);
        }
        Step::Wait(why) => applied.waiting = Some(why),
        Step::HandOver(ordinal) => {
            applied.waiting = Some(format!("member {ordinal} leads and hands over first"));
            return Some(ordinal);
        }
        Step::Current => {}
    }
    None
}

fn member(component: &str, ordinal: u16, pod: Option<&PodView>, rules: &impl Roll) -> MemberStatus {
    let message = match pod {
        None => Some("waiting for the pod to be created".to_owned()),
        Some(pod) if pod.deleting => Some("ending".to_owned()),
        Some(pod) if pod.ready => None,
        Some(pod) => Some(pod.trouble.clone().unwrap_or_else(|| "starting".to_owned())),
    };
    let role = rules.role(ordinal).map(str::to_owned);
    MemberStatus { name: pod_name(component, ordinal), ready: message.is_none(), role, message }
}

/// Spreads the members over nodes, as far as there are nodes.
pub fn spread(site: &Site<'_>, component: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": site.owner.selector(component)},
    })
}
