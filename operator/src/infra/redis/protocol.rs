//! Looks at the members of a cluster and performs steps on them.

use std::net::IpAddr;

use futures::future::join_all;

use super::client::{Client, ClientError};
use super::form::Step;
use super::seen::{Answer, Pod};
use super::users::{OPERATOR, REPLICA};
use super::validate::PORT;
use crate::error::chain;

/// Where a pod is.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: Option<IpAddr>,
    /// The machine it is on.
    pub machine: Option<String>,
}

/// The members of a cluster, by ordinal.
pub struct Cluster<'a> {
    pub places: Vec<Place>,
    pub password: &'a str,
}

impl Cluster<'_> {
    /// Asks every member about itself and the others.
    pub async fn look(&self) -> Vec<Pod> {
        join_all(self.places.iter().map(async |place| {
            let Place { address, machine } = place.clone();
            let answer = match self.member(address).await {
                Ok(member) => Answer::Member(Box::new(member)),
                Err(error @ ClientError::Login(_)) => Answer::Refused(chain(&error)),
                Err(error) => Answer::Silent(chain(&error)),
            };
            Pod { address, machine, answer }
        }))
        .await
    }

    async fn member(&self, address: Option<IpAddr>) -> Result<super::seen::Member, ClientError> {
        self.client(address).await?.member().await
    }

    async fn client(&self, address: Option<IpAddr>) -> Result<Client, ClientError> {
        let address = address.ok_or(ClientError::Nowhere)?;
        Client::login((address.to_string(), PORT), Some(OPERATOR), Some(self.password)).await
    }

    async fn tell(&self, pod: u16, call: &[&str]) -> Result<(), ClientError> {
        let address = self.places.get(usize::from(pod)).and_then(|place| place.address);
        self.client(address).await?.tell(call).await
    }

    /// One step on the members; what happened is seen by looking again. Returns false where that takes a while.
    pub async fn perform(&self, step: &Step) -> Result<bool, ClientError> {
        match step {
            Step::Epoch { pod, epoch } => {
                self.tell(*pod, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await?;
            }
            Step::Meet { from, to } => {
                self.tell(*from, &["CLUSTER", "MEET", &to.to_string(), &PORT.to_string()]).await?;
            }
            Step::AddSlots { pod, slots } => {
                let (first, last) = (slots.start().to_string(), slots.end().to_string());
                self.tell(*pod, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
            }
            Step::Open { pod } => self.tell(*pod, &["ACL", "SETUSER", REPLICA, "on"]).await?,
            Step::TakeOver { pod } => {
                self.tell(*pod, &["CLUSTER", "FAILOVER", "FORCE"]).await?;
                return Ok(false);
            }
            Step::Replicate { pod, master } => self.tell(*pod, &["CLUSTER", "REPLICATE", master]).await?,
            Step::Forget { at, id } => self.tell(*at, &["CLUSTER", "FORGET", id]).await?,
            Step::Keep | Step::Settled { .. } | Step::Wait(_) | Step::Stuck { .. } => {}
        }
        Ok(true)
    }

    /// Lets a replica take over from its master: the master lets its clients wait until the replica has all writes.
    pub async fn hand_over(&self, to: u16) -> Result<(), ClientError> {
        self.tell(to, &["CLUSTER", "FAILOVER"]).await
    }
}
