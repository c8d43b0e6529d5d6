//! Filters narrow a recall before it ranks.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::Error;

/// A filter may name this many fields.
const MAX_FIELDS: usize = 32;

/// Every condition must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    field: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Equals(Value),
    HasAll(Vec<Value>),
    OneOf(Vec<Value>),
    NoneOf(Vec<Value>),
    Range { op: Op, bound: Value },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Filter {
    /// Reads a filter: field → value (equal, or contained in a list), list (has all of them), or an object of
    /// operators `in`, `nin`, `gt`, `gte`, `lt`, `lte`. A field is a dotted path into the payload; `created_at` and
    /// `updated_at` are the store's own times.
    pub fn parse(filters: &Map<String, Value>) -> Result<Self, Error> {
        if filters.len() > MAX_FIELDS {
            return Err(Error::invalid("filters", "too many fields", format!("name at most {MAX_FIELDS}")));
        }
        let mut conditions = Vec::new();
        for (name, value) in filters {
            if name.is_empty() {
                return Err(Error::invalid(
                    "filters",
                    "a field's name is empty",
                    "name a field of the payload",
                ));
            }
            let field: Vec<_> = name.split('.').map(str::to_owned).collect();
            for test in tests(name, value)? {
                conditions.push(Condition { field: field.clone(), test });
            }
        }
        Ok(Self { conditions })
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a memory passes. Times are microseconds since 1970.
    pub fn matches(&self, payload: &Value, created_at: i64, updated_at: i64) -> bool {
        self.conditions.iter().all(|condition| {
            let time = match condition.field.as_slice() {
                [one] if one == "created_at" => Some(created_at),
                [one] if one == "updated_at" => Some(updated_at),
                _ => None,
            };
            match time.map(Timestamp::from_microsecond) {
                Some(Ok(time)) => condition.test.passes(Some(&Value::String(time.to_string()))),
                _ => condition.test.passes(lookup(payload, &condition.field)),
            }
        })
    }
}

fn tests(name: &str, value: &Value) -> Result<Vec<Test>, Error> {
    let refuse = |field: String, reason: &str, remedy: &str| Err(Error::invalid(field, reason, remedy));
    Ok(match value {
        Value::Array(items) => vec![Test::HasAll(items.clone())],
        Value::Object(operators) if operators.is_empty() => {
            return refuse(format!("filters.{name}"), "no operator", "use in, nin, gt, gte, lt or lte");
        }
        Value::Object(operators) => {
            let mut tests = Vec::new();
            for (operator, operand) in operators {
                let field = format!("filters.{name}.{operator}");
                tests.push(match (operator.as_str(), operand) {
                    ("in", Value::Array(items)) => Test::OneOf(items.clone()),
                    ("nin", Value::Array(items)) => Test::NoneOf(items.clone()),
                    ("in" | "nin", _) => return refuse(field, "the operand must be a list", "send [a, b]"),
                    (operator, operand) => {
                        let op = match operator {
                            "gt" => Op::Gt,
                            "gte" => Op::Gte,
                            "lt" => Op::Lt,
                            "lte" => Op::Lte,
                            _ => return refuse(field, "no such operator", "use in, nin, gt, gte, lt or lte"),
                        };
                        if !(operand.is_number() || operand.is_string()) {
                            return refuse(
                                field,
                                "the operand must be a number or a text",
                                "send 5 or \"2024-01-31\"",
                            );
                        }
                        Test::Range { op, bound: operand.clone() }
                    }
                });
            }
            tests
        }
        scalar => vec![Test::Equals(scalar.clone())],
    })
}

/// Walks a dotted path; a key that itself holds the dots comes first.
fn lookup<'a>(payload: &'a Value, path: &[String]) -> Option<&'a Value> {
    if path.len() > 1
        && let Some(value) = payload.get(path.join("."))
    {
        return Some(value);
    }
    path.iter().try_fold(payload, |value, key| value.get(key))
}

