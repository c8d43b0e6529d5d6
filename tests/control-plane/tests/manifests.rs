//! Every manifest of `manifests.yaml`, tried on a real API server and by the local admission of `soma dev`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is not as it should be"
)]
#![expect(clippy::struct_field_names, reason = "the table calls a case a case")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};
use soma_testenv::ControlPlane;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    kind: String,
    name: Option<String>,
    spec: Value,
    then: Option<Value>,
    refused: Option<String>,
}

impl Case {
    fn manifest(&self, name: &str, spec: &Value) -> Value {
        let mut manifest = json!({"apiVersion": "somastack.dev/v1alpha1", "kind": self.kind,
            "metadata": {"name": self.name.as_deref().unwrap_or(name), "namespace": "default"}, "spec": spec});
        if spec.is_null() {
            manifest.as_object_mut().unwrap().remove("spec");
        }
        manifest
    }
}

/// Runs kubectl on one manifest; its standard error is the refusal.
fn kubectl(mut command: Command, arguments: &[&str], manifest: &Value) -> Result<(), String> {
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    child.stdin.take().unwrap().write_all(manifest.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// What the case says happens, or why not.
fn verdict(case: &Case, outcome: &Result<(), String>, which: &str) -> Option<String> {
    match (&case.refused, outcome) {
        (None, Ok(())) => None,
        (Some(text), Err(refusal)) if refusal.contains(text.as_str()) => None,
        (None, Err(refusal)) => Some(format!("{}: {which} refused: {refusal}", case.case)),
        (Some(text), Ok(())) => Some(format!("{}: {which} admitted; expected {text:?}", case.case)),
        (Some(text), Err(refusal)) => Some(format!("{}: {which} said {refusal:?}, not {text:?}", case.case)),
    }
}

#[tokio::test]
async fn manifests_are_admitted_or_refused_with_a_remedy() {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("../manifests.yaml")).unwrap();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let plane = ControlPlane::start().await.unwrap();
    for (file, definition) in soma_crds::definitions() {
        kubectl(plane.kubectl(), &["create", "-f", "-"], &definition)
            .unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    let status = plane
        .kubectl()
        .args(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());

    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("case-{number}");
        let manifest = case.manifest(&name, &case.spec);
        let create = kubectl(plane.kubectl(), &["create", "--validate=strict", "-f", "-"], &manifest);
        let Some(then) = &case.then else {
            wrong.extend(verdict(case, &create, "the API server"));
            let local = soma_crds::admission::admit(&manifest);
            if local.is_ok() != create.is_ok() {
                wrong.push(format!("{}: the API server said {create:?}, the laptop {local:?}", case.case));
            }
            continue;
        };
        if let Err(refusal) = create {
            wrong.push(format!("{}: could not be created: {refusal}", case.case));
            continue;
        }
        let replace = kubectl(
            plane.kubectl(),
            &["replace", "--validate=strict", "-f", "-"],
            &case.manifest(&name, then),
        );
        wrong.extend(verdict(case, &replace, "the API server"));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
