//! The operator's clock: the API server's time, as its answers tell it.
//!
//! The API server dates what it stores: a ban that is deleted before its end was lifted, and one that is deleted after
//! it ran out. So the leader goes by that clock, and not by the one of the node that it happens to run on: seconds ahead,
//! it would delete bans that the API server takes for lifted, and no offence would ever count; a day ahead, it would end
//! every ban.
//!
//! Every answer has a header `Date`, the second in which it was sent (RFC 9110, section 6.6.1). The true time is never
//! before that, so the latest of many answers is right to within the time between a second's begin and the next answer:
//! the lease alone brings one every two seconds, at irregular times. Between answers the monotonic clock goes on.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimeParser};
use tokio::time::{Duration, Instant};

/// How long an answer counts, at least. An API server whose clock is set back is followed after twice that time.
const SPAN: Duration = Duration::from_mins(1);

/// The API server's clock. Clones are one clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// When this clock was made, from which the monotonic clock counts.
    origin: Instant,
    heard: Mutex<Heard>,
}

/// What the API server's time was at least at the origin, as the answers of this span and of the one before tell.
#[derive(Debug)]
struct Heard {
    current: Option<Timestamp>,
    previous: Option<Timestamp>,
    /// When the current span began.
    since: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        let origin = Instant::now();
        let heard = Heard { current: None, previous: None, since: origin };
        Self(Arc::new(Inner { origin, heard: heard.into() }))
    }
}

impl Clock {
    /// The API server's time, late by less than a second; this machine's while there has been no answer.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let at_origin = heard.current.max(heard.previous);
        at_origin.and_then(|at| at.checked_add(self.elapsed()).ok()).unwrap_or_else(Timestamp::now)
    }

    /// Takes in an answer's headers. A `Date` that is missing or can't be read tells nothing.
    pub(crate) fn hear(&self, headers: &HeaderMap) {
        let text = headers.get(header::DATE).and_then(|value| value.to_str().ok());
        let date = text.and_then(|text| DateTimeParser::new().parse_timestamp(text).ok());
        let Some(at_origin) = date.and_then(|date| date.checked_sub(self.elapsed()).ok()) else { return };
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.since.elapsed() >= SPAN {
            (heard.previous, heard.current) = (heard.current.take(), None);
            heard.since = Instant::now();
        }
        heard.current = heard.current.max(Some(at_origin));
    }

    fn elapsed(&self) -> SignedDuration {
        SignedDuration::try_from(self.0.origin.elapsed()).unwrap_or(SignedDuration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::time::advance;

    use super::*;

    fn dated(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::DATE, HeaderValue::from_str(text).unwrap())])
    }

    /// The headers of an answer that an API server sends at this time.
    fn at(time: Timestamp) -> HeaderMap {
        dated(&time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
    }

    fn off(clock: &Clock, time: Timestamp) -> f64 {
        clock.now().duration_since(time).as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_servers_time_is_known_closely_after_some_answers_whatever_this_machines_is() {
        let start: Timestamp = "2001-02-03T04:05:06.9Z".parse().unwrap();
        let (clock, began) = (Clock::default(), Instant::now());
        let time = || start + began.elapsed();
        clock.hear(&at(time()));
        assert!((-1.0..=0.0).contains(&off(&clock, time())), "after one answer: {}", clock.now());
        for _ in 0..50 {
            advance(Duration::from_millis(2_130)).await;
            clock.hear(&at(time()));
        }
        assert!((-0.1..=0.0).contains(&off(&clock, time())), "after many: {}", off(&clock, time()));
        // Without answers it goes on.
        advance(Duration::from_hours(5)).await;
        assert!((-0.1..=0.0).contains(&off(&clock, time())), "hours later: {}", off(&clock, time()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_whose_clock_is_set_is_followed_forward_at_once_and_back_within_two_minutes() {
        let start: Timestamp = "2026-03-04T05:06:07Z".parse().unwrap();
        let (clock, began) = (Clock::default(), Instant::now());
        let hour = SignedDuration::from_hours(1);
        clock.hear(&at(start));
        clock.hear(&at(start + hour));
        assert!(off(&clock, start + hour).abs() < 1.0);
        for _ in 0..61 {
            advance(Duration::from_secs(2)).await;
            clock.hear(&at(start + began.elapsed()));
        }
        assert!(off(&clock, start + began.elapsed()).abs() < 1.0, "{}", clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_date_that_says_nothing_changes_nothing() {
        let clock = Clock::default();
        clock.hear(&dated("Sat, 03 Feb 2001 04:05:06 GMT"));
        let known = clock.now();
        let answers =
            [HeaderMap::new(), dated(""), dated("tomorrow"), dated("Sat, 03 Feb 99999999 04:05:06 GMT")];
        for headers in &answers {
            clock.hear(headers);
            assert_eq!(clock.now(), known, "{headers:?}");
        }
    }

    #[test]
    fn before_the_first_answer_this_machines_time_counts() {
        assert!(off(&Clock::default(), Timestamp::now()).abs() < 1.0);
    }
}
