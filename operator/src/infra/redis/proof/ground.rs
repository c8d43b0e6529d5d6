//! Real Redis processes in the place of pods: each with an address and a folder of its own, started as a pod starts them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use soma_crds::RedisMode;
use soma_testenv::{Launch, RunDir, Supervised};

use crate::infra::redis::build;
use crate::infra::redis::client::{Client, ClientError};
use crate::infra::redis::form::{self, Step};
use crate::infra::redis::protocol::{Cluster, Place};
use crate::infra::redis::seen::{Answer, Member, Pod};
use crate::infra::redis::users::{OPERATOR, SERVICES, Stage};
use crate::infra::redis::validate::{Observed, PORT, Redis, validate};
use crate::infra::{Site, fixture};

/// Longest time anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Grounds of this process: each has addresses of its own.
static GROUNDS: AtomicU8 = AtomicU8::new(0);

/// The pods, and what the operator would keep about them in a Secret.
pub struct Ground {
    pub stage: Stage,
    /// Performs every step twice, as an operator does that ended after the first.
    pub twice: bool,
    mode: RedisMode,
    settings: String,
    /// Addresses that were used.
    used: u8,
    number: u8,
    pods: Vec<(IpAddr, Option<Supervised>)>,
    dir: RunDir,
}

impl Ground {
    /// Empty members that know nobody.
    pub fn new(mode: RedisMode) -> Self {
        let infra = fixture::infra(json!({"redis": {"managed": {"mode": mode}}}));
        let validated = validate(&Site::new(&infra), &Observed::default()).unwrap();
        let Redis::Managed(managed) = validated else { panic!() };
        let mut ground = Self {
            stage: Stage::Forming,
            twice: false,
            mode,
            settings: build::settings(&managed),
            used: 0,
            number: GROUNDS.fetch_add(1, Ordering::Relaxed),
            pods: (0..managed.replicas()).map(|_| (Ipv4Addr::LOCALHOST.into(), None)).collect(),
            dir: RunDir::new("redis").unwrap(),
        };
        (0..managed.replicas()).for_each(|n| ground.start(n));
        ground
    }

    /// Six members that are a cluster.
    pub async fn formed() -> Self {
        let mut ground = Self::new(RedisMode::Cluster);
        let (_, last) = ground.drive().await;
        settled(&last);
        ground
    }

    fn data(&self, n: u16) -> PathBuf {
        self.dir.path().join(format!("data-{n}"))
    }

