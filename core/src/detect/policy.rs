//! What a ProbePolicy says: plain data on the way in, something that runs on the way out.

use std::time::Duration;

use super::{
    catalogue::Catalogue,
    client_ip::{ClientIp, ClientIpDraft, ClientIpError},
    escalation::Escalation,
    format::{Format, FormatDraft, FormatError, LineRegexError, Preset},
    matcher::{Matcher, PatternError},
    window::Thresholds,
};
use crate::{
    net::{Network, WIDEST_V6_PREFIX},
    networks::Networks,
};

/// The most patterns that a policy may write itself, in each of its two lists.
pub const MAX_PATTERNS: usize = 64;

/// The highest threshold for hits.
pub const MAX_THRESHOLD: u32 = 10_000;

/// The highest threshold for different patterns.
pub const MAX_UNIQUE_PATTERNS: u32 = 1_000;

/// The shortest and the longest window.
pub const WINDOW_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// The shortest and the longest ban.
pub const BAN_BOUNDS: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(8760));

/// A policy as it is written.
///
/// The default is what a ProbePolicy means that says nothing but where it applies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyDraft {
    /// How the log is written.
    pub format: FormatDraft,
    /// Where the client's address is found when it isn't the peer's.
    pub client_ip: Option<ClientIpDraft>,
    /// Whose patterns are hits; they are numbered first.
    pub catalogues: Vec<Catalogue>,
    /// More patterns that are hits.
    pub patterns: Vec<String>,
    /// Whether every path is a hit, instead of what catalogues and patterns say.
    pub any_path: bool,
    /// Statuses that a hit has one of, such as `404` or `4xx`; empty: any.
    pub statuses: Vec<String>,
    /// Methods that a hit has one of, in capitals; empty: any.
    pub methods: Vec<String>,
    /// Hosts that a hit has one of, such as `shop.example.com` or `*.example.com`; empty: any.
    pub hosts: Vec<String>,
    /// Patterns that a hit's user agent matches one of; empty: any.
    pub user_agents: Vec<String>,
    /// Clients that are never counted.
    pub except_cidrs: Vec<Network>,
    /// Patterns of requests that are never counted, searched in the plain target. Anchor them: the target ends with
    /// the query, and a client may write there what it likes.
    pub except_patterns: Vec<String>,
    /// Hosts that are never counted, written as `hosts` are.
    pub except_hosts: Vec<String>,
    /// Patterns of user agents that are never counted. A client writes its own.
    pub except_user_agents: Vec<String>,
    /// Hits in the window that earn a ban; 0 is off.
    pub threshold: u32,
    /// Different patterns in the window that earn a ban; 0 is off.
    pub unique_pattern_threshold: u32,
    /// Different paths in the window that earn a ban; 0 is off.
    pub unique_path_threshold: u32,
    /// Length of the window.
    pub window: Duration,
    /// Length of a source's first ban.
    pub ban_duration: Duration,
    /// How the bans after the first are longer; absent: they aren't.
    pub escalation: Option<Escalation>,
    /// The prefix length that IPv6 clients are counted and banned by.
    pub ipv6_prefix: u8,
    /// What to make of private clients.
    pub private_clients: PrivateClients,
}

impl Default for PolicyDraft {
    fn default() -> Self {
        Self {
            format: FormatDraft::Preset(Preset::NginxCombined),
            client_ip: None,
            catalogues: vec![Catalogue::Default],
            patterns: Vec::new(),
            any_path: false,
            statuses: Vec::new(),
            methods: Vec::new(),
            hosts: Vec::new(),
            user_agents: Vec::new(),
            except_cidrs: Vec::new(),
            except_patterns: Vec::new(),
            except_hosts: Vec::new(),
            except_user_agents: Vec::new(),
            threshold: 3,
            unique_pattern_threshold: 2,
            unique_path_threshold: 0,
            window: Duration::from_mins(2),
            ban_duration: Duration::from_hours(24),
            escalation: None,
            ipv6_prefix: 64,
            private_clients: PrivateClients::Ignore,
        }
    }
}

/// What to make of clients with private addresses (RFC 1918, RFC 4193, RFC 6598).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PrivateClients {
    /// Never counted: they are a proxy, a node or the cluster itself.
    Ignore,
    /// Counted like others, for gateways inside a company network. Protected and special addresses still are not.
    Ban,
}

