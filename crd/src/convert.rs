//! From what the API server accepted to the types of core. The only place that does.
//!
//! The CRD's rules have refused most mistakes at `kubectl apply`; what they can't see, or what was stored
//! under older rules, is refused here with the field's name, and becomes the reason of `Accepted=False`.

use std::time::Duration;

use ip_sentry_core::{
    detect::{
        client_ip::{self, ClientIpDraft},
        escalation,
        format::{self, FormatDraft, JsonDraft},
        policy::{self, PolicyDraft},
    },
    duration::GatewayDuration,
    net::{Network, NetworkError},
};

use crate::probe_policy::{
    Catalogue, ClientIp, ClientIpHeader, Escalation, Except, JsonFields, LogFormat, Preset, PrivateClients,
    ProbePolicySpec,
};

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
    /// A network that isn't one.
    #[error("spec.{field}[{index}]: {source}")]
    Network {
        /// The list's path below `spec`.
        field: &'static str,
        /// Its place in the list.
        index: usize,
        /// What to write.
        source: NetworkError,
    },
    /// None or several of the ways to say the format.
    #[error("spec.format: give exactly one of preset, regex and json")]
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
    let (matching, except) = (&spec.r#match, spec.except.as_ref().unwrap_or(&none));
    Ok(PolicyDraft {
        format: log_format(&spec.format)?,
        client_ip: spec.client_ip.as_ref().map(client_ip).transpose()?,
        catalogues: matching.catalogues.iter().map(|&catalogue| catalogue.into()).collect(),
        patterns: matching.patterns.clone(),
        any_path: matching.any_path,
        statuses: matching.statuses.clone(),
        methods: matching.methods.clone(),
        hosts: matching.hosts.clone(),
        user_agents: matching.user_agents.clone(),
        except_cidrs: networks("except.cidrs", &except.cidrs)?,
        except_patterns: except.patterns.clone(),
        except_hosts: except.hosts.clone(),
        except_user_agents: except.user_agents.clone(),
        threshold: number("threshold", spec.threshold)?,
        unique_pattern_threshold: number("uniquePatternThreshold", spec.unique_pattern_threshold)?,
        unique_path_threshold: number("uniquePathThreshold", spec.unique_path_threshold)?,
        window: window(spec)?,
        ban_duration: duration("banDuration", &spec.ban_duration)?,
        escalation: escalation(spec)?,
        ipv6_prefix: number("ipv6PrefixLength", spec.ipv6_prefix_length)?,
        private_clients: match spec.private_clients {
            PrivateClients::Ignore => policy::PrivateClients::Ignore,
            PrivateClients::Ban => policy::PrivateClients::Ban,
        },
    })
}

/// How long a hit counts.
pub fn window(spec: &ProbePolicySpec) -> Result<Duration, ConvertError> {
    duration("window", &spec.window)
}

/// The networks that the policy exempts.
pub fn exempt(spec: &ProbePolicySpec) -> Result<Vec<Network>, ConvertError> {
    spec.except.as_ref().map_or(Ok(Vec::new()), |except| networks("except.cidrs", &except.cidrs))
}

/// How the bans of one source become longer, if they do.
pub fn escalation(spec: &ProbePolicySpec) -> Result<Option<escalation::Escalation>, ConvertError> {
    let Some(Escalation { factor, max_duration, memory }) = &spec.escalation else { return Ok(None) };
    Ok(Some(escalation::Escalation {
        factor: number("escalation.factor", *factor)?,
        max_duration: duration("escalation.maxDuration", max_duration)?,
        memory: duration("escalation.memory", memory)?,
    }))
}

fn duration(field: &'static str, text: &str) -> Result<Duration, ConvertError> {
    let duration: GatewayDuration =
        text.parse().map_err(|source| ConvertError::Duration { field, source })?;
    Ok(duration.get())
}

fn number<T: TryFrom<i32>>(field: &'static str, value: i32) -> Result<T, ConvertError> {
    T::try_from(value).map_err(|_| ConvertError::Number { field, value })
}

