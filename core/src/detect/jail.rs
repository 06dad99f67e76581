//! One policy at work: lines of its gateways come in, decisions go out.
//!
//! A jail does no I/O and reads no clock. The caller brings each line with its time stamp and the networks that are
//! protected at the moment, and calls [`Jail::sweep`] now and then so that memory is given back.

use jiff::Timestamp;

use super::{
    counters::Counters,
    decision::Verdict,
    forgiven::Pardons,
    format::{Format, doubt_after_message},
    policy::Policy,
    record::RecordError,
    samples::{self, printable},
    shape::shape,
    tally::Tally,
    trail::{PIECE_BYTES, Trail},
};
use crate::{net::Source, networks::Networks};

/// How much a jail may remember.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// What tracked sources may take, in bytes: 98 for each that has one or two hits, more with more. When they take
    /// more the least suspicious are forgotten. Default 16 MiB, 170,000 sources.
    pub source_bytes: usize,
    /// How many of the latest hits are remembered in words, to be shown as evidence. Default and most 4,096; each takes
    /// up to 304 bytes.
    pub samples: usize,
    /// How many bans lifted by hand are remembered, by all jails that share them together. Default 10,000.
    pub forgiven: usize,
}

impl Limits {
    /// What a jail may remember that is alone.
    pub const DEFAULT: Self = Self { source_bytes: 16 << 20, samples: samples::MOST, forgiven: 10_000 };

    /// Limits for a jail whose sources and samples may take so many bytes together: an eighth, or what the most take,
    /// is for samples.
    #[must_use]
    pub fn within(bytes: usize) -> Self {
        let samples = (bytes / 8 / samples::SAMPLE_BYTES).min(samples::MOST);
        Self { source_bytes: bytes - samples * samples::SAMPLE_BYTES, samples, ..Self::DEFAULT }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Counts hits per source and says when one has earned a ban.
#[derive(Clone, Debug)]
pub struct Jail {
    format: Format,
    tally: Tally,
    /// Of the log whose lines come without one.
    trail: Trail,
}

impl Jail {
    /// A jail that has seen nothing yet.
    #[must_use]
    pub fn new(policy: Policy, limits: Limits) -> Self {
        Self::sharing(policy, limits, Pardons::default())
    }

    /// A jail that has seen nothing yet, and forgives whom others forgive.
    #[must_use]
    pub fn sharing(policy: Policy, limits: Limits, pardons: Pardons) -> Self {
        let tally = Tally::new(policy.rules, limits, pardons);
        Self { format: policy.format, tally, trail: Trail::default() }
    }

    /// How much it may remember.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.tally.limits
    }

    /// Sets how much it may remember from now on. What is too much is forgotten at once, and its memory given back.
    pub fn limit(&mut self, limits: Limits) {
        self.tally.limits = limits;
        self.tally.samples.limit(limits.samples);
        self.tally.counters.evicted += self.tally.sources.shrink(limits.source_bytes);
    }

    /// Goes on with another version of the policy.
    ///
    /// Counts are kept where they still mean the same: hits of patterns that are still there, of sources that are
    /// still counted by the same prefix and not exempt now. What narrows the hits further, exempts more than clients or
    /// finds clients elsewhere empties the counts, since nobody knows any more which hits it would have left out.
    pub fn reconfigure(&mut self, policy: Policy) {
        self.format = policy.format;
        let old = std::mem::replace(&mut self.tally.rules, policy.rules);
        let new = &self.tally.rules;
        let is_lost = old.client_ip != new.client_ip
            || !new.narrowing.covers(&old.narrowing)
            || new.except.exempt_more_than(&old.except);
        let number = new.paths.renumber(&old.paths);
        self.tally.sources.retain(|address, hits| {
            let is_same = address.is_ipv4() || old.ipv6_prefix == new.ipv6_prefix;
            let is_exempt = Source::of(address, new.ipv6_prefix)
                .is_ok_and(|source| new.except.networks.overlaps(&source.network()));
            hits.retain(|hit| match number.get(usize::from(hit.pattern)) {
                Some(&Some(number)) if is_same && !is_exempt && !is_lost => {
                    hit.pattern = number;
                    true
                }
                _ => false,
            });
        });
    }

    /// Takes in one line of the only log that is read, without its newline.
    ///
    /// `at` is when it was logged; without it the line's own time counts. `protected` is never banned.
    pub fn observe(&mut self, at: Option<Timestamp>, line: &[u8], protected: &Networks) -> Verdict {
        let Self { format, tally, trail } = self;
        read_line(format, tally, trail, at, line, protected, &|_, _| false)
    }

    /// Takes in one line of the log that `trail` belongs to. Reads only the beginning of a line over the limit.
    ///
    /// `is_banned` says whether a source was banned at a time, for a log that was written while nobody was: its hits
    /// would not have come, and are not counted. The rest is as in [`Self::observe`].
    pub fn observe_in(
        &mut self,
        trail: &mut Trail,
        at: Option<Timestamp>,
        line: &[u8],
        protected: &Networks,
        is_banned: &dyn Fn(Source, Timestamp) -> bool,
    ) -> Verdict {
        read_line(&mut self.format, &mut self.tally, trail, at, line, protected, is_banned)
    }

    /// A ban was lifted by hand: what was logged at or before `until` never counts against this source again.
    pub fn forgive(&mut self, source: Source, until: Timestamp) {
        let network = source.network();
        if self.tally.pardons.add(network, until, self.tally.limits.forgiven) {
            self.tally.counters.pardons_dropped += 1;
        }
        // Of a network as narrow as a source, or narrower, only one source can have hits. Those of a wider one drop
        // theirs with their next hit: to look for them in the whole table would make each of many lifts a search.
        let prefix = if network.is_ipv4() { 32 } else { self.tally.rules.ipv6_prefix };
        if network.prefix() >= prefix
            && let Ok(source) = Source::of(network.address(), prefix)
        {
            self.tally.forgive(source, until);
        }
    }

    /// Forgets sources that had no hit for two windows of the caller's time.
    ///
    /// Call it every minute or so; more often is harmless, less often only takes memory.
    pub fn sweep(&mut self, now: Timestamp) {
        self.tally.sources.sweep(now, self.tally.rules.thresholds.window / 500_000 + 1);
    }

    /// What the jail has seen and done.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.tally.counters
    }

