//! The times that the last changes took.

use std::{collections::VecDeque, time::Duration};

/// How many are kept.
const KEPT: usize = 512;

/// The last times, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Latency(VecDeque<Duration>);

impl Latency {
    /// Takes in one.
    pub fn record(&mut self, time: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// The time that 99 of 100 stayed at or under; `None` before the first.
    #[must_use]
    pub fn p99(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.0.iter().copied().collect();
        times.sort_unstable();
        times.get((times.len() * 99).div_ceil(100).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_of_the_last_ones_only() {
        let mut latency = Latency::default();
        assert_eq!(latency.p99(), None);
        latency.record(Duration::from_secs(9));
        assert_eq!(latency.p99(), Some(Duration::from_secs(9)));
        for millis in 1..=512 {
            latency.record(Duration::from_millis(millis));
        }
        assert_eq!(latency.p99(), Some(Duration::from_millis(507)));
    }
}