/// Why a draft can't be a [`Policy`]. Fields are named as in a ProbePolicy's spec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The log format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Where the client's address is.
    #[error(transparent)]
    ClientIp(#[from] ClientIpError),
    /// One pattern.
    #[error("{field}[{index}] {reason}")]
    Pattern {
        /// Which list.
        field: &'static str,
        /// Which place in it, from 0.
        index: usize,
        /// What is wrong.
        reason: PatternError,
    },
    /// More patterns than allowed.
    #[error("{field} has {given} patterns; {MAX_PATTERNS} are allowed")]
    TooManyPatterns {
        /// Which list.
        field: &'static str,
        /// How many there are.
        given: usize,
    },
    /// Neither a catalogue nor a pattern.
    #[error("match says of no request that it is a hit: name a catalogue or write a pattern")]
    NothingMatches,
    /// Nothing could ever earn a ban.
    #[error("threshold and uniquePatternThreshold are both 0, so that nothing earns a ban: set one of them")]
    EveryThresholdOff,
    /// A number out of bounds.
    #[error("{field} is {given}; it goes from {least} to {most}")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it is.
        given: u32,
        /// The least it may be.
        least: u32,
        /// The most it may be.
        most: u32,
    },
    /// A duration out of bounds.
    #[error("{field} is {}s; it goes from {}s to {}s", given.as_secs_f64(), bounds.0.as_secs(), bounds.1.as_secs())]
    Duration {
        /// Which field.
        field: &'static str,
        /// What it is.
        given: Duration,
        /// The shortest and the longest it may be.
        bounds: (Duration, Duration),
    },
}

/// A policy that compiled.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) format: Format,
    pub(super) client_ip: Option<ClientIp>,
    pub(super) matcher: Matcher,
    pub(super) except_matcher: Matcher,
    pub(super) except: Networks,
    pub(super) thresholds: Thresholds,
    pub(super) ban_duration: Duration,
    pub(super) ipv6_prefix: u8,
    pub(super) private_clients: PrivateClients,
}

impl Policy {
    /// Checks and compiles a draft.
    pub fn compile(draft: &PolicyDraft) -> Result<Self, PolicyError> {
        if draft.catalogues.is_empty() && draft.patterns.is_empty() {
            return Err(PolicyError::NothingMatches);
        }
        if draft.threshold == 0 && draft.unique_pattern_threshold == 0 {
            return Err(PolicyError::EveryThresholdOff);
        }
        let widest = u32::from(WIDEST_V6_PREFIX);
        number("threshold", draft.threshold, 0, MAX_THRESHOLD)?;
        number("uniquePatternThreshold", draft.unique_pattern_threshold, 0, MAX_UNIQUE_PATTERNS)?;
        number("ipv6PrefixLength", u32::from(draft.ipv6_prefix), widest, 128)?;
        duration("window", draft.window, WINDOW_BOUNDS)?;
        duration("banDuration", draft.ban_duration, BAN_BOUNDS)?;
        let mut format = Format::compile(&draft.format)?;
        if !draft.any_path && !format.has_path() {
            return Err(PolicyError::Format(match draft.format {
                FormatDraft::Json(_) => FormatError::NoPath,
                _ => LineRegexError::NoGroup("path").into(),
            }));
        }
        let client_ip = draft.client_ip.as_ref().map(ClientIp::compile).transpose()?;
        if client_ip.is_some() && !format.has_forwarded_for() {
            return Err(ClientIpError::NoHeader.into());
        }
        format.want_headers(
            client_ip.is_some() || !draft.user_agents.is_empty() || !draft.except_user_agents.is_empty(),
        );
        let from_catalogues: Vec<&str> =
            draft.catalogues.iter().flat_map(|catalogue| catalogue.patterns()).copied().collect();
        Ok(Self {
            format,
            client_ip,
            matcher: matcher("match.patterns", &from_catalogues, &draft.patterns)?,
            except_matcher: matcher("except.patterns", &[], &draft.except_patterns)?,
            except: draft.except_cidrs.iter().copied().collect(),
            thresholds: Thresholds {
                hits: draft.threshold as usize,
                unique_patterns: draft.unique_pattern_threshold as usize,
                // Bounded above to a day: far from overflow.
                window: i64::try_from(draft.window.as_micros()).unwrap_or(i64::MAX),
            },
            ban_duration: draft.ban_duration,
            ipv6_prefix: draft.ipv6_prefix,
            private_clients: draft.private_clients,
        })
    }
}

fn matcher(field: &'static str, from_catalogues: &[&str], own: &[String]) -> Result<Matcher, PolicyError> {
    if own.len() > MAX_PATTERNS {
        return Err(PolicyError::TooManyPatterns { field, given: own.len() });
    }
    let all: Vec<&str> = from_catalogues.iter().copied().chain(own.iter().map(String::as_str)).collect();
    Matcher::new(&all).map_err(|(index, reason)| {
        // Catalogues compile (a test sees to it), so the index is one of the policy's own.
        PolicyError::Pattern { field, index: index.saturating_sub(from_catalogues.len()), reason }
    })
}

