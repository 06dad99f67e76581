//! What one policy has counted: requests come in as they were read, verdicts go out.

use std::{collections::hash_map::RandomState, hash::BuildHasher};

use jiff::Timestamp;
use memchr::memmem;

use super::{
    counters::Counters,
    date::Dates,
    decision::{Decision, Evidence, MAX_SAMPLES, Threshold, Verdict},
    forgiven::Pardons,
    jail::Limits,
    judge::{Client, Judgement, Rules},
    reason,
    record::{Record, RecordError},
    samples::Samples,
    sources::Sources,
    target::MAX_TARGET_BYTES,
    window::{Count, Hit, Hits},
};
use crate::{net::Source, networks::Networks};

/// The most bytes of a line that did not parse that are kept to be shown.
const UNPARSED_BYTES: usize = 512;

/// How the kubelet's probes name themselves.
const KUBELET: &[u8] = b"kube-probe/";

/// Everything of a jail but the format that it reads lines with.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    pub(super) sources: Sources,
    pub(super) pardons: Pardons,
    /// The beginning of the last line that did not parse.
    pub(super) last_unparsed: Vec<u8>,
    /// The earliest and the latest time of the requests so far.
    pub(super) span: Option<(Timestamp, Timestamp)>,
    pub(super) samples: Samples,
    dates: Dates,
    /// For paths, which clients choose.
    hasher: RandomState,
}

impl Tally {
    pub(super) fn new(rules: Rules, limits: Limits, pardons: Pardons) -> Self {
        Self {
            rules,
            limits,
            counters: Counters::default(),
            sources: Sources::default(),
            pardons,
            last_unparsed: Vec::new(),
            span: None,
            samples: Samples::new(limits.samples),
            dates: Dates::default(),
            hasher: RandomState::new(),
        }
    }

    /// Takes in what was read from `line`; `is_banned` says whose hits would not have come at that time.
    #[expect(clippy::inline_always, reason = "lines of a usual length come by one of its two callers")]
    #[inline(always)]
    pub(super) fn take_in(
        &mut self,
        parsed: &Result<Record<'_>, RecordError>,
        at: Option<Timestamp>,
        line: &[u8],
        protected: &Networks,
        is_banned: &dyn Fn(Source, Timestamp) -> bool,
    ) -> Verdict {
        self.counters.lines += 1;
        let record = match parsed {
            Ok(record) => record,
            Err(error) => return self.unparsed(*error, line),
        };
        if self.rules.lacks_request(record) {
            return self.unparsed(RecordError::Request, line);
        }
        let Some(at) = at.or_else(|| self.dates.timestamp(record.time)) else {
            return self.unparsed(RecordError::Time, line);
        };
        self.counters.parsed += 1;
        self.widen_span(at);
        let client = match self.rules.client(record, protected) {
            Ok(client) => client,
            Err(reason) => {
                // The kubelet comes past the proxies, straight from its node.
                if is_probe(Client::of(record.client, protected), line) {
                    self.counters.probes += 1;
                } else {
                    self.counters.unknown_clients += 1;
                }
                return Verdict::NoClient(reason);
            }
        };
        if !client.is_usual() {
            self.note(client, line);
        }
        if record.target.len() > MAX_TARGET_BYTES {
            self.counters.cut_targets += 1;
        }
        let (source, pattern) = match self.rules.judge(client, record) {
            Judgement::Infrastructure => return Verdict::Infrastructure(client.address),
            Judgement::Narrowed(_) | Judgement::NoPattern => return Verdict::Miss,
            Judgement::Excepted(_) => {
                self.counters.hits += 1;
                self.counters.excepted += 1;
                return Verdict::Excepted;
            }
            Judgement::Hit(source, pattern) => (source, pattern),
        };
        self.counters.hits += 1;
        let forgiven = self.pardons.until(client.address);
        if forgiven.is_some_and(|until| at <= until) {
            self.counters.stale += 1;
            return Verdict::Stale;
        }
        if is_banned(source, at) {
            self.counters.dropped += 1;
            return Verdict::Dropped;
        }
        if let Some(until) = forgiven {
            self.forgive(source, until);
        }
        self.count(source, record, at, pattern, protected)
    }

    /// What this source did at or before `until` counts no more.
    pub(super) fn forgive(&mut self, source: Source, until: Timestamp) {
        let until = until.as_microsecond();
        let keep_later = |hits: &mut Hits| hits.retain(|hit| hit.at > until);
        let ((), evicted) = self.sources.update(source, self.limits.source_bytes, keep_later);
        self.counters.evicted += evicted;
    }

    #[inline]
    fn widen_span(&mut self, at: Timestamp) {
        match &mut self.span {
            // Most lines are of the same second as the one before.
            Some((_, last)) if *last == at => {}
            Some((first, last)) => (*first, *last) = ((*first).min(at), (*last).max(at)),
            None => self.span = Some((at, at)),
        }
    }

    fn unparsed(&mut self, error: RecordError, line: &[u8]) -> Verdict {
        self.counters.count_unparsed(error);
        if error != RecordError::Empty {
            self.last_unparsed.clear();
            self.last_unparsed.extend_from_slice(&line[..line.len().min(UNPARSED_BYTES)]);
        }
        Verdict::Unparsed(error)
    }

    /// Counts clients that are protected or no public address. Every parsed line is counted here, not only hits, so
    /// that a gateway that sees a proxy instead of its clients is noticed before anybody probes.
    fn note(&mut self, client: Client, line: &[u8]) {
        let counter = if is_probe(client, line) {
            &mut self.counters.probes
        } else if client.is_protected {
            &mut self.counters.protected_clients
        } else {
            &mut self.counters.private_clients
        };
        *counter += 1;
    }

    fn count(
        &mut self,
        source: Source,
        record: &Record<'_>,
        at: Timestamp,
        pattern: u16,
        protected: &Networks,
    ) -> Verdict {
        let hit = Hit {
            at: at.as_microsecond(),
            path: self.hasher.hash_one(self.rules.normaliser.path(record.target)),
            sample: self.samples.keep(record),
            pattern,
        };
        let thresholds = self.rules.thresholds;
        let (count, evicted) =
            self.sources.update(source, self.limits.source_bytes, |hits| hits.count(hit, &thresholds));
        self.counters.evicted += evicted;
        match count {
            Count::Stale => {
                self.counters.stale += 1;
                Verdict::Stale
            }
            Count::Below => Verdict::Counted,
            Count::Earned(threshold, hits) => {
                let decision = self.decide(source, threshold, &hits);
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

    fn decide(&self, source: Source, threshold: Threshold, hits: &[Hit]) -> Decision {
        let at = |hit: Option<&Hit>| {
            hit.and_then(|hit| Timestamp::from_microsecond(hit.at).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        // The newest say most, and the oldest of them comes first.
        let mut samples: Vec<String> =
            hits.iter().rev().filter_map(|hit| self.samples.get(hit.sample)).take(MAX_SAMPLES).collect();
        samples.reverse();
        Decision {
            source,
            reason: reason::reason(threshold, hits, &self.rules.paths),
            evidence: Evidence {
                hits: u32::try_from(hits.len()).unwrap_or(u32::MAX),
                threshold,
                first_seen: at(hits.first()),
                last_seen: at(hits.last()),
                samples,
            },
            ban_time: self.rules.ban_time,
        }
    }
}

/// Whether a line says that it is of the kubelet's probes, and comes from where they come from.
fn is_probe(client: Client, line: &[u8]) -> bool {
    !client.is_usual() && memmem::find(line, KUBELET).is_some()
}
