//! What a module of Rego holds: its package, its tests, what it calls and what it reads. Pure.

use std::collections::BTreeSet;

use regorus::Engine;
use serde_json::Value;

/// What the name of a file with tests ends in.
const TESTS: &str = "_test.rego";
/// What may not be called: it reaches out of OPA, or tells what only its owner may know.
const FORBIDDEN: [&str; 4] = ["http.send", "net.lookup_ip_addr", "opa.runtime", "rego.parse_module"];

/// A file of Rego.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    /// With `/`, such as `soma/policy.rego`.
    pub path: String,
    pub text: String,
}

impl File {
    pub fn is_test(&self) -> bool {
        self.path.ends_with(TESTS)
    }
}

/// Why policies cannot be used; each names the file and, where there is one, the line.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegoError {
    #[error("{0}")]
    Compile(String),
    #[error("the syntax tree of {0} cannot be read")]
    Tree(String),
    #[error("{file}:{line}: the function {name} is not available here; do without it")]
    Function { file: String, line: u64, name: String },
    #[error("{file}: the test {test} {how}")]
    Test { file: String, test: String, how: String },
}

/// A path such as `data.tenants.acme`, as far as it is written out, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    pub path: Vec<String>,
    pub line: u64,
}

/// One file, parsed.
#[derive(Debug)]
pub struct Module {
    /// Such as `["tenant_policies", "acme"]`.
    pub package: Vec<String>,
    /// Rules that are tests.
    pub tests: BTreeSet<String>,
    /// What it reads of `data`.
    pub reads: Vec<Mention>,
    /// Where it says `deny` otherwise than as a set, if it does.
    pub odd_deny: Option<u64>,
    calls: Vec<Mention>,
    rules: BTreeSet<String>,
}

impl Module {
    pub fn parse(file: &File) -> Result<Self, RegoError> {
        let mut engine = Engine::new();
        let added = engine.add_policy(file.path.clone(), file.text.clone());
        added.map_err(|error| RegoError::Compile(plain(&error.to_string())))?;
        let unread = || RegoError::Tree(file.path.clone());
        let tree = engine.get_ast_as_json().map_err(|_| unread())?;
        let tree: Value = serde_json::from_str(&tree).map_err(|_| unread())?;
        let tree = &tree[0]["ast"];
        let package = path_of(&tree["package"]["refr"]).map(|mention| mention.path).ok_or_else(unread)?;
        let heads: Vec<_> = tree["rules"].as_array().into_iter().flatten().filter_map(head).collect();
        let is_test = |name: &&String| name.starts_with("test_");
        let rules: BTreeSet<_> = heads.iter().filter_map(|(path, _)| path.path.first().cloned()).collect();
        let odd = heads
            .iter()
            .find(|(head, kind)| head.path[0] == "deny" && (*kind != "Set" || head.path.len() > 1));
        let mut module = Self {
            package,
            tests: rules.iter().filter(is_test).cloned().collect(),
            odd_deny: odd.map(|(head, _)| head.line),
            rules,
            reads: Vec::new(),
            calls: Vec::new(),
        };
        module.walk(&tree["imports"]);
        module.walk(&tree["rules"]);
        Ok(module)
    }

    /// Refuses calls of what is neither a rule of the module, nor of another, nor built in; and of what is forbidden.
    pub fn check_calls(&self, file: &File) -> Result<(), RegoError> {
        let refused = self.calls.iter().find(|call| {
            let name = call.path.join(".");
            let own = call.path.len() == 1 && self.rules.contains(&name);
            FORBIDDEN.contains(&name.as_str()) || !(own || call.path[0] == "data" || is_built_in(&name))
        });
        match refused {
            Some(Mention { path, line }) => {
                Err(RegoError::Function { file: file.path.clone(), line: *line, name: path.join(".") })
            }
            None => Ok(()),
        }
    }

    fn walk(&mut self, tree: &Value) {
        match tree {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(fields) => {
                if let Some(mention) = path_of(tree) {
                    if mention.path[0] == "data" {
                        self.reads.push(mention);
                    }
                    // What is written in brackets is an expression of its own.
                    return indices(tree).into_iter().for_each(|index| self.walk(index));
                }
                if let Some(call) = fields.get("Call") {
                    self.calls.extend(path_of(&call["fcn"]));
                }
                fields.values().for_each(|value| self.walk(value));
            }
            _ => {}
        }
    }
}

/// The path and the kind of a rule's head.
fn head(rule: &Value) -> Option<(Mention, &str)> {
    if let Some(default) = rule.get("Default") {
        return Some((path_of(&default["refr"])?, "Default"));
    }
    let (kind, head) = rule["Spec"]["head"].as_object()?.iter().next()?;
    Some((path_of(&head["refr"])?, kind))
}

