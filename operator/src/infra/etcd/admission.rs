//! Who may join: what a member whose folder is empty is told when it starts. Pure.
//!
//! Every pod is told the same, so that no pod's template depends on it. A pod finds itself by its name, and only a pod
//! that may join is listed by its name; others are listed by their ids. Any other empty pod ends at once ("couldn't
//! find local name"): it can neither form a second cluster nor come back as the member whose data it lost.

use super::marker::{Admission, Stage};
use super::seen::Seen;
use crate::infra::set;
use crate::names::object;

/// Nobody may join. No pod has this name.
const CLOSED: &str = "nobody=http://127.0.0.1:2380";

/// For the members of these addresses, by ordinal, to form the cluster.
pub fn founding(urls: &[String]) -> Admission {
    let named = urls.iter().zip(0_u16..).map(|(url, n)| format!("{}={url}", set::pod_name(object::ETCD, n)));
    Admission { cluster: named.collect::<Vec<_>>().join(","), state: "new" }
}

/// What is to be told now; `None` leaves what is told, because nobody knows who the members are.
pub fn next(stage: Stage, founders: &[String], seen: &Seen) -> Option<Admission> {
    if stage == Stage::Forming {
        return Some(founding(founders));
    }
    if seen.list.is_empty() {
        return None;
    }
    let Some(newcomer) = seen.newcomer().filter(|member| member.ordinal.is_some()) else {
        return Some(closed());
    };
    let named = seen.list.iter().map(|member| {
        let name = if member.id == newcomer.id { member.name() } else { format!("{:x}", member.id) };
        format!("{name}={}", member.url)
    });
    Some(Admission { cluster: named.collect::<Vec<_>>().join(","), state: "existing" })
}

/// Nobody may join.
pub fn closed() -> Admission {
    Admission { cluster: CLOSED.into(), state: "existing" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::etcd::seen::{Auth, Listed};

    fn member(n: u16, started: bool) -> Listed {
        Listed {
            id: 0xa0 + u64::from(n),
            ordinal: Some(n),
            url: format!("http://{n}"),
            started,
            learner: !started,
        }
    }

    fn told(stage: Stage, list: Vec<Listed>) -> Option<(String, &'static str)> {
        let founders = ["http://0".to_owned(), "http://1".to_owned()];
        let seen = Seen { answers: Vec::new(), list, auth: Auth::Unknown };
        next(stage, &founders, &seen).map(|a| (a.cluster, a.state))
    }

    #[test]
    fn only_founders_form_and_only_the_newcomer_is_named() {
        let founders = "etcd-0=http://0,etcd-1=http://1".to_owned();
        assert_eq!(told(Stage::Forming, Vec::new()), Some((founders, "new")));
        assert_eq!(told(Stage::Formed, Vec::new()), None, "it stays as it is");
        let closed = Some((CLOSED.to_owned(), "existing"));
        assert_eq!(told(Stage::Formed, vec![member(0, true), member(1, true)]), closed);
        let admitted = "a0=http://0,etcd-1=http://1".to_owned();
        let list = vec![member(0, true), member(1, false)];
        assert_eq!(told(Stage::Formed, list), Some((admitted, "existing")));
        let foreign = Listed { ordinal: None, ..member(1, false) };
        assert_eq!(told(Stage::Formed, vec![member(0, true), foreign]), closed);
    }
}
