//! Which changes lead to which reconcile: the watches of the three controllers.
//!
//! Children are watched by label and as metadata only: whatever changes, the reconcile reads what it needs.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{self, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::predicates;
use kube::runtime::{Predicate as _, PredicateConfig, WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt};
use soma_crds::{MemoryNamespace, SomaInfra, SomaStack};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::apply::Child;
use crate::context::Context;
use crate::error::chain;
use crate::infra::tenants::LABELS;
use crate::infra::{CLAIM_PREFIX, POLICIES_GIVEN};
use crate::names::{children_of, label, object, owner_of};
use crate::namespace::followers::Trigger;
use crate::reconcile::{Kind, reconcile, reference, retry};
use crate::stack::infra_of;

/// Reconciles of one kind that run at a time.
const CONCURRENCY: u16 = 4;

type Watched<K> = DeserializeGuard<K>;

/// A future that ends when the process is asked to.
pub type Stop = futures::future::Shared<futures::future::BoxFuture<'static, ()>>;

/// Runs the three controllers until `stop`.
pub async fn run(ctx: Arc<Context>, triggers: mpsc::UnboundedReceiver<Trigger>, stop: Stop) {
    let infras = infra(&ctx);
    let stacks = stack(&ctx);
    let namespaces = namespace(&ctx).reconcile_on(UnboundedReceiverStream::new(triggers));
    futures::future::join3(
        drive(infras, ctx.clone(), stop.clone()),
        drive(stacks, ctx.clone(), stop.clone()),
        drive(namespaces, ctx, stop),
    )
    .await;
}

async fn drive<K: Kind>(controller: Controller<Watched<K>>, ctx: Arc<Context>, stop: Stop) {
    let store = controller.store();
    let working = controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop.clone())
        .run(reconcile::<K>, retry::<K>, ctx)
        .for_each(|result| {
            match result {
                // A child outlived its owner for a moment: there is nothing left to reconcile.
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(kind = K::KIND, error = chain(&error), "reconcile failed"),
            }
            futures::future::ready(())
        });
    // A controller that is stopped before its cache is filled waits for the cache for ever; nothing is in flight then.
    let idle = async {
        stop.await;
        if store.wait_until_ready().now_or_never().is_some() {
            futures::future::pending::<()>().await;
        }
    };
    futures::future::select(Box::pin(working), Box::pin(idle)).await;
}

fn controller_of<K: Kind>(ctx: &Context) -> Controller<Watched<K>> {
    Controller::new(Api::all(ctx.client.clone()), watcher::Config::default())
}

/// Watches what the operator made of one type for a kind.
fn children<K: Kind, C: Child + 'static>(
    controller: Controller<Watched<K>>,
    ctx: &Context,
) -> Controller<Watched<K>> {
    let api: Api<PartialObjectMeta<C>> = Api::all(ctx.client.clone());
    let config = watcher::Config::default().labels(&children_of(K::KIND));
    controller.watches(api, config, |child| owner_of::<_, Watched<K>>(&child))
}

fn infra(ctx: &Context) -> Controller<Watched<SomaInfra>> {
    let controller = controller_of::<SomaInfra>(ctx);
    let (by_secret, by_claim, by_namespace, by_sibling, by_tenant) =
        (controller.store(), controller.store(), controller.store(), controller.store(), controller.store());
    let controller = children::<_, StatefulSet>(controller, ctx);
    let controller = children::<_, Deployment>(controller, ctx);
    let controller = children::<_, ConfigMap>(controller, ctx);
    let controller = children::<_, Pod>(controller, ctx);
    let controller = children::<_, Service>(controller, ctx);
    let controller = children::<_, PodDisruptionBudget>(controller, ctx);
    let controller = children::<_, NetworkPolicy>(controller, ctx);
    let controller = children::<_, Secret>(controller, ctx);
    let controller = children::<_, CronJob>(controller, ctx);
    let controller = children::<_, Job>(controller, ctx);
    let controller = POLICIES_GIVEN.into_iter().fold(controller, |controller, (key, value)| {
        let by_policy = controller.store();
        let labelled = watcher::Config::default().labels(&format!("{key}={value}"));
        controller.watches(metadata::<ConfigMap>(ctx), labelled, move |map| {
            find(&by_policy, |infra: &SomaInfra| infra.namespace() == map.namespace())
        })
    });
    controller
        // Secrets people make, for an external component or restored from a backup, carry no label of ours.
        .watches(metadata::<Secret>(ctx), watcher::Config::default(), move |secret| {
            let (namespace, name) = (secret.namespace(), secret.name_any());
            find(&by_secret, |infra: &SomaInfra| {
                let spec = &infra.spec;
                let external = [
                    spec.postgres.external.as_ref().map(|e| &e.secret_ref),
                    spec.vault.as_ref().and_then(|vault| vault.external.as_ref()).map(|e| &e.secret_ref),
                    spec.kafka.as_ref().and_then(|kafka| kafka.external.as_ref()).map(|e| &e.secret_ref),
                    spec.etcd.as_ref().and_then(|etcd| etcd.external.as_ref()).map(|e| &e.secret_ref),
                    spec.redis.as_ref().and_then(|redis| redis.external.as_ref()).map(|e| &e.secret_ref),
                    spec.opa.as_ref().and_then(|opa| opa.external.as_ref()).map(|e| &e.secret_ref),
                    spec.openfga
                        .as_ref()
                        .and_then(|openfga| openfga.external.as_ref())
                        .map(|e| &e.secret_ref),
                ];
                let refers = external.into_iter().flatten().any(|secret| secret.name == name)
                    || object::KEPT.contains(&name.as_str());
                refers && infra.namespace() == namespace
            })
        })
        // Claims are made by the StatefulSets' controller, without our labels.
        .watches(metadata::<PersistentVolumeClaim>(ctx), watcher::Config::default(), move |claim| {
            let ours = claim.name_any().starts_with(CLAIM_PREFIX);
            find(&by_claim, |infra: &SomaInfra| ours && infra.namespace() == claim.namespace())
        })
        .watches(
            Api::<PartialObjectMeta<Namespace>>::all(ctx.client.clone()),
            watcher::Config::default(),
            move |namespace| {
                find(&by_namespace, |infra: &SomaInfra| {
                    infra.spec.alias_namespaces.contains(&namespace.name_any())
                })
            },
        )
        .watches(metadata::<SomaInfra>(ctx), watcher::Config::default(), move |other| {
            find(&by_sibling, |infra: &SomaInfra| {
                infra.namespace() == other.namespace() && infra.name_any() != other.name_any()
            })
        })
        // Components hold something for each. Their status changes with every memory, which concerns nobody here.
        .watches_stream(
            watcher(metadata::<MemoryNamespace>(ctx), watcher::Config::default())
                .touched_objects()
                .predicate_filter(
                    predicates::generation.combine(predicates::finalizers),
                    PredicateConfig::default(),
                ),
            move |_| find(&by_tenant, |_: &SomaInfra| true),
        )
        // A deletion waits for the stacks that use it, and components let their pods in.
        .watches(Api::<Watched<SomaStack>>::all(ctx.client.clone()), watcher::Config::default(), |stack| {
            stack.0.ok().map(|stack| {
                let (namespace, name) = infra_of(&stack);
                reference::<SomaInfra>(&namespace, &name)
            })
        })
}

