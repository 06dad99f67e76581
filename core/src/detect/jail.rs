//! One policy at work: lines of its gateways come in, decisions go out.
//!
//! A jail does no I/O and reads no clock. The caller brings each line with its time stamp and the networks that are
//! protected at the moment, and calls [`Jail::sweep`] now and then so that memory is given back.

use std::net::IpAddr;

use jiff::Timestamp;
use memchr::memmem;

use super::{
    counters::Counters,
    date::Dates,
    decision::{self, Decision, Evidence, MAX_SAMPLES, Verdict},
    forgiven::Forgiven,
    policy::{Policy, PrivateClients},
    record::{Record, RecordError},
    samples::{Samples, printable},
    sources::Sources,
    target::{MAX_TARGET_BYTES, Normaliser},
    window::{Count, Hit},
};
use crate::{
    net::{Scope, Source, scope},
    networks::Networks,
};

/// The most bytes of a line that did not parse that are kept to be shown.
const UNPARSED_BYTES: usize = 512;

/// How the kubelet's probes name themselves.
const KUBELET: &[u8] = b"kube-probe/";

/// How much a jail may remember.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// What tracked sources may take, in bytes: 76 for each that has one or two hits, more with more. When they take
    /// more the least suspicious are forgotten. Default 16 MiB, 220,000 sources.
    pub source_bytes: usize,
    /// How many bans lifted by hand are remembered. Default 10,000.
    pub forgiven: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { source_bytes: 16 << 20, forgiven: 10_000 }
    }
}

/// Counts hits per source and says when one has earned a ban.
#[derive(Clone, Debug)]
pub struct Jail {
    policy: Policy,
    limits: Limits,
    counters: Counters,
    sources: Sources,
    samples: Samples,
    forgiven: Forgiven,
    normaliser: Normaliser,
    dates: Dates,
    last_unparsed: Vec<u8>,
}

impl Jail {
    /// A jail that has seen nothing yet.
    #[must_use]
    pub fn new(policy: Policy, limits: Limits) -> Self {
        Self {
            policy,
            limits,
            counters: Counters::default(),
            sources: Sources::default(),
            samples: Samples::default(),
            forgiven: Forgiven::default(),
            normaliser: Normaliser::default(),
            dates: Dates::default(),
            last_unparsed: Vec::new(),
        }
    }

    /// Goes on with another version of the policy.
    ///
    /// Counts are kept where they still mean the same: hits of patterns that are still there, of sources that are
    /// still counted by the same prefix and not exempt now. A new exempt pattern empties the counts, since nobody
    /// knows any more which hits it would have exempted.
    pub fn reconfigure(&mut self, policy: Policy) {
        let old = std::mem::replace(&mut self.policy, policy);
        let new = &self.policy;
        let is_exempt_anew = (0..new.except_matcher.len()).any(|index| {
            let text = u16::try_from(index).map_or("", |number| new.except_matcher.text(number));
            old.except_matcher.number(text).is_none()
        });
        let number: Vec<Option<u16>> = (0..)
            .take(old.matcher.len())
            .map(|number| new.matcher.number(old.matcher.text(number)))
            .collect();
        self.sources.retain(|address, hits| {
            let is_same = address.is_ipv4() || old.ipv6_prefix == new.ipv6_prefix;
            let is_exempt = is_exempt_anew
                || Source::of(address, new.ipv6_prefix)
                    .is_ok_and(|source| new.except.overlaps(&source.network()));
            hits.retain(|hit| match number.get(usize::from(hit.pattern)) {
                Some(&Some(number)) if is_same && !is_exempt => {
                    hit.pattern = number;
                    true
                }
                _ => false,
            });
        });
    }

