//! Asking the members, and performing the steps among them. Nothing here knows of Kubernetes.

use futures::future::{join_all, select_ok};

use super::auth;
use super::client::{Client, EtcdError, Members};
use super::form::Step;
use super::marker::Marker;
use super::seen::{Answer, Auth, Listed, Seen};
use crate::error::chain;

/// What is known of a pod before it is asked.
#[derive(Clone, Debug)]
pub enum Place {
    /// Base URLs.
    At { client: String, peer: String },
    /// It cannot be asked.
    Not(Answer),
}

/// The pods, and under which addresses their members are listed, both by ordinal.
pub struct Cluster<'a> {
    pub http: &'a reqwest::Client,
    pub places: Vec<Place>,
    pub urls: &'a [String],
}

/// Proof of who the operator is; none while nobody has to log in.
type Token = Option<String>;

impl Cluster<'_> {
    fn client(&self, ordinal: u16) -> Option<Client<'_>> {
        match self.places.get(usize::from(ordinal))? {
            Place::At { client, .. } => Some(Client { http: self.http, url: client }),
            Place::Not(_) => None,
        }
    }

    /// Asks every member about itself. What is answered here decides the next step.
    pub async fn look(&self, marker: &Marker) -> (Seen, Token) {
        let ((auth, token), views) = futures::join!(self.login(marker), self.views());
        let asked =
            self.places.iter().zip(views).map(|(place, view)| answer(self.http, place, view, &auth, &token));
        let asked = join_all(asked).await;
        let index = |(answer, _): &(Answer, Option<Members>)| match answer {
            Answer::Status(status) => status.raft_applied_index,
            _ => 0,
        };
        // The member with the newest log knows of changes the others have not heard of.
        let newest = asked.iter().filter(|(_, view)| view.is_some()).max_by_key(|asked| index(asked));
        let peers = newest.and_then(|(_, view)| view.as_ref()).map(|view| view.peers.as_slice());
        let list = peers.unwrap_or_default().iter().map(|peer| Listed::of(peer, self.urls)).collect();
        (Seen { list, auth, answers: asked.into_iter().map(|(answer, _)| answer).collect() }, token)
    }

    async fn views(&self) -> Vec<Option<Result<Members, EtcdError>>> {
        join_all(self.places.iter().map(|place| async move {
            let Place::At { peer, .. } = place else { return None };
            Some(Client { http: self.http, url: peer }.members().await)
        }))
        .await
    }

    /// Logs in wherever it works first: a learner refuses, and a member without a leader cannot.
    async fn login(&self, marker: &Marker) -> (Auth, Token) {
        let attempts: Vec<_> = (0_u16..)
            .take(self.places.len())
            .filter_map(|n| self.client(n))
            .map(|client| Box::pin(login(client, marker)))
            .collect();
        if attempts.is_empty() {
            return (Auth::Unknown, None);
        }
        select_ok(attempts).await.map_or((Auth::Unknown, None), |(found, _)| found)
    }

    /// One step. `Ok(false)` when etcd wants it tried again later.
    pub async fn perform(
        &self,
        step: &Step,
        seen: &Seen,
        token: Option<&str>,
        marker: &Marker,
    ) -> Result<bool, EtcdError> {
        let voter = seen.leader().or_else(|| seen.voters().find(|m| seen.following(m).is_some())?.ordinal);
        let etcd = voter.and_then(|n| self.client(n)).ok_or(EtcdError::NoMember)?;
        match step {
            Step::EnableAuth => auth::enable(etcd, marker).await?,
            Step::AddLearner(n) => {
                let url = self.urls.get(usize::from(*n)).ok_or(EtcdError::NoMember)?;
                match etcd.add_learner(token, url).await {
                    Err(error) if error.is_there_already() => {}
                    other => other?,
                }
            }
            Step::Remove(member) => match etcd.remove_member(token, *member).await {
                Err(error) if error.is_gone_already() => {}
                other => other?,
            },
            Step::Promote(member) => match etcd.promote(token, *member).await {
                Err(error) if error.is_not_level_yet() => return Ok(false),
                other => other?,
            },
            Step::Formed | Step::Settled { .. } | Step::Wait(_) | Step::Stuck { .. } => {}
        }
        Ok(true)
    }

    /// Defragments one member.
    pub async fn defragment(&self, ordinal: u16, token: Option<&str>) -> Result<(), EtcdError> {
        self.client(ordinal).ok_or(EtcdError::NoMember)?.defragment(token).await
    }
}

async fn login(client: Client<'_>, marker: &Marker) -> Result<(Auth, Token), EtcdError> {
    match client.authenticate(auth::ROOT, &marker.root).await {
        Ok(token) => Ok((Auth::On, Some(token))),
        Err(error) if error.is_without_authentication() => Ok((Auth::Off, None)),
        Err(error) if error.is_wrong_password() => Ok((Auth::Refused, None)),
        Err(error) => Err(error),
    }
}

/// A member that lists the others runs; without a login it tells no more.
async fn answer(
    http: &reqwest::Client,
    place: &Place,
    view: Option<Result<Members, EtcdError>>,
    auth: &Auth,
    token: &Token,
) -> (Answer, Option<Members>) {
    let (client, view) = match (place, view) {
        (Place::Not(answer), _) => return (answer.clone(), None),
        (_, None) => return (Answer::Silent("it was not asked".into()), None),
        (_, Some(Err(error))) => return (Answer::Silent(chain(&error)), None),
        (Place::At { client, .. }, Some(Ok(view))) => (Client { http, url: client }, view),
    };
    let mute = Answer::Mute { cluster: view.cluster };
    if matches!(auth, Auth::Unknown | Auth::Refused) {
        return (mute, Some(view));
    }
    match client.status(token.as_deref()).await {
        Ok(status) => (Answer::Status(status), Some(view)),
        Err(_) => (mute, Some(view)),
    }
}
