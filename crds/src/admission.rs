//! What the API server does to a manifest on admission, done locally: the schema, then the defaults, then CEL.
//!
//! `soma dev` reads the manifests of a cluster, so they must be refused for the same reasons. A test in
//! `tests/control-plane` tries one table of manifests on both.

use jsonschema::error::ValidationErrorKind;
use kube::core::cel::Validator;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{GROUP, MemoryNamespace, SomaInfra, SomaStack, VERSION};

/// A manifest that was admitted, with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// Shared infrastructure.
    Infra(Box<SomaInfra>),
    /// The services of an environment.
    Stack(Box<SomaStack>),
    /// One tenant's memory.
    Namespace(Box<MemoryNamespace>),
}

/// One reason why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field as JSON pointer, such as `/spec/services/memory/replicas`; empty for the whole manifest.
    pub pointer: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    /// The field as a person writes it, such as `spec.services.memory.replicas`.
    pub fn field(&self) -> String {
        self.pointer.trim_start_matches('/').replace('/', ".")
    }
}

/// Admits one manifest, or says every reason why not. Values are never quoted in a refusal of a CEL rule.
pub fn admit(manifest: &Value) -> Result<Object, Vec<Refusal>> {
    let api_version = format!("{GROUP}/{VERSION}");
    if manifest["apiVersion"] != json!(api_version) {
        let given = manifest["apiVersion"].as_str().unwrap_or("nothing");
        return Err(vec![Refusal::new(
            "/apiVersion",
            format!("is {given}; this release reads {api_version}"),
        )]);
    }
    let definition = |n: usize| crate::definitions().swap_remove(n).1;
    match manifest["kind"].as_str().unwrap_or_default() {
        "SomaInfra" => typed(manifest, &definition(0)).map(|o| Object::Infra(Box::new(o))),
        "SomaStack" => typed(manifest, &definition(1)).map(|o| Object::Stack(Box::new(o))),
        "MemoryNamespace" => typed(manifest, &definition(2)).map(|o| Object::Namespace(Box::new(o))),
        other => Err(vec![Refusal::new(
            "/kind",
            format!("is {other:?}; the kinds are SomaInfra, SomaStack and MemoryNamespace"),
        )]),
    }
}

fn typed<T: DeserializeOwned + Serialize>(manifest: &Value, definition: &Value) -> Result<T, Vec<Refusal>> {
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    structural(manifest, schema)?;
    let object: T = serde_json::from_value(manifest.clone())
        .map_err(|error| vec![Refusal::new("", error.to_string())])?;
    let with_defaults = json!(&object);
    match Validator::new().validate(schema, &with_defaults, None) {
        Ok(()) => Ok(object),
        Err(errors) => Err(errors
            .into_vec()
            .into_iter()
            .map(|e| Refusal::new(format!("/{}", e.field_path.replace('.', "/")), e.message))
            .collect()),
    }
}

/// Types, bounds, patterns and unknown fields.
fn structural(manifest: &Value, schema: &Value) -> Result<(), Vec<Refusal>> {
    let mut closed = schema.clone();
    close(&mut closed);
    for (field, open) in [("apiVersion", json!({"type": "string"})), ("kind", json!({"type": "string"}))] {
        closed["properties"][field] = open;
    }
    closed["properties"]["metadata"] = json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}}
    });
    closed["required"] = json!(["metadata", "spec"]);
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft7)
        .build(&closed)
        .map_err(|error| vec![Refusal::new("", error.to_string())])?;
    let refusals: Vec<_> = validator
        .iter_errors(manifest)
        .flat_map(|error| {
            let place = error.instance_path().to_string();
            match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
                    .iter()
                    .map(|name| {
                        Refusal::new(
                            format!("{place}/{name}"),
                            "unknown field; correct its name or remove it",
                        )
                    })
                    .collect(),
                _ => vec![Refusal::new(place, error.to_string())],
            }
        })
        .collect();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// Refuses fields a schema does not name and repeated items of sets, as the API server does under strict validation.
fn close(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.contains_key("properties") && map.get("x-kubernetes-preserve-unknown-fields") != Some(&json!(true))
    {
        map.insert("additionalProperties".into(), json!(false));
    }
    if map.get("x-kubernetes-list-type") == Some(&json!("set")) {
        map.insert("uniqueItems".into(), json!(true));
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            close(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(spec: &Value) -> Value {
        json!({"apiVersion": "somastack.dev/v1alpha1", "kind": "SomaStack", "metadata": {"name": "s"}, "spec": spec})
    }

    #[test]
    fn defaults_are_filled_in() {
        let Ok(Object::Stack(object)) = admit(&stack(&json!({"infraRef": {"name": "shared"}}))) else {
            panic!("the smallest stack is admitted")
        };
        assert_eq!(object.spec.services.memory.replicas, 1);
    }

    #[test]
    fn an_unknown_field_is_refused_where_it_stands() {
        let refusals =
            admit(&stack(&json!({"infraRef": {"name": "x"}, "settings": {"logLevle": "info"}}))).unwrap_err();
        assert_eq!(refusals[0].field(), "spec.settings.logLevle");
        assert!(refusals[0].message.contains("unknown field"), "{refusals:?}");
    }

    #[test]
    fn a_bound_and_a_rule_are_refused_by_field() {
        let over =
            admit(&stack(&json!({"infraRef": {"name": "x"}, "services": {"memory": {"replicas": 99}}})))
                .unwrap_err();
        assert_eq!(over[0].field(), "spec.services.memory.replicas");
        let both = json!({"apiVersion": "somastack.dev/v1alpha1", "kind": "SomaInfra", "metadata": {"name": "i"},
            "spec": {"postgres": {"managed": {}, "external": {"secretRef": {"name": "pg"}}}}});
        let refusals = admit(&both).unwrap_err();
        assert!(refusals[0].message.contains("exactly one of managed and external"), "{refusals:?}");
        assert_eq!(refusals[0].field(), "spec.postgres");
    }

    #[test]
    fn another_version_or_kind_is_refused_by_name() {
        let refusals = admit(&json!({"apiVersion": "apps/v1", "kind": "Deployment"})).unwrap_err();
        assert!(refusals[0].message.contains("somastack.dev/v1alpha1"));
        let refusals = admit(&json!({"apiVersion": "somastack.dev/v1alpha1", "kind": "Soma"})).unwrap_err();
        assert!(refusals[0].message.contains("SomaInfra, SomaStack and MemoryNamespace"));
    }
}