    /// Takes in one line, without its newline.
    ///
    /// `at` is when it was logged; without it the line's own time counts. `protected` is never banned.
    pub fn observe(&mut self, at: Option<Timestamp>, line: &[u8], protected: &Networks) -> Verdict {
        // Records borrow from the format that read them.
        let mut format = std::mem::take(&mut self.policy.format);
        let verdict = self.judge(format.parse(line), at, line, protected);
        self.policy.format = format;
        verdict
    }

    fn judge(
        &mut self,
        parsed: Result<Record<'_>, RecordError>,
        at: Option<Timestamp>,
        line: &[u8],
        protected: &Networks,
    ) -> Verdict {
        self.counters.lines += 1;
        let mut record = match parsed {
            Ok(record) => record,
            Err(error) => return self.unparsed(error, line),
        };
        let Some(at) = at.or_else(|| self.dates.timestamp(record.time)) else {
            return self.unparsed(RecordError::Time, line);
        };
        self.counters.parsed += 1;
        if let Some(client_ip) = &self.policy.client_ip {
            match client_ip.find(record.client, record.forwarded_for) {
                Ok(client) => record.client = client,
                Err(reason) => {
                    self.counters.unknown_clients += 1;
                    return Verdict::NoClient(reason);
                }
            }
        }
        if self.is_infrastructure(record.client, line, protected) {
            return Verdict::Infrastructure(record.client);
        }
        let Some(pattern) = self.hit(&record) else { return Verdict::Miss };
        self.counters.hits += 1;
        // Special addresses are infrastructure, and no policy counts by a prefix that is too wide.
        let Ok(source) = Source::of(record.client, self.policy.ipv6_prefix) else {
            return Verdict::Infrastructure(record.client);
        };
        if self.policy.except.overlaps(&source.network()) || self.is_excepted(&record) {
            self.counters.excepted += 1;
            return Verdict::Excepted;
        }
        if self.forgiven.covers(record.client, at) {
            self.counters.stale += 1;
            return Verdict::Stale;
        }
        self.count(source, &record, at, pattern, protected)
    }

    /// A ban was lifted by hand: what was logged at or before `until` never counts against this source again.
    pub fn forgive(&mut self, source: Source, until: Timestamp) {
        let network = source.network();
        if self.forgiven.add(network, until, self.limits.forgiven) {
            self.counters.pardons_dropped += 1;
        }
        let until = until.as_microsecond();
        let prefix = self.policy.ipv6_prefix;
        self.sources.retain(|address, hits| {
            if Source::of(address, prefix).is_ok_and(|source| source.network().overlaps(&network)) {
                hits.retain(|hit| hit.at > until);
            }
        });
    }

    /// Forgets sources that had no hit for two windows of the caller's time.
    ///
    /// Call it every minute or so; more often is harmless, less often only takes memory.
    pub fn sweep(&mut self, now: Timestamp) {
        self.sources.sweep(now, self.policy.thresholds.window / 500_000 + 1);
    }

