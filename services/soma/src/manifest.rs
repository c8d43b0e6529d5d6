//! Reads manifests from YAML files, with the line and column of every field, and admits them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;
use soma_crds::admission::{Object, admit};
use soma_crds::{MemoryNamespace, SomaStack};

/// What a laptop runs: one stack and its memory namespaces. A SomaInfra is read and checked, but its database is
/// replaced by a file.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The stack.
    pub stack: Option<SomaStack>,
    /// Its memory namespaces.
    pub namespaces: Vec<MemoryNamespace>,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not YAML.
    #[error("{path} is not YAML")]
    Syntax {
        /// Which one; the source names line and column.
        path: PathBuf,
        /// Why.
        source: Box<serde_saphyr::Error>,
    },
    /// One or more fields are refused; each line is `file:line:column: field: reason`.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
}

/// Reads every file; a folder stands for the `*.yaml` files in it, other than kustomizations.
pub fn read(paths: &[PathBuf]) -> Result<Manifests, Error> {
    let mut found = Manifests::default();
    let mut refused = Vec::new();
    for path in expand(paths)? {
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let documents: Vec<Spanned<Node>> = serde_saphyr::from_multiple(&text)
            .map_err(|source| Error::Syntax { path: path.clone(), source: Box::new(source) })?;
        for document in documents {
            let mut places = BTreeMap::new();
            let value = document.value.into_value(
                "",
                (document.defined.line(), document.defined.column()),
                &mut places,
            );
            if value.is_null() || is_foreign(&value) {
                continue;
            }
            match admit(&value) {
                Ok(Object::Stack(stack)) => {
                    if found.stack.replace(*stack).is_some() {
                        refused.push(format!(
                            "{}: a second SomaStack; one process runs one stack",
                            path.display()
                        ));
                    }
                }
                Ok(Object::Namespace(namespace)) => found.namespaces.push(*namespace),
                Ok(Object::Infra(_)) => {}
                Err(reasons) => refused.extend(reasons.into_iter().map(|reason| {
                    let (line, column) = place(&places, &reason.pointer);
                    let field = reason.field();
                    let field = if field.is_empty() { "manifest" } else { &field };
                    format!("{}:{line}:{column}: {field}: {}", path.display(), reason.message)
                })),
            }
        }
    }
    check_references(&found, &mut refused);
    if refused.is_empty() { Ok(found) } else { Err(Error::Refused(refused)) }
}

/// A Kubernetes object that is not Soma's, such as the Namespace beside a stack.
fn is_foreign(value: &Value) -> bool {
    value["apiVersion"].as_str().is_some_and(|v| !v.starts_with(soma_crds::GROUP))
        && value["kind"].is_string()
}

fn check_references(found: &Manifests, refused: &mut Vec<String>) {
    let stack = found.stack.as_ref().and_then(|s| s.metadata.name.as_deref());
    for namespace in &found.namespaces {
        let wanted = &namespace.spec.stack_ref.name;
        if stack.is_some_and(|stack| stack != wanted) {
            refused.push(format!(
                "MemoryNamespace {}: spec.stackRef.name: there is no SomaStack {wanted:?}; name the one in these files, {:?}",
                namespace.metadata.name.as_deref().unwrap_or_default(),
                stack.unwrap_or_default()
            ));
        }
    }
}

fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut inside: Vec<_> =
            entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| is_manifest(p)).collect();
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    yaml && path.file_stem().is_some_and(|stem| stem != "kustomization")
}

/// The place of a field, or of the nearest one around it that the file names.
fn place(places: &BTreeMap<String, (u64, u64)>, pointer: &str) -> (u64, u64) {
    let mut pointer = pointer;
    loop {
        if let Some(place) = places.get(pointer) {
            return *place;
        }
        let Some(cut) = pointer.rfind('/') else { return (1, 1) };
        pointer = &pointer[..cut];
    }
}

/// A YAML node whose children know where they stand.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn into_value(self, pointer: &str, at: (u64, u64), places: &mut BTreeMap<String, (u64, u64)>) -> Value {
        places.insert(pointer.to_owned(), at);
        match self {
            Self::Scalar(value) => value,
            Self::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(n, item)| {
                    let at = (item.defined.line(), item.defined.column());
                    item.value.into_value(&format!("{pointer}/{n}"), at, places)
                })
                .collect(),
            Self::Map(entries) => entries
                .into_iter()
                .map(|(key, child)| {
                    let at = (key.defined.line(), key.defined.column());
                    let value = child.into_value(&format!("{pointer}/{}", key.value), at, places);
                    (key.value, value)
                })
                .collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Scalars become JSON scalars; the YAML parser has already decided their type.
macro_rules! scalar {
    ($($method:ident: $type:ty),*) => {$(
        fn $method<E>(self, value: $type) -> Result<Node, E> {
            Ok(Node::Scalar(Value::from(value)))
        }
    )*};
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    scalar!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str, visit_string: String);

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Manifests, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stack.yaml");
        std::fs::write(&path, text).unwrap();
        read(&[path])
    }

    const STACK: &str = "apiVersion: somastack.dev/v1alpha1\nkind: SomaStack\nmetadata:\n  name: soma\nspec:\n  infraRef:\n    name: shared\n";

    #[test]
    fn an_error_names_file_line_and_field() {
        let text = format!("{STACK}  services:\n    memory:\n      replicas: 99\n");
        let error = read_text(&text).unwrap_err().to_string();
        assert!(error.contains("stack.yaml:10:7: spec.services.memory.replicas:"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_named_where_it_stands() {
        let error = read_text(&format!("{STACK}  setings: {{}}\n")).unwrap_err().to_string();
        assert!(error.contains("stack.yaml:8:3: spec.setings: unknown field"), "{error}");
    }

    #[test]
    fn objects_of_others_and_empty_documents_are_passed_over() {
        let text =
            format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: soma}}\n---\n{STACK}---\n");
        let manifests = read_text(&text).unwrap();
        assert_eq!(manifests.stack.unwrap().metadata.name.as_deref(), Some("soma"));
    }

    #[test]
    fn a_namespace_of_another_stack_is_refused() {
        let text = format!(
            "{STACK}---\napiVersion: somastack.dev/v1alpha1\nkind: MemoryNamespace\nmetadata:\n  name: chat\nspec:\n  tenant: acme\n  stackRef:\n    name: other\n"
        );
        let error = read_text(&text).unwrap_err().to_string();
        assert!(error.contains("there is no SomaStack \"other\""), "{error}");
    }

    #[test]
    fn broken_yaml_names_line_and_column() {
        let error = format!("{:#}", anyhow::Error::from(read_text("kind: [\n").unwrap_err()));
        assert!(error.contains("stack.yaml is not YAML") && error.contains("line"), "{error}");
    }
}
