//! Whether the Postgres pod may be replaced by one of the newest revision. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pods;

/// What is known when the decision is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Revision the StatefulSet would give a new pod; `None` until its controller has seen the newest template.
    pub newest: Option<String>,
    pub pod: Option<PodView>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub revision: String,
    pub ready: bool,
    pub deleting: bool,
    /// It will not become ready by itself, and why.
    pub trouble: Option<String>,
}

/// May the pod be deleted now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, for this reason.
    Yes(&'static str),
    /// Not yet.
    Wait(&'static str),
    /// Not before somebody acts.
    Never(String),
    /// There is nothing to roll.
    Current,
}

impl View {
    pub fn new(set: &StatefulSet, pod: Option<&Pod>) -> Self {
        let status = set.status.as_ref();
        let seen = status.and_then(|s| s.observed_generation) == set.metadata.generation;
        Self {
            newest: status.filter(|_| seen).and_then(|s| s.update_revision.clone()),
            pod: pod.map(|pod| PodView {
                revision: pod.labels().get("controller-revision-hash").cloned().unwrap_or_default(),
                ready: pods::is_ready(pod),
                deleting: pod.metadata.deletion_timestamp.is_some(),
                trouble: pods::trouble([pod]).map(|t| t.message),
            }),
        }
    }
}

/// One instance: nothing else can take over, so a pod that works is replaced only while it is ready, never while it
/// starts (it may be replaying its log). A pod that is broken on an old revision loses nothing by being replaced; one
/// that is broken on the newest would only break again.
pub fn can_roll(view: &View) -> Verdict {
    let Some(newest) = &view.newest else {
        return Verdict::Wait("the StatefulSet's controller has not seen the newest template");
    };
    let Some(pod) = &view.pod else { return Verdict::Wait("the pod does not exist yet") };
    let old = pod.revision != *newest;
    match (old, pod.deleting, &pod.trouble) {
        (_, true, _) => Verdict::Wait("the pod is ending"),
        (false, false, Some(trouble)) => Verdict::Never(trouble.clone()),
        (false, false, None) => Verdict::Current,
        (true, false, Some(_)) => Verdict::Yes("the pod is broken on an old revision"),
        (true, false, None) if pod.ready => Verdict::Yes("its template changed"),
        (true, false, None) => Verdict::Wait("the pod is starting and may be recovering"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let pod = |revision: &str, ready, deleting, trouble: Option<&str>| {
            Some(PodView { revision: revision.into(), ready, deleting, trouble: trouble.map(Into::into) })
        };
        let verdict = |newest: Option<&str>, pod| can_roll(&View { newest: newest.map(Into::into), pod });
        assert!(matches!(verdict(None, pod("1", true, false, None)), Verdict::Wait(_)), "status lags behind");
        assert!(matches!(verdict(Some("2"), None), Verdict::Wait(_)));
        assert_eq!(verdict(Some("1"), pod("1", true, false, None)), Verdict::Current);
        assert_eq!(verdict(Some("1"), pod("1", false, false, None)), Verdict::Current);
        assert!(matches!(verdict(Some("2"), pod("1", true, false, None)), Verdict::Yes(_)));
        assert!(
            matches!(verdict(Some("2"), pod("1", false, false, None)), Verdict::Wait(_)),
            "may be recovering"
        );
        assert!(
            matches!(verdict(Some("2"), pod("1", true, true, None)), Verdict::Wait(_)),
            "deleted once is enough"
        );
        assert!(matches!(verdict(Some("2"), pod("1", false, false, Some("bad image"))), Verdict::Yes(_)));
        assert_eq!(
            verdict(Some("2"), pod("2", false, false, Some("bad image"))),
            Verdict::Never("bad image".into())
        );
    }
}
