//! How often something may happen: a burst at once, then so many a second.

use std::time::Instant;

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

    /// Spends a token, if there is one.
    pub fn spend(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(self.burst);
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_spent_at_once_and_earned_again_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(3.0, 0.5, start);
        assert_eq!((0..10).filter(|_| budget.spend(start)).count(), 3);
        assert!(!budget.spend(start + Duration::from_secs(1)));
        assert!(budget.spend(start + Duration::from_secs(2)));
        assert_eq!((0..10).filter(|_| budget.spend(start + Duration::from_hours(1))).count(), 3);
    }
}
