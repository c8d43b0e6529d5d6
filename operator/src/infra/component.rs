//! What a component tells about itself, whatever it is.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{Component, Mode};

use super::Site;
use super::backup::Told;
use super::blocked::Blocked;
use super::set::Applied;
use crate::apply::Writer;
use crate::conditions::{Health, Stage};
use crate::error::{Error, chain};
use crate::events::Note;
use crate::names::reason;
use crate::pods::Trouble;
use crate::reconcile::Next;

/// Nothing in the cluster tells when something elsewhere goes away or comes back, so it is asked. The answer is
/// written only when it differs.
const EXTERNAL_PROBE: Duration = Duration::from_mins(1);

/// The same for members the operator runs, of which at least the pods tell something.
const LOOK_AGAIN: Duration = Duration::from_mins(2);

/// Where a component stands, by its own protocol.
#[derive(Debug)]
pub enum State {
    /// It answers and holds what the services need.
    Ready { version: String },
    /// It has still to start.
    Starting(String),
    /// It takes a step of which nothing in the cluster tells.
    Forming(String),
    /// It serves, and takes such a step.
    Repairing(String),
    /// Its pod will not start by itself.
    Broken(Trouble),
    /// It runs, but somebody has to act; perhaps it serves all the same.
    Stuck { reason: &'static str, message: String, serving: bool },
    /// It does not answer, or refuses.
    Unreachable(String),
}

impl State {
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    pub fn serves(&self) -> bool {
        self.is_ready() || matches!(self, Self::Repairing(_) | Self::Stuck { serving: true, .. })
    }
}

/// One component's part of the status.
pub struct Report {
    pub component: Component,
    pub health: Health,
    pub notes: Vec<Note>,
    pub refusal: Option<String>,
    pub next: Next,
    /// Host that the component's short name stands for in other namespaces.
    pub alias: Option<String>,
}

impl Report {
    /// With what there is to say about the backups. They never make a component unavailable; and where it has troubles of
    /// its own, those come first.
    pub fn backed_up(self, told: Option<Told>, refusal: Option<String>) -> Self {
        let mut report = if told.is_some() { self.looked_at_again() } else { self };
        if report.refusal.is_none() {
            report.refusal = refusal;
        }
        let Some(Told { status, warning }) = told else { return report };
        report.component.backup = Some(status);
        report.warned(warning)
    }

    /// With something that is wrong although the component does what it shall.
    pub fn warned(mut self, warning: Option<(&'static str, String)>) -> Self {
        if let Some((reason, message)) = warning
            && self.health.stage == Stage::Ready
        {
            let said = self.component.message.take();
            self.component.message =
                Some([message.clone()].into_iter().chain(said).collect::<Vec<_>>().join(". "));
            self.component.reason = Some(reason.into());
            self.health = Health::degraded(self.health.available, reason, message);
        }
        self
    }

    /// For a component of which nothing in the cluster tells how it is, such as an alarm of etcd.
    pub fn looked_at_again(mut self) -> Self {
        if self.next == Next::Change {
            self.next = Next::After(LOOK_AGAIN);
        }
        self
    }
}

/// What is always the same about a component.
pub struct Identity {
    /// Such as `postgres`.
    pub name: &'static str,
    /// Such as `Postgres`.
    pub title: &'static str,
    /// Reason of a component that does not answer.
    pub unreachable: &'static str,
}

/// What one reconcile of a component came to.
pub struct Findings {
    pub mode: Mode,
    pub host: String,
    pub port: u16,
    pub state: State,
    pub applied: Applied,
    /// Whether the connection Secret is published, now or from before.
    pub published: Result<bool, Error>,
    /// What to know about the component even when all is well.
    pub caveat: Option<String>,
}

/// Writes the connection Secret of a component that answers. While it does not, the one from `before` stays. Whether
/// there is one.
pub async fn publish(
    writer: &Writer,
    state: &State,
    before: Option<&Secret>,
    secret: &Secret,
) -> Result<bool, Error> {
    if state.is_ready() { writer.apply(secret).await.map(|_| true) } else { Ok(before.is_some()) }
}

impl Identity {
    /// Runs the attempt of a component that may be absent. Its error is its own: the others go on.
    pub async fn attempt<A>(
        &self,
        site: &Site<'_>,
        external: bool,
        attempt: impl FnOnce(Mode) -> A,
    ) -> Option<Report>
    where
        A: Future<Output = Result<Option<Report>, Error>>,
    {
        let mode = if external { Mode::External } else { Mode::Managed };
        let attempt = Box::pin(attempt(mode)).await;
        attempt.unwrap_or_else(|error| Some(self.failed(site, mode, &error)))
    }

