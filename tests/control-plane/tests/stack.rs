//! A SomaInfra with an external Postgres and a SomaStack on it, from the first manifest to a rollout.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use soma_control_plane_tests::text;
use soma_control_plane_tests::world::{World, infra, infra_is, stack, stack_is};
use soma_crds::SomaInfra;

#[tokio::test]
async fn what_is_missing_is_named_until_it_is_there() {
    let world = World::start(&[]).await.unwrap();
    let (soma, infras, stacks) = (&world.soma, &world.infras, &world.stacks);
    soma.apply(&stack(&json!({}))).unwrap();
    soma.eventually(stacks.clone(), "soma", "InfraNotFound", stack_is("False", "InfraNotFound"))
        .await
        .unwrap();
    soma.apply(&infra()).unwrap();
    let blocked =
        soma.eventually(infras.clone(), "shared", "SecretMissing", infra_is("False", "SecretMissing")).await;
    let blocked = blocked.unwrap().unwrap();
    let message = &blocked.status.as_ref().unwrap().condition("Ready").unwrap().message;
    assert!(message.contains("kubectl -n soma-infra create secret generic pg"), "{message}");
    soma.eventually(stacks.clone(), "soma", "InfraNotReady", stack_is("False", "InfraNotReady"))
        .await
        .unwrap();
    assert!(
        world.deployments.list(&ListParams::default()).await.unwrap().items.is_empty(),
        "nothing runs yet"
    );

    let mut incomplete = world.external_secret();
    incomplete["stringData"].as_object_mut().unwrap().remove("password");
    soma.apply(&incomplete).unwrap();
    soma.eventually(infras.clone(), "shared", "key missing", infra_is("False", "SecretKeyMissing"))
        .await
        .unwrap();

    // Complete: everything goes on by itself, without touching the manifests.
    let revision = world.install().await.unwrap();
    let conn: Secret = Api::namespaced(soma.client(), "soma").get("postgres-conn").await.unwrap();
    assert_eq!(text(&conn, "host"), "localhost");
    assert_eq!(text(&conn, "mode"), "external");
    let alias = world.services.get("postgres").await.unwrap();
    assert_eq!(alias.spec.unwrap().external_name.as_deref(), Some("localhost"));
    assert_eq!(world.serving().await.unwrap(), revision);

    // The Secret goes: what was good stays, the condition says what is missing, and no pod is touched.
    let secrets: Api<Secret> = Api::namespaced(soma.client(), "soma-infra");
    let before = world.deployments.get(&revision).await.unwrap();
    secrets.delete("pg", &DeleteParams::default()).await.unwrap();
    soma.eventually(infras.clone(), "shared", "SecretMissing", infra_is("False", "SecretMissing"))
        .await
        .unwrap();
    assert!(secrets.get_opt("postgres-conn").await.unwrap().is_some(), "the last good connection stays");
    let after = world.deployments.get(&revision).await.unwrap();
    assert_eq!(after.metadata.generation, before.metadata.generation);
}

#[tokio::test]
async fn a_setting_makes_a_revision_that_serves_once_it_is_ready() {
    let world = World::start(&[]).await.unwrap();
    let first = world.install().await.unwrap();
    let (soma, stacks) = (&world.soma, &world.stacks);
    let token: Secret = Api::namespaced(soma.client(), "soma").get("soma-api-token").await.unwrap();
    assert_eq!(text(&token, "SOMA_API_TOKEN").len(), 32);

    soma.apply(&stack(&json!({"settings": {"maxTopK": 7}}))).unwrap();
    let rolling =
        soma.eventually(stacks.clone(), "soma", "RollingOut", stack_is("False", "RollingOut")).await.unwrap();
    let status = rolling.unwrap().status.unwrap();
    let next = status.services.as_ref().unwrap().memory.next.clone().unwrap().revision;
    assert_eq!(status.condition("Available").unwrap().status, "True", "the first keeps serving");
    assert_eq!(world.serving().await.unwrap(), first);
    assert!(
        next != first
            && world
                .configs
                .list(&ListParams::default().labels("app.kubernetes.io/name=memory"))
                .await
                .unwrap()
                .items
                .len()
                == 2
    );

    // Taking it back cancels at once.
    soma.apply(&stack(&json!({}))).unwrap();
    soma.eventually(stacks.clone(), "soma", "Ready again", stack_is("True", "Ready")).await.unwrap();
    assert_eq!(world.serving().await.unwrap(), first);
    let scaled = |d: Option<&Deployment>| d.is_some_and(|d| d.spec.as_ref().unwrap().replicas == Some(0));
    soma.eventually(world.deployments.clone(), &next, "scaled to 0", scaled).await.unwrap();

    soma.apply(&stack(&json!({"settings": {"maxTopK": 7}}))).unwrap();
    let up = |d: Option<&Deployment>| d.is_some_and(|d| d.spec.as_ref().unwrap().replicas == Some(1));
    soma.eventually(world.deployments.clone(), &next, "scaled up", up).await.unwrap();
    soma.pretend_ready("soma", &next).await.unwrap();
    let done =
        soma.eventually(stacks.clone(), "soma", "Ready", stack_is("True", "Ready")).await.unwrap().unwrap();
    let memory = done.status.unwrap().services.unwrap().memory;
    let restart = memory.last_restart.unwrap();
    assert_eq!((restart.from.as_str(), restart.to.as_str()), (first.as_str(), next.as_str()));
    assert_eq!(restart.changed, ["memory.maxTopK"]);
    assert_eq!(memory.pods.as_deref(), Some("1/1"));
    assert_eq!(world.serving().await.unwrap(), next);
    soma.eventually(world.deployments.clone(), &first, "scaled to 0", scaled).await.unwrap();
    let unchanged: Secret = Api::namespaced(soma.client(), "soma").get("soma-api-token").await.unwrap();
    assert_eq!(unchanged.data, token.data, "a token is made once");
}

