//! Which paths are hits: those that a pattern matches, or all of them.

use super::{
    matcher::Matcher,
    target::{MAX_TARGET_BYTES, Normaliser},
};

/// How every path is called.
pub(super) const ANY_PATH: &str = "any path";

/// What a policy's `match` says of paths.
#[derive(Clone, Debug)]
pub(super) enum Paths {
    /// Every path, as number 0, with what the policy looks for in words: [`ANY_PATH`], and what narrows it.
    Any(Box<str>),
    /// Those of patterns.
    Matching(Box<Matcher>),
}

impl Paths {
    /// The lowest-numbered pattern that the target matches, in its plain form or as it was logged.
    #[expect(clippy::inline_always, reason = "every request comes by one of its callers")]
    #[inline(always)]
    pub(super) fn find(&mut self, normaliser: &mut Normaliser, target: &[u8]) -> Option<u16> {
        let matcher = match self {
            Self::Any(_) => return Some(0),
            Self::Matching(matcher) => matcher,
        };
        let raw = &target[..target.len().min(MAX_TARGET_BYTES)];
        let plain = normaliser.normalise(raw);
        let found = matcher.find(plain);
        // Nearly always the plain form is the raw one itself.
        if std::ptr::eq(plain, raw) { found } else { found.into_iter().chain(matcher.find(raw)).min() }
    }

    /// What a hit of that number is a hit on.
    pub(super) fn text(&self, number: u16) -> &str {
        match self {
            Self::Any(text) => text,
            Self::Matching(matcher) => matcher.text(number),
        }
    }

    /// What it takes compiled, in bytes.
    pub(super) fn memory_usage(&self) -> usize {
        match self {
            Self::Any(_) => 0,
            Self::Matching(matcher) => matcher.memory_usage(),
        }
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Any(_) => 1,
            Self::Matching(matcher) => matcher.len(),
        }
    }

    /// For each number of `old` the one that its hits have here; none where they would be no hits.
    pub(super) fn renumber(&self, old: &Self) -> Vec<Option<u16>> {
        (0..)
            .take(old.len())
            .map(|number| match (self, old) {
                (Self::Any(_), _) => Some(0),
                (Self::Matching(_), Self::Any(_)) => None,
                (Self::Matching(new), Self::Matching(old)) => new.number(old.text(number)),
            })
            .collect()
    }
}
