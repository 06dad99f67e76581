//! How often something may happen: a burst at once, then so many a second.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Clone, Debug)]
pub struct Budget {
    burst: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Budget {
    /// A full bucket of `burst` tokens that earns `per_second`.
    #[must_use]
    pub fn new(burst: f64, per_second: f64, now: Instant) -> Self {
        Self { burst, per_second, tokens: burst, at: now }
    }

    fn tokens_at(&self, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.tokens + earned).min(self.burst)
    }

    /// From when on there is a token: `now`, or later.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Instant {
        let missing = 1.0 - self.tokens_at(now);
        if missing <= 0.0 {
            return now;
        }
        // A little later than exact: rounding must not make anybody come a moment too early, and again.
        now + Duration::from_secs_f64(missing / self.per_second) + Duration::from_micros(1)
    }

    /// Spends a token, if there is one.
    pub fn spend(&mut self, now: Instant) -> bool {
        self.tokens = self.tokens_at(now);
        self.at = self.at.max(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spent_at_once_and_earned_again_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(3.0, 0.5, start);
        assert_eq!((0..10).filter(|_| budget.spend(start)).count(), 3);
        let ready = budget.ready_at(start + Duration::from_secs(1));
        assert!(!budget.spend(start + Duration::from_secs(1)));
        assert!(ready.duration_since(start + Duration::from_secs(2)) < Duration::from_millis(1));
        assert_eq!(budget.ready_at(ready), ready);
        assert!(budget.spend(start + Duration::from_secs(2)));
        assert_eq!((0..10).filter(|_| budget.spend(start + Duration::from_hours(1))).count(), 3);
    }
}