    /// The report of a component that could be built.
    pub fn report(&self, site: &Site<'_>, findings: Findings) -> Report {
        let Findings { mode, host, port, state, applied, published, caveat } = findings;
        let Applied { notes, waiting, refusal, members, footprint } = applied;
        let refusal = refusal.or_else(|| published.as_ref().err().map(|error| chain(error)));
        let available = matches!(published, Ok(true)) && state.serves();
        let health = self.health(available, &state, waiting.as_deref(), refusal.as_deref());
        let next = match (mode, &state) {
            (_, State::Unreachable(_) | State::Forming(_) | State::Repairing(_)) => Next::Again,
            (Mode::External, _) => Next::After(EXTERNAL_PROBE),
            (Mode::Managed, _) => Next::Change,
        };
        let news = (health.stage != Stage::Ready).then_some(health.message.as_str());
        let parts: Vec<_> = news.into_iter().chain(caveat.as_deref()).collect();
        let version = match state {
            State::Ready { version } => Some(version),
            _ => before(site, self.name).and_then(|c| c.version.clone()),
        };
        let component = Component {
            name: self.name.into(),
            mode,
            ready: available,
            reason: Some(health.reason.into()),
            version,
            endpoint: Some(format!("{host}:{port}")),
            message: (!parts.is_empty()).then(|| parts.join(". ")),
            members,
            footprint,
            backup: None,
        };
        Report { component, health, notes, refusal, next, alias: Some(host) }
    }

    fn health(&self, available: bool, state: &State, waiting: Option<&str>, refusal: Option<&str>) -> Health {
        let title = self.title;
        if let Some(refusal) = refusal {
            let message = format!(
                "the API server refused: {refusal}. It is tried again; lift the quota or policy that refuses it"
            );
            return Health::degraded(available, "ApplyFailed", message);
        }
        match (state, waiting) {
            (State::Ready { .. }, Some(waiting)) => {
                Health::progressing(available, reason::ROLLING_OUT, format!("{title} answers; {waiting}"))
            }
            (State::Ready { version }, None) => Health::ready(format!("{title} {version} answers")),
            (State::Starting(what) | State::Forming(what) | State::Repairing(what), _) => {
                Health::progressing(available, reason::STARTING, what.clone())
            }
            (State::Broken(trouble), _) => {
                Health::degraded(available, trouble.reason, trouble.message.clone())
            }
            (State::Stuck { reason, message, .. }, _) => Health::degraded(available, reason, message.clone()),
            (State::Unreachable(why), _) => Health::degraded(
                available,
                self.unreachable,
                format!(
                    "{title} does not answer: {why}. Check that it runs, that its address, user and password are right, and that network policies let the operator connect"
                ),
            ),
        }
    }

    /// The report of a component that cannot be built: the last good state stays.
    pub fn blocked(&self, site: &Site<'_>, mode: Mode, published: bool, blocked: &Blocked) -> Report {
        self.held(site, mode, Health::degraded(published, blocked.reason(), blocked.to_string()), None)
    }

    /// The report of a component whose surroundings could not be read.
    pub fn failed(&self, site: &Site<'_>, mode: Mode, error: &Error) -> Report {
        let available = before(site, self.name).is_some_and(|c| c.ready);
        let health = Health::degraded(available, error.reason(), chain(error));
        self.held(site, mode, health, Some(chain(error)))
    }

    fn held(&self, site: &Site<'_>, mode: Mode, health: Health, refusal: Option<String>) -> Report {
        let last = before(site, self.name);
        let component = Component {
            name: self.name.into(),
            mode: last.map_or(mode, |c| c.mode),
            ready: health.available,
            reason: Some(health.reason.into()),
            version: last.and_then(|c| c.version.clone()),
            endpoint: last.and_then(|c| c.endpoint.clone()),
            message: Some(health.message.clone()),
            members: last.map(|c| c.members.clone()).unwrap_or_default(),
            footprint: last.and_then(|c| c.footprint.clone()),
            backup: last.and_then(|c| c.backup.clone()),
        };
        Report { component, health, notes: Vec::new(), refusal, next: Next::Change, alias: None }
    }
}

/// What the status said about a component before.
fn before<'a>(site: &'a Site<'_>, name: &str) -> Option<&'a Component> {
    site.infra.status.as_ref()?.components.iter().find(|c| c.name == name)
}
