//! Moves a managed etcd step by step to where every member follows.

use kube::api::DeleteParams;

use super::admission;
use super::build;
use super::client::EtcdError;
use super::defragment;
use super::form::{self, Step};
use super::marker::{self, Admission, Marker, Stage};
use super::place;
use super::protocol::{Cluster, Place};
use super::rules::Rules;
use super::seen::{Answer, Auth, Seen};
use super::validate::{self, Managed, Observed};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::{Error, chain};
use crate::events::Note;
use crate::infra::Site;
use crate::infra::component::State;
use crate::infra::set::{self, Applied, Live};
use crate::names::{object, reason};
use crate::pods;

/// Steps of one reconcile: a first install needs fewer.
const MAX_STEPS: usize = 8;
/// Members there may ever be: one beyond those wanted is still known as one of ours.
const MAX_MEMBERS: u16 = 5;

/// What does not change while a reconcile lasts.
struct Run<'a> {
    ctx: &'a Context,
    writer: &'a Writer,
    site: &'a Site<'a>,
    managed: &'a Managed,
    live: &'a Live,
    /// Where members are listed, by ordinal.
    urls: Vec<String>,
    /// Members wanted.
    wanted: u16,
}

/// Returns the state, and the password of the services.
pub async fn run(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    observed: &Observed,
    applied: &mut Applied,
) -> Result<(State, String), Error> {
    let founding: Vec<_> = (0..managed.replicas).map(|n| build::peer_url(site, n)).collect();
    let marker = match &observed.marker {
        Some(marker) => Some(marker.clone()),
        None => marker::begin(writer, site, managed.replicas, &admission::founding(&founding)).await?,
    };
    let Some(mut marker) = marker else { return Ok((damaged(), String::new())) };
    let wanted = managed.replicas.max(marker.founders);
    let urls = (0..wanted.max(MAX_MEMBERS)).map(|n| build::peer_url(site, n)).collect();
    let run = Run { ctx, writer, site, managed, live: &observed.live, urls, wanted };
    let state = Box::pin(run.steps(&mut marker, applied)).await?;
    Ok((state, marker.user))
}

/// There is no volume yet, but a Secret of the marker's name that is none.
fn damaged() -> State {
    State::Stuck {
        reason: "EtcdSecretInvalid",
        message: format!(
            "Secret {0} lacks a key, and there is no volume it could belong to. Delete it with `kubectl delete secret {0}`; a new one is made",
            object::ETCD_CLUSTER
        ),
        serving: false,
    }
}

