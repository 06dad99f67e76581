//! Which statuses are written now: those with news at once, all others in turn, so that each shows how old it is.
//!
//! A status that is renewed every 30 seconds shows that an operator looks at its policy. So that many policies
//! don't become a load, and each written status doesn't wake the operator by itself, they are renewed in batches, the
//! oldest first.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ip_sentry_crd::probe_policy::ProbePolicyStatus;

use crate::policies::PolicyKey;

/// How often a status without news is written.
const RENEWED: Duration = Duration::from_secs(30);
/// Time between two batches.
const BETWEEN: Duration = Duration::from_secs(5);
/// Renewals in a batch, six a second: with more than 180 policies each waits for longer than [`RENEWED`].
const BATCH: usize = 30;

/// How long nothing is written after a failure: the next round may come 20 times a second.
const RETRY: Duration = Duration::from_secs(1);

/// What was written, and when.
#[derive(Debug)]
pub struct Written {
    statuses: HashMap<PolicyKey, (ProbePolicyStatus, Instant)>,
    renewed: Instant,
    /// Statuses that the API server refused, and when.
    refused: HashMap<PolicyKey, Instant>,
    /// When the API server did not answer.
    unanswered: Option<Instant>,
}

impl Written {
    /// Nothing is known to be written.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { statuses: HashMap::new(), renewed: now, refused: HashMap::new(), unanswered: None }
    }

    /// Forgets everything: somebody else may have written since.
    pub fn clear(&mut self) {
        self.statuses.clear();
    }

    /// The last status of a policy that was written.
    #[must_use]
    pub fn last(&self, key: &PolicyKey) -> Option<&ProbePolicyStatus> {
        self.statuses.get(key).map(|(status, _)| status)
    }

    /// This was written.
    pub fn wrote(&mut self, key: PolicyKey, status: ProbePolicyStatus, now: Instant) {
        self.statuses.insert(key, (status, now));
    }

    /// The API server refused this one: it is tried again after a second.
    pub fn refused(&mut self, key: PolicyKey, now: Instant) {
        self.refused.insert(key, now);
    }

    /// The API server did not answer: nothing is tried for a second.
    pub fn unanswered(&mut self, now: Instant) {
        self.unanswered = Some(now);
    }

    /// Of the statuses of all policies those to write. Policies that are gone are forgotten.
    pub fn due(
        &mut self,
        all: Vec<(PolicyKey, ProbePolicyStatus)>,
        now: Instant,
    ) -> Vec<(PolicyKey, ProbePolicyStatus)> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < RETRY;
        if self.unanswered.as_ref().is_some_and(is_recent) {
            return Vec::new();
        }
        self.refused.retain(|_, at| is_recent(at));
        let mut news = Vec::new();
        let mut old = Vec::new();
        let mut known = HashMap::with_capacity(all.len());
        for (key, status) in all {
            match self.statuses.remove_entry(&key) {
                Some((kept, (last, at))) => {
                    if self.refused.contains_key(&key) {
                        // Its second is not over.
                    } else if says_more(&last, &status) {
                        news.push((key, status));
                    } else if now.saturating_duration_since(at) >= RENEWED {
                        old.push((at, key, status));
                    }
                    known.insert(kept, (last, at));
                }
                None if self.refused.contains_key(&key) => {}
                None => news.push((key, status)),
            }
        }
        self.statuses = known;
        if now.saturating_duration_since(self.renewed) >= BETWEEN && !old.is_empty() {
            self.renewed = now;
            old.sort_by_key(|(at, ..)| *at);
            news.extend(old.into_iter().take(BATCH).map(|(_, key, status)| (key, status)));
        }
        news
    }
}

/// Whether a status says more than that counters have moved.
fn says_more(last: &ProbePolicyStatus, status: &ProbePolicyStatus) -> bool {
    last.conditions != status.conditions || last.streams != status.streams
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: usize) -> PolicyKey {
        PolicyKey { namespace: "web".into(), name: format!("gw-{number:03}") }
    }

    fn status(streams: i32, lines: i64) -> ProbePolicyStatus {
        ProbePolicyStatus { streams, lines, ..ProbePolicyStatus::default() }
    }

    /// Writes what is due.
    fn write(written: &mut Written, all: Vec<(PolicyKey, ProbePolicyStatus)>, now: Instant) -> Vec<String> {
        let due = written.due(all, now);
        due.into_iter()
            .map(|(key, status)| {
                written.wrote(key.clone(), status, now);
                key.name
            })
            .collect()
    }

    #[test]
    fn news_is_written_at_once_and_all_else_every_half_minute() {
        let start = Instant::now();
        let mut written = Written::new(start);
        #[rustfmt::skip]
        let table = [
            // after   streams  lines   written
            (0,        1,       0,      true),
            (5,        1,       100,    false),
            (6,        2,       100,    true),  // a condition or a stream more
            (35,       2,       900,    false),
            (36,       2,       900,    true),  // counters
            (65,       2,       900,    false),
            (66,       2,       900,    true),  // nothing has changed but the time
        ];
        for (after, streams, lines, expect) in table {
            let due = write(&mut written, vec![(key(0), status(streams, lines))], start + after * SECOND);
            assert_eq!(!due.is_empty(), expect, "after {after} s");
        }
    }

    #[test]
    fn what_could_not_be_written_is_tried_once_a_second_and_a_refusal_holds_up_no_other() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let all = || vec![(key(0), status(1, 0)), (key(1), status(1, 0))];
        let tried = |written: &mut Written, now| -> Vec<String> {
            written.due(all(), now).into_iter().map(|(key, _)| key.name).collect()
        };
        let mut written = Written::new(start);
        written.refused(key(0), start);
        assert_eq!(tried(&mut written, at(50)), ["gw-001"]);
        assert_eq!(tried(&mut written, at(999)), ["gw-001"]);
        assert_eq!(tried(&mut written, at(1_000)), ["gw-000", "gw-001"]);
        written.unanswered(at(1_000));
        assert!(tried(&mut written, at(1_999)).is_empty());
        assert_eq!(tried(&mut written, at(2_000)).len(), 2);
    }

    #[test]
    fn two_hundred_policies_are_six_writes_a_second_and_none_waits_for_longer_than_a_minute() {
        let start = Instant::now();
        let mut written = Written::new(start);
        let all = || (0..200).map(|number| (key(number), status(1, 0))).collect::<Vec<_>>();
        assert_eq!(write(&mut written, all(), start).len(), 200, "what nobody has written yet is news");
        let mut last: HashMap<String, u32> = all().into_iter().map(|(key, _)| (key.name, 0)).collect();
        let mut count = 0;
        for second in 1..=600 {
            for name in write(&mut written, all(), start + second * SECOND) {
                count += 1;
                last.insert(name, second);
            }
            assert!(last.values().all(|&at| second - at <= 60), "after {second} s");
        }
        assert!((3_000..=3_600).contains(&count), "{count} writes in 10 minutes");
    }

    #[test]
    fn a_policy_that_is_gone_is_forgotten_and_one_of_its_name_is_news() {
        let start = Instant::now();
        let mut written = Written::new(start);
        write(&mut written, vec![(key(0), status(1, 0)), (key(1), status(1, 0))], start);
        write(&mut written, vec![(key(1), status(1, 0))], start);
        assert!(written.last(&key(0)).is_none());
        assert!(written.last(&key(1)).is_some());
        assert_eq!(
            write(&mut written, vec![(key(0), status(1, 0)), (key(1), status(1, 0))], start),
            ["gw-000"]
        );
    }
}
