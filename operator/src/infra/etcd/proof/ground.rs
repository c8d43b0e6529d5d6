//! Real etcd processes in the place of pods: a folder each, started again when they end, told what the marker tells.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Client as Http;
use serde_json::{Value, json};
use soma_testenv::cache::Cache;
use soma_testenv::gobuild::ETCD;
use soma_testenv::{Launch, RunDir, SuperviseError, Supervised, free_port};

use crate::infra::etcd::admission;
use crate::infra::etcd::client::{Client, bytes};
use crate::infra::etcd::form::{self, Step};
use crate::infra::etcd::marker::{Admission, Marker, Stage};
use crate::infra::etcd::place;
use crate::infra::etcd::protocol::{Cluster, Place};
use crate::infra::etcd::seen::{Auth, Seen};

/// Longest time anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// One member's folder and process.
struct Pod {
    folder: PathBuf,
    client: String,
    peer: String,
    process: Option<Supervised>,
}

/// Up to five members, and what the operator would keep about them in a Secret.
pub struct Ground {
    pub http: Http,
    pub marker: Marker,
    /// Pods that run.
    pub size: u16,
    pub quota: u64,
    urls: Vec<String>,
    program: PathBuf,
    pods: Vec<Pod>,
    dir: RunDir,
}

impl Ground {
    /// Nothing runs yet; the cluster is to be formed by this many.
    pub fn new(founders: u16) -> Self {
        // A second call finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = RunDir::new("etcd").unwrap();
        let url = || format!("http://127.0.0.1:{}", free_port().unwrap());
        let pods: Vec<_> = (0..5)
            .map(|n| Pod {
                folder: dir.path().join(format!("data-{n}")),
                client: url(),
                peer: url(),
                process: None,
            })
            .collect();
        let urls: Vec<_> = pods.iter().map(|pod| pod.peer.clone()).collect();
        let Admission { cluster, state } = admission::founding(&urls[..usize::from(founders)]);
        let marker = Marker {
            stage: Stage::Forming,
            founders,
            root: "root-password".into(),
            user: "soma-password".into(),
            admission: Some((cluster, state.into())),
        };
        let program = ETCD.ensure(&Cache::open().unwrap()).unwrap();
        Self { http: Http::new(), marker, size: founders, quota: 2 << 30, urls, program, pods, dir }
    }

    /// Starts every pod that does not run, as a node does with a container that ended.
    pub fn start(&mut self) {
        for n in 0..self.size {
            if self.ended(n).is_none() && self.pods[usize::from(n)].process.is_some() {
                continue;
            }
            let started = self.launch(n, &[]);
            self.pods[usize::from(n)].process = Some(started);
        }
    }

