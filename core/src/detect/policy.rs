//! What a ProbePolicy says: plain data on the way in, something that runs on the way out.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    catalogue::Catalogue,
    client_ip::{ClientIp, ClientIpDraft, ClientIpError},
    date,
    escalation::{BanTime, Escalation, FACTOR_BOUNDS},
    exceptions::Exceptions,
    format::{Field, Fields, Format, FormatDraft, FormatError, LineRegexError, Preset},
    hosts::Hosts,
    judge::Rules,
    matcher::{Matcher, PatternError},
    narrowing::{self, EntryError, Narrowing},
    paths::{ANY_PATH, Paths},
    target::Normaliser,
    window::Thresholds,
};
use crate::net::{Network, WIDEST_V6_PREFIX};

/// The most entries that a policy may write in each of its lists of patterns, statuses, methods and hosts.
pub const MAX_ENTRIES: usize = 64;

/// The most memory that all patterns of a policy may take when they are compiled, in bytes: 5,000 of a catalogue's kind
/// take 6 MiB.
pub const MAX_COMPILED_BYTES: usize = 16 << 20;

/// The highest threshold for hits.
pub const MAX_THRESHOLD: u32 = 10_000;

/// The highest threshold for different patterns.
pub const MAX_UNIQUE_PATTERNS: u32 = 1_000;

/// The highest threshold for different paths.
pub const MAX_UNIQUE_PATHS: u32 = 1_000;

/// The shortest and the longest window.
pub const WINDOW_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// The shortest and the longest ban, and memory of one.
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
    /// One entry of another list.
    #[error("{field}[{index}] {reason}")]
    Entry {
        /// Which list.
        field: &'static str,
        /// Which place in it, from 0.
        index: usize,
        /// What is wrong.
        reason: EntryError,
    },
    /// Each pattern is small enough, but not all together.
    #[error(
        "the patterns of match and except take {given} bytes when compiled; {MAX_COMPILED_BYTES} are allowed: use fewer, \
         or smaller repetitions"
    )]
    TooBig {
        /// What they take.
        given: usize,
    },
    /// More entries than allowed.
    #[error("{field} has {given} entries; {MAX_ENTRIES} are allowed")]
    TooManyEntries {
        /// Which list.
        field: &'static str,
        /// How many there are.
        given: usize,
    },
    /// Something is asked of requests that the format can't tell.
    #[error(
        "{field} asks for the {needs} of a request, which the format does not have: add it there or leave {field} out"
    )]
    NoField {
        /// Which field of the policy asks.
        field: &'static str,
        /// For what.
        needs: Field,
    },
    /// Neither a catalogue nor a pattern, nor every path.
    #[error("match says of no request that it is a hit: name a catalogue, write a pattern or set anyPath")]
    NothingMatches,
    /// Every path, and also some.
    #[error("match.anyPath makes every path a hit: leave out catalogues and patterns, or anyPath")]
    AnyPathAndPatterns,
    /// Nothing could ever earn a ban.
    #[error(
        "threshold, uniquePatternThreshold and uniquePathThreshold are all 0, so that nothing earns a ban: set one of them"
    )]
    EveryThresholdOff,
    /// Nothing could ever earn a ban, since there are too few patterns.
    #[error(
        "uniquePatternThreshold is {threshold}, and match has only {patterns} to be different: lower it or set another threshold"
    )]
    TooFewPatterns {
        /// How many different ones earn a ban.
        threshold: u32,
        /// How many there are.
        patterns: usize,
    },
    /// The bans after the first would be shorter.
    #[error("escalation.maxDuration is {}s, shorter than banDuration, {}s", max.as_secs_f64(), ban.as_secs_f64())]
    LongestBelowFirst {
        /// The longest ban.
        max: Duration,
        /// The first ban.
        ban: Duration,
    },
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
    pub(super) rules: Rules,
}

impl Policy {
    /// What format and patterns take when they are compiled, in bytes, with what searches may cache.
    #[must_use]
    pub fn compiled_bytes(&self) -> usize {
        let Rules { paths, narrowing, except, .. } = &self.rules;
        self.format.memory_usage()
            + 2 * (paths.memory_usage() + narrowing.memory_usage() + except.memory_usage())
    }

    /// When a line says that it was logged; none where it doesn't, or is no request.
    ///
    /// For putting the lines of several logs in order. A log that is also counted or explained needs a copy of the
    /// policy for this: what stands in front of lines is followed from one to the next.
    pub fn time(&mut self, line: &[u8]) -> Option<Timestamp> {
        self.format.parse(line).ok().and_then(|record| date::timestamp(record.time))
    }

