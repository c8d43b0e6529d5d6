//! Which ConfigMaps become part of the policies, and why the others do not. Pure.
//!
//! A policy of a tenant is in `package tenant_policies.<tenant>` and says `deny contains …`: it sees its own package and its
//! own document and nothing else of `data`, so it can restrict its tenant and touch nobody else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::bundle::{self, Source, Sources};
use super::core;
use super::engine::Policies;
use super::rego::{File, Mention, Module, RegoError};
use crate::names::label;

/// Packages of tenants begin so.
const PACKAGE: &str = "tenant_policies";

/// A ConfigMap as people made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Given {
    pub name: String,
    /// `*.rego`.
    policies: BTreeMap<String, String>,
    /// `<tenant>.json`.
    data: BTreeMap<String, String>,
    /// Keys that are neither, or not asked for by a label.
    others: Vec<String>,
}

/// Why a ConfigMap is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error(transparent)]
    Rego(#[from] RegoError),
    #[error(
        "key {0} is neither a file NAME.rego under the label openpolicyagent.org/policy=rego nor TENANT.json under openpolicyagent.org/data=opa; rename it or set the label"
    )]
    Key(String),
    #[error(
        "{file}:1: the package is {package}, but a tenant's begins with tenant_policies.TENANT; rename it"
    )]
    Package { file: String, package: String },
    #[error(
        "{file}:{line}: it reads {path}, but a tenant's policy sees only data.tenants.{tenant} and data.{PACKAGE}.{tenant}; remove it"
    )]
    Reads { file: String, line: u64, path: String, tenant: String },
    #[error("{file}:{line}: deny is no set; write `deny contains \"reason\" if {{ … }}`")]
    Deny { file: String, line: u64 },
    #[error("{file}: {problem}. It may have suspended, denied_actions, denied_tools, obligations and data")]
    Data { file: String, problem: String },
    #[error("{file}: tenant {tenant} has a document in ConfigMap {other} already; put both into one")]
    Twice { file: String, tenant: String, other: String },
}

/// What the policies know of a tenant; what they do not know is under `data`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "suspended")]
    _suspended: Option<bool>,
    #[serde(rename = "denied_actions")]
    _denied_actions: Option<Vec<String>>,
    #[serde(rename = "denied_tools")]
    _denied_tools: Option<Vec<String>>,
    #[serde(rename = "obligations")]
    _obligations: Option<Map<String, Value>>,
    #[serde(rename = "data")]
    _data: Option<Value>,
}

/// What became of the ConfigMaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    pub sources: Sources,
    /// In words, by the name of the ConfigMap.
    pub refused: BTreeMap<String, String>,
}

impl Given {
    pub fn read(map: &ConfigMap) -> Self {
        let mut given = Self { name: map.name_any(), ..Self::default() };
        let is = |key: &str, value: &str| map.labels().get(key).is_some_and(|found| found == value);
        let (policy, data) = (is(label::POLICY, "rego"), is(label::POLICY_DATA, "opa"));
        for (key, text) in map.data.iter().flatten() {
            if policy && key.strip_suffix(".rego").is_some() {
                given.policies.insert(key.clone(), text.clone());
            } else if let (true, Some(tenant)) = (data, key.strip_suffix(".json")) {
                given.data.insert(tenant.to_owned(), text.clone());
            } else {
                given.others.push(key.clone());
            }
        }
        given.others.extend(map.binary_data.iter().flatten().map(|(key, _)| key.clone()));
        given
    }

    fn files(&self) -> Vec<File> {
        let file = |(name, text): (&String, &String)| File {
            path: bundle::path(&self.name, name),
            text: text.clone(),
        };
        self.policies.iter().map(file).collect()
    }

    fn documents(&self) -> Result<BTreeMap<String, Value>, Refusal> {
        let read = |(tenant, text): (&String, &String)| {
            let wrong = |error: serde_json::Error| Refusal::Data {
                file: format!("{}/{tenant}.json", self.name),
                problem: error.to_string(),
            };
            serde_json::from_str::<Document>(text).map_err(wrong)?;
            Ok((tenant.clone(), serde_json::from_str(text).map_err(wrong)?))
        };
        self.data.iter().map(read).collect()
    }
}

