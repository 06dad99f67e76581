//! How long to wait before trying again: doubling delays, and jitter so that replicas don't march in step.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Delays that double from one failure to the next, each with ±20 % jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` up to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The delay after one more failure.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.cap);
        jittered(delay)
    }

    /// Starts anew at the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// `delay` ±20 %, evenly spread.
#[must_use]
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(0.8 + 0.4 * unit())
}

/// An even random number in 0..1.
///
/// From the keys that the standard library draws for its hash maps: spreading delays needs no more.
fn unit() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for expect in [100.0, 200.0, 300.0, 300.0] {
            let ratio = backoff.delay().as_secs_f64() * 1000.0 / expect;
            assert!((0.79..1.21).contains(&ratio), "{ratio} of {expect} ms");
        }
        backoff.reset();
        assert!(backoff.delay() < Duration::from_millis(121));
    }

    #[test]
    fn jitter_spreads_over_both_halves() {
        let second = Duration::from_secs(1);
        let delays: Vec<_> = (0..200).map(|_| jittered(second)).collect();
        assert!(delays.iter().any(|delay| *delay < second * 9 / 10));
        assert!(delays.iter().any(|delay| *delay > second * 11 / 10));
    }
}
