//! Asking the members, and performing the steps among them. Nothing here knows of Kubernetes.

use futures::future::{join_all, select_ok};

use super::auth;
use super::client::{Client, EtcdError, Members, Peer};
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
        let (Login { auth, token, listed }, views) = futures::join!(self.login(marker), self.views());
        let asked = self
            .places
            .iter()
            .zip(&views)
            .map(|(place, view)| answer(self.http, place, view.as_ref(), &auth, token.as_deref()));
        let answers = join_all(asked).await;
        let own = views.iter().filter_map(|view| Some(&view.as_ref()?.as_ref().ok()?.peers));
        // Without a majority whoever lists the most is the safest: nothing is changed then.
        let peers = listed.or_else(|| own.max_by_key(|peers| peers.len()).cloned()).unwrap_or_default();
        let list = peers.iter().map(|peer| Listed::of(peer, self.urls)).collect();
        (Seen { answers, list, auth }, token)
    }

    async fn views(&self) -> Vec<Option<Result<Members, EtcdError>>> {
        join_all(self.places.iter().map(|place| async move {
            let Place::At { peer, .. } = place else { return None };
            Some(Client { http: self.http, url: peer }.members().await)
        }))
        .await
    }

    /// Logs in wherever it works first: a learner refuses, and a member without a leader cannot.
    async fn login(&self, marker: &Marker) -> Login {
        let attempts: Vec<_> = (0_u16..)
            .take(self.places.len())
            .filter_map(|n| self.client(n))
            .map(|client| Box::pin(login(client, marker)))
            .collect();
        let nobody = Login { auth: Auth::Unknown, token: None, listed: None };
        if attempts.is_empty() {
            return nobody;
        }
        select_ok(attempts).await.map_or(nobody, |(found, _)| found)
    }

    /// One step, which may have been done before. `Ok(false)` when etcd wants it tried again later.
    pub async fn perform(
        &self,
        step: &Step,
        seen: &Seen,
        token: Option<&str>,
        marker: &Marker,
    ) -> Result<bool, EtcdError> {
        let voter = seen.leader().or_else(|| seen.voters().find(|m| seen.following(m).is_some())?.ordinal);
        let etcd = voter.and_then(|n| self.client(n)).ok_or(EtcdError::NoMember)?;
        let done = match step {
            Step::EnableAuth => auth::enable(etcd, marker).await,
            Step::AddLearner(n) => {
                let url = self.urls.get(usize::from(*n)).ok_or(EtcdError::NoMember)?;
                unless(etcd.add_learner(token, url).await, EtcdError::is_there_already)
            }
            Step::Remove(member) => {
                unless(etcd.remove_member(token, *member).await, EtcdError::is_gone_already)
            }
            Step::Promote(member) => {
                unless(etcd.promote(token, *member).await, EtcdError::is_promoted_already)
            }
            Step::Formed | Step::Settled { .. } | Step::Wait(_) | Step::Stuck { .. } => Ok(()),
        };
        match done {
            Err(error) if error.is_too_early() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Defragments one member.
    pub async fn defragment(&self, ordinal: u16, token: Option<&str>) -> Result<(), EtcdError> {
        self.client(ordinal).ok_or(EtcdError::NoMember)?.defragment(token).await
    }
}

/// A failure that means that it was done before is none.
fn unless(done: Result<(), EtcdError>, before: fn(&EtcdError) -> bool) -> Result<(), EtcdError> {
    match done {
        Err(error) if before(&error) => Ok(()),
        other => other,
    }
}

/// What the first member tells that has a leader.
struct Login {
    auth: Auth,
    token: Token,
    /// The members, as a majority has them.
    listed: Option<Vec<Peer>>,
}

async fn login(client: Client<'_>, marker: &Marker) -> Result<Login, EtcdError> {
    let (auth, token) = match client.authenticate(auth::ROOT, &marker.root).await {
        Ok(token) => (Auth::On, Some(token)),
        Err(error) if error.is_without_authentication() => (Auth::Off, None),
        Err(error) if error.is_wrong_password() => {
            return Ok(Login { auth: Auth::Refused, token: None, listed: None });
        }
        Err(error) => return Err(error),
    };
    let listed = Some(client.list(token.as_deref()).await?);
    Ok(Login { auth, token, listed })
}

/// A member that lists the others runs; without a login it tells no more.
async fn answer(
    http: &reqwest::Client,
    place: &Place,
    view: Option<&Result<Members, EtcdError>>,
    auth: &Auth,
    token: Option<&str>,
) -> Answer {
    let (client, cluster) = match (place, view) {
        (Place::Not(answer), _) => return answer.clone(),
        (_, None) => return Answer::Silent("it was not asked".into()),
        (_, Some(Err(error))) => return Answer::Silent(chain(error)),
        (Place::At { client, .. }, Some(Ok(view))) => (Client { http, url: client }, view.cluster),
    };
    if matches!(auth, Auth::Unknown | Auth::Refused) {
        return Answer::Mute { cluster };
    }
    client.status(token).await.map_or(Answer::Mute { cluster }, Answer::Status)
}