    /// What the jail has seen and done.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many sources are being counted at present.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.sources.len()
    }

    /// What the tracked sources take at present, in bytes.
    #[must_use]
    pub fn tracked_bytes(&self) -> usize {
        self.sources.bytes()
    }

    /// The beginning of the last line that no request could be read from, fit to be shown: without query strings,
    /// and without bytes that a terminal would act on.
    #[must_use]
    pub fn unparsed_sample(&self) -> Option<String> {
        (!self.last_unparsed.is_empty()).then(|| printable(&without_queries(&self.last_unparsed)))
    }

    fn unparsed(&mut self, error: RecordError, line: &[u8]) -> Verdict {
        self.counters.count_unparsed(error);
        if error != RecordError::Empty {
            self.last_unparsed.clear();
            self.last_unparsed.extend_from_slice(&line[..line.len().min(UNPARSED_BYTES)]);
        }
        Verdict::Unparsed(error)
    }

    /// Whether the client is never counted; every parsed line is counted here, not only hits, so that a gateway
    /// that sees a proxy instead of its clients is noticed before anybody probes.
    fn is_infrastructure(&mut self, client: IpAddr, line: &[u8], protected: &Networks) -> bool {
        let is_protected = protected.contains(client);
        let scope = scope(client);
        if !is_protected && scope == Scope::Public {
            return false;
        }
        let counter = if memmem::find(line, KUBELET).is_some() {
            &mut self.counters.probes
        } else if is_protected {
            &mut self.counters.protected_clients
        } else {
            &mut self.counters.private_clients
        };
        *counter += 1;
        is_protected || scope == Scope::Special || self.policy.private_clients == PrivateClients::Ignore
    }

    /// The lowest-numbered pattern that the target matches, in its plain form or as it was logged.
    fn hit(&mut self, record: &Record<'_>) -> Option<u16> {
        if record.target.len() > MAX_TARGET_BYTES {
            self.counters.cut_targets += 1;
        }
        find(&mut self.policy.matcher, &mut self.normaliser, record.target)
    }

    fn is_excepted(&mut self, record: &Record<'_>) -> bool {
        // Only the plain form: what is exempt must be exempt however it is spelled, and a spelling must not exempt.
        let plain = self.normaliser.normalise(record.target);
        self.policy.except_matcher.find(plain).is_some()
    }

    fn count(
        &mut self,
        source: Source,
        record: &Record<'_>,
        at: Timestamp,
        pattern: u16,
        protected: &Networks,
    ) -> Verdict {
        let hit = Hit { at: at.as_microsecond(), sample: self.samples.keep(record), pattern };
        let thresholds = self.policy.thresholds;
        let (count, evicted) =
            self.sources.update(source, self.limits.source_bytes, |hits| hits.count(hit, &thresholds));
        self.counters.evicted += evicted;
        match count {
            Count::Stale => {
                self.counters.stale += 1;
                Verdict::Stale
            }
            Count::Below => Verdict::Counted,
            Count::Earned(hits) => {
                let decision = self.decide(source, pattern, &hits);
                if protected.overlaps(&source.network()) {
                    self.counters.shielded += 1;
                    Verdict::Shielded(decision)
                } else {
                    self.counters.earned += 1;
                    Verdict::Earned(decision)
                }
            }
        }
    }

    fn decide(&self, source: Source, pattern: u16, hits: &[Hit]) -> Decision {
        let at = |hit: Option<&Hit>| {
            hit.and_then(|hit| Timestamp::from_microsecond(hit.at).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        let last_seen = at(hits.last());
        // The newest say most, and the oldest of them comes first.
        let mut samples: Vec<String> =
            hits.iter().rev().filter_map(|hit| self.samples.get(hit.sample)).take(MAX_SAMPLES).collect();
        samples.reverse();
        Decision {
            source,
            reason: self.policy.matcher.text(pattern).chars().take(decision::MAX_TEXT_CHARS).collect(),
            evidence: Evidence {
                hits: u32::try_from(hits.len()).unwrap_or(u32::MAX),
                first_seen: at(hits.first()),
                last_seen,
                samples,
            },
            expires_at: decision::expiry(last_seen, self.policy.ban_duration),
        }
    }
}

fn find(matcher: &mut super::matcher::Matcher, normaliser: &mut Normaliser, target: &[u8]) -> Option<u16> {
    let raw = &target[..target.len().min(MAX_TARGET_BYTES)];
    let plain = normaliser.normalise(raw);
    let found = matcher.find(plain);
    if plain == raw { found } else { found.into_iter().chain(matcher.find(raw)).min() }
}

/// Leaves out what stands between a question mark and the next space or quote.
fn without_queries(line: &[u8]) -> Vec<u8> {
    let mut is_query = false;
    let mut kept = Vec::with_capacity(line.len());
    for &byte in line {
        match byte {
            b' ' | b'"' => is_query = false,
            b'?' if !is_query => {
                is_query = true;
                kept.extend_from_slice(b"?...");
            }
            _ => {}
        }
        if !is_query {
            kept.push(byte);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
