//! Pauses that grow and differ.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses from half a second to half a minute, each up to twice the last, none quite like another's.
#[derive(Clone, Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = LONGEST.min(pause * 2);
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(between(millis / 2, millis))
    }
}

/// A number from `least` to `most`, another one each time: enough to keep agents from moving in step.
#[must_use]
pub fn between(least: u64, most: u64) -> u64 {
    // Each RandomState has keys of its own.
    let random = RandomState::new().hash_one(());
    least + random % (most.saturating_sub(least) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= FIRST && pauses.iter().all(|pause| *pause <= LONGEST));
        let last = &pauses[20..];
        assert!(last.iter().all(|pause| *pause >= LONGEST / 2));
        assert!(last.iter().any(|pause| *pause != last[0]));
    }
}
