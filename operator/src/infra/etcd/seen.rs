//! What is known of the members when a decision is made. Pure.

use super::client::{Peer, Status};
use crate::infra::set;
use crate::names::object;

/// What a member's pod tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has no address yet, or does not answer there, and why.
    Silent(String),
    /// Its container ended, because it holds no data and may not join.
    Empty,
    /// Its container ended for another reason.
    Ended,
    /// It runs, but tells nothing of itself: without a majority nobody can log in.
    Mute { cluster: u64 },
    /// Its status.
    Status(Status),
}

/// One entry of the list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: u64,
    /// The pod it is; absent for a member that is none of ours.
    pub ordinal: Option<u16>,
    pub url: String,
    /// It has run at least once.
    pub started: bool,
    pub learner: bool,
}

/// Whether clients have to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nobody who could tell answers.
    Unknown,
    Off,
    On,
    /// The password of `etcd-cluster` is not that of `root`.
    Refused,
}

/// Everything the next step depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// By ordinal.
    pub answers: Vec<Answer>,
    /// As a majority has it, or else as any member has it; empty when none tells.
    pub list: Vec<Listed>,
    pub auth: Auth,
}

impl Listed {
    /// Finds the pod by the address it is listed with.
    pub fn of(peer: &Peer, urls: &[String]) -> Self {
        let url = peer.urls.first().cloned().unwrap_or_default();
        let position = urls.iter().position(|own| *own == url);
        Self {
            id: peer.id,
            ordinal: position.and_then(|n| u16::try_from(n).ok()),
            url,
            started: !peer.client_urls.is_empty(),
            learner: peer.is_learner,
        }
    }

    /// Its pod's name, or where it is.
    pub fn name(&self) -> String {
        self.ordinal.map_or_else(|| self.url.clone(), |n| set::pod_name(object::ETCD, n))
    }
}

impl Seen {
    pub fn answer(&self, ordinal: u16) -> Option<&Answer> {
        self.answers.get(usize::from(ordinal))
    }

    pub fn listed(&self, ordinal: u16) -> Option<&Listed> {
        self.list.iter().find(|member| member.ordinal == Some(ordinal))
    }

    pub fn voters(&self) -> impl Iterator<Item = &Listed> {
        self.list.iter().filter(|member| !member.learner)
    }

    /// Voters that have to agree.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The member's status, where it answers as the one it is listed as and knows who leads.
    pub fn following(&self, member: &Listed) -> Option<&Status> {
        match self.answer(member.ordinal?)? {
            Answer::Status(status) if status.header.member_id == member.id && status.leader != 0 => {
                Some(status)
            }
            _ => None,
        }
    }

    /// Voters that follow a leader, or lead.
    pub fn healthy(&self) -> usize {
        self.voters().filter(|member| self.following(member).is_some()).count()
    }

    /// A majority follows: reads and writes are served.
    pub fn serves(&self) -> bool {
        !self.list.is_empty() && self.healthy() >= self.majority()
    }

    /// The member ran and its data is gone: what it voted and acknowledged is forgotten.
    pub fn is_lost(&self, member: &Listed) -> bool {
        member.started && member.ordinal.and_then(|n| self.answer(n)) == Some(&Answer::Empty)
    }

    /// The member that was added and has not run yet.
    pub fn newcomer(&self) -> Option<&Listed> {
        self.list.iter().find(|member| !member.started)
    }

    /// The pod that leads.
    pub fn leader(&self) -> Option<u16> {
        let leads = |status: &Status| status.header.member_id == status.leader;
        self.voters().find(|member| self.following(member).is_some_and(leads))?.ordinal
    }

    /// The statuses there are, with the pods they are of.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, &Status)> {
        self.answers.iter().zip(0_u16..).filter_map(|(answer, n)| match answer {
            Answer::Status(status) => Some((n, status)),
            _ => None,
        })
    }
}
