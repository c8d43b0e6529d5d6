//! The native cluster comes up, serves pods, and leaves nothing behind. Needs root.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself would")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};
use soma_testenv::{
    cache::Cache,
    cluster::{self, Place, TestCluster},
    exec::run,
    images,
    progress::Progress,
};

/// Clusters of both tests at once would be traces of each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a cluster could leave behind on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    links: BTreeSet<String>,
    routes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    tables: BTreeSet<String>,
    groups: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
}

fn traces() -> Traces {
    let lines = |program: &str, arguments: &[&str]| {
        run(Command::new(program).args(arguments))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let groups =
        run(Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", "soma-*"])).unwrap();
    Traces {
        links: lines("ip", &["-o", "link", "show"]),
        routes: lines("ip", &["-o", "route", "show"]),
        mounts: fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect(),
        tables: lines("nft", &["list", "tables"]),
        groups: groups.lines().map(str::to_owned).collect(),
        network_namespaces: lines("lsns", &["-t", "net", "-n", "-o", "NS"]),
    }
}

fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    run(Command::new("ps").args(["-eo", "pid,args"]))
        .unwrap()
        .lines()
        .filter(|line| line.contains(&*folder))
        .map(str::to_owned)
        .collect()
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"probe"},"spec":{
 "restartPolicy":"Never",
 "securityContext":{"runAsNonRoot":true,"runAsUser":10001,"seccompProfile":{"type":"RuntimeDefault"}},
 "volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"data"}}],
 "containers":[{"name":"probe","image":"docker.io/library/postgres:15",
  "command":["/bin/sh","-c","echo kept > /data/file && cat /data/file && sleep 3600"],
  "readinessProbe":{"exec":{"command":["cat","/data/file"]},"periodSeconds":1},
  "volumeMounts":[{"name":"data","mountPath":"/data"}],
  "resources":{"limits":{"memory":"64Mi","cpu":"200m"}},
  "securityContext":{"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]}}}]}}"#;
const CLAIM: &str = r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data"},
 "spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}}"#;

fn apply(place: &Place, folder: &Path, manifest: &str) {
    let file = folder.join("manifest.json");
    fs::write(&file, manifest).unwrap();
    run(place.kubectl().arg("apply").arg("-f").arg(&file)).unwrap();
}

#[test]
fn a_cluster_runs_restricted_pods_and_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces();
    let images = images::system(&Cache::open().unwrap()).unwrap();
    let cluster = TestCluster::start(2, &images).unwrap();
    let place = cluster.place().clone();
    let kubectl = |arguments: &[&str]| run(place.kubectl().args(arguments)).unwrap();

    kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"]);
    let manifests = tempfile::tempdir().unwrap();
    apply(&place, manifests.path(), CLAIM);
    apply(&place, manifests.path(), POD);
    kubectl(&["wait", "--for=condition=Ready", "pod/probe", "--timeout=120s"]);
    assert_eq!(kubectl(&["logs", "probe"]), "kept");
    assert_eq!(kubectl(&["exec", "probe", "--", "id", "-u"]), "10001");
    // A Service is found by name, from a pod, through the cluster's DNS.
    let answer =
        kubectl(&["exec", "probe", "--", "/bin/busybox", "nslookup", "kubernetes.default.svc.cluster.local"]);
    assert!(answer.contains(".1"), "{answer}");

    // From this machine a Service answers too, whichever node its pod is on.
    let dns =
        kubectl(&["-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"]);
    let answer =
        run(Command::new("busybox").args(["nslookup", "kubernetes.default.svc.cluster.local", &dns]))
            .unwrap();
    assert!(answer.contains("kubernetes.default"), "{answer}");

    // A second `up` keeps what runs.
    let uid = ["get", "pod", "probe", "-o", "jsonpath={.metadata.uid}"];
    let first = kubectl(&uid);
    cluster::up(&place, 2, &images, &mut Progress::default()).unwrap();
    assert_eq!(kubectl(&uid), first);

    assert!(!processes_of(&place.root).is_empty());
    drop(cluster);
    assert_eq!(processes_of(&place.root), Vec::<String>::new());
    assert!(!place.root.exists());
    assert_eq!(traces(), before);
}

/// A pod of `image` as any user, which may write to `/data` only.
fn restricted(name: &str, image: &str, args: &[&str], probe: &Value) -> Value {
    let nothing_more = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}});
    let mut container = json!({"name": name, "image": image, "args": args, "securityContext": nothing_more,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}], "readinessProbe": probe});
    container["readinessProbe"]["periodSeconds"] = 1.into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [container]}})
}