/// The path of a reference, up to where it depends on a value.
fn path_of(expression: &Value) -> Option<Mention> {
    if let Some(var) = expression.get("Var") {
        let name = var["value"].as_str()?.to_owned();
        return Some(Mention { path: vec![name], line: var["span"]["line"].as_u64().unwrap_or_default() });
    }
    if let Some(dot) = expression.get("RefDot") {
        let mut mention = path_of(&dot["refr"])?;
        if is_written_out(&dot["refr"]) {
            mention.path.push(dot["field"][1].as_str()?.to_owned());
        }
        return Some(mention);
    }
    let bracket = expression.get("RefBrack")?;
    let mut mention = path_of(&bracket["refr"])?;
    if let (true, Some(name)) =
        (is_written_out(&bracket["refr"]), bracket["index"]["String"]["value"].as_str())
    {
        mention.path.push(name.to_owned());
    }
    Some(mention)
}

/// No part of the reference depends on a value.
fn is_written_out(expression: &Value) -> bool {
    if let Some(bracket) = expression.get("RefBrack") {
        return bracket["index"].get("String").is_some() && is_written_out(&bracket["refr"]);
    }
    expression.get("RefDot").is_none_or(|dot| is_written_out(&dot["refr"]))
}

/// The expressions in the brackets of a reference.
fn indices(expression: &Value) -> Vec<&Value> {
    if let Some(bracket) = expression.get("RefBrack") {
        let mut inner = indices(&bracket["refr"]);
        inner.push(&bracket["index"]);
        return inner;
    }
    expression.get("RefDot").map(|dot| indices(&dot["refr"])).unwrap_or_default()
}

/// The engine is asked: it says of a function it does not know that it cannot find it, and of others what else is wrong.
fn is_built_in(name: &str) -> bool {
    let asked = Engine::new().eval_query(format!("{name}()"), false);
    asked.map_or_else(|error| !error.to_string().contains("could not find function"), |_| true)
}

/// `file:line:column: what` of the engine's message, which draws a picture.
pub fn plain(message: &str) -> String {
    let mut place = None;
    let mut said = Vec::new();
    for line in message.lines().map(str::trim) {
        match (line.strip_prefix("-->"), line.strip_prefix("error: ")) {
            (Some(at), _) => place = Some(at.trim()),
            (_, Some(what)) => said.push(what),
            _ => {}
        }
    }
    match (place, said.is_empty()) {
        (Some(place), false) => format!("{place}: {}", said.join("; ")),
        _ => message.trim().replace('\n', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { path: "a.rego".into(), text: text.into() }
    }

    #[test]
    fn a_module_tells_its_package_its_tests_and_what_it_reads() {
        let text = "package tenant_policies[\"a-b\"].c\nimport data.x.y\ntest_a if true\nr contains data.tenants[input.t].z if f(data[\"p\"].q)\nf(v) if v";
        let module = Module::parse(&file(text)).unwrap();
        assert_eq!(module.package, ["tenant_policies", "a-b", "c"]);
        assert_eq!(module.tests, ["test_a".to_owned()].into());
        let reads: Vec<_> = module.reads.iter().map(|read| (read.path.join("."), read.line)).collect();
        assert_eq!(reads, [("data.x.y".into(), 2), ("data.p.q".into(), 4), ("data.tenants".into(), 4)]);
        assert_eq!(module.check_calls(&file(text)), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = Module::parse(&file("package a\n\ndeny contains if {\n\ttrue\n}")).unwrap_err();
        assert_eq!(error.to_string(), "a.rego:3:15: unexpected keyword `if`");
        for (call, line) in [("http.send({})", 3), ("opa.runtime()", 3), ("crypto.x509.nothing(1)", 3)] {
            let file = file(&format!("package a\np if {{\n\t{call}\n}}"));
            let error = Module::parse(&file).unwrap().check_calls(&file).unwrap_err();
            let name = call.split('(').next().unwrap();
            assert!(
                matches!(&error, RegoError::Function { line: at, name: n, .. } if *at == line && n == name),
                "{error}"
            );
        }
        let known = file(
            "package a\np if {\n\tstartswith(input.x, \"a\")\n\tregex.match(\"a\", input.x)\n\ttime.now_ns() > 1\n\tcount(input.x) > 1\n}",
        );
        assert_eq!(Module::parse(&known).unwrap().check_calls(&known), Ok(()));
    }

    #[test]
    fn deny_has_to_be_a_set() {
        let odd = |rule: &str| Module::parse(&file(&format!("package a\n{rule}"))).unwrap().odd_deny;
        assert_eq!(odd("deny contains \"x\" if input.x"), None);
        for rule in
            ["deny if input.x", "deny := true", "default deny := false", "deny(x) if x", "deny[\"a\"] := 1"]
        {
            assert_eq!(odd(rule), Some(2), "{rule}");
        }
    }
}
