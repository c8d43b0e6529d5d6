//! A managed Postgres through its life: rolled once, grown without a restart, never given a second password.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use soma_control_plane_tests::world::{infra_is, only_postgres};
use soma_control_plane_tests::{Soma, text};
use soma_crds::SomaInfra;
use soma_testenv::Postgres;

/// A namespace, a storage class whose volumes can grow, one such volume, and a SomaInfra that uses it.
fn manifests() -> [Value; 4] {
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "soma-infra"}}),
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "grows"},
            "provisioner": "kubernetes.io/no-provisioner", "allowVolumeExpansion": true,
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "grows",
                "hostPath": {"path": "/nowhere"},
            },
        }),
        only_postgres(
            "soma-infra",
            &json!({"managed": {"storage": {"size": "1Gi", "storageClassName": "grows"}}}),
        ),
    ]
}

struct World {
    soma: Soma,
    postgres: Postgres,
    infras: Api<SomaInfra>,
    sets: Api<StatefulSet>,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    secrets: Api<Secret>,
}

impl World {
    async fn start() -> Self {
        let postgres = Postgres::start().await.unwrap();
        postgres.psql("CREATE ROLE postgres SUPERUSER LOGIN").await.unwrap();
        let soma =
            Soma::start(&["--postgres-address", &format!("127.0.0.1:{}", postgres.port())]).await.unwrap();
        for manifest in manifests() {
            soma.apply(&manifest).unwrap();
        }
        let client = soma.client();
        let world = Self {
            infras: Api::namespaced(client.clone(), "soma-infra"),
            sets: Api::namespaced(client.clone(), "soma-infra"),
            pods: Api::namespaced(client.clone(), "soma-infra"),
            claims: Api::namespaced(client.clone(), "soma-infra"),
            secrets: Api::namespaced(client, "soma-infra"),
            soma,
            postgres,
        };
        world.pod_gets_ready(None).await;
        world
    }