#[test]
fn images_of_components_serve_as_any_user() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = Cache::open().unwrap();
    let (etcd, redis, opa) =
        (images::etcd(&cache).unwrap(), images::redis(&cache).unwrap(), images::opa(&cache).unwrap());
    let mut all = images::system(&cache).unwrap();
    all.extend([etcd.clone(), redis.clone(), opa.clone()]);
    let cluster = TestCluster::start(1, &all).unwrap();
    let kubectl = |arguments: &[&str]| run(cluster.place().kubectl().args(arguments)).unwrap();
    kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"]);

    let exec = |words: &[&str]| json!({"exec": {"command": words}});
    let http = |path: &str| json!({"httpGet": {"path": path, "port": 8181}});
    let pods = [
        restricted(
            "etcd",
            &etcd.reference,
            &["etcd", "--data-dir=/data/etcd"],
            &exec(&["etcdctl", "endpoint", "health"]),
        ),
        restricted("redis", &redis.reference, &["--appendonly", "yes"], &exec(&["redis-cli", "-e", "PING"])),
        restricted(
            "opa",
            &opa.reference,
            &["run", "--server", "--addr=:8181", "--skip-version-check"],
            &http("/health"),
        ),
    ];
    let manifests = tempfile::tempdir().unwrap();
    for pod in pods {
        apply(cluster.place(), manifests.path(), &pod.to_string());
    }
    kubectl(&["wait", "--for=condition=Ready", "pod/etcd", "pod/redis", "pod/opa", "--timeout=120s"]);
    assert_eq!(kubectl(&["exec", "etcd", "--", "etcdctl", "put", "kept", "7"]), "OK");
    kubectl(&["exec", "etcd", "--", "etcdctl", "snapshot", "save", "/data/snapshot.db"]);
    let status =
        kubectl(&["exec", "etcd", "--", "etcdutl", "snapshot", "status", "/data/snapshot.db", "-w", "json"]);
    assert!(status.contains("\"revision\":2"), "{status}");
    assert_eq!(kubectl(&["exec", "redis", "--", "redis-cli", "-e", "SET", "kept", "7"]), "OK");
    // The folder it starts in, and whose files nobody else reads.
    let mode = kubectl(&["exec", "redis", "--", "sh", "-c", "ls -l /data/appendonlydir/*.manifest"]);
    assert!(mode.starts_with("-rw-------"), "{mode}");
}

#[test]
fn a_half_made_cluster_is_removed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces();
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_path_buf() };
    // Nothing there at all.
    cluster::down(&place).unwrap();
    // An `up` that is killed while its first node starts.
    let mut up = Command::new(env!("CARGO_BIN_EXE_testenv"));
    let mut up = up.args(["up", "--bare", "--dir"]).arg(&place.root).spawn().unwrap();
    while !place.root.join("cluster/node-0/init.pid").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(up.try_wait().unwrap().is_none(), "up ended early");
    }
    up.kill().unwrap();
    up.wait().unwrap();
    cluster::down(&place).unwrap();
    assert!(!place.root.join("cluster").exists());
    assert_eq!(processes_of(&place.root), Vec::<String>::new());
    assert_eq!(traces(), before);
    // Removing it again finds nothing to do.
    cluster::down(&place).unwrap();
}