    fn launch(&self, n: u16, more: &[&str]) -> Supervised {
        let Pod { folder, client, peer, .. } = &self.pods[usize::from(n)];
        let (cluster, state) = self.marker.admission.clone().unwrap();
        Launch::new("etcd", &self.program, self.log(n))
            .args([
                format!("--name=etcd-{n}"),
                format!("--data-dir={}", folder.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--quota-backend-bytes={}", self.quota),
            ])
            .args(more.iter().copied())
            .env("ETCD_INITIAL_CLUSTER", cluster)
            .env("ETCD_INITIAL_CLUSTER_STATE", state)
            .env("ETCD_INITIAL_CLUSTER_TOKEN", "token")
            .start()
            .unwrap()
    }

    fn log(&self, n: u16) -> PathBuf {
        self.dir.path().join(format!("{n}.log"))
    }

    /// What a pod said last, when it ended.
    fn ended(&mut self, n: u16) -> Option<String> {
        match self.pods[usize::from(n)].process.as_mut()?.check() {
            Err(SuperviseError::Ended { said, .. }) => {
                Some(said.lines().last().unwrap_or_default().to_owned())
            }
            other => {
                other.unwrap();
                None
            }
        }
    }

    /// The process id of a pod.
    pub fn pid(&self, n: u16) -> Option<u32> {
        self.pods[usize::from(n)].process.as_ref().map(Supervised::pid)
    }

    /// Ends a pod as its deletion does, and waits for it.
    pub fn stop(&mut self, n: u16) {
        if let Some(mut process) = self.pods[usize::from(n)].process.take() {
            let term = std::process::Command::new("kill").arg(process.pid().to_string()).status().unwrap();
            assert!(term.success());
            process.wait().unwrap();
        }
    }

    /// Kills a pod and takes its data away.
    pub fn wipe(&mut self, n: u16) {
        self.pods[usize::from(n)].process = None;
        fs::remove_dir_all(&self.pods[usize::from(n)].folder).unwrap();
    }

    /// Lets a member form a cluster of its own data alone, as an owner does who accepts a loss.
    pub async fn force_new_cluster(&mut self, n: u16) {
        self.stop(n);
        self.pods[usize::from(n)].process = Some(self.launch(n, &["--force-new-cluster"]));
        self.until_alone().await;
        self.stop(n);
        // It starts from what it has kept, and applies again what it had not.
        self.start();
        self.until_alone().await;
    }

    async fn until_alone(&mut self) {
        let began = Instant::now();
        loop {
            let (seen, _) = self.look().await;
            if seen.list.len() == 1 && seen.serves() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{seen:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub fn cluster(&mut self) -> Cluster<'_> {
        let place = |ended: Option<String>, pod: &Pod| match ended {
            Some(said) => Place::Not(place::ended(&said)),
            None => Place::At { client: pod.client.clone(), peer: pod.peer.clone() },
        };
        let ended: Vec<_> = (0..self.size).map(|n| self.ended(n)).collect();
        let places = ended.into_iter().zip(&self.pods).map(|(ended, pod)| place(ended, pod)).collect();
        Cluster { http: &self.http, places, urls: &self.urls }
    }

    pub async fn look(&mut self) -> (Seen, Option<String>) {
        let marker = self.marker.clone();
        self.cluster().look(&marker).await
    }

    /// What the operator does, until it waits for nothing that could still come: the steps it took, and the last.
    pub async fn drive(&mut self, wanted: u16) -> (Vec<Step>, Step) {
        let (mut steps, began) = (Vec::new(), Instant::now());
        loop {
            let (seen, token) = self.look().await;
            let urls = self.urls[..usize::from(self.marker.founders)].to_vec();
            if let Some(Admission { cluster, state }) = admission::next(self.marker.stage, &urls, &seen) {
                self.marker.admission = Some((cluster, state.into()));
            }
            self.size = seen.list.iter().filter_map(|m| m.ordinal).map(|n| n + 1).fold(self.size, u16::max);
            self.start();
            let step = form::next(self.marker.stage, wanted, &seen);
            match &step {
                Step::Settled { .. } | Step::Stuck { .. } => return (steps, step),
                Step::Wait(why) => {
                    assert!(began.elapsed() < PATIENCE, "{why}\n{seen:#?}");
                    tokio::time::sleep(POLL).await;
                }
                Step::Formed => {
                    let Admission { cluster, state } = admission::closed();
                    self.marker.stage = Stage::Formed;
                    self.marker.admission = Some((cluster, state.into()));
                    steps.push(step);
                }
                step => {
                    let marker = self.marker.clone();
                    if self.cluster().perform(step, &seen, token.as_deref(), &marker).await.unwrap() {
                        steps.push(step.clone());
                    } else {
                        tokio::time::sleep(POLL).await;
                    }
                }
            }
        }
    }

    /// Performs one step, as soon as etcd lets it.
    pub async fn perform(&mut self, step: &Step) {
        let (marker, began) = (self.marker.clone(), Instant::now());
        let (seen, token) = self.look().await;
        while !self.cluster().perform(step, &seen, token.as_deref(), &marker).await.unwrap() {
            assert!(began.elapsed() < PATIENCE, "{step:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Forms the cluster and looks that it went step by step.
    pub async fn form(&mut self) {
        self.start();
        let (taken, last) = self.drive(self.size).await;
        assert_eq!(taken, [Step::Formed, Step::EnableAuth]);
        assert!(matches!(last, Step::Settled { .. }), "{last:?}");
    }

    /// One member's gateway.
    pub fn client(&self, n: u16) -> Client<'_> {
        Client { http: &self.http, url: &self.pods[usize::from(n)].client }
    }

    /// Writes as the services do.
    pub async fn put(&self, n: u16, key: &str, value: &str) -> Result<(), String> {
        let token = self.client(n).authenticate("soma", "soma-password").await.map_err(|e| e.to_string())?;
        let body = json!({"key": bytes(key), "value": bytes(value)});
        self.client(n).tell("kv/put", Some(&token), &body, "write").await.map_err(|e| e.to_string())
    }

    /// Reads as the services do, through a majority; the value as the gateway encodes it.
    pub async fn get(&self, n: u16, key: &str) -> Value {
        let token = self.client(n).authenticate("soma", "soma-password").await.unwrap();
        let read: Value =
            self.client(n).call("kv/range", Some(&token), &json!({"key": bytes(key)}), "read").await.unwrap();
        read["kvs"][0]["value"].clone()
    }

    /// Member id of a pod, by the list of members.
    pub async fn id(&mut self, n: u16) -> u64 {
        let (seen, _) = self.look().await;
        assert_eq!(seen.auth, Auth::On);
        seen.listed(n).unwrap().id
    }
}
