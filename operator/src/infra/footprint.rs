//! What a component costs: the requests of its pods and volumes, now and once it is as its manifest asks. Pure.

use std::iter::Sum;
use std::ops::Add;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, Pod, PodSpec};
use soma_crds::{Cost, Footprint};

use super::set::Live;
use crate::drift::amount;

const MEBIBYTE: i128 = 1 << 20;

/// A [`Cost`] that can be added: thousandths of cores, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    pods: u32,
    cpu: i128,
    memory: i128,
    storage: i128,
}

impl Amount {
    fn of_pod(spec: Option<&PodSpec>) -> Self {
        let requests = |key: &str| {
            let containers = spec.iter().flat_map(|spec| &spec.containers);
            let given = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(key));
            given.filter_map(|quantity| amount(&quantity.0)).sum::<i128>()
        };
        Self { pods: 1, cpu: requests("cpu"), memory: requests("memory") / 1000, storage: 0 }
    }

    fn of_claim(spec: Option<&PersistentVolumeClaimSpec>) -> Self {
        let size = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let storage = size.and_then(|quantity| amount(&quantity.0)).unwrap_or(0) / 1000;
        Self { storage, ..Self::default() }
    }

    fn of_cost(cost: &Cost) -> Self {
        let read = |text: &str| amount(text).unwrap_or(0);
        Self {
            pods: cost.pods,
            cpu: read(&cost.cpu),
            memory: read(&cost.memory) / 1000,
            storage: read(&cost.storage) / 1000,
        }
    }

    fn cost(self) -> Cost {
        let cores =
            if self.cpu % 1000 == 0 { (self.cpu / 1000).to_string() } else { format!("{}m", self.cpu) };
        Cost { pods: self.pods, cpu: cores, memory: bytes(self.memory), storage: bytes(self.storage) }
    }
}

/// In GiB where it comes out even, else in MiB, rounded up.
fn bytes(count: i128) -> String {
    let mebibytes = (count + MEBIBYTE - 1) / MEBIBYTE;
    match mebibytes {
        0 => "0".to_owned(),
        n if n % 1024 == 0 => format!("{}Gi", n / 1024),
        n => format!("{n}Mi"),
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pods: self.pods + other.pods,
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            storage: self.storage + other.storage,
        }
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// The footprint of a set that shall be, beside what there is.
pub fn of(live: &Live, wanted: &StatefulSet) -> Footprint {
    let pods = live.pods.values().map(|pod| Amount::of_pod(pod.spec.as_ref()));
    let claims = live.claims.values().map(|claim| Amount::of_claim(claim.spec.as_ref()));
    let spec = wanted.spec.as_ref();
    let member = Amount::of_pod(spec.and_then(|spec| spec.template.spec.as_ref()));
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_ref()).into_iter().flatten();
    let member = member + templates.map(|claim| Amount::of_claim(claim.spec.as_ref())).sum();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(0);
    let planned = (0..replicas).map(|_| member).sum::<Amount>();
    Footprint { now: pods.chain(claims).sum::<Amount>().cost(), planned: planned.cost() }
}

/// The footprint of a Deployment that shall be, beside the pods there are.
pub fn of_deployment(pods: &[Pod], wanted: &Deployment) -> Footprint {
    let now = pods.iter().map(|pod| Amount::of_pod(pod.spec.as_ref())).sum::<Amount>();
    let spec = wanted.spec.as_ref();
    let pod = Amount::of_pod(spec.and_then(|spec| spec.template.spec.as_ref()));
    let planned = (0..spec.and_then(|spec| spec.replicas).unwrap_or(0)).map(|_| pod).sum::<Amount>();
    Footprint { now: now.cost(), planned: planned.cost() }
}

/// The footprint of several components; none when nothing runs.
pub fn sum<'a>(all: impl Iterator<Item = &'a Footprint> + Clone) -> Option<Footprint> {
    all.clone().next()?;
    let now: Amount = all.clone().map(|footprint| Amount::of_cost(&footprint.now)).sum();
    let planned: Amount = all.map(|footprint| Amount::of_cost(&footprint.planned)).sum();
    Some(Footprint { now: now.cost(), planned: planned.cost() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "spec": {
                "replicas": 3, "selector": {}, "serviceName": "x",
                "template": {"spec": {"containers": [{"name": "x", "resources": {"requests": {"cpu": "450m", "memory": "1536Mi"}}}]}},
                "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "10Gi"}}}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn pods_and_volumes_are_added_up() {
        let mut live = Live::default();
        let pod = json!({"metadata": {}, "spec": wanted().spec.unwrap().template.spec});
        live.pods.insert(0, serde_json::from_value(pod).unwrap());
        let claim = json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
        live.claims.insert(0, serde_json::from_value(claim).unwrap());
        let one = of(&live, &wanted());
        let cost = |pods, cpu: &str, memory: &str, storage: &str| Cost {
            pods,
            cpu: cpu.into(),
            memory: memory.into(),
            storage: storage.into(),
        };
        assert_eq!(one.now, cost(1, "450m", "1536Mi", "1Gi"));
        assert_eq!(one.planned, cost(3, "1350m", "4608Mi", "30Gi"));
        let all = sum([&one, &one].into_iter()).unwrap();
        assert_eq!(all.now, cost(2, "900m", "3Gi", "2Gi"));
        assert_eq!(all.planned, cost(6, "2700m", "9Gi", "60Gi"));
        assert_eq!(sum(std::iter::empty()), None);
    }
}