/// Takes what can be taken. One that cannot leaves what it had in `last`, and nobody else suffers: those that did not
/// change come first.
pub fn admit(given: &[Given], last: &Sources) -> Admitted {
    let mut admitted = Admitted::default();
    let unchanged = |one: &&Given| last.get(&one.name).is_some_and(|last| is_same(one, last));
    let (old, new): (Vec<_>, Vec<_>) = given.iter().partition(unchanged);
    for one in old.into_iter().chain(new) {
        match source(one, &admitted.sources) {
            Ok(source) => {
                admitted.sources.insert(one.name.clone(), source);
            }
            Err(refusal) => {
                let before =
                    last.get(&one.name).filter(|last| holds(&one.name, last, &admitted.sources).is_ok());
                let stays =
                    if before.is_some() { "what it had before stays" } else { "nothing of it is used" };
                admitted.sources.extend(before.map(|source| (one.name.clone(), source.clone())));
                admitted
                    .refused
                    .insert(one.name.clone(), format!("ConfigMap {}: {refusal} ({stays})", one.name));
            }
        }
    }
    admitted
}

fn is_same(given: &Given, last: &Source) -> bool {
    let published = given.policies.iter().filter(|(name, _)| !is_test(name));
    given.others.is_empty()
        && published.eq(last.policies.iter())
        && given.documents().is_ok_and(|documents| documents == last.data)
}

fn is_test(name: &str) -> bool {
    File { path: name.into(), text: String::new() }.is_test()
}

/// What a ConfigMap adds, once it is sound by itself and beside the others.
fn source(given: &Given, others: &Sources) -> Result<Source, Refusal> {
    if let Some(key) = given.others.first() {
        return Err(Refusal::Key(key.clone()));
    }
    let policies = given.policies.iter().filter(|(name, _)| !is_test(name));
    let source = Source {
        policies: policies.map(|(name, text)| (name.clone(), text.clone())).collect(),
        data: given.documents()?,
    };
    let tenants = holds(&given.name, &source, others)?;
    let files = given.files();
    let tests: Vec<_> = files.iter().filter(|file| file.is_test()).collect();
    if !tests.is_empty() {
        let mut loaded = together(&given.name, &source, others, &tenants, &tests)?;
        for file in tests {
            let module = Module::parse(file)?;
            tenant_of(file, &module)?;
            module.check_calls(file)?;
            loaded.test(file, &module)?;
        }
    }
    Ok(source)
}

/// Checks a ConfigMap beside the others. Returns the tenants it is about.
fn holds(name: &str, source: &Source, others: &Sources) -> Result<Vec<String>, Refusal> {
    for tenant in source.data.keys() {
        if let Some((other, _)) = others.iter().find(|(_, other)| other.data.contains_key(tenant)) {
            let file = format!("{name}/{tenant}.json");
            return Err(Refusal::Twice { file, tenant: tenant.clone(), other: other.clone() });
        }
    }
    let mut tenants = Vec::new();
    for (key, text) in &source.policies {
        let file = File { path: bundle::path(name, key), text: text.clone() };
        let module = Module::parse(&file)?;
        let tenant = tenant_of(&file, &module)?;
        module.check_calls(&file)?;
        if let Some(Mention { path, line }) = module.reads.iter().find(|read| !is_own(&read.path, &tenant)) {
            let (file, path) = (file.path, path.join("."));
            return Err(Refusal::Reads { file, line: *line, path, tenant });
        }
        if let Some(line) = module.odd_deny {
            return Err(Refusal::Deny { file: file.path, line });
        }
        tenants.push(tenant);
    }
    tenants.dedup();
    let mut loaded = together(name, source, others, &tenants, &[])?;
    for tenant in &tenants {
        loaded.ask(&format!("data.{PACKAGE}[{}]", json!(tenant)), &json!({}))?;
    }
    loaded.ask("data.soma.policy.allow", &json!({}))?;
    Ok(tenants)
}

