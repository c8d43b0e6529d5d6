//! From what is known about the members and the keys to the next step. Pure.

use soma_crds::Unseal;

use super::keys::Keys;
use crate::infra::set;
use crate::names::object;

/// What a member answered about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// It has no address yet, or does not answer there, and why.
    Silent(String),
    /// It has neither been initialised nor joined the others.
    Empty,
    Sealed,
    Open {
        leads: bool,
        /// It knows who leads.
        has_leader: bool,
        version: String,
    },
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Initialise Vault through this member.
    Initialise(u16),
    /// Open these members.
    Unseal(Vec<u16>),
    /// Every member is open; the root token is still there.
    Configure,
    /// Every member is open and one leads.
    Settled { version: String },
    /// Something has yet to start.
    Wait(String),
    /// Somebody has to act.
    Stuck { reason: &'static str, message: String },
}

/// One step at a time; a second initialisation is never among them.
pub fn next(unseal: Unseal, keys: &Keys, members: &[Member]) -> Step {
    let numbered = || members.iter().zip(0_u16..);
    let silent = numbered().find_map(|(m, n)| match m {
        Member::Silent(why) => Some(format!("waiting for {}: {why}", set::pod_name(object::VAULT, n))),
        _ => None,
    });
    let initialised = members.iter().any(|m| matches!(m, Member::Sealed | Member::Open { .. }));
    if !initialised {
        // A member that does not answer may know more than those that do.
        return silent.map_or_else(|| found(unseal, keys), Step::Wait);
    }
    let sealed: Vec<u16> = numbered().filter(|(m, _)| **m == Member::Sealed).map(|(_, n)| n).collect();
    if !sealed.is_empty() {
        return open(unseal, keys, sealed);
    }
    if let Some(waiting) = silent {
        return Step::Wait(waiting);
    }
    let version = members.iter().find_map(|m| match m {
        Member::Open { leads: true, version, .. } => Some(version.clone()),
        _ => None,
    });
    if let Some((_, n)) = numbered().find(|(m, _)| **m == Member::Empty) {
        let name = set::pod_name(object::VAULT, n);
        return Step::Wait(format!("waiting for {name} to join the other members"));
    }
    match (version, keys) {
        (None, _) => Step::Wait("waiting for the members to elect a leader".into()),
        (Some(_), Keys::Formed { root: Some(_), .. }) => Step::Configure,
        (Some(_), Keys::Absent | Keys::Forming | Keys::Damaged) if unseal == Unseal::KubernetesSecret => {
            keys_missing(keys)
        }
        (Some(version), _) => Step::Settled { version },
    }
}

/// No member has ever been initialised.
fn found(unseal: Unseal, keys: &Keys) -> Step {
    match (unseal, keys) {
        (_, Keys::Formed { .. } | Keys::Damaged) => Step::Stuck {
            reason: "VaultDataLost",
            message: format!(
                "every volume is empty, but Secret {} says that Vault was initialised before. Restore the volumes from a snapshot, or, to begin with an empty Vault, delete the Secret",
                object::VAULT_UNSEAL
            ),
        },
        (Unseal::Manual, _) => Step::Stuck {
            reason: "NotInitialised",
            message: "Vault waits to be initialised, as spec.vault.managed.unseal Manual says; run `kubectl exec vault-0 -- vault operator init` and keep what it prints".into(),
        },
        (Unseal::KubernetesSecret, Keys::Absent | Keys::Forming) => Step::Initialise(0),
    }
}

fn open(unseal: Unseal, keys: &Keys, sealed: Vec<u16>) -> Step {
    let names: Vec<_> = sealed.iter().map(|n| set::pod_name(object::VAULT, *n)).collect();
    match (unseal, keys) {
        (Unseal::Manual, _) => Step::Stuck {
            reason: "Sealed",
            message: format!(
                "sealed, as spec.vault.managed.unseal Manual says: {}. Run `kubectl exec POD -- vault operator unseal` on each",
                names.join(", ")
            ),
        },
        (Unseal::KubernetesSecret, Keys::Formed { .. }) => Step::Unseal(sealed),
        (Unseal::KubernetesSecret, Keys::Absent | Keys::Forming | Keys::Damaged) => keys_missing(keys),
    }
}