    /// Does what a node would do for a pod other than `before`; returns its uid.
    async fn pod_gets_ready(&self, before: Option<&str>) -> String {
        let fresh = |p: Option<&Pod>| {
            p.is_some_and(|p| p.metadata.deletion_timestamp.is_none() && p.metadata.uid.as_deref() != before)
        };
        let pod =
            self.soma.eventually(self.pods.clone(), "postgres-0", "a new pod", fresh).await.unwrap().unwrap();
        let condition = |type_: &str| json!({"type": type_, "status": "True"});
        let status = json!({"status": {"phase": "Running", "conditions": [condition("Ready"), condition("ContainersReady")]}});
        self.pods.patch_status("postgres-0", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        self.soma
            .eventually(self.infras.clone(), "shared", "Ready", infra_is("True", "Ready"))
            .await
            .unwrap();
        pod.uid().unwrap()
    }

    async fn edit(&self, managed: &Value) {
        let patch = json!({"spec": {"postgres": {"managed": managed}}});
        self.infras.patch("shared", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn pod_uid(&self) -> String {
        self.pods.get("postgres-0").await.unwrap().uid().unwrap()
    }
}

#[tokio::test]
async fn a_changed_template_rolls_the_pod_once_and_an_edit_by_hand_does_not() {
    let world = World::start().await;
    let first = world.pod_uid().await;
    let made = world.secrets.get("postgres-superuser").await.unwrap();
    let conn = world.secrets.get("postgres-conn").await.unwrap();
    assert_eq!(text(&conn, "username"), "somamemory", "not the superuser");
    assert_eq!(text(&conn, "password"), text(&made, "somamemory"));
    let role = world
        .postgres
        .psql("SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'somamemory'");
    assert_eq!(role.await.unwrap().trim(), "f", "the role may use its database and nothing else");
    for (service, database) in
        [("memory", "somamemory"), ("agent", "somaagent01"), ("openfga", "openfga"), ("temporal", "temporal")]
    {
        let own = world.secrets.get(&format!("postgres-user-{service}")).await.unwrap();
        assert_eq!((text(&own, "database"), text(&own, "username")), (database.into(), database.into()));
        assert_eq!(text(&own, "password"), text(&made, database));
        let owner = format!("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{database}'");
        assert_eq!(world.postgres.psql(&owner).await.unwrap().trim(), database);
    }

    world.edit(&json!({"resources": {"requests": {"cpu": "200m"}}})).await;
    let second = world.pod_gets_ready(Some(&first)).await;

    // Somebody edits the set: it is put back, and the pod stays.
    let edit = json!({"spec": {"template": {"metadata": {"labels": {"somastack.dev/owner-kind": "Other"}}}}});
    world.sets.patch("postgres", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    let right = |s: Option<&StatefulSet>| {
        let labels =
            s.and_then(|s| s.spec.as_ref()?.template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
        labels["somastack.dev/owner-kind"] == "SomaInfra"
    };
    world.soma.eventually(world.sets.clone(), "postgres", "put right", right).await.unwrap();
    world.soma.eventually(world.infras.clone(), "shared", "Ready", infra_is("True", "Ready")).await.unwrap();
    assert_eq!(world.pod_uid().await, second);
    assert_eq!(
        world.secrets.get("postgres-superuser").await.unwrap().resource_version(),
        made.resource_version()
    );
}

#[tokio::test]
async fn a_volume_grows_while_the_pod_keeps_running() {
    let world = World::start().await;
    let pod = world.pod_uid().await;
    let set = world.sets.get("postgres").await.unwrap().uid();
    let bound = |c: Option<&PersistentVolumeClaim>| {
        c.and_then(|c| c.status.as_ref()?.phase.clone()).is_some_and(|phase| phase == "Bound")
    };
    world.soma.eventually(world.claims.clone(), "data-postgres-0", "Bound", bound).await.unwrap();

    world.edit(&json!({"storage": {"size": "2Gi"}})).await;
    let made_again = |s: Option<&StatefulSet>| {
        s.is_some_and(|s| s.metadata.deletion_timestamp.is_none() && s.uid() != set)
    };
    world.soma.eventually(world.sets.clone(), "postgres", "made again", made_again).await.unwrap();
    let claim = world.claims.get("data-postgres-0").await.unwrap();
    let requests = claim.spec.unwrap().resources.unwrap().requests.unwrap();
    assert_eq!(requests["storage"].0, "2Gi");
    world.soma.eventually(world.infras.clone(), "shared", "Ready", infra_is("True", "Ready")).await.unwrap();
    assert_eq!(world.pod_uid().await, pod, "the pod kept running");
}

#[tokio::test]
async fn a_lost_password_is_reported_and_never_made_anew() {
    let world = World::start().await;
    let made = world.secrets.get("postgres-superuser").await.unwrap();
    world.secrets.delete("postgres-superuser", &DeleteParams::default()).await.unwrap();
    let lost = world.soma.eventually(
        world.infras.clone(),
        "shared",
        "PasswordLost",
        infra_is("False", "PasswordLost"),
    );
    let lost = lost.await.unwrap().unwrap();
    let message = lost.status.unwrap().condition("Ready").unwrap().message.clone();
    assert!(message.contains("Restore the Secret"), "{message}");
    assert!(world.secrets.get_opt("postgres-superuser").await.unwrap().is_none(), "no new password");
    assert!(world.secrets.get_opt("postgres-conn").await.unwrap().is_some(), "clients keep theirs");

    // Restored, everything goes on.
    let mut restored = Secret { data: made.data.clone(), ..Default::default() };
    restored.metadata.name = Some("postgres-superuser".into());
    restored.metadata.namespace = Some("soma-infra".into());
    let manifest = serde_json::to_value(&restored).unwrap();
    world.soma.apply(&manifest).unwrap();
    world.soma.eventually(world.infras.clone(), "shared", "Ready", infra_is("True", "Ready")).await.unwrap();
}

impl World {
    /// Does what a node would do for the pod of a Job: it ends well, and says this.
    async fn job_succeeds(&self, job: &str, said: &str) {
        let ours = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let mut found = Vec::new();
        for _ in 0..300 {
            found = self.pods.list(&ours).await.unwrap().items;
            if !found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let pod = found.first().unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let ended = json!({"exitCode": 0, "message": said, "finishedAt": "2026-03-01T02:31:00Z"});
        let status = json!({"status": {"phase": "Succeeded", "containerStatuses": [{
            "name": container.name, "image": container.image, "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": ended},
        }]}});
        let params = PatchParams::default();
        self.pods.patch_status(&pod.name_any(), &params, &Patch::Merge(&status)).await.unwrap();
    }

    async fn ask_for_restore(&self, name: &str) {
        let patch = json!({"metadata": {"annotations": {RESTORE: name}}});
        self.infras.patch("shared", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
}

const RESTORE: &str = "somastack.dev/restore-postgres";

#[tokio::test]
async fn a_backup_is_told_and_restored_only_where_there_is_no_data() {
    let world = World::start().await;
    let first = world.pod_uid().await;
    let crons: Api<CronJob> = Api::namespaced(world.soma.client(), "soma-infra");
    let jobs: Api<Job> = Api::namespaced(world.soma.client(), "soma-infra");
    world.edit(&json!({"backup": {"schedule": "0 0 29 2 *"}})).await;
    let made =
        world.soma.eventually(crons, "postgres-backup", "made", |cron: Option<&CronJob>| cron.is_some());
    let cron = made.await.unwrap().unwrap();
    assert!(world.claims.get("postgres-backup").await.unwrap().metadata.owner_references.is_none());
    assert_eq!(world.pod_uid().await, first, "nothing is restarted for backups");

    // One by hand, as `kubectl create job --from` makes it.
    let template = cron.spec.unwrap().job_template;
    let metadata =
        json!({"name": "by-hand", "namespace": "soma-infra", "labels": template.metadata.unwrap().labels});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template.spec});
    world.soma.apply(&job).unwrap();
    let record = json!({
        "name": "20260301T023000Z", "component": "postgres", "time": "2026-03-01T02:31:00Z", "size": 1 << 20,
        "files": {}, "facts": {"restored": "6 databases"},
    });
    world.job_succeeds("by-hand", &record.to_string()).await;
    let told = |infra: Option<&SomaInfra>| {
        let status = infra.and_then(|infra| infra.status.as_ref());
        let backup = status.and_then(|status| status.components.first()?.backup.clone()).unwrap_or_default();
        backup.last_success.is_some()
            && backup.next.is_some()
            && backup.message.as_deref() == Some("20260301T023000Z: 1.0 MiB, restored 6 databases")
    };
    world.soma.eventually(world.infras.clone(), "shared", "the backup is told", told).await.unwrap();

    // While there is data, the wish is refused, and Postgres goes on.
    world.ask_for_restore("20260301T023000Z").await;
    let refused = infra_is("False", "RestoreRefused");
    let refused = world.soma.eventually(world.infras.clone(), "shared", "refused", refused).await.unwrap();
    let status = refused.unwrap().status.unwrap();
    assert_eq!(status.condition("Available").unwrap().status, "True");
    assert!(jobs.get_opt("postgres-restore").await.unwrap().is_none());

    // The data is given up: the Job comes before the set.
    world.sets.delete("postgres", &DeleteParams::background()).await.unwrap();
    world.claims.delete("data-postgres-0", &DeleteParams::default()).await.unwrap();
    let begun = |job: Option<&Job>| job.is_some_and(|job| job.annotations()[RESTORE] == "20260301T023000Z");
    world.soma.eventually(jobs, "postgres-restore", "begun", begun).await.unwrap();
    let there = |claim: Option<&PersistentVolumeClaim>| {
        claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none())
    };
    world.soma.eventually(world.claims.clone(), "data-postgres-0", "made", there).await.unwrap();
    assert!(world.sets.get_opt("postgres").await.unwrap().is_none(), "it does not start before");
    let volume = world.claims.get("data-postgres-0").await.unwrap().uid();
    world.job_succeeds("postgres-restore", "").await;
    world.pod_gets_ready(Some(&first)).await;
    assert!(!world.infras.get("shared").await.unwrap().annotations().contains_key(RESTORE));
    assert_eq!(
        world.claims.get("data-postgres-0").await.unwrap().uid(),
        volume,
        "it runs on what was restored"
    );
}
