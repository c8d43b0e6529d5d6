//! Only the holder of the lease writes. Losing it ends the process: no half-finished work outlives the lease.

use std::future::Future;
use std::time::Duration;

use k8s_controller::LeaderElection;
use kube::Client;

use crate::controllers::Stop;
use crate::metrics::Metrics;

/// Where the lease is and how long it lasts.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaseArgs {
    /// Namespace of the lease, which is the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "soma-system")]
    pub lease_namespace: String,
    /// Name of the lease.
    #[arg(long, default_value = "soma-operator")]
    pub lease_name: String,
    /// Name of this candidate; unique among all of them.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Another candidate takes over after this many seconds without renewal.
    #[arg(long, default_value_t = 15)]
    pub lease_seconds: u64,
    /// The holder gives up after this many seconds without a successful renewal; less than --lease-seconds.
    #[arg(long, default_value_t = 10)]
    pub renew_seconds: u64,
    /// Seconds between attempts; less than --renew-seconds.
    #[arg(long, default_value_t = 2)]
    pub retry_seconds: u64,
}

/// Times that contradict each other.
#[derive(Debug, thiserror::Error)]
#[error(
    "--retry-seconds ({retry}) must be less than --renew-seconds ({renew}), and that less than --lease-seconds ({lease})"
)]
pub struct InconsistentTimes {
    retry: u64,
    renew: u64,
    lease: u64,
}

impl LeaseArgs {
    /// The election these arguments describe.
    pub fn election(&self, client: Client, identity: &str) -> Result<LeaderElection, InconsistentTimes> {
        let (lease, renew, retry) = (self.lease_seconds, self.renew_seconds, self.retry_seconds);
        if retry == 0 || retry >= renew || renew >= lease {
            return Err(InconsistentTimes { retry, renew, lease });
        }
        Ok(LeaderElection::new(client, &self.lease_namespace, &self.lease_name, identity)
            .with_lease_duration(Duration::from_secs(lease))
            .with_renew_deadline(Duration::from_secs(renew))
            .with_retry_period(Duration::from_secs(retry)))
    }
}

/// How leadership ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process was asked to stop; the lease is released.
    Stopped,
    /// The lease is lost.
    Lost,
}

/// Runs `work` while holding the lease. `work` ends by itself after `stop`.
pub async fn lead(
    election: LeaderElection,
    metrics: &Metrics,
    stop: Stop,
    work: impl Future<Output = ()>,
) -> Ended {
    let working = async {
        metrics.set_leader(true);
        tracing::info!("holds the lease");
        work.await;
    };
    let held = election.with_lease(working);
    tokio::pin!(held);
    let ended = tokio::select! {
        ended = &mut held => ended,
        // Asked to stop while standing by: there is no work to wait for.
        () = standby_stop(metrics, stop) => Some(()),
    };
    metrics.set_leader(false);
    if ended.is_some() { Ended::Stopped } else { Ended::Lost }
}

async fn standby_stop(metrics: &Metrics, stop: Stop) {
    stop.await;
    if metrics.is_leader() {
        std::future::pending::<()>().await;
    }
}