fn keys_missing(keys: &Keys) -> Step {
    let secret = object::VAULT_UNSEAL;
    match keys {
        Keys::Forming => Step::Stuck {
            reason: "InitKeysLost",
            message: format!(
                "Vault was initialised, but the operator ended before it could keep the answer in Secret {secret}, so nobody can open it and it holds nothing. To begin anew with empty volumes, run `kubectl annotate somainfra NAME {}=NAME` with the name of this SomaInfra",
                crate::names::WIPE_VAULT
            ),
        },
        _ => Step::Stuck {
            reason: "UnsealKeysMissing",
            message: format!(
                "Secret {secret} with the key is gone or lacks it: members that are open keep working, one that restarts stays sealed. Restore the Secret from a backup before any pod restarts"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_member(leads: bool) -> Member {
        Member::Open { leads, has_leader: true, version: "1.21.4".into() }
    }

    fn formed(root: Option<&str>) -> Keys {
        Keys::Formed { key: "k".into(), root: root.map(Into::into) }
    }

    fn stuck(step: &Step) -> &'static str {
        match step {
            Step::Stuck { reason, message } => {
                assert!(message.contains("kubectl") || message.contains("estore"), "no remedy: {message}");
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_install_goes_through_every_step_once() {
        use Member::{Empty, Sealed};
        let secret = Unseal::KubernetesSecret;
        let silent = Member::Silent("no address".into());
        assert!(matches!(next(secret, &Keys::Absent, &[Empty, silent]), Step::Wait(_)), "it may know more");
        assert_eq!(next(secret, &Keys::Absent, &[Empty, Empty, Empty]), Step::Initialise(0));
        assert_eq!(next(secret, &Keys::Forming, &[Empty]), Step::Initialise(0), "ended before the call");
        assert_eq!(next(secret, &formed(Some("r")), &[Sealed, Empty, Empty]), Step::Unseal(vec![0]));
        assert!(matches!(next(secret, &formed(Some("r")), &[open_member(true), Empty]), Step::Wait(_)));
        let joined = [open_member(true), Sealed, Sealed];
        assert_eq!(next(secret, &formed(Some("r")), &joined), Step::Unseal(vec![1, 2]));
        let all = [open_member(true), open_member(false)];
        assert_eq!(next(secret, &formed(Some("r")), &all), Step::Configure);
        assert_eq!(next(secret, &formed(None), &all), Step::Settled { version: "1.21.4".into() });
        assert!(matches!(next(secret, &formed(None), &[open_member(false)]), Step::Wait(_)), "no leader");
    }

    #[test]
    fn vault_is_never_initialised_a_second_time() {
        use Member::{Empty, Sealed};
        let secret = Unseal::KubernetesSecret;
        assert_eq!(stuck(&next(secret, &formed(None), &[Empty, Empty])), "VaultDataLost");
        assert_eq!(stuck(&next(secret, &Keys::Forming, &[Sealed])), "InitKeysLost", "crash in between");
        assert_eq!(stuck(&next(secret, &Keys::Damaged, &[Sealed])), "UnsealKeysMissing");
        assert_eq!(stuck(&next(secret, &Keys::Damaged, &[Empty])), "VaultDataLost");
        assert_eq!(stuck(&next(secret, &Keys::Absent, &[Sealed, Empty])), "UnsealKeysMissing");
        assert_eq!(stuck(&next(secret, &Keys::Absent, &[open_member(true)])), "UnsealKeysMissing");
        assert_eq!(stuck(&next(Unseal::Manual, &Keys::Absent, &[Empty])), "NotInitialised");
        assert_eq!(stuck(&next(Unseal::Manual, &Keys::Absent, &[Sealed])), "Sealed");
        assert!(matches!(next(Unseal::Manual, &Keys::Absent, &[open_member(true)]), Step::Settled { .. }));
    }
}