impl Run<'_> {
    async fn steps(&self, marker: &mut Marker, applied: &mut Applied) -> Result<State, Error> {
        let mut pods = match marker.stage {
            Stage::Forming => marker.founders,
            Stage::Formed => validate::members(self.live, marker.founders),
        };
        let mut state = State::Forming("waiting for the members to settle".into());
        let (mut set, mut placed) = (None, None);
        for _ in 0..MAX_STEPS {
            let cluster = self.cluster(pods);
            let (seen, token) = cluster.look(marker).await;
            self.admit(marker, &seen).await?;
            let listed = seen.list.iter().filter_map(|member| member.ordinal).filter(|n| *n < self.wanted);
            pods = listed.map(|n| n + 1).fold(pods, u16::max);
            if placed != Some(pods) {
                set = self.apply(pods, applied).await?;
                placed = Some(pods);
            }
            let step = form::next(marker.stage, self.wanted, &seen);
            let end = match &step {
                Step::Formed => {
                    self.tell(marker, Stage::Formed, &admission::closed()).await?;
                    None
                }
                Step::Settled { version } => Some(State::Ready { version: version.clone() }),
                Step::Stuck { reason, message } => {
                    Some(State::Stuck { reason, message: message.clone(), serving: serves(&seen) })
                }
                Step::Wait(why) => Some(self.waiting(why.clone(), &seen)),
                step => perform(&cluster, step, &seen, token.as_deref(), marker, applied).await,
            };
            let Some(end) = end else { continue };
            state = end;
            if let Some(set) = &set {
                let rules = Rules { held: held(&state), seen: seen.clone() };
                set::roll(self.writer, self.live, set, &rules, applied).await;
            }
            if applied.waiting.is_none() && may_defragment(&step) {
                tidy(&cluster, &seen, token.as_deref(), applied).await;
            }
            break;
        }
        Ok(state)
    }

    fn cluster(&self, pods: u16) -> Cluster<'_> {
        let places = (0..pods).map(|n| place::of(self.live, n)).collect();
        Cluster { http: &self.ctx.http, places, urls: &self.urls }
    }

    async fn apply(
        &self,
        pods: u16,
        applied: &mut Applied,
    ) -> Result<Option<k8s_openapi::api::apps::v1::StatefulSet>, Error> {
        let objects = build::objects(self.site, self.managed, pods)?;
        let mut plan = Plan::default();
        objects.plan(&mut plan);
        check::sound(&plan)?;
        Ok(Box::pin(set::apply(self.writer, self.live, objects, applied)).await)
    }

    /// Writes who may join, before any pod could need it; an empty pod that waits to be restarted is started anew.
    async fn admit(&self, marker: &mut Marker, seen: &Seen) -> Result<(), Error> {
        let founders = &self.urls[..usize::from(marker.founders).min(self.urls.len())];
        let Some(admission) = admission::next(marker.stage, founders, seen) else { return Ok(()) };
        if marker.tells(&admission) {
            return Ok(());
        }
        self.tell(marker, marker.stage, &admission).await?;
        if let Some(n) = seen.newcomer().and_then(|member| member.ordinal)
            && seen.answer(n) == Some(&Answer::Empty)
            && let Some(pod) = self.live.pods.get(&n)
        {
            self.writer.delete(pod, DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn tell(&self, marker: &mut Marker, stage: Stage, admission: &Admission) -> Result<(), Error> {
        marker::admit(self.writer, self.site, stage, admission).await?;
        marker.stage = stage;
        marker.admission = Some((admission.cluster.clone(), admission.state.to_owned()));
        Ok(())
    }

    /// What a wait means for those who use etcd. A pod that ends because it is empty is no trouble: it is waited for.
    fn waiting(&self, why: String, seen: &Seen) -> State {
        let empty = |n: &u16| matches!(place::of(self.live, *n), Place::Not(Answer::Empty));
        let pods = self.live.pods.iter().filter(|(n, _)| !empty(n)).map(|(_, pod)| pod);
        match (pods::trouble(pods), serves(seen)) {
            (Some(trouble), true) => {
                State::Stuck { reason: trouble.reason, message: trouble.message, serving: true }
            }
            (Some(trouble), false) => State::Broken(trouble),
            (None, true) => State::Repairing(why),
            (None, false) => State::Forming(why),
        }
    }
}

fn serves(seen: &Seen) -> bool {
    seen.auth == Auth::On && seen.serves()
}

/// Why no member may be restarted in this state.
fn held(state: &State) -> Option<String> {
    match state {
        State::Ready { .. } => None,
        State::Starting(why) | State::Forming(why) | State::Repairing(why) | State::Unreachable(why) => {
            Some(why.clone())
        }
        State::Broken(trouble) => Some(trouble.message.clone()),
        State::Stuck { message, .. } => Some(message.clone()),
    }
}

/// `None` to look again at once.
async fn perform(
    cluster: &Cluster<'_>,
    step: &Step,
    seen: &Seen,
    token: Option<&str>,
    marker: &Marker,
    applied: &mut Applied,
) -> Option<State> {
    match cluster.perform(step, seen, token, marker).await {
        Ok(true) => {
            applied.notes.extend(told(step, seen).map(|what| Note::normal(reason::MEMBER_CHANGED, what)));
            None
        }
        Ok(false) => Some(State::Repairing(
            "waiting until the members have been connected and level for a while".into(),
        )),
        Err(error) => Some(failed(&error, serves(seen))),
    }
}

fn failed(error: &EtcdError, serves: bool) -> State {
    if serves { State::Repairing(chain(error)) } else { State::Unreachable(chain(error)) }
}

/// A step in words, where the owner should hear of it.
fn told(step: &Step, seen: &Seen) -> Option<String> {
    let name = |id: &u64| seen.list.iter().find(|member| member.id == *id).map(super::seen::Listed::name);
    match step {
        Step::Remove(id) => Some(format!("{} is removed: its data is lost", name(id)?)),
        Step::AddLearner(n) => Some(format!("{} is added and learns", set::pod_name(object::ETCD, *n))),
        Step::Promote(id) => Some(format!("{} has caught up and votes", name(id)?)),
        _ => None,
    }
}

/// Also when the quota is reached: it is part of the remedy.
fn may_defragment(step: &Step) -> bool {
    matches!(step, Step::Settled { .. } | Step::Stuck { reason: "EtcdNoSpace", .. })
}

/// At most one member per reconcile.
async fn tidy(cluster: &Cluster<'_>, seen: &Seen, token: Option<&str>, applied: &mut Applied) {
    let Some(n) = defragment::next(seen) else { return };
    let pod = set::pod_name(object::ETCD, n);
    applied.notes.push(match cluster.defragment(n, token).await {
        Ok(()) => Note::normal(reason::DEFRAGMENTED, format!("{pod} gave space back to its volume")),
        Err(error) => {
            Note::warning(reason::DEFRAGMENTED, format!("{pod} cannot defragment: {}", chain(&error)))
        }
    });
}