fn number(field: &'static str, given: u32, least: u32, most: u32) -> Result<(), PolicyError> {
    if (least..=most).contains(&given) {
        Ok(())
    } else {
        Err(PolicyError::Number { field, given, least, most })
    }
}

fn duration(field: &'static str, given: Duration, bounds: (Duration, Duration)) -> Result<(), PolicyError> {
    if (bounds.0..=bounds.1).contains(&given) {
        Ok(())
    } else {
        Err(PolicyError::Duration { field, given, bounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{client_ip::ClientIpHeader, format::JsonDraft};

    #[test]
    fn what_is_refused_names_the_field_and_what_it_may_be() {
        let draft = PolicyDraft::default;
        let hops = |trusted_hops| ClientIpDraft {
            header: ClientIpHeader::XForwardedFor,
            trusted_hops,
            trusted_proxies: Vec::new(),
        };
        #[rustfmt::skip]
        let table = [
            (PolicyDraft { catalogues: vec![], ..draft() },
                "match says of no request that it is a hit: name a catalogue or write a pattern"),
            (PolicyDraft { threshold: 0, unique_pattern_threshold: 0, ..draft() },
                "threshold and uniquePatternThreshold are both 0, so that nothing earns a ban: set one of them"),
            (PolicyDraft { threshold: 10_001, ..draft() },                "threshold is 10001; it goes from 0 to 10000"),
            (PolicyDraft { unique_pattern_threshold: 1_001, ..draft() },  "uniquePatternThreshold is 1001; it goes from 0 to 1000"),
            (PolicyDraft { ipv6_prefix: 24, ..draft() },                  "ipv6PrefixLength is 24; it goes from 32 to 128"),
            (PolicyDraft { ipv6_prefix: 129, ..draft() },                 "ipv6PrefixLength is 129; it goes from 32 to 128"),
            (PolicyDraft { window: Duration::ZERO, ..draft() },           "window is 0s; it goes from 1s to 86400s"),
            (PolicyDraft { window: Duration::MAX, ..draft() },            "window is 18446744073709552000s; it goes from 1s to 86400s"),
            (PolicyDraft { ban_duration: Duration::from_millis(1500), ..draft() }, "banDuration is 1.5s; it goes from 60s to 31536000s"),
            (PolicyDraft { patterns: vec!["^/a".into(), "(".into()], ..draft() },
                "match.patterns[1] does not compile: unclosed group, at character 1"),
            (PolicyDraft { except_patterns: vec!["a*".into()], ..draft() },
                "except.patterns[0] matches the empty path, and so every request: say what a probe asks for"),
            (PolicyDraft { patterns: vec!["^/a".into(); 65], ..draft() }, "match.patterns has 65 patterns; 64 are allowed"),
            (PolicyDraft { format: FormatDraft::Regex(r"^(\S+) \S+".into()), ..draft() },
                "format.regex has no group for the path: name one (?<path>…), or without names make group 1 the address and group 2 the path"),
            (PolicyDraft { format: FormatDraft::Json(JsonDraft { ip: "/ip".into(), ..JsonDraft::default() }), ..draft() },
                "format.json.path is needed, unless match.anyPath is true"),
            (PolicyDraft { format: FormatDraft::Json(JsonDraft::default()), ..draft() },
                "format.json.ip is no JSON pointer: write /, with ~1 for a slash in a key and ~0 for a tilde"),
            (PolicyDraft { client_ip: Some(hops(0)), ..draft() },
                "clientIP needs trustedHops or trustedProxies: all else in the header is what clients write"),
            (PolicyDraft { client_ip: Some(hops(33)), ..draft() },
                "clientIP.trustedHops is 33; it goes from 1 to 32"),
            (PolicyDraft { client_ip: Some(hops(1)), format: FormatDraft::Regex(r"^(\S+) (\S+)".into()), ..draft() },
                "clientIP needs the X-Forwarded-For header, which the format does not have: add forwardedFor to it"),
            (PolicyDraft { format: FormatDraft::Regex("x".into()), ..draft() },
                "format.regex must begin with ^, or a client could write a line of its own into its user agent"),
        ];
        for (draft, expect) in table {
            assert_eq!(Policy::compile(&draft).unwrap_err().to_string(), expect);
        }
    }

    #[test]
    fn the_default_compiles() {
        assert_eq!(Policy::compile(&PolicyDraft::default()).unwrap().matcher.len(), 15);
    }
}
