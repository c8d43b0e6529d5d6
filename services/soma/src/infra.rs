//! `soma infra status`: one screen per SomaInfra, once or live.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use comfy_table::Table;
use futures::TryStreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use soma_crds::{Component, Cost, Footprint, Mode, SomaInfra, condition};

/// Look at the infrastructure of a cluster.
#[derive(Args, Debug)]
pub struct Infra {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show every component with its members, what they are, and what they wait for.
    Status(Status),
}

#[derive(Args, Debug)]
struct Status {
    /// Only SomaInfras of this namespace; all namespaces when not given.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Show every change until interrupted.
    #[arg(short, long)]
    watch: bool,
}

impl Infra {
    pub async fn run(self) -> Result<()> {
        let Command::Status(status) = self.command;
        let client = Client::try_default().await.context(
            "no cluster is known; set KUBECONFIG to the file that says where it is (`make up` prints it)",
        )?;
        let api: Api<SomaInfra> = match &status.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let place = status.namespace.map_or_else(String::new, |name| format!(" in namespace {name}"));
        if status.watch { watch(api).await } else { once(api, &place).await }
    }
}

async fn once(api: Api<SomaInfra>, place: &str) -> Result<()> {
    let all = api.list(&kube::api::ListParams::default()).await.context("cannot list SomaInfras")?;
    ensure!(
        !all.items.is_empty(),
        "there is no SomaInfra{place}; `kubectl apply -f examples/infra-dev.yaml` makes one"
    );
    let screens: Vec<_> = all.items.iter().map(screen).collect();
    println!("{}", screens.join("\n\n"));
    Ok(())
}

async fn watch(api: Api<SomaInfra>) -> Result<()> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut events = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.try_next().await.context("cannot watch SomaInfras")? {
        match event {
            watcher::Event::Apply(infra) | watcher::Event::InitApply(infra) => {
                known.insert(title(&infra), screen(&infra));
            }
            watcher::Event::Delete(infra) => {
                known.remove(&title(&infra));
            }
            watcher::Event::Init => {
                known.clear();
                continue;
            }
            watcher::Event::InitDone => {}
        }
        let text = known.values().cloned().collect::<Vec<_>>().join("\n\n");
        let mut out = std::io::stdout().lock();
        // Home, then clear what is left: the screen does not flicker.
        let clear = if out.is_terminal() { "\x1b[H\x1b[J" } else { "" };
        writeln!(out, "{clear}{text}")?;
    }
    Ok(())
}

fn title(infra: &SomaInfra) -> String {
    format!("{}/{}", infra.namespace().unwrap_or_default(), infra.name_any())
}

/// All there is to see of one SomaInfra.
fn screen(infra: &SomaInfra) -> String {
    let Some(status) = &infra.status else {
        return format!("{}: the operator has not looked at it yet", title(infra));
    };
    let ready = status.condition(condition::READY);
    let reason = ready.map_or("Unknown", |condition| condition.reason.as_str());
    let seen = status.observed_generation == infra.metadata.generation;
    let older = if seen { "" } else { " (of an older manifest)" };
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["COMPONENT", "STATE", "MODE", "VERSION", "READY", "ROLE", "MESSAGE"]);
    for component in &status.components {
        component_rows(&mut table, component);
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    let cost = status.footprint.as_ref().map_or_else(String::new, cost);
    format!("{}: {reason}{older}\n{}{cost}", title(infra), lines.join("\n"))
}

fn cost(footprint: &Footprint) -> String {
    let text = |cost: &Cost| {
        let Cost { pods, cpu, memory, storage } = cost;
        format!("{pods} pods, cpu {cpu}, memory {memory}, storage {storage}")
    };
    let planned = if footprint.planned == footprint.now {
        String::new()
    } else {
        format!("; planned: {}", text(&footprint.planned))
    };
    format!("\nasks for {}{planned}", text(&footprint.now))
}

fn component_rows(table: &mut Table, component: &Component) {
    let ready = component.members.iter().filter(|member| member.ready).count();
    let count = match (component.mode, component.members.len()) {
        (Mode::External, _) | (_, 0) => yes(component.ready),
        (Mode::Managed, all) => format!("{ready}/{all}"),
    };
    let mode = match component.mode {
        Mode::Managed => "managed",
        Mode::External => "external",
    };
    table.add_row([
        component.name.clone(),
        component.reason.clone().unwrap_or_default(),
        mode.to_owned(),
        component.version.clone().unwrap_or_default(),
        count,
        String::new(),
        component.message.clone().unwrap_or_default(),
    ]);
    for member in &component.members {
        let (role, why) =
            (member.role.clone().unwrap_or_default(), member.message.clone().unwrap_or_default());
        let name = format!("  {}", member.name);
        table.add_row([name, String::new(), String::new(), String::new(), yes(member.ready), role, why]);
    }
}

fn yes(ready: bool) -> String {
    if ready { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_screen_names_every_member_and_what_is_waited_for() {
        let infra: SomaInfra = serde_json::from_value(json!({
            "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaInfra",
            "metadata": {"name": "shared", "namespace": "soma-infra", "generation": 2}, "spec": {},
            "status": {
                "observedGeneration": 1,
                "conditions": [{"type": "Ready", "status": "False", "reason": "Starting", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "components": [{
                    "name": "kafka", "mode": "managed", "ready": true, "reason": "RollingOut", "version": "4.1.2",
                    "message": "Kafka answers; pod kafka-2 is being replaced",
                    "members": [
                        {"name": "kafka-0", "ready": true, "role": "active controller"},
                        {"name": "kafka-1", "ready": false, "message": "ending"},
                    ],
                }],
                "footprint": {
                    "now": {"pods": 2, "cpu": "1", "memory": "4Gi", "storage": "40Gi"},
                    "planned": {"pods": 3, "cpu": "1500m", "memory": "6Gi", "storage": "60Gi"},
                },
            },
        }))
        .unwrap();
        let shown = screen(&infra);
        let lines: Vec<_> =
            shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "soma-infra/shared: Starting (of an older manifest)",
                "COMPONENT STATE MODE VERSION READY ROLE MESSAGE",
                "kafka RollingOut managed 4.1.2 1/2 Kafka answers; pod kafka-2 is being replaced",
                "kafka-0 yes active controller",
                "kafka-1 no ending",
                "asks for 2 pods, cpu 1, memory 4Gi, storage 40Gi; planned: 3 pods, cpu 1500m, memory 6Gi, storage 60Gi",
            ]
        );
        let fresh = SomaInfra::new("new", soma_crds::SomaInfraSpec::default());
        assert!(screen(&fresh).contains("has not looked at it yet"));
    }
}
