//! Conditions as Kubernetes keeps them: a time of transition that moves only when the status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator, json_schema};

/// One thing that is or is not so, before it meets what the object said until now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The condition's type, such as `Accepted`.
    pub kind: &'static str,
    /// `True`, `False` or, where nobody can say, `Unknown`.
    pub status: Option<bool>,
    /// A stable word for machines, in CamelCase.
    pub reason: &'static str,
    /// What it means and what to do about it, for people.
    pub message: String,
}

impl Finding {
    /// A finding that holds.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason, message: message.into() }
    }

    /// A finding that does not hold.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason, message: message.into() }
    }

    /// A finding that can't be judged yet.
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: None, reason, message: message.into() }
    }
}

/// The longest message that is written, in characters; a longer one is cut.
const LONGEST_MESSAGE: usize = 2048;

/// The conditions to write for `findings`: the time of transition is kept where the status stays.
#[must_use]
pub fn merge(
    old: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let status = match finding.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let before = old.iter().find(|old| old.type_ == finding.kind && old.status == status);
            Condition {
                type_: finding.kind.to_owned(),
                status: status.to_owned(),
                reason: finding.reason.to_owned(),
                message: finding.message.chars().take(LONGEST_MESSAGE).collect(),
                observed_generation: generation,
                last_transition_time: before.map_or(Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The schema of a list of conditions: a map by type, so that two writers can keep one each.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What this condition is about, in CamelCase."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The metadata.generation that was judged: an older one than the object's is out of date."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status last changed."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "A stable word for machines, in CamelCase."},
                "message": {"type": "string", "maxLength": 32768, "description": "What it means and what to do about it."},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let first = Timestamp::from_second(100).unwrap();
        let later = Timestamp::from_second(200).unwrap();
        let old = merge(&[], &[Finding::yes("Accepted", "Accepted", "")], Some(1), first);
        let same = merge(&old, &[Finding::yes("Accepted", "Accepted", "changed text")], Some(2), later);
        assert_eq!(same[0].last_transition_time, Time(first));
        assert_eq!(same[0].observed_generation, Some(2));
        let turned = merge(&same, &[Finding::no("Accepted", "Invalid", "")], Some(3), later);
        assert_eq!(turned[0].last_transition_time, Time(later));
    }
}
