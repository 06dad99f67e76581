//! The CRDs as YAML, complete: what the derive macros can't say is added here.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::{IPBan, NodeFirewall, OffenceHistory, PolicyLimits, ProbePolicy, ProtectedNetworks};

/// Every kind's CRD.
#[must_use]
pub fn crds() -> Vec<Value> {
    let mut ban = value(&IPBan::crd());
    hold_name_to_network(&mut ban);
    default_status(&mut ban);
    let mut protected = value(&ProtectedNetworks::crd());
    hold_name(&mut protected, crate::PROTECTED_NETWORKS);
    let mut limits = value(&PolicyLimits::crd());
    hold_name(&mut limits, crate::POLICY_LIMITS);
    vec![
        ban,
        value(&NodeFirewall::crd()),
        value(&OffenceHistory::crd()),
        limits,
        value(&ProbePolicy::crd()),
        protected,
    ]
}

/// The file name and content of each CRD, as they are committed.
#[must_use]
pub fn files() -> Vec<(String, String)> {
    crds()
        .iter()
        .map(|crd| {
            let plural = crd["spec"]["names"]["plural"].as_str().unwrap_or_default();
            let yaml = serde_yaml_ng::to_string(crd).unwrap_or_default();
            (
                format!("{plural}.yaml"),
                format!("# Written by crdgen (make manifests): edit crd/src instead.\n{yaml}"),
            )
        })
        .collect()
}

fn value(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).unwrap_or_default();
    unwrap_descriptions(&mut crd);
    drop_nulls(&mut root(&mut crd)["properties"]["spec"]);
    // A CRD that goes takes its objects along: Argo CD must not prune it with the rest.
    crd["metadata"]["annotations"] = json!({"argocd.argoproj.io/sync-options": "Prune=false,Delete=false"});
    crd
}

/// Joins the lines of each paragraph: `kubectl explain` wraps by itself and would show ours as ragged ones.
fn unwrap_descriptions(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(text) if name == "description" => {
                let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                *text = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            field => unwrap_descriptions(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(unwrap_descriptions),
        _ => {}
    }
}

/// Makes a null the same as nothing: the API server drops it where the schema does not say `nullable`, and else
/// it would be there for CEL's `has()`.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("nullable");
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn root(crd: &mut Value) -> &mut Value {
    &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// The name of an `IPBan` is a function of its network, so that whoever bans a source writes the same object.
///
/// Without `metadata.properties.name` in the schema a message could not name the field.
fn hold_name_to_network(crd: &mut Value) {
    const NAME: &str = "(cidr(self.spec.cidr).ip().family() == 4 ? self.spec.cidr.replace('/32', '').replace('/', '-') : self.spec.cidr.replace(':', '-').replace('/', '-'))";
    let root = root(crd);
    root["x-kubernetes-validations"] = json!([{
        "rule": format!("!isCIDR(self.spec.cidr) || string(cidr(self.spec.cidr).masked()) != self.spec.cidr || (self.spec.origin == 'Detected' && self.metadata.name.endsWith('.detected') ? self.metadata.name.substring(0, self.metadata.name.size() - 9) : self.metadata.name) == {NAME}"),
        "message": "the name must be derived from spec.cidr",
        "messageExpression": format!("isCIDR(self.spec.cidr) ? 'the name of this ban must be ' + {NAME} : 'bad cidr'"),
        "fieldPath": ".metadata.name",
        "reason": "FieldValueInvalid",
    }]);
    root["properties"]["metadata"] =
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}});
}

/// Gives every object a status with its defaults, so that a column shows one that nobody has written.
fn default_status(crd: &mut Value) {
    let status = &mut root(crd)["properties"]["status"];
    status["default"] = json!({});
    if let Some(status) = status.as_object_mut() {
        status.remove("nullable");
    }
}