fn stack(ctx: &Context) -> Controller<Watched<SomaStack>> {
    let controller = controller_of::<SomaStack>(ctx);
    let (by_infra, by_secret, by_sibling) = (controller.store(), controller.store(), controller.store());
    let controller = children::<_, Deployment>(controller, ctx);
    let controller = children::<_, Pod>(controller, ctx);
    let controller = children::<_, Service>(controller, ctx);
    let controller = children::<_, ConfigMap>(controller, ctx);
    let controller = children::<_, PodDisruptionBudget>(controller, ctx);
    let controller = children::<_, Secret>(controller, ctx);
    controller
        .watches(metadata::<SomaInfra>(ctx), watcher::Config::default(), move |infra| {
            let (namespace, name) = (infra.namespace().unwrap_or_default(), infra.name_any());
            find(&by_infra, |stack: &SomaStack| infra_of(stack) == (namespace.clone(), name.clone()))
        })
        .watches(
            metadata::<Secret>(ctx),
            watcher::Config::default().labels(&children_of(SomaInfra::KIND)),
            move |secret| {
                let namespace = secret.namespace().unwrap_or_default();
                find(&by_secret, |stack: &SomaStack| infra_of(stack).0 == namespace)
            },
        )
        .watches(metadata::<SomaStack>(ctx), watcher::Config::default(), move |other| {
            find(&by_sibling, |stack: &SomaStack| {
                stack.namespace() == other.namespace() && stack.name_any() != other.name_any()
            })
        })
        // A deletion waits for the MemoryNamespaces that live in it.
        .watches(
            Api::<Watched<MemoryNamespace>>::all(ctx.client.clone()),
            watcher::Config::default(),
            |memory| {
                let is_leaving = memory.meta().deletion_timestamp.is_some();
                let memory = memory.0.ok().filter(|_| is_leaving);
                memory.map(|m| {
                    reference::<SomaStack>(&m.namespace().unwrap_or_default(), &m.spec.stack_ref.name)
                })
            },
        )
}

fn namespace(ctx: &Context) -> Controller<Watched<MemoryNamespace>> {
    let controller = controller_of::<MemoryNamespace>(ctx);
    let (by_stack, by_token) = (controller.store(), controller.store());
    let tokens = format!("metadata.name={}", object::API_TOKEN);
    controller
        .watches(metadata::<SomaStack>(ctx), watcher::Config::default(), move |stack| {
            find(&by_stack, |memory: &MemoryNamespace| {
                memory.namespace() == stack.namespace() && memory.spec.stack_ref.name == stack.name_any()
            })
        })
        .watches(metadata::<Secret>(ctx), watcher::Config::default().fields(&tokens), move |token| {
            find(&by_token, |memory: &MemoryNamespace| memory.namespace() == token.namespace())
        })
        .watches(metadata::<Secret>(ctx), watcher::Config::default().labels(LABELS), |access| {
            let name = access.labels().get(label::MEMORY_NAMESPACE)?;
            Some(reference::<MemoryNamespace>(&access.namespace()?, name))
        })
}

fn metadata<K: Child>(ctx: &Context) -> Api<PartialObjectMeta<K>> {
    Api::all(ctx.client.clone())
}

/// The objects of a kind that match; what cannot be read matches nothing.
fn find<K: Kind>(store: &Store<Watched<K>>, matches: impl Fn(&K) -> bool) -> Vec<ObjectRef<Watched<K>>> {
    let all = store.state();
    let matching = all.iter().filter_map(|guard| guard.0.as_ref().ok()).filter(|object| matches(object));
    matching.map(|o| reference::<K>(&o.namespace().unwrap_or_default(), &o.name_any())).collect()
}