    /// The earliest and the latest time of the requests so far.
    #[must_use]
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        self.tally.span
    }

    /// How many sources are being counted at present.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.tally.sources.len()
    }

    /// What the tracked sources take at present, in bytes.
    #[must_use]
    pub fn tracked_bytes(&self) -> usize {
        self.tally.sources.bytes()
    }

    /// The beginning of the last line that no request could be read from, fit to be shown to whoever may read the log:
    /// without query strings, and without bytes that a terminal would act on. Never publish it.
    #[must_use]
    pub fn unparsed_sample(&self) -> Option<String> {
        let line = &self.tally.last_unparsed;
        (!line.is_empty()).then(|| printable(&without_queries(line)))
    }

    /// The shape of that line, which has none of its text and may be published.
    #[must_use]
    pub fn unparsed_shape(&self) -> Option<String> {
        let line = &self.tally.last_unparsed;
        (!line.is_empty()).then(|| shape(line))
    }
}

/// Takes in one line: a usual one as quickly as it goes, a long one or what follows one with care.
#[inline]
fn read_line(
    format: &mut Format,
    tally: &mut Tally,
    trail: &mut Trail,
    at: Option<Timestamp>,
    line: &[u8],
    protected: &Networks,
    is_banned: &dyn Fn(Source, Timestamp) -> bool,
) -> Verdict {
    if line.len() >= PIECE_BYTES || !trail.is_plain() {
        return read_with_care(format, tally, trail, at, line, protected, is_banned);
    }
    let parsed = format.parse(line);
    if matches!(parsed, Err(RecordError::Message)) {
        hear_message(trail, at, line);
    }
    tally.take_in(&parsed, at, line, protected, is_banned)
}

/// Lets a message of nginx say what it means for the lines after it.
#[cold]
fn hear_message(trail: &mut Trail, at: Option<Timestamp>, message: &[u8]) {
    if let Some(doubt) = doubt_after_message(message) {
        trail.was_message(at, doubt);
    }
}

/// Takes in a line that is long, or that may be the rest of one.
#[cold]
#[inline(never)]
fn read_with_care(
    format: &mut Format,
    tally: &mut Tally,
    trail: &mut Trail,
    at: Option<Timestamp>,
    line: &[u8],
    protected: &Networks,
    is_banned: &dyn Fn(Source, Timestamp) -> bool,
) -> Verdict {
    let doubt = format.doubt_after(line);
    let (parsed, is_beginning) = format.read(line);
    let client = |record| tally.rules.client(record, protected).ok().map(|client| client.address);
    let client = parsed.as_ref().ok().and_then(client);
    let in_doubt = parsed.as_ref().ok().and_then(|_| trail.doubts(at, line, is_beginning, client));
    if let Some(doubt) = doubt {
        tally.counters.long_lines += 1;
        trail.was_long(at, doubt, client.filter(|_| in_doubt.is_none()));
    }
    if matches!(parsed, Err(RecordError::Message)) {
        hear_message(trail, at, line);
    }
    tally.counters.beginnings += u64::from(is_beginning && in_doubt.is_none());
    let parsed = in_doubt.map_or(parsed, Err);
    tally.take_in(&parsed, at, line, protected, is_banned)
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
