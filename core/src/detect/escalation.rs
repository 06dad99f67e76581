//! How the bans of one source become longer, and what must be remembered of them for that.
//!
//! The n-th ban of a source lasts the policy's ban duration × factor^(n−1), at most the longest duration; n is one
//! more than the bans of the source, whichever policies they were of, that ended within the policy's memory.
//! Bans that are longer than the first and shorter than the longest last up to a twentieth more, so that nobody knows
//! to the second when to come back. How much more is a function of the source and n: two leaders, and the replay of a
//! log, come to the same end.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::decision::Decision;
use crate::net::Source;

/// The least and the most that a ban may be longer than the one before, as a factor.
pub const FACTOR_BOUNDS: (u32, u32) = (1, 64);

/// The most ends of bans that are remembered of one source.
///
/// From the shortest ban there is to the longest it takes 19 doublings: the 21st ban is as long as any after it.
pub const REMEMBERED_ENDS: usize = 20;

/// The n-th ban lasts the policy's ban duration × `factor`^(n−1), at most `max_duration`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Escalation {
    /// By what each ban is longer than the one before; 1 to 64.
    pub factor: u32,
    /// The longest ban; not shorter than the policy's ban duration.
    pub max_duration: Duration,
    /// How long after its end a ban still counts as one before.
    pub memory: Duration,
}

/// How long the bans of a policy last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BanTime {
    /// The length of a source's first ban, and of all where they don't escalate.
    pub first: Duration,
    /// How the others are longer.
    pub escalation: Option<Escalation>,
}

impl BanTime {
    /// The length of a source's `offence`-th ban, counted from 1.
    #[must_use]
    pub fn length(&self, source: Source, offence: u32) -> Duration {
        let Some(Escalation { factor, max_duration, .. }) = self.escalation else { return self.first };
        if factor <= 1 || offence <= 1 {
            return self.first;
        }
        let times = u128::from(factor).checked_pow(offence - 1);
        let millis = times.and_then(|times| times.checked_mul(self.first.as_millis()));
        let Some(millis) = millis.filter(|&millis| millis < max_duration.as_millis()) else {
            return max_duration;
        };
        let jitter = millis * u128::from(thousandths(source, offence)) / 20_000;
        Duration::from_millis(u64::try_from(millis + jitter).unwrap_or(u64::MAX)).min(max_duration)
    }

    /// How long after its end a ban counts as one before; absent: for as long as it is remembered.
    #[must_use]
    pub fn memory(&self) -> Option<Duration> {
        self.escalation.map(|escalation| escalation.memory)
    }
}

/// A number from 0 to 1000 that follows from a source and the number of its ban: FNV-1a of the source's text and the
/// number's four bytes, highest first. It must stay the same for ever, or two versions of the operator disagree.
fn thousandths(source: Source, offence: u32) -> u64 {
    let hash = source
        .to_string()
        .bytes()
        .chain(offence.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash % 1001
}

/// When the bans of one source ended: the last [`REMEMBERED_ENDS`], oldest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PastBans(Vec<Timestamp>);

impl PastBans {
    /// One ended, or will. Told twice it is one.
    pub fn end(&mut self, at: Timestamp) {
        if let Err(place) = self.0.binary_search(&at) {
            // Most sources have few, and there are many sources: no room is taken ahead.
            self.0.reserve_exact(1);
            self.0.insert(place, at);
        }
        if self.0.len() > REMEMBERED_ENDS {
            self.0.remove(0);
        }
    }

    /// The how-manieth ban one is that begins at `at`: one more than those that ended before, within `memory`.
    #[must_use]
    pub fn next_offence(&self, at: Timestamp, memory: Option<Duration>) -> u32 {
        let since = memory
            .and_then(|memory| SignedDuration::try_from(memory).ok())
            .and_then(|memory| at.checked_sub(memory).ok())
            .unwrap_or(Timestamp::MIN);
        let before = self.0.iter().filter(|&&end| since <= end && end <= at).count();
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The ban that a decision asks for after these.
    #[must_use]
    pub fn ban_for(&self, decision: &Decision) -> Ban {
        let offence = self.next_offence(decision.evidence.last_seen, decision.ban_time.memory());
        Ban { offence, length: decision.length(offence), expires_at: decision.expires_at(offence) }
    }

    /// When the last one ended or will.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.0.last().copied()
    }

    /// All ends that are remembered, oldest first.
    pub fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.0.iter().copied()
    }
}

impl FromIterator<Timestamp> for PastBans {
    fn from_iter<I: IntoIterator<Item = Timestamp>>(ends: I) -> Self {
        let mut past = Self::default();
        ends.into_iter().for_each(|end| past.end(end));
        past
    }
}

/// A ban that a decision became.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ban {
    /// The how-manieth of its source.
    pub offence: u32,
    /// How long it lasts.
    pub length: Duration,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The bans of all sources in a world where every decision is carried out at once, such as the replay of a log.
///
/// Bounded: of more than [`Offences::MOST_SOURCES`] the one whose last ban ends first is forgotten, and counted.
#[derive(Clone, Debug, Default)]
pub struct Offences {
    bans: HashMap<Source, PastBans>,
    by_end: BTreeSet<(Timestamp, Source)>,
    forgotten: u64,
}

impl Offences {
    /// The most sources that are remembered: as many as the cluster remembers.
    pub const MOST_SOURCES: usize = 65_536;

    /// The ban that a decision becomes; none when its source is banned already at the time of its last hit.
    pub fn begin(&mut self, decision: &Decision) -> Option<Ban> {
        let (source, at) = (decision.source, decision.evidence.last_seen);
        let past = self.bans.entry(source).or_default();
        let last = past.last();
        if last.is_some_and(|end| end > at) {
            return None;
        }
        let ban = past.ban_for(decision);
        past.end(ban.expires_at);
        if let Some(last) = last {
            self.by_end.remove(&(last, source));
        }
        self.by_end.insert((ban.expires_at, source));
        if self.bans.len() > Self::MOST_SOURCES
            && let Some((_, oldest)) = self.by_end.pop_first()
        {
            self.bans.remove(&oldest);
            self.forgotten += 1;
        }
        Some(ban)
    }

    /// Whether the source is banned at that time, as far as is remembered.
    #[must_use]
    pub fn is_banned(&self, source: Source, at: Timestamp) -> bool {
        self.bans.get(&source).and_then(PastBans::last).is_some_and(|end| end > at)
    }

    /// How many sources were forgotten because there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests;
