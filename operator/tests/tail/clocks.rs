//! Nodes whose clocks are wrong: what they log is dated right all the same.

use std::time::Duration;

use ip_sentry_operator::tail::StreamEvent;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use crate::log_server::{Following, LogServer, at, logged};

const SOON: Duration = Duration::from_secs(20);

/// A clock that goes with the test's: it starts at `at(0)`.
fn clock() -> impl Fn() -> Timestamp + Send + Sync {
    let began = Instant::now();
    move || at(i64::try_from(began.elapsed().as_millis()).unwrap())
}

/// Writes a line each second for so many seconds, by a clock that is off by so many milliseconds.
async fn write(server: &LogServer, seconds: usize, off: i64, clock: &impl Fn() -> Timestamp) {
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        let now = clock().as_millisecond() - at(0).as_millisecond();
        server.change(|state| state.runs[0].log.push(logged(now + off, "line")));
    }
}

fn seconds_between(a: Timestamp, b: Timestamp) -> i64 {
    a.duration_since(b).abs().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_clock_ahead_dates_no_line_later_than_it_came() {
    let (server, now) = (LogServer::new(vec![]), clock());
    let following = Following::start_at(&server, at(-120_000), clock());
    write(&server, 5, 330_000, &now).await;
    let (heard, _) = following.until(SOON, |heard| heard.lines.len() == 5).await;
    for (second, dated) in (1..).zip(&heard.dated) {
        assert!(seconds_between(*dated, at(1_000 * second)) <= 2, "{:?}", heard.dated);
    }
    let skewed = StreamEvent::Skewed { node: "node-1".into(), behind: SignedDuration::from_secs(-330) };
    assert!(heard.events.contains(&skewed), "{:?}", heard.events);
}

/// The kubelet sends no line from before the start that it is asked for, by its own clock.
#[tokio::test(start_paused = true)]
async fn a_clock_behind_by_more_than_is_read_back_is_heard_and_seen_through() {
    const DAY: i64 = 86_400_000;
    for log in [vec![], vec![logged(-DAY - 5_000, "old"), logged(-DAY - 1_000, "old")]] {
        let (server, now) = (LogServer::new(log), clock());
        let following = Following::start_at(&server, at(-120_000), clock());
        sleep(Duration::from_secs(1)).await;
        write(&server, 10, -DAY, &now).await;
        let (heard, _) = following.until(SOON, |heard| heard.lines.len() >= 10).await;
        assert_eq!(heard.lines, ["line"; 10], "what was there before is older than was asked for");
        let last = heard.dated[9];
        assert!(seconds_between(last, at(11_000)) <= 2, "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_back_is_dated_as_it_is_stamped() {
    let log = (0..60).map(|second| logged(-60_000 + second * 1_000, "line")).collect();
    let (server, now) = (LogServer::new(log), clock());
    let following = Following::start_at(&server, at(-120_000), clock());
    write(&server, 10, 0, &now).await;
    let (heard, _) = following.until(SOON, |heard| heard.lines.len() == 70).await;
    let stamps: Vec<Timestamp> =
        server.change(|state| state.runs[0].log.iter().map(|(stamp, _)| *stamp).collect());
    assert_eq!(heard.dated, stamps);
    assert!(
        !heard
            .events
            .iter()
            .any(|event| matches!(event, StreamEvent::Skewed { .. } | StreamEvent::Redated { .. }))
    );
}
