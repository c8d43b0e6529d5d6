//! Only the holder of the lease writes, and a process without it ends.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use nix::sys::signal::Signal;
use serde_json::json;
use soma_control_plane_tests::Soma;

fn held_by(identity: &'static str) -> impl Fn(Option<&Lease>) -> bool {
    move |lease| {
        let holder = lease.and_then(|l| l.spec.as_ref()?.holder_identity.clone()).unwrap_or_default();
        holder == identity
    }
}

#[tokio::test]
async fn a_candidate_takes_over_and_a_stopped_holder_releases() {
    let mut soma = Soma::start(&[]).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(soma.client(), "soma-system");
    soma.eventually(leases.clone(), "soma-operator", "held", held_by("operator-under-test")).await.unwrap();
    let mut candidate = soma.start_candidate("candidate").unwrap();

    // Right after it got the lease, before its caches are filled: it stops all the same.
    soma.operator().unwrap().signal(Signal::SIGTERM).unwrap();
    let status = soma.operator().unwrap().wait().unwrap();
    assert!(status.success(), "asked to stop, it stops cleanly: {status}");
    soma.eventually(leases.clone(), "soma-operator", "taken over", held_by("candidate")).await.unwrap();

    // Somebody else holds the lease: the process must not go on without it.
    let stolen = json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}});
    leases.patch("soma-operator", &PatchParams::default(), &Patch::Merge(&stolen)).await.unwrap();
    let status = candidate.wait().unwrap();
    assert!(!status.success(), "losing the lease is a failure: {status}");
}