impl Test {
    fn passes(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Equals(Value::Null) => value.is_none_or(Value::is_null),
            Self::Equals(want) => value.is_some_and(|value| has(value, want)),
            Self::HasAll(wants) => value.is_some_and(|value| wants.iter().all(|want| has(value, want))),
            Self::OneOf(wants) => value.is_some_and(|value| wants.iter().any(|want| has(value, want))),
            Self::NoneOf(wants) => !value.is_some_and(|value| wants.iter().any(|want| has(value, want))),
            Self::Range { op, bound } => {
                value.and_then(|value| compare(value, bound)).is_some_and(|order| match op {
                    Op::Gt => order.is_gt(),
                    Op::Gte => order.is_ge(),
                    Op::Lt => order.is_lt(),
                    Op::Lte => order.is_le(),
                })
            }
        }
    }
}

/// Equal, or a list that contains it.
fn has(value: &Value, want: &Value) -> bool {
    let equal = |value: &Value| value == want || compare(value, want).is_some_and(Ordering::is_eq);
    equal(value) || value.as_array().is_some_and(|items| items.iter().any(equal))
}

/// Numbers by value, times by instant, other texts by their characters; anything else does not compare.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => match (a.parse::<Timestamp>(), b.parse::<Timestamp>()) {
            (Ok(a), Ok(b)) => Some(a.cmp(&b)),
            _ => Some(a.cmp(b)),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(filters: &Value, payload: &Value) -> bool {
        Filter::parse(filters.as_object().unwrap()).unwrap().matches(payload, 1_700_000_000_000_000, 0)
    }

    #[test]
    fn what_passes_and_what_does_not() {
        let payload = json!({
            "speaker": "Ana", "turn": 7, "tags": ["a", "b"], "who": {"name": "x"}, "dotted.key": 1,
            "time": "2024-05-01T10:00:00+02:00", "none": null, "score": 0.5,
        });
        for yes in [
            json!({}),
            json!({"speaker": "Ana", "turn": 7}),
            json!({"turn": 7.0}),
            json!({"tags": "a"}),
            json!({"tags": ["b", "a"]}),
            json!({"tags": []}),
            json!({"who.name": "x"}),
            json!({"dotted.key": 1}),
            json!({"turn": {"gte": 7, "lt": 8}}),
            json!({"score": {"gt": 0}}),
            json!({"time": {"gte": "2024-05-01T08:00:00Z", "lte": "2024-05-01T08:00:00Z"}}),
            json!({"speaker": {"in": ["Ana", "Ben"], "nin": ["Eve"]}}),
            json!({"none": null, "absent": null}),
            json!({"created_at": {"gt": "2023-01-01T00:00:00Z"}}),
        ] {
            assert!(matches(&yes, &payload), "{yes}");
        }
        for no in [
            json!({"speaker": "ana"}),
            json!({"speaker": "Ana", "turn": 8}),
            json!({"turn": "7"}),
            json!({"tags": ["a", "c"]}),
            json!({"absent": 1}),
            json!({"absent": {"gt": 1}}),
            json!({"turn": {"gt": 7}}),
            json!({"turn": {"gt": "a"}}),
            json!({"speaker": {"nin": ["Ana"]}}),
            json!({"speaker": null}),
            json!({"created_at": {"lt": "2023-01-01T00:00:00Z"}}),
        ] {
            assert!(!matches(&no, &payload), "{no}");
        }
    }

    #[test]
    fn a_bad_filter_names_its_field() {
        for (bad, field) in [
            (json!({"turn": {"near": 5}}), "filters.turn.near"),
            (json!({"turn": {"$gt": 5}}), "filters.turn.$gt"),
            (json!({"turn": {"gt": [5]}}), "filters.turn.gt"),
            (json!({"turn": {"in": 5}}), "filters.turn.in"),
            (json!({"turn": {}}), "filters.turn"),
            (json!({"": 1}), "filters"),
        ] {
            let error = Filter::parse(bad.as_object().unwrap()).unwrap_err();
            assert!(matches!(&error, Error::Invalid { field: f, .. } if f == field), "{bad}: {error:?}");
        }
    }
}