#[tokio::test]
async fn drift_is_repaired_and_nothing_else_is_touched() {
    let mut world = World::start(&[]).await.unwrap();
    let revision = world.install().await.unwrap();
    let soma = &world.soma;
    let template = world.deployments.get(&revision).await.unwrap();
    let uid = template.uid();
    let config = format!("memory-config-{}", &template.labels()["configHash"][3..11]);

    world.services.delete("memory", &DeleteParams::default()).await.unwrap();
    let exists = |s: Option<&Service>| s.is_some_and(|s| s.metadata.deletion_timestamp.is_none());
    soma.eventually(world.services.clone(), "memory", "made again", exists).await.unwrap();
    world.configs.delete(&config, &DeleteParams::default()).await.unwrap();
    soma.eventually(world.configs.clone(), &config, "made again", |c: Option<&ConfigMap>| c.is_some())
        .await
        .unwrap();

    let edit = json!({"spec": {"selector": {"app.kubernetes.io/name": "other", "extra": "x"}}});
    world.services.patch("memory", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    let right = |s: Option<&Service>| {
        s.and_then(|s| s.spec.as_ref()?.selector.as_ref())
            .is_some_and(|s| s["app.kubernetes.io/name"] == "memory" && !s.contains_key("extra"))
    };
    soma.eventually(world.services.clone(), "memory", "put right", right).await.unwrap();
    let edit = json!({"spec": {"replicas": 4}});
    world.deployments.patch(&revision, &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    let one = |d: Option<&Deployment>| d.is_some_and(|d| d.spec.as_ref().unwrap().replicas == Some(1));
    soma.eventually(world.deployments.clone(), &revision, "one pod", one).await.unwrap();

    // A label on the manifest, and another number of pods, change neither revision nor template.
    let label = json!({"metadata": {"labels": {"team": "a"}}});
    world.stacks.patch("soma", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    soma.apply(&stack(&json!({"replicas": 2}))).unwrap();
    let two = |d: Option<&Deployment>| d.is_some_and(|d| d.spec.as_ref().unwrap().replicas == Some(2));
    let after =
        soma.eventually(world.deployments.clone(), &revision, "two pods", two).await.unwrap().unwrap();
    assert_eq!(after.uid(), uid);
    assert_eq!(after.spec.unwrap().template, template.spec.unwrap().template);
    assert_eq!(world.deployments.list(&ListParams::default()).await.unwrap().items.len(), 1);
    soma.pretend_ready("soma", &revision).await.unwrap();
    soma.eventually(world.stacks.clone(), "soma", "Ready", stack_is("True", "Ready")).await.unwrap();

    // A new operator process reconciles everything once and finds nothing to write.
    world.soma.stop_operator().unwrap();
    let mark = world.soma.plane.audit().mark().unwrap();
    world.soma.start_operator().unwrap();
    world.soma.reconciled(&[("SomaInfra", 1), ("SomaStack", 1)]).await.unwrap();
    assert_eq!(world.soma.operator_writes(mark).unwrap(), []);
}

#[tokio::test]
async fn deletion_waits_for_users_and_the_older_of_two_stacks_keeps_the_namespace() {
    let world = World::start(&[]).await.unwrap();
    world.install().await.unwrap();
    let soma = &world.soma;
    let mut second = stack(&json!({}));
    second["metadata"]["name"] = "later".into();
    soma.apply(&second).unwrap();
    soma.eventually(world.stacks.clone(), "later", "NamespaceTaken", stack_is("False", "NamespaceTaken"))
        .await
        .unwrap();
    assert_eq!(world.deployments.list(&ListParams::default()).await.unwrap().items.len(), 1);

    world.infras.delete("shared", &DeleteParams::default()).await.unwrap();
    let held = |i: Option<&SomaInfra>| {
        i.and_then(|i| i.status.as_ref()?.condition("Ready").cloned()).is_some_and(|c| c.reason == "InUse")
    };
    let held = soma.eventually(world.infras.clone(), "shared", "InUse", held).await.unwrap().unwrap();
    let message = held.status.unwrap().condition("Ready").unwrap().message.clone();
    assert!(message.contains("soma/later, soma/soma"), "{message}");
    let events =
        soma.kubectl(&["get", "events", "-n", "soma-infra", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    assert!(events.contains("InUse"), "{events}");

    for name in ["later", "soma"] {
        world.stacks.delete(name, &DeleteParams::default()).await.unwrap();
    }
    soma.eventually(world.infras.clone(), "shared", "gone", |i: Option<&SomaInfra>| i.is_none())
        .await
        .unwrap();
    let secrets: Api<Secret> = Api::namespaced(soma.client(), "soma");
    soma.eventually(world.deployments.clone(), "memory", "gone", |d: Option<&Deployment>| d.is_none())
        .await
        .unwrap();
    assert!(secrets.get_opt("soma-api-token").await.unwrap().is_some(), "the token outlives its stack");
    assert!(world.services.get_opt("postgres").await.unwrap().is_none(), "the alias goes with its SomaInfra");
}
