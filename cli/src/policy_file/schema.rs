//! What the API server asks of an object's shape, from the CRD's own schema and in the API server's words: types,
//! bounds, required fields, unknown fields. Defaults are filled in, as it does.
//!
//! (apiextensions-apiserver, `pkg/apiserver/validation` and `kube-openapi/pkg/validation`.)

use serde_json::{Map, Value};

/// The schema of a kind: what the API server is given. (To generate it anew would take two more megabytes than to read
/// it; a test of the crate that does sees to it that both are the same.)
pub(super) fn of(kind: &str) -> Value {
    let crd = match kind {
        "ProbePolicy" => include_str!("../../../deploy/kustomize/crds/probepolicies.yaml"),
        "ProtectedNetworks" => include_str!("../../../deploy/kustomize/crds/protectednetworks.yaml"),
        _ => "{}",
    };
    let mut crd: Value = serde_yaml_ng::from_str(crd).unwrap_or_default();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

/// Something that is wrong with one field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    /// The field's path.
    pub(super) path: String,
    /// What is wrong, as in `Required value`.
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), text: text.into() }
    }

    /// A value that can't be.
    pub(super) fn invalid(path: &str, value: &str, why: &str) -> Self {
        Self::new(path, format!("Invalid value: {value}: {why}"))
    }
}

/// The path of a field of an object.
pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The fields that the schema does not know.
pub(super) fn unknown_fields(schema: &Value, value: &Value, path: &str, unknown: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = child(path, name);
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(known) => unknown_fields(known, field, &path, unknown),
                    // Whatever Kubernetes keeps there: the schema says no more than that it is an object.
                    None if schema.get("properties").is_none() && schema["type"] == "object" => {}
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unknown_fields(&schema["items"], item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Fills in the defaults. A null is the same as nothing, unless the schema says that it may be there.
pub(super) fn fill_in(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, field| {
                let is_known = schema["properties"].get(name);
                !field.is_null() || is_known.is_none_or(|known| known["nullable"] == true)
            });
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default")
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    fill_in(property, field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(&schema["items"], item)),
        _ => {}
    }
}

/// Checks types and bounds.
pub(super) fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Some(wanted) = schema["type"].as_str() else { return };
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !is_of_type(value, wanted) {
        let given = type_of(value);
        let why = format!("{path} in body must be of type {wanted}: \"{given}\"");
        problems.push(Problem::invalid(path, &format!("\"{given}\""), &why));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let text = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
        problems.push(Problem::new(path, text));
    }
    match value {
        Value::Object(fields) => object(schema, fields, path, problems),
        Value::Array(items) => array(schema, items, path, problems),
        Value::String(text) => string(schema, text, path, problems),
        Value::Number(_) => number(schema, value, path, problems),
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            problems.push(Problem::new(&child(path, name), "Required value"));
        }
    }
    for (name, field) in fields {
        let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        check(known.unwrap_or(&Value::Null), field, &child(path, name), problems);
    }
}

fn array(schema: &Value, items: &[Value], path: &str, problems: &mut Vec<Problem>) {
    let given = items.len();
    if let Some(most) = bound(schema, "maxItems").filter(|&most| given > most) {
        problems.push(Problem::new(path, format!("Too many: {given}: must have at most {most} items")));
    }
    if let Some(least) = bound(schema, "minItems").filter(|&least| given < least) {
        let why = format!("{path} in body should have at least {least} items");
        problems.push(Problem::invalid(path, &given.to_string(), &why));
    }
    for (index, item) in items.iter().enumerate() {
        check(&schema["items"], item, &format!("{path}[{index}]"), problems);
    }
}

fn string(schema: &Value, text: &str, path: &str, problems: &mut Vec<Problem>) {
    let given = text.chars().count();
    if let Some(most) = bound(schema, "maxLength").filter(|&most| given > most) {
        problems.push(Problem::new(path, format!("Too long: may not be more than {most} bytes")));
    }
    if let Some(least) = bound(schema, "minLength").filter(|&least| given < least) {
        let why = format!("{path} in body should be at least {least} chars long");
        problems.push(Problem::invalid(path, &format!("{text:?}"), &why));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && regex::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        let why = format!("{path} in body should match '{pattern}'");
        problems.push(Problem::invalid(path, &format!("{text:?}"), &why));
    }
}

fn number(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Some(given) = value.as_f64() else { return };
    let bounds = [
        ("minimum", "greater", schema["minimum"].as_f64().is_some_and(|least| given < least)),
        ("maximum", "less", schema["maximum"].as_f64().is_some_and(|most| given > most)),
    ];
    for (name, word, is_broken) in bounds {
        if is_broken {
            let bound = schema[name].as_f64().unwrap_or_default();
            let why = format!("{path} in body should be {word} than or equal to {bound}");
            problems.push(Problem::invalid(path, &value.to_string(), &why));
        }
    }
}

fn bound(schema: &Value, name: &str) -> Option<usize> {
    schema[name].as_f64().and_then(|bound| format!("{bound}").parse().ok())
}

fn is_of_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        wanted => type_of(value) == wanted,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