/// Loads a ConfigMap beside the others. Of their policies only those of its own tenants can meet its own.
fn together(
    name: &str,
    source: &Source,
    others: &Sources,
    tenants: &[String],
    tests: &[&File],
) -> Result<Policies, Refusal> {
    let mut files = core::files();
    let file = |map: &str, (key, text): (&String, &String)| File {
        path: bundle::path(map, key),
        text: text.clone(),
    };
    files.extend(source.policies.iter().map(|policy| file(name, policy)));
    let beside = others.iter().flat_map(|(map, s)| s.policies.iter().map(move |policy| file(map, policy)));
    files.extend(beside.filter(|file| {
        let tenant = Module::parse(file).ok().and_then(|module| tenant_of(file, &module).ok());
        tenant.is_some_and(|tenant| tenants.contains(&tenant))
    }));
    files.extend(tests.iter().map(|file| (*file).clone()));
    let documents: BTreeMap<_, _> = others.values().chain([source]).flat_map(|source| &source.data).collect();
    Ok(Policies::load(&files, &json!({"tenants": documents}))?)
}

fn tenant_of(file: &File, module: &Module) -> Result<String, Refusal> {
    match module.package.as_slice() {
        [first, tenant, ..] if first == PACKAGE => Ok(tenant.clone()),
        other => Err(Refusal::Package { file: file.path.clone(), package: other.join(".") }),
    }
}

