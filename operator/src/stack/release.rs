//! Which revision serves, which one comes up, which go. Pure.
//!
//! A revision is a Deployment named by its content. Traffic moves by the Service's selector, so the pods that were
//! waited for are the pods that serve, and nothing restarts a second time.

/// What is known about one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Name of its Deployment.
    pub name: String,
    /// Pods its Deployment asks for.
    pub replicas: i32,
    /// Pods that are ready; 0 while its controller has not seen the newest spec.
    pub ready: i32,
    /// When it was made, in seconds; newer is larger.
    pub created: i64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The revision the Service selects.
    pub serving: String,
    /// The revision that serves next, where it is another.
    pub next: Option<String>,
    /// The Service moves in this step.
    pub moves: bool,
    /// Revisions to scale to 0, and kept for a way back.
    pub scale_down: Vec<String>,
    /// Revisions to delete with their configuration.
    pub collect: Vec<String>,
}

/// Decides the next step towards `wanted` with `replicas` pods; `serving` is what the Service selects now.
///
/// * The Service moves only when every pod of the wanted revision is ready, so a broken revision never serves.
/// * In the step that moves it nothing is scaled down: the old pods still receive what is on its way to them.
/// * One revision before the serving one is kept at 0; older ones go.
pub fn next(wanted: &str, replicas: i32, serving: Option<&str>, revisions: &[Revision]) -> Release {
    let find = |name: &str| revisions.iter().find(|r| r.name == name);
    // A serving revision whose Deployment is gone cannot serve: there is nothing to protect.
    let current = serving.filter(|name| find(name).is_some());
    let is_up = find(wanted).is_some_and(|r| r.ready >= replicas && r.replicas >= replicas);
    let (serving, moves) = match current {
        Some(current) if current == wanted => (wanted, false),
        Some(_) if is_up => (wanted, true),
        Some(current) => (current, false),
        None => (wanted, false),
    };
    let mut others: Vec<_> = revisions.iter().filter(|r| r.name != wanted && r.name != serving).collect();
    others.sort_by_key(|r| std::cmp::Reverse((r.created, r.name.clone())));
    if moves {
        others.retain(|r| Some(r.name.as_str()) != current);
    }
    let names = |all: &[&Revision]| all.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    let next = (serving != wanted).then(|| wanted.to_owned());
    // While two revisions are up or the Service moves, the one before is the serving one: nothing older is kept.
    let kept = usize::from(next.is_none() && !moves).min(others.len());
    Release {
        serving: serving.to_owned(),
        next,
        moves,
        scale_down: names(&others[..kept].iter().filter(|r| r.replicas > 0).copied().collect::<Vec<_>>()),
        collect: names(&others[kept..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(name: &str, replicas: i32, ready: i32, created: i64) -> Revision {
        Revision { name: name.into(), replicas, ready, created }
    }

    fn release(serving: &str, next: Option<&str>, moves: bool, down: &[&str], collect: &[&str]) -> Release {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Release {
            serving: serving.into(),
            next: next.map(Into::into),
            moves,
            scale_down: own(down),
            collect: own(collect),
        }
    }

    #[test]
    fn a_first_install_serves_what_is_wanted() {
        assert_eq!(next("a", 1, None, &[]), release("a", None, false, &[], &[]));
        assert_eq!(next("a", 1, Some("gone"), &[rev("a", 1, 0, 1)]), release("a", None, false, &[], &[]));
    }

    #[test]
    fn the_service_stays_until_every_new_pod_is_ready() {
        let old = rev("a", 2, 2, 1);
        assert_eq!(
            next("b", 2, Some("a"), std::slice::from_ref(&old)),
            release("a", Some("b"), false, &[], &[])
        );
        assert_eq!(
            next("b", 2, Some("a"), &[old.clone(), rev("b", 2, 1, 2)]),
            release("a", Some("b"), false, &[], &[])
        );
        assert_eq!(
            next("b", 2, Some("a"), &[old, rev("b", 2, 2, 2)]),
            release("b", None, true, &[], &[]),
            "and the old one is not scaled down in the same step"
        );
    }

    #[test]
    fn one_previous_revision_is_kept_at_zero_and_older_ones_go() {
        let all = [rev("a", 0, 0, 1), rev("b", 2, 2, 2), rev("c", 2, 2, 3)];
        assert_eq!(next("c", 2, Some("c"), &all), release("c", None, false, &["b"], &["a"]));
        let settled = [rev("b", 0, 0, 2), rev("c", 2, 2, 3)];
        assert_eq!(next("c", 2, Some("c"), &settled), release("c", None, false, &[], &[]));
    }

    #[test]
    fn taking_a_change_back_cancels_at_once() {
        let all = [rev("a", 1, 1, 1), rev("b", 1, 0, 2)];
        assert_eq!(next("a", 1, Some("a"), &all), release("a", None, false, &["b"], &[]));
    }

    #[test]
    fn a_change_during_a_change_drops_the_untested_one() {
        let all = [rev("a", 1, 1, 1), rev("b", 1, 0, 2)];
        assert_eq!(next("c", 1, Some("a"), &all), release("a", Some("c"), false, &[], &["b"]));
    }

    #[test]
    fn going_back_to_a_kept_revision_waits_for_its_pods() {
        let kept = [rev("a", 0, 0, 1), rev("b", 1, 1, 2)];
        assert_eq!(next("a", 1, Some("b"), &kept), release("b", Some("a"), false, &[], &[]));
        let up = [rev("a", 1, 1, 1), rev("b", 1, 1, 2)];
        assert_eq!(next("a", 1, Some("b"), &up), release("a", None, true, &[], &[]));
    }

    #[test]
    fn more_replicas_do_not_make_a_serving_revision_stop_serving() {
        assert_eq!(next("a", 3, Some("a"), &[rev("a", 1, 1, 1)]), release("a", None, false, &[], &[]));
    }

    /// Whatever happens, no step leaves the Service on a revision without ready pods if one with ready pods served,
    /// and none scales down or collects what serves or comes next.
    #[test]
    fn no_state_takes_a_serving_revision_away() {
        let counts = [(0, 0), (1, 0), (1, 1)];
        for index in 0..27 {
            let [a, b, c] = [index / 9, index / 3 % 3, index % 3].map(|i: usize| counts[i]);
            let all = [rev("a", a.0, a.1, 1), rev("b", b.0, b.1, 2), rev("c", c.0, c.1, 3)];
            let step = next("c", 1, Some("b"), &all);
            assert!(step.serving == "b" || c.1 == 1, "{all:?} -> {step:?}");
            for gone in step.scale_down.iter().chain(&step.collect) {
                assert!(*gone != step.serving && *gone != "c" && !(step.moves && gone == "b"), "{step:?}");
            }
        }
    }
}
