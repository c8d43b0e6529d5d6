//! The components' short names in other namespaces, such as `postgres.soma.svc.cluster.local`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use soma_crds::SomaInfra;

use super::Site;
use crate::apply::{Batch, Writer};
use crate::context::Context;
use crate::error::Error;
use crate::names::{MANAGED_BY, children_of, label};
use crate::reconcile::Kind;
use crate::workload::typed;

/// What the cluster holds where aliases are asked for.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The alias namespaces that exist, with their Services by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, Service>>,
    /// Aliases this SomaInfra made, wherever they are.
    pub own: Vec<Service>,
}

pub async fn observe(ctx: &Context, infra: &SomaInfra) -> Result<Observed, Error> {
    let all: Api<Namespace> = Api::all(ctx.client.clone());
    let mut namespaces = BTreeMap::new();
    for alias in wanted(infra) {
        let found = all.get_metadata_opt(alias).await.map_err(Error::read(format!("Namespace {alias}")))?;
        if found.is_some_and(|n| n.metadata.deletion_timestamp.is_none()) {
            let listed = ctx.api::<Service>(alias).list(&ListParams::default()).await;
            let services = listed.map_err(Error::read(format!("the Services of {alias}")))?.items;
            namespaces.insert(alias.clone(), services.into_iter().map(|s| (s.name_any(), s)).collect());
        }
    }
    Ok(Observed { namespaces, own: own(ctx, infra).await? })
}

/// The alias namespaces other than the SomaInfra's own, in which the names resolve anyway.
fn wanted(infra: &SomaInfra) -> impl Iterator<Item = &String> {
    let own = infra.namespace().unwrap_or_default();
    infra.spec.alias_namespaces.iter().filter(move |alias| **alias != own)
}

/// The aliases a SomaInfra made.
async fn own(ctx: &Context, infra: &SomaInfra) -> Result<Vec<Service>, Error> {
    let selector = format!(
        "{},{}=alias,{}={},{}={}",
        children_of(SomaInfra::KIND),
        label::ROLE,
        label::INSTANCE,
        infra.name_any(),
        label::OWNER_NAMESPACE,
        infra.namespace().unwrap_or_default(),
    );
    let services: Api<Service> = Api::all(ctx.client.clone());
    let listed = services.list(&ListParams::default().labels(&selector)).await;
    Ok(listed.map_err(Error::read("alias Services"))?.items)
}

/// Aliases to make, and what to know about those that are not made.
#[derive(Default)]
pub struct Aliases {
    pub services: Vec<Service>,
    pub note: Option<String>,
}

/// The aliases of components, given as name and host. Pure.
pub fn build(site: &Site<'_>, targets: &[(&str, String)], observed: &Observed) -> Result<Aliases, Error> {
    let mut notes = Vec::new();
    let mut services = Vec::new();
    for namespace in wanted(site.infra) {
        let Some(standing) = observed.namespaces.get(namespace) else {
            notes.push(format!(
                "namespace {namespace} does not exist; create it, or take it out of spec.aliasNamespaces"
            ));
            continue;
        };
        for (component, host) in targets {
            if host.parse::<IpAddr>().is_ok() {
                notes.push(format!("{component} has no alias in {namespace}, because an alias needs a host name and the Secret gives an address; put a host name into its key `host`"));
            } else if standing.get(*component).is_some_and(|service| !is_ours(service, site)) {
                notes.push(format!("Service {namespace}/{component} belongs to somebody else and stays as it is; rename it, or take {namespace} out of spec.aliasNamespaces"));
            } else {
                services.push(service(site, namespace, component, host)?);
            }
        }
    }
    Ok(Aliases { services, note: (!notes.is_empty()).then(|| notes.join(". ")) })
}

/// No owner reference: it cannot cross namespaces.
fn service(site: &Site<'_>, namespace: &str, component: &str, host: &str) -> Result<Service, Error> {
    let mut labels = site.owner.labels(component);
    labels.insert(label::ROLE.into(), "alias".into());
    typed(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": component, "namespace": namespace, "labels": labels},
        "spec": {"type": "ExternalName", "externalName": host},
    }))
}

fn is_ours(service: &Service, site: &Site<'_>) -> bool {
    let labels = service.labels();
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
    is(label::MANAGED_BY, MANAGED_BY)
        && is(label::INSTANCE, &site.owner.name)
        && is(label::OWNER_NAMESPACE, &site.owner.namespace)
}

/// Writes the aliases and removes those made earlier that are no longer asked for.
pub async fn apply(writer: &Writer, aliases: &Aliases, observed: &Observed, batch: &mut Batch) {
    for service in &aliases.services {
        batch.apply(writer, service).await;
    }
    let place = |service: &Service| (service.namespace(), service.name_any());
    for stray in observed.own.iter().filter(|own| !aliases.services.iter().any(|s| place(s) == place(own))) {
        batch.note(writer.delete(stray, DeleteParams::default()).await);
    }
}

/// Removes every alias of a SomaInfra that goes.
pub async fn remove(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    for alias in own(ctx, infra).await? {
        writer.delete(&alias, DeleteParams::default()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn a_foreign_service_is_left_alone_and_an_absent_namespace_is_named() {
        let infra = fixture::infra(json!({"aliasNamespaces": ["soma", "gone", "soma-infra"]}));
        let site = Site::new(&infra);
        let standing = BTreeMap::from([("postgres".to_owned(), Service::default())]);
        let observed = Observed { namespaces: [("soma".to_owned(), standing)].into(), ..Default::default() };
        let targets = [("postgres", "a.example.org".to_owned()), ("vault", "b.example.org".to_owned())];
        let aliases = build(&site, &targets, &observed).unwrap();
        assert_eq!(aliases.services.len(), 1);
        assert_eq!(aliases.services[0].name_any(), "vault");
        assert!(aliases.services[0].metadata.owner_references.is_none(), "owners cannot cross namespaces");
        let note = aliases.note.unwrap();
        assert!(
            note.contains("Service soma/postgres belongs to somebody else")
                && note.contains("namespace gone does not exist"),
            "{note}"
        );
    }

    #[test]
    fn an_address_gets_no_alias_and_a_host_name_does() {
        let infra = fixture::infra(json!({"aliasNamespaces": ["soma"]}));
        let site = Site::new(&infra);
        let observed =
            Observed { namespaces: [("soma".to_owned(), BTreeMap::new())].into(), ..Default::default() };
        let build = |host: &str| build(&site, &[("postgres", host.to_owned())], &observed).unwrap();
        assert!(build("10.0.0.1").services.is_empty());
        assert!(build("10.0.0.1").note.unwrap().contains("key `host`"));
        let spec = build("db.example.org").services[0].spec.clone().unwrap();
        assert_eq!(spec.external_name.as_deref(), Some("db.example.org"));
    }
}