/// `data.tenants.<tenant>…` and `data.tenant_policies.<tenant>…`.
fn is_own(path: &[String], tenant: &str) -> bool {
    matches!(path, [_, root, name, ..] if (root == "tenants" || root == PACKAGE) && name == tenant)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::infra::opa::bundle::path;

    /// A ConfigMap with both labels.
    pub fn map(name: &str, data: &[(&str, &str)]) -> Given {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        let labels = json!({label::POLICY: "rego", label::POLICY_DATA: "opa"});
        let map = json!({"metadata": {"name": name, "labels": labels}, "data": data});
        Given::read(&serde_json::from_value(map).unwrap())
    }

    pub const NO_DELETE: &str = "package tenant_policies.acme\n\ndeny contains \"acme deletes nothing\" if input.action == \"memory.delete\"\n";

    fn refused(data: &[(&str, &str)]) -> String {
        let good = map(
            "z-good",
            &[("p.rego", "package tenant_policies.other\n\ndeny contains \"no\" if input.action == \"x\"\n")],
        );
        let admitted = admit(&[map("bad", data), good], &Sources::new());
        assert_eq!(admitted.sources.keys().collect::<Vec<_>>(), ["z-good"], "the others go on");
        admitted.refused["bad"].clone()
    }

    #[test]
    fn a_sound_policy_with_its_tests_and_data_is_taken() {
        let tests = "package tenant_policies.acme_test\n\ntest_x if data.tenant_policies.acme.deny[\"acme deletes nothing\"] with input as {\"action\": \"memory.delete\"}\n";
        let tests = tests.replace("tenant_policies.acme_test", "tenant_policies.acme.tests");
        let given = map(
            "one",
            &[
                ("p.rego", NO_DELETE),
                ("p_test.rego", &tests),
                ("acme.json", r#"{"denied_tools": ["shell"]}"#),
            ],
        );
        let admitted = admit(&[given], &Sources::new());
        assert_eq!(admitted.refused, BTreeMap::new());
        let source = &admitted.sources["one"];
        assert_eq!(source.policies.keys().collect::<Vec<_>>(), ["p.rego"], "tests are not published");
        assert_eq!(source.data["acme"], json!({"denied_tools": ["shell"]}));
    }

    #[test]
    fn what_is_not_sound_is_refused_alone_and_says_where_and_what_to_do() {
        let deny =
            |body: &str| format!("package tenant_policies.acme\n\ndeny contains \"x\" if {{\n\t{body}\n}}\n");
        for (text, said) in [
            ("package tenant_policies.acme\n\ndeny contains if true\n".to_owned(), "bad/p.rego:3:15: unexpected keyword `if`"),
            (deny("y == 1"), "p.rego:4:5: use of undefined variable `y` is unsafe"),
            ("package soma.policy\n\nallow := true\n".into(), "p.rego:1: the package is soma.policy, but a tenant's begins with tenant_policies.TENANT; rename it"),
            ("package system.authz\n\nallow := true\n".into(), "the package is system.authz"),
            ("package tenant_policies\n\nacme := 1\n".into(), "the package is tenant_policies, but"),
            ("package tenants.acme\n\nsuspended := false\n".into(), "the package is tenants.acme"),
            (deny("http.send({\"url\": \"http://x\", \"method\": \"get\"})"), "p.rego:4: the function http.send is not available here"),
            (deny("opa.runtime().env.PATH"), "the function opa.runtime is not available"),
            (deny("foo(1)"), "p.rego:4: the function foo is not available"),
            (deny("data.tenants.other.suspended"), "p.rego:4: it reads data.tenants.other.suspended, but a tenant's policy sees only data.tenants.acme and data.tenant_policies.acme"),
            (deny("data.tenants[input.x].suspended"), "it reads data.tenants, but"),
            (deny("data.soma.policy.allow.allow"), "it reads data.soma.policy.allow.allow"),
            (deny("data[input.x]"), "it reads data, but"),
            (deny("x := data\n\tx.tenants"), "it reads data, but"),
            ("package tenant_policies.acme\n\nimport data.tenants.other\n\ndeny contains \"x\" if other.a\n".into(), "it reads data.tenants.other"),
            ("package tenant_policies.acme\n\ndeny if input.x\n".into(), "p.rego:3: deny is no set; write `deny contains \"reason\" if { … }`"),
            ("package tenant_policies.acme\n\na := 1\n\na := 2\n".into(), "p.rego:"),
        ] {
            let why = refused(&[("p.rego", &text)]);
            assert!(why.starts_with("ConfigMap bad: ") && why.contains(said), "{text}\n{why}\nwanted {said}");
            assert!(why.ends_with("(nothing of it is used)"), "{why}");
        }
        let failing = "package tenant_policies.acme.tests\n\ntest_it if 1 == 2\n";
        let why = refused(&[("p.rego", NO_DELETE), ("p_test.rego", failing)]);
        assert!(why.contains("p_test.rego: the test test_it fails"), "{why}");
    }

    #[test]
    fn data_that_the_policies_would_not_understand_are_refused() {
        for (key, text, said) in [
            ("acme.json", "{", "bad/acme.json: EOF while parsing"),
            ("acme.json", r#"{"denied_actions": "memory.delete"}"#, "invalid type: string"),
            ("acme.json", r#"{"suspend": true}"#, "unknown field `suspend`"),
            ("acme.json", "[]", "bad/acme.json: "),
            ("acme.yaml", "a: 1", "key acme.yaml is neither a file NAME.rego"),
        ] {
            let why = refused(&[(key, text)]);
            assert!(why.contains(said), "{why}\nwanted {said}");
        }
        let both = [map("a", &[("acme.json", "{}")]), map("b", &[("acme.json", "{}")])];
        let admitted = admit(&both, &Sources::new());
        assert!(
            admitted.refused["b"].contains("tenant acme has a document in ConfigMap a already"),
            "{admitted:?}"
        );
    }

    #[test]
    fn the_last_good_version_stays_and_newcomers_come_after_those_there() {
        let good = admit(&[map("one", &[("p.rego", NO_DELETE)])], &Sources::new()).sources;
        let broken = admit(&[map("one", &[("p.rego", "package tenant_policies.acme\n\nx :=\n")])], &good);
        assert_eq!(broken.sources, good);
        assert!(broken.refused["one"].ends_with("(what it had before stays)"), "{broken:?}");
        // A newcomer that does not go together with what is there is refused, also where its name comes first.
        let value = |v: u8| format!("package tenant_policies.acme\n\nlevel := {v}\n");
        let (first, second) = (map("m", &[("p.rego", &value(1))]), map("a", &[("p.rego", &value(2))]));
        let there = admit(std::slice::from_ref(&first), &Sources::new()).sources;
        let both = admit(&[second, first], &there);
        assert_eq!(both.refused.keys().collect::<Vec<_>>(), ["a"], "{both:?}");
        assert_eq!(admit(&[], &good), Admitted::default(), "what is gone is gone");
        assert!(
            good["one"].policies.contains_key("p.rego")
                && path("one", "p.rego") == "tenant_policies/one/p.rego"
        );
    }
}