/// A kind of which there is one object. Its spec may say nothing: without a default the API server would refuse the
/// null that `kubectl apply --server-side` sends for an empty one that was applied without before.
fn hold_name(crd: &mut Value, name: &str) {
    let root = root(crd);
    root["properties"]["spec"]["default"] = json!({});
    root["x-kubernetes-validations"] = json!([{
        "rule": format!("self.metadata.name == '{name}'"),
        "message": format!("there is one of these, named {name}"),
        "fieldPath": ".metadata.name",
        "reason": "FieldValueInvalid",
    }]);
    root["properties"]["metadata"] =
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}});
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the schema's properties, also those of list items, and names the ones without a description.
    fn undescribed(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                if property["description"].as_str().is_none_or(|text| text.trim().is_empty()) {
                    missing.push(path.clone());
                }
                undescribed(&path, property, missing);
            }
        }
        if schema["items"].is_object() {
            undescribed(&format!("{path}[]"), &schema["items"], missing);
        }
    }

    #[test]
    fn every_field_and_column_says_what_it_is() {
        let mut missing = Vec::new();
        for crd in crds() {
            let version = &crd["spec"]["versions"][0];
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            let root = &version["schema"]["openAPIV3Schema"];
            assert!(!root["description"].as_str().unwrap().starts_with("Auto-generated"), "{kind}");
            for part in ["spec", "status"] {
                undescribed(&format!("{kind}.{part}"), &root["properties"][part], &mut missing);
            }
            for column in version["additionalPrinterColumns"].as_array().unwrap() {
                assert!(column["description"].is_string(), "{kind}: column {}", column["name"]);
            }
        }
        assert!(missing.is_empty(), "no description: {missing:#?}");
    }

    #[test]
    fn the_committed_crds_are_the_generated_ones() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/crds");
        for (name, yaml) in files() {
            let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(committed == yaml, "{name} is stale: run make manifests");
        }
    }

    /// What kubectl is told to work with in a text's code: the word after the verb, without names and fields.
    fn resources(text: &str) -> Vec<String> {
        const VERBS: [&str; 7] = ["delete", "describe", "edit", "explain", "get", "patch", "wait"];
        let mut is_fenced = false;
        let mut found = Vec::new();
        for line in text.lines() {
            is_fenced ^= line.starts_with("```");
            let code: Vec<&str> =
                if is_fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
            for command in code.iter().flat_map(|code| code.split("kubectl ").skip(1)) {
                let end = command.find(['|', '#', ';', ')', '&']).unwrap_or(command.len());
                let mut words = command[..end].split_whitespace();
                let mut verb = None;
                while let Some(word) = words.next() {
                    match word {
                        "-n" | "-o" | "-p" | "-f" | "-k" => drop(words.next()),
                        word if word.starts_with('-') => {}
                        word if verb.is_some() => {
                            let names = word.split(',').filter_map(|name| name.split(['/', '.']).next());
                            found.extend(names.map(str::to_owned));
                            break;
                        }
                        word if VERBS.contains(&word) => verb = Some(word),
                        _ => break,
                    }
                }
            }
        }
        found
    }

    #[test]
    fn kubectl_knows_every_resource_that_the_documentation_names() {
        const THEIRS: [&str; 5] = ["daemonset", "node", "pods", "resourcequota", "service"];
        let ours = crds().iter().map(|crd| crd["spec"]["names"].clone()).collect::<Vec<_>>();
        let is_ours = |word: &str| {
            ours.iter().any(|names| {
                let short = names["shortNames"].as_array().into_iter().flatten();
                short.chain([&names["plural"], &names["singular"]]).any(|name| name == word)
            })
        };
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|file| file.unwrap().path());
        let mut count = 0;
        for file in docs.chain([root.join("README.md")]) {
            for word in resources(&std::fs::read_to_string(&file).unwrap()) {
                let is_known = is_ours(&word) || THEIRS.contains(&word.as_str());
                assert!(is_known, "{}: kubectl knows no {word}", file.display());
                count += usize::from(is_ours(&word));
            }
        }
        assert!(count > 20, "only {count} commands are found");
    }
}
