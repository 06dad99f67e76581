//! The CRD's own rules (`x-kubernetes-validations`), evaluated as the API server does, with their messages.
//!
//! A rule that can't be evaluated here refuses nothing: the conversion to core's types judges every policy once more.
//! A test sees to it that each rule of the CRD can be.

use std::{collections::HashMap, sync::Arc};

use cel::{Context, Env, ExecutionError, Value as Cel, extensions, extractors::This, parser::PrattParser};
use ip_sentry_core::{duration::GatewayDuration, net::Network};
use serde_json::Value;

use super::schema::{Problem, child};

/// Evaluates the rules of a schema and of everything in it.
pub(super) fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        problems.extend(broken(rule, value, path));
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                check(known.unwrap_or(&Value::Null), field, &child(path, name), problems);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), problems);
            }
        }
        _ => {}
    }
}

/// What is wrong if the rule does not hold.
fn broken(rule: &Value, value: &Value, path: &str) -> Option<Problem> {
    if evaluate(rule["rule"].as_str()?, value) != Ok(Cel::Bool(false)) {
        return None;
    }
    let built = rule["messageExpression"].as_str().map(|expression| evaluate(expression, value));
    let message = match built {
        Some(Ok(Cel::String(message))) => message.to_string(),
        _ => rule["message"].as_str().unwrap_or_default().to_owned(),
    };
    let path = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
    Some(match value {
        Value::Object(_) | Value::Array(_) => Problem::new(&path, format!("Invalid value: {message}")),
        value => Problem::invalid(&path, &value.to_string(), &message),
    })
}

fn evaluate(expression: &str, value: &Value) -> Result<Cel, ExecutionError> {
    let failed = |error: &dyn ToString| ExecutionError::InternalError(error.to_string());
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).map_err(|error| failed(&error))?;
    // Its other parser reads tables of a megabyte first, which a policy of a few rules is not worth.
    let program = PrattParser::new().parse(expression).map_err(|error| failed(&error))?;
    let mut context = Context::with_env(Arc::new(env));
    add_functions(&mut context).map_err(|error| failed(&error))?;
    context.add_variable_from_value("self", cel_value(value));
    context.resolve(&program)
}

/// What Kubernetes adds to CEL, as far as the rules use it. Networks stay texts, durations are milliseconds.
fn add_functions(context: &mut Context<'_, '_>) -> Result<(), cel::DeclarationError> {
    type Text = Arc<String>;
    let address = |text: &Text| text.parse::<std::net::IpAddr>().ok();
    let network = |text: &Text| text.parse::<Network>().ok().or_else(|| masked(text));
    let refused = |function: &str| ExecutionError::function_error(function, "not of that form");
    context.add_function("matches", move |This(text): This<Text>, pattern: Text| {
        // In RE2 a bracket in a class is itself, in Rust it opens another.
        let pattern = pattern.replace("[[]", r"\[");
        let regex = regex::Regex::new(&pattern).map_err(|_| refused("matches"))?;
        Ok::<_, ExecutionError>(regex.is_match(&text))
    })?;
    context.add_function("isIP", move |text: Text| address(&text).is_some())?;
    context.add_function("isCIDR", move |text: Text| network(&text).is_some())?;
    context.add_function("ip", |text: Text| text)?;
    context.add_function("cidr", |text: Text| text)?;
    context.add_function("family", move |This(text): This<Text>| {
        let address = address(&text).ok_or_else(|| refused("family"))?;
        Ok::<_, ExecutionError>(if address.is_ipv4() { 4_i64 } else { 6 })
    })?;
    context.add_function("masked", move |This(text): This<Text>| {
        let network = network(&text).ok_or_else(|| refused("masked"))?;
        Ok::<_, ExecutionError>(Arc::new(network.to_string()))
    })?;
    context.add_function("prefixLength", move |This(text): This<Text>| {
        let network = network(&text).ok_or_else(|| refused("prefixLength"))?;
        Ok::<_, ExecutionError>(i64::from(network.prefix()))
    })?;
    context.add_function("duration", move |text: Text| {
        let duration: GatewayDuration = text.parse().map_err(|_| refused("duration"))?;
        i64::try_from(duration.get().as_millis()).map_err(|_| refused("duration"))
    })
}

/// The network that a text with host bits means.
fn masked(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    let prefix =
        prefix.parse().ok().filter(|&prefix: &u8| prefix <= if address.is_ipv4() { 32 } else { 128 })?;
    Some(Network::around(address, prefix))
}

fn cel_value(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        // Every number in CEL's rules is an int, also one that is positive.
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(cel_value).collect())),
        Value::Object(fields) => {
            let fields: HashMap<String, Cel> =
                fields.iter().map(|(name, field)| (name.clone(), cel_value(field))).collect();
            fields.into()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Fails for each rule that this can't compile or that names a function that is not there.
    pub(in crate::policy_file) fn all_compile(schema: &Value, path: &str) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            for expression in
                [&rule["rule"], &rule["messageExpression"]].into_iter().filter_map(Value::as_str)
            {
                let is_transition = expression.contains("oldSelf");
                match evaluate(expression, &Value::Null) {
                    Err(ExecutionError::InternalError(error)) => panic!("{path}: {expression}: {error}"),
                    Err(ExecutionError::UndeclaredReference(name)) if !is_transition => {
                        panic!("{path}: {expression}: there is no {name}")
                    }
                    _ => {}
                }
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            all_compile(property, &child(path, name));
        }
        if schema["items"].is_object() {
            all_compile(&schema["items"], &format!("{path}[]"));
        }
    }

    #[test]
    fn a_rule_holds_or_says_what_to_write() {
        let cidr = serde_json::json!({
            "rule": "!isCIDR(self) || string(cidr(self).masked()) == self",
            "message": "not canonical",
            "messageExpression": "isCIDR(self) ? 'not canonical, write %s'.format([string(cidr(self).masked())]) : 'not a CIDR'",
        });
        let problem = |value: &str| broken(&cidr, &value.into(), "spec.cidr").map(|problem| problem.text);
        assert_eq!(problem("10.0.0.0/8"), None);
        assert_eq!(problem("no"), None);
        let expect = r#"Invalid value: "10.0.0.1/8": not canonical, write 10.0.0.0/8"#;
        assert_eq!(problem("10.0.0.1/8").as_deref(), Some(expect));
    }
}
