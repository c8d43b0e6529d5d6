//! Soma's authorization model, and whether OpenFGA has it. Pure.

use serde_json::Value;
use soma_settings::canonical_json;

/// `config/authorization/model.json`.
pub const TEXT: &str = include_str!("../../../../config/authorization/model.json");

/// Soma's model, as it is written.
pub fn wanted() -> Value {
    // The tests read it; an unreadable one would be refused by OpenFGA.
    serde_json::from_str(TEXT).unwrap_or_default()
}

/// Whether two models say the same. OpenFGA gives a model back with an id, and with everything it was not told as empty.
pub fn same(one: &Value, other: &Value) -> bool {
    content(one) == content(other)
}

fn content(model: &Value) -> String {
    let mut model = stripped(model);
    if let Some(model) = model.as_object_mut() {
        model.remove("id");
        // Their order says nothing.
        if let Some(types) = model.get_mut("type_definitions").and_then(Value::as_array_mut) {
            types.sort_by_key(|definition| definition["type"].as_str().unwrap_or_default().to_owned());
        }
    }
    canonical_json(&model)
}

/// Without what is empty; these two mean something although they are.
fn stripped(value: &Value) -> Value {
    let says = |key: &str, value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty() || ["this", "wildcard"].contains(&key),
        _ => true,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), stripped(value)));
            Value::Object(fields.filter(|(key, value)| says(key, value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(stripped).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_model_has_the_types_the_services_ask_about() {
        let model = wanted();
        let types = model["type_definitions"].as_array().unwrap();
        let relations = |name: &str| {
            let of = types.iter().find(|of| of["type"] == name).unwrap();
            of["relations"].as_object().map(|all| all.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        assert!(relations("user").is_empty());
        assert_eq!(relations("tenant"), ["editor", "member", "owner", "viewer"]);
        assert_eq!(relations("namespace"), ["editor", "owner", "tenant", "viewer"]);
    }

    #[test]
    fn a_model_differs_when_it_says_something_else() {
        let model = wanted();
        let change = |change: &dyn Fn(&mut Value)| {
            let mut other = model.clone();
            change(&mut other);
            same(&model, &other)
        };
        assert!(change(&|_| ()));
        assert!(change(&|m| m["id"] = "01J".into()), "OpenFGA gives it an id");
        assert!(change(&|m| m["conditions"] = json!({})), "and says what is empty");
        assert!(change(&|m| m["type_definitions"][0]["metadata"] = Value::Null));
        assert!(change(&|m| m["type_definitions"].as_array_mut().unwrap().reverse()));
        assert!(!change(&|m| m["schema_version"] = "1.2".into()));
        assert!(!change(&|m| m["type_definitions"][1]["relations"]["owner"] = json!({"union": {}})));
        assert!(!change(&|m| drop(m["type_definitions"].as_array_mut().unwrap().pop())));
        let wild = json!([{"type": "user", "wildcard": {}}]);
        assert!(!change(&|m| {
            m["type_definitions"][1]["metadata"]["relations"]["owner"]["directly_related_user_types"] =
                wild.clone();
        }));
    }
}
