//! From what the API server accepted to the types of core. The only place that does.
//!
//! The CRD's rules have refused most mistakes at `kubectl apply`; what they can't see, or what was stored
//! under older rules, is refused here with the field's name, and becomes the reason of `Accepted=False`.

use std::time::Duration;

use ip_sentry_core::{
    detect::{
        format::{self, FormatDraft},
        policy::{self, PolicyDraft},
    },
    duration::GatewayDuration,
    net::{Network, NetworkError},
};

use crate::probe_policy::{Catalogue, Except, LogFormat, Preset, PrivateClients, ProbePolicySpec};

/// Why a `ProbePolicy` can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A duration that isn't one.
    #[error("spec.{field}: {source}")]
    Duration {
        /// The field's path below `spec`.
        field: &'static str,
        /// What a duration looks like.
        source: ip_sentry_core::duration::DurationError,
    },
    /// An exempt network that isn't one.
    #[error("spec.except.cidrs[{index}]: {source}")]
    Except {
        /// Its place in the list.
        index: usize,
        /// What to write.
        source: NetworkError,
    },
    /// Neither or both ways to say the format.
    #[error("spec.format: give exactly one of preset and regex")]
    Format,
    /// A number that can't be, as a negative threshold.
    #[error("spec.{field}: {value} is out of range")]
    Number {
        /// The field's path below `spec`.
        field: &'static str,
        /// What was given.
        value: i32,
    },
    /// A pattern or format that does not compile, or a policy that bans nobody.
    #[error("spec.{0}")]
    Policy(#[from] policy::PolicyError),
}

/// The policy that `spec` describes, ready to count.
pub fn policy(spec: &ProbePolicySpec) -> Result<policy::Policy, ConvertError> {
    Ok(policy::Policy::compile(&draft(spec)?)?)
}

fn draft(spec: &ProbePolicySpec) -> Result<PolicyDraft, ConvertError> {
    let none = Except::default();
    let except = spec.except.as_ref().unwrap_or(&none);
    Ok(PolicyDraft {
        format: log_format(&spec.format)?,
        catalogues: spec.r#match.catalogues.iter().map(|&catalogue| catalogue.into()).collect(),
        patterns: spec.r#match.patterns.clone(),
        except_cidrs: networks(&except.cidrs)?,
        except_patterns: except.patterns.clone(),
        threshold: number("threshold", spec.threshold)?,
        unique_pattern_threshold: number("uniquePatternThreshold", spec.unique_pattern_threshold)?,
        window: window(spec)?,
        ban_duration: duration("banDuration", &spec.ban_duration)?,
        ipv6_prefix: number("ipv6PrefixLength", spec.ipv6_prefix_length)?,
        private_clients: match spec.private_clients {
            PrivateClients::Ignore => policy::PrivateClients::Ignore,
            PrivateClients::Ban => policy::PrivateClients::Ban,
        },
        ..PolicyDraft::default()
    })
}

/// How long a hit counts.
pub fn window(spec: &ProbePolicySpec) -> Result<Duration, ConvertError> {
    duration("window", &spec.window)
}

/// The networks that the policy exempts.
pub fn exempt(spec: &ProbePolicySpec) -> Result<Vec<Network>, ConvertError> {
    spec.except.as_ref().map_or(Ok(Vec::new()), |except| networks(&except.cidrs))
}

fn duration(field: &'static str, text: &str) -> Result<Duration, ConvertError> {
    let duration: GatewayDuration =
        text.parse().map_err(|source| ConvertError::Duration { field, source })?;
    Ok(duration.get())
}

fn number<T: TryFrom<i32>>(field: &'static str, value: i32) -> Result<T, ConvertError> {
    T::try_from(value).map_err(|_| ConvertError::Number { field, value })
}

fn networks(texts: &[String]) -> Result<Vec<Network>, ConvertError> {
    let parse = |(index, text): (usize, &String)| {
        text.parse().map_err(|source| ConvertError::Except { index, source })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn log_format(given: &LogFormat) -> Result<FormatDraft, ConvertError> {
    match (given.preset, &given.regex) {
        (Some(Preset::NginxCombined), None) => Ok(FormatDraft::Preset(format::Preset::NginxCombined)),
        (None, Some(regex)) => Ok(FormatDraft::Regex(regex.clone())),
        _ => Err(ConvertError::Format),
    }
}

impl From<Catalogue> for ip_sentry_core::detect::catalogue::Catalogue {
    fn from(catalogue: Catalogue) -> Self {
        match catalogue {
            Catalogue::Default => Self::Default,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_of_a_target_alone_is_the_documented_default() {
        let spec: ProbePolicySpec =
            serde_json::from_value(json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}]}))
                .unwrap();
        let draft = draft(&spec).unwrap();
        assert_eq!((draft.threshold, draft.unique_pattern_threshold), (3, 2));
        assert_eq!((draft.window.as_secs(), draft.ban_duration.as_secs()), (120, 86_400));
        assert_eq!(draft.ipv6_prefix, 64);
        assert_eq!(draft.private_clients, policy::PrivateClients::Ignore);
        policy::Policy::compile(&draft).unwrap();
    }

    #[test]
    fn what_cannot_be_used_names_its_field() {
        #[rustfmt::skip]
        let table = [
            (json!({"window": "soon"}),                            "spec.window: "),
            (json!({"banDuration": "1.5h"}),                       "spec.banDuration: "),
            (json!({"threshold": -1}),                             "spec.threshold: -1 is out of range"),
            (json!({"format": {}}),                                "spec.format: give exactly one"),
            (json!({"except": {"cidrs": ["10.0.0.1"]}}),           "spec.except.cidrs[0]: write the prefix length too"),
            (json!({"match": {"patterns": ["^/a", "("]}}),         "spec.match.patterns[1]"),
            (json!({"format": {"regex": "(\\S+) only"}}),          "spec.format.regex"),
        ];
        for (spec, message) in table {
            let spec: ProbePolicySpec = serde_json::from_value(spec).unwrap();
            let error = policy(&spec).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