    /// Starts a pod on its volume, at an address that it never had.
    pub fn start(&mut self, n: u16) {
        self.used += 1;
        let [.., a, b] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + (a ^ self.number.rotate_right(3)) % 254, b, self.used);
        self.start_at(n, address.into());
    }

    /// Starts a pod on its volume where it was before.
    pub fn start_again(&mut self, n: u16) {
        self.start_at(n, self.pods[usize::from(n)].0);
    }

    fn start_at(&mut self, n: u16, address: IpAddr) {
        let (data, run) = (self.data(n), self.dir.path().join(format!("run-{n}")));
        for folder in [&data, &run] {
            fs::create_dir_all(folder).unwrap();
        }
        let config = run.join("given.conf");
        let faster = if self.mode == RedisMode::Cluster { "cluster-node-timeout 1500\n" } else { "" };
        fs::write(&config, format!("{}bind {address}\n{faster}", self.settings)).unwrap();
        let mut launch = Launch::new("redis", "/bin/sh", self.dir.path().join(format!("{n}.log")))
            .args(["-c", build::START])
            .env("POD_IP", address.to_string())
            .env("CONFIG", config)
            .env("DATA", data)
            .env("RUN", run)
            .env("REDISCLI_AUTH", "operator-password")
            .env("SOMA_PASSWORD", "soma-password");
        if self.mode == RedisMode::Cluster {
            launch = launch.env("ANNOUNCE", format!("redis-{n}.test"));
        }
        let process = launch.start().unwrap();
        self.pods[usize::from(n)] = (address, Some(process));
    }

    /// Kills a pod with SIGKILL.
    pub fn kill(&mut self, n: u16) {
        self.pods[usize::from(n)].1 = None;
    }

    /// Kills a pod and takes its volume away.
    pub fn wipe(&mut self, n: u16) {
        self.kill(n);
        fs::remove_dir_all(self.data(n)).unwrap();
    }

    /// Ends a pod as its deletion does, and waits for it.
    pub fn stop(&mut self, n: u16) {
        let mut process = self.pods[usize::from(n)].1.take().unwrap();
        let pid = process.pid().to_string();
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
        process.wait().unwrap();
    }

    pub fn cluster(&self) -> Cluster<'static> {
        let place = |(address, process): &(IpAddr, Option<Supervised>)| Place {
            address: process.as_ref().map(|_| *address),
            machine: None,
        };
        Cluster { places: self.pods.iter().map(place).collect(), password: "operator-password" }
    }

    /// What the operator does, until nothing is left that could still come: the steps it took, and the last.
    pub async fn drive(&mut self) -> (Vec<Step>, Step) {
        let (mut steps, began) = (Vec::new(), Instant::now());
        loop {
            let pods = self.cluster().look().await;
            let step = form::next(self.stage, &pods);
            assert!(began.elapsed() < PATIENCE, "{step:?} after {steps:#?} with {pods:#?}");
            match &step {
                Step::Settled { .. } | Step::Stuck { .. } => return (steps, step),
                Step::Wait(_) => tokio::time::sleep(POLL).await,
                Step::Keep => {
                    self.stage = Stage::Formed;
                    steps.push(step);
                }
                step => {
                    let done = self.cluster().perform(step).await;
                    if self.twice {
                        // What was done before may be refused.
                        let _ = self.cluster().perform(step).await;
                    }
                    match done {
                        Ok(true) => {}
                        Ok(false) => tokio::time::sleep(POLL).await,
                        // The others elected it in between.
                        Err(ClientError::Refused { .. }) if matches!(step, Step::TakeOver { .. }) => {}
                        Err(error) => panic!("{step:?}: {}", crate::error::chain(&error)),
                    }
                    steps.push(step.clone());
                }
            }
        }
    }

    /// Waits until what the members say is so.
    pub async fn until(&self, what: &str, so: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        let began = Instant::now();
        loop {
            let pods = self.cluster().look().await;
            if so(&pods) {
                return pods;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {pods:#?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until something is so.
    pub async fn patiently(&self, what: &str, so: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !so(self).await {
            assert!(began.elapsed() < PATIENCE, "{what}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The members that answer, by ordinal.
    pub async fn members(&self) -> BTreeMap<u16, Member> {
        let pods = self.cluster().look().await;
        pods.iter().zip(0..).filter_map(|(pod, n)| Some((n, member(pod)?.clone()))).collect()
    }

    /// A member's connection as a service has it.
    pub async fn service(&self, n: u16) -> Result<Client, ClientError> {
        Client::login(self.address(n), Some(SERVICES), Some("soma-password")).await
    }

    /// A member's connection as the operator has it.
    pub async fn operator(&self, n: u16) -> Client {
        Client::login(self.address(n), Some(OPERATOR), Some("operator-password")).await.unwrap()
    }

    /// Whether a probe succeeds in a pod.
    pub fn probe(&self, n: u16, script: &str, password: &str) -> bool {
        let script = script.replace("redis-cli", &format!("redis-cli -h {}", self.address(n).0));
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &script]).env("REDISCLI_AUTH", password).status().unwrap().success()
    }

    /// Where a member is.
    pub fn address(&self, n: u16) -> (String, u16) {
        (self.pods[usize::from(n)].0.to_string(), PORT)
    }

    /// The connection to the master a key belongs to, as a client of clusters finds it.
    async fn owner(&self, key: &str) -> Option<Client> {
        let members = self.members().await;
        let mut any = self.service(*members.keys().next()?).await.ok()?;
        let slot: u16 = any.ask(&["CLUSTER", "KEYSLOT", key]).await.ok()?;
        let owner = members.iter().find(|(_, m)| m.me.slots.iter().any(|slots| slots.contains(&slot)));
        self.service(*owner?.0).await.ok()
    }

    /// Writes, trying again as services do, until the replica has it, too.
    pub async fn put(&self, key: &str) {
        let began = Instant::now();
        loop {
            if let Some(mut owner) = self.owner(key).await
                && owner.tell(&["SET", key, key]).await.is_ok()
                && owner.ask::<u64>(&["WAIT", "1", "2000"]).await.is_ok_and(|replicas| replicas > 0)
            {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{key} cannot be written");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes this many keys, all over the slots.
    pub async fn fill(&self, keys: u32) {
        for n in 0..keys {
            self.put(&format!("key-{n}")).await;
        }
        // What was written is in the files: a process that is killed loses what it holds back.
        for n in self.members().await.into_keys() {
            self.patiently("it is written", async |ground| {
                let info: String =
                    ground.service(n).await.unwrap().ask(&["INFO", "persistence"]).await.unwrap();
                info.contains("aof_buffer_length:0\r")
            })
            .await;
        }
    }

    /// Of the keys that were written, those that are not there.
    pub async fn missing(&self, keys: u32) -> Vec<String> {
        let mut missing = Vec::new();
        for key in (0..keys).map(|n| format!("key-{n}")) {
            let found: Option<String> = match self.owner(&key).await {
                Some(mut owner) => owner.ask(&["GET", &key]).await.unwrap(),
                None => None,
            };
            if found.as_ref() != Some(&key) {
                missing.push(key);
            }
        }
        missing
    }
}

/// The member in a pod that answers.
pub fn member(pod: &Pod) -> Option<&Member> {
    match &pod.answer {
        Answer::Member(member) => Some(member),
        _ => None,
    }
}

#[track_caller]
pub fn settled(step: &Step) {
    assert!(matches!(step, Step::Settled { .. }), "{step:?}");
}