fn networks(field: &'static str, texts: &[String]) -> Result<Vec<Network>, ConvertError> {
    let parse = |(index, text): (usize, &String)| {
        text.parse().map_err(|source| ConvertError::Network { field, index, source })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn log_format(given: &LogFormat) -> Result<FormatDraft, ConvertError> {
    match (given.preset, &given.regex, &given.json) {
        (Some(Preset::NginxCombined), None, None) => Ok(FormatDraft::Preset(format::Preset::NginxCombined)),
        (None, Some(regex), None) => Ok(FormatDraft::Regex(regex.clone())),
        (None, None, Some(json)) => Ok(FormatDraft::Json(json_draft(json.clone()))),
        _ => Err(ConvertError::Format),
    }
}

fn json_draft(fields: JsonFields) -> JsonDraft {
    let JsonFields { ip, path, status, method, host, user_agent, time, forwarded_for } = fields;
    JsonDraft { ip, path, status, method, host, user_agent, time, forwarded_for }
}

fn client_ip(given: &ClientIp) -> Result<ClientIpDraft, ConvertError> {
    Ok(ClientIpDraft {
        header: match given.header {
            ClientIpHeader::XForwardedFor => client_ip::ClientIpHeader::XForwardedFor,
        },
        trusted_hops: given.trusted_hops.map_or(Ok(0), |hops| number("clientIP.trustedHops", hops))?,
        trusted_proxies: networks("clientIP.trustedProxies", &given.trusted_proxies)?,
    })
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
    use crate::ProbePolicy;

    #[test]
    fn a_policy_of_a_target_alone_is_the_documented_default() {
        let spec: ProbePolicySpec =
            serde_json::from_value(json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}]}))
                .unwrap();
        let draft = draft(&spec).unwrap();
        assert_eq!(draft, PolicyDraft::default());
        policy::Policy::compile(&draft).unwrap();
    }

    #[test]
    fn every_field_arrives_where_it_is_read() {
        let spec: ProbePolicySpec = serde_json::from_value(json!({
            "podSelector": {},
            "format": {"json": {
                "ip": "/ip", "path": "/path", "status": "/status", "method": "/method", "host": "/host",
                "userAgent": "/agent", "time": "/time", "forwardedFor": "/xff",
            }},
            "clientIP": {"trustedHops": 2, "trustedProxies": ["10.0.0.0/8"]},
            "match": {
                "anyPath": true, "statuses": ["4xx"], "methods": ["POST"], "hosts": ["*.example.com"],
                "userAgents": ["sqlmap"],
            },
            "except": {
                "cidrs": ["198.51.100.0/24"], "patterns": ["^/ok"], "hosts": ["api.example.com"],
                "userAgents": ["monitor"],
            },
            "threshold": 5, "uniquePatternThreshold": 0, "uniquePathThreshold": 15,
            "window": "2h", "banDuration": "168h", "escalation": {"factor": 2},
            "ipv6PrefixLength": 56, "privateClients": "Ban",
        }))
        .unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expect = PolicyDraft {
            format: FormatDraft::Json(JsonDraft {
                ip: "/ip".into(),
                path: text("/path"),
                status: text("/status"),
                method: text("/method"),
                host: text("/host"),
                user_agent: text("/agent"),
                time: text("/time"),
                forwarded_for: text("/xff"),
            }),
            client_ip: Some(ClientIpDraft {
                header: client_ip::ClientIpHeader::XForwardedFor,
                trusted_hops: 2,
                trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            }),
            catalogues: vec![],
            patterns: vec![],
            any_path: true,
            statuses: vec!["4xx".into()],
            methods: vec!["POST".into()],
            hosts: vec!["*.example.com".into()],
            user_agents: vec!["sqlmap".into()],
            except_cidrs: vec!["198.51.100.0/24".parse().unwrap()],
            except_patterns: vec!["^/ok".into()],
            except_hosts: vec!["api.example.com".into()],
            except_user_agents: vec!["monitor".into()],
            threshold: 5,
            unique_pattern_threshold: 0,
            unique_path_threshold: 15,
            window: Duration::from_hours(2),
            ban_duration: Duration::from_hours(168),
            escalation: Some(escalation::Escalation {
                factor: 2,
                max_duration: Duration::from_hours(672),
                memory: Duration::from_hours(720),
            }),
            ipv6_prefix: 56,
            private_clients: policy::PrivateClients::Ban,
        };
        assert_eq!(draft(&spec).unwrap(), expect);
    }

    #[test]
    fn the_examples_can_be_used() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/examples");
        let jails = std::fs::read_dir(folder.join("jails")).unwrap().map(|file| file.unwrap().path());
        let files: Vec<_> = jails.chain([folder.join("probe-policy.yaml")]).collect();
        assert_eq!(files.len(), 5);
        for file in files {
            let example: ProbePolicy =
                serde_yaml_ng::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            policy(&example.spec).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    #[test]
    fn what_cannot_be_used_names_its_field() {
        #[rustfmt::skip]
        let table = [
            (json!({"window": "soon"}),                            "spec.window: "),
            (json!({"banDuration": "1.5h"}),                       "spec.banDuration: "),
            (json!({"threshold": -1}),                             "spec.threshold: -1 is out of range"),
            (json!({"format": {}}),                                "spec.format: give exactly one of preset, regex and json"),
            (json!({"format": {"regex": "^(\\S+) (\\S+)", "json": {"ip": "/ip"}}}), "spec.format: give exactly one"),
            (json!({"uniquePathThreshold": -1}),                   "spec.uniquePathThreshold: -1 is out of range"),
            (json!({"escalation": {"factor": -2}}),                "spec.escalation.factor: -2 is out of range"),
            (json!({"escalation": {"factor": 2, "memory": "1d"}}), "spec.escalation.memory: "),
            (json!({"clientIP": {"trustedHops": -1}}),             "spec.clientIP.trustedHops: -1 is out of range"),
            (json!({"clientIP": {"trustedProxies": ["x"]}}),       "spec.clientIP.trustedProxies[0]: "),
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