    /// Checks and compiles a draft.
    pub fn compile(draft: &PolicyDraft) -> Result<Self, PolicyError> {
        let thresholds = thresholds(draft)?;
        let ban_time = ban_time(draft)?;
        let widest = u32::from(WIDEST_V6_PREFIX);
        number("ipv6PrefixLength", u32::from(draft.ipv6_prefix), (widest, 128))?;
        let mut format = Format::compile(&draft.format)?;
        let fields = format.fields();
        let paths = paths(draft, fields)?;
        if thresholds.unique_paths > 0 {
            list("uniquePathThreshold", thresholds.unique_paths, Field::Path, fields)?;
        }
        let others_are_off = thresholds.hits == 0 && thresholds.unique_paths == 0;
        if others_are_off && thresholds.unique_patterns > paths.len() {
            let threshold = draft.unique_pattern_threshold;
            return Err(PolicyError::TooFewPatterns { threshold, patterns: paths.len() });
        }
        let client_ip = draft.client_ip.as_ref().map(ClientIp::compile).transpose()?;
        if client_ip.is_some() && !fields.has(Field::ForwardedFor) {
            return Err(ClientIpError::NoHeader.into());
        }
        format.want_headers(
            client_ip.is_some() || !draft.user_agents.is_empty() || !draft.except_user_agents.is_empty(),
        );
        let narrowing = Narrowing::compile(draft, fields)?;
        let except = Exceptions::compile(draft, fields)?;
        let given = paths.memory_usage() + narrowing.memory_usage() + except.memory_usage();
        if given > MAX_COMPILED_BYTES {
            return Err(PolicyError::TooBig { given });
        }
        let rules = Rules {
            client_ip,
            paths,
            narrowing,
            except,
            thresholds,
            ban_time,
            ipv6_prefix: draft.ipv6_prefix,
            private_clients: draft.private_clients,
            normaliser: Normaliser::default(),
        };
        Ok(Self { format, rules })
    }
}

fn thresholds(draft: &PolicyDraft) -> Result<Thresholds, PolicyError> {
    let given = [draft.threshold, draft.unique_pattern_threshold, draft.unique_path_threshold];
    if given == [0, 0, 0] {
        return Err(PolicyError::EveryThresholdOff);
    }
    number("threshold", draft.threshold, (0, MAX_THRESHOLD))?;
    number("uniquePatternThreshold", draft.unique_pattern_threshold, (0, MAX_UNIQUE_PATTERNS))?;
    number("uniquePathThreshold", draft.unique_path_threshold, (0, MAX_UNIQUE_PATHS))?;
    duration("window", draft.window, WINDOW_BOUNDS)?;
    let [hits, unique_patterns, unique_paths] = given.map(|threshold| threshold as usize);
    // Bounded above to a day: far from overflow.
    let window = i64::try_from(draft.window.as_micros()).unwrap_or(i64::MAX);
    Ok(Thresholds { hits, unique_patterns, unique_paths, window })
}

fn ban_time(draft: &PolicyDraft) -> Result<BanTime, PolicyError> {
    let ban = draft.ban_duration;
    duration("banDuration", ban, BAN_BOUNDS)?;
    if let Some(Escalation { factor, max_duration: max, memory }) = draft.escalation {
        number("escalation.factor", factor, FACTOR_BOUNDS)?;
        duration("escalation.maxDuration", max, BAN_BOUNDS)?;
        duration("escalation.memory", memory, BAN_BOUNDS)?;
        if max < ban {
            return Err(PolicyError::LongestBelowFirst { max, ban });
        }
    }
    Ok(BanTime { first: ban, escalation: draft.escalation })
}

fn paths(draft: &PolicyDraft, fields: Fields) -> Result<Paths, PolicyError> {
    let has_patterns = !draft.catalogues.is_empty() || !draft.patterns.is_empty();
    match (draft.any_path, has_patterns) {
        (false, false) => Err(PolicyError::NothingMatches),
        (true, true) => Err(PolicyError::AnyPathAndPatterns),
        (false, true) if !fields.has(Field::Path) => Err(PolicyError::Format(match draft.format {
            FormatDraft::Json(_) => FormatError::NoPath,
            _ => LineRegexError::NoGroup("path").into(),
        })),
        (true, false) => Ok(Paths::Any(format!("{ANY_PATH}{}", narrowing::in_words(draft)).into())),
        (false, true) => {
            let from_catalogues: Vec<&str> =
                draft.catalogues.iter().flat_map(|catalogue| catalogue.patterns()).copied().collect();
            matcher("match.patterns", &from_catalogues, &draft.patterns).map(Box::new).map(Paths::Matching)
        }
    }
}

/// Checks that a list of so many entries can be asked of what a format has.
pub(super) fn list(
    field: &'static str,
    length: usize,
    needs: Field,
    fields: Fields,
) -> Result<(), PolicyError> {
    if length > 0 && !fields.has(needs) { Err(PolicyError::NoField { field, needs }) } else { Ok(()) }
}

/// Compiles a policy's own patterns after those of its catalogues.
pub(super) fn matcher(
    field: &'static str,
    from_catalogues: &[&str],
    own: &[String],
) -> Result<Matcher, PolicyError> {
    entries(field, own)?;
    let all: Vec<&str> = from_catalogues.iter().copied().chain(own.iter().map(String::as_str)).collect();
    Matcher::new(&all).map_err(|(index, reason)| {
        // Catalogues compile (a test sees to it), so the index is one of the policy's own.
        PolicyError::Pattern { field, index: index.saturating_sub(from_catalogues.len()), reason }
    })
}

/// Reads a list of hosts.
pub(super) fn hosts(field: &'static str, names: &[String]) -> Result<Hosts, PolicyError> {
    entries(field, names)?;
    Hosts::new(names).map_err(|index| PolicyError::Entry { field, index, reason: EntryError::Host })
}

/// Checks the length of a list.
pub(super) fn entries(field: &'static str, entries: &[String]) -> Result<(), PolicyError> {
    let given = entries.len();
    if given > MAX_ENTRIES { Err(PolicyError::TooManyEntries { field, given }) } else { Ok(()) }
}

fn number(field: &'static str, given: u32, (least, most): (u32, u32)) -> Result<(), PolicyError> {
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
mod tests;
