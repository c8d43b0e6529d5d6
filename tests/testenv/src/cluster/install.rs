//! Installing Soma and its example on a cluster, and saying what a person can do with it.

use std::path::Path;

use serde_json::Value;

use crate::{
    checkout,
    cluster::{Place, addons::kubectl},
    exec::ExecError,
    progress::Progress,
};

const KINDS: [&str; 3] = ["somainfras", "somastacks", "memorynamespaces"];
const READY_WITHIN: &str = "--timeout=300s";

/// Why the example does not serve.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// `kubectl` failed.
    #[error(transparent)]
    Kubectl(#[from] ExecError),
    /// `kubectl` printed something else than JSON.
    #[error("cannot read what kubectl printed")]
    Output(#[from] serde_json::Error),
    /// An object that must exist by now does not.
    #[error("the cluster has no {0}")]
    Absent(&'static str),
    /// The objects did not become ready; what they say follows.
    #[error("not every object became ready\n{state}")]
    NotReady {
        /// The conditions and pods at the end.
        state: String,
        /// What `kubectl wait` said.
        source: ExecError,
    },
}

/// What was installed and how to reach it.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The objects of category `soma`, as `kubectl get` shows them.
    pub objects: String,
    /// The pods, as `kubectl get` shows them.
    pub pods: String,
    /// The namespace of the SomaStack.
    pub namespace: String,
    /// The address of the memory service's Service, reachable from this machine on the native cluster.
    pub address: String,
    /// The bearer token of the memory service.
    pub token: String,
}

/// Installs the operator, applies `examples/quickstart/` and waits until all of it is ready.
pub fn install(place: &Place, progress: &mut Progress) -> Result<Installed, InstallError> {
    let root = checkout();
    progress.step("install the operator", || install_operator(place))?;
    progress.step("apply examples/quickstart", || apply(place, &root.join("examples/quickstart")))?;
    for kind in KINDS {
        progress.step(&format!("{kind} ready"), || wait_ready(place, kind))?;
    }
    describe(place)
}

/// Installs the operator and waits until it runs.
pub fn install_operator(place: &Place) -> Result<(), InstallError> {
    apply(place, &checkout().join("config/default"))?;
    for kind in KINDS {
        let definition = format!("crd/{kind}.somastack.dev");
        kubectl(place, &["wait", "--for=condition=Established", &definition, READY_WITHIN])?;
    }
    kubectl(place, &["-n", "soma-system", "rollout", "status", "deployment/soma-operator", READY_WITHIN])
        .map(drop)
        .map_err(|source| not_ready(place, source))
}

/// Applies a folder, by kustomize when it is made for it.
fn apply(place: &Place, folder: &Path) -> Result<(), InstallError> {
    let how = if folder.join("kustomization.yaml").is_file() { "-k" } else { "-f" };
    let folder = folder.to_string_lossy();
    kubectl(place, &["apply", "--server-side", "--force-conflicts", how, &folder])?;
    Ok(())
}

fn wait_ready(place: &Place, kind: &str) -> Result<(), InstallError> {
    kubectl(place, &["wait", "--for=condition=Ready", kind, "--all", "-A", READY_WITHIN])
        .map(drop)
        .map_err(|source| not_ready(place, source))
}

fn not_ready(place: &Place, source: ExecError) -> InstallError {
    let show = |arguments: &[&str]| kubectl(place, arguments).unwrap_or_else(|error| error.to_string());
    let state = [
        show(&["get", "somainfras,somastacks,memorynamespaces", "-A"]),
        show(&["get", "pods", "-A", "-o", "wide"]),
        show(&["get", "events", "-A", "--field-selector", "type=Warning"]),
    ];
    InstallError::NotReady { state: state.join("\n"), source }
}

fn describe(place: &Place) -> Result<Installed, InstallError> {
    let json = |arguments: &[&str]| -> Result<Value, InstallError> {
        Ok(serde_json::from_str(&kubectl(place, &[arguments, &["-o", "json"]].concat())?)?)
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let stacks = json(&["get", "somastacks", "-A"])?;
    let namespace =
        text(&stacks["items"][0]["metadata"]["namespace"]).ok_or(InstallError::Absent("SomaStack"))?;
    let service = json(&["-n", &namespace, "get", "service", "memory"])?;
    let address = text(&service["spec"]["clusterIP"]).ok_or(InstallError::Absent("Service memory"))?;
    let token = kubectl(
        place,
        &[
            "-n",
            &namespace,
            "get",
            "secret",
            "soma-api-token",
            "-o",
            "go-template={{index .data \"SOMA_API_TOKEN\" | base64decode}}",
        ],
    )?;
    Ok(Installed {
        objects: kubectl(place, &["get", "somainfras,somastacks,memorynamespaces", "-A"])?,
        pods: kubectl(place, &["get", "pods", "-A"])?,
        namespace,
        address,
        token,
    })
}

impl Installed {
    /// What to type next, given the URL the service is reached by.
    pub fn next_steps(&self, place: &Place, url: &str) -> String {
        let (kubeconfig, bin) = (place.kubeconfig(), place.bin());
        format!(
            "{objects}\n\n{pods}\n\n\
             Memory service: {url}\n\
             Store and recall:\n\n\
             export SOMA_API_TOKEN={token}\n\
             curl -s '{url}/memories?wait=indexed' -H \"Authorization: Bearer $SOMA_API_TOKEN\" -H 'Content-Type: application/json' \\\n  \
             -d '{{\"payload\":{{\"content\":\"Ada prefers the greenhouse window open at noon\"}}}}'\n\
             curl -s {url}/recall -H \"Authorization: Bearer $SOMA_API_TOKEN\" -H 'Content-Type: application/json' \\\n  \
             -d '{{\"query\":\"when does Ada like fresh air?\"}}'\n\n\
             export KUBECONFIG={kubeconfig}\n\
             export PATH={bin}:$PATH   # kubectl, soma\n",
            objects = self.objects,
            pods = self.pods,
            token = self.token,
            kubeconfig = kubeconfig.display(),
            bin = bin.display(),
        )
    }
}
