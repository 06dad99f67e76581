//! The gate and its watchdog, on real clocks with short terms.

use super::super::watchdog::Watchdog;
use super::*;
use std::convert::Infallible;
use std::sync::mpsc;

const TERM: Duration = Duration::from_millis(150);
const SOON: Duration = Duration::from_secs(10);

fn leading() -> Leadership {
    let leadership = Leadership::new(TERM);
    leadership.lead(Moment::now());
    leadership
}

fn moments_later(start: Moment, monotonic: Duration, wall: SignedDuration) -> Moment {
    Moment { instant: start.instant + monotonic, wall: start.wall + wall }
}

#[test]
fn a_term_ends_by_whichever_clock_has_gone_further() {
    let start = Moment::now();
    let term = Term::new(start, Duration::from_secs(6));
    let secs = SignedDuration::from_secs;
    #[rustfmt::skip]
    let table = [
        ("both clocks run",        5, secs(5),     true),
        ("the deadline",           6, secs(6),     false),
        ("suspended for an hour",  1, secs(3600),  false),
        ("wall clock set back",    5, secs(-3600), true),
        ("set back, and too late", 6, secs(-3600), false),
    ];
    for (what, monotonic, wall, running) in table {
        let now = moments_later(start, Duration::from_secs(monotonic), wall);
        assert_eq!(term.is_running(now), running, "{what}");
    }
}

#[test]
fn the_deadline_counts_from_before_the_request() {
    let leadership = Leadership::new(TERM);
    let asked = Moment::now();
    let late =
        moments_later(asked, Duration::ZERO, SignedDuration::ZERO - SignedDuration::try_from(TERM).unwrap());
    leadership.lead(late);
    assert_eq!(leadership.permit().err(), Some(Deposed), "the reply took as long as the term");
}

#[test]
fn a_permit_is_refused_before_after_and_on_the_way_out() {
    let leadership = Leadership::new(TERM);
    assert!(leadership.permit().is_err(), "before the first term");
    leadership.lead(Moment::now());
    assert!(leadership.permit().is_ok());
    leadership.lose();
    assert!(leadership.permit().is_err(), "after it was lost");
    leadership.lead(Moment::now());
    leadership.close();
    leadership.lead(Moment::now());
    assert!(leadership.permit().is_err(), "a renewal doesn't open what the shutdown has closed");
}

#[tokio::test]
async fn without_the_lease_a_write_is_not_even_begun() {
    let leadership = Leadership::new(TERM);
    let mut begun = false;
    let written = leadership
        .write(async {
            begun = true;
            Ok::<_, Infallible>(())
        })
        .await;
    assert!(matches!(written, Err(WriteError::Deposed(_))));
    assert!(!begun);
}

#[tokio::test]
async fn a_write_under_way_is_dropped_at_the_deadline() {
    let leadership = leading();
    let written = leadership.write(std::future::pending::<Result<(), Infallible>>());
    let written = tokio::time::timeout(SOON, written).await.expect("the write outlived the term");
    assert!(matches!(written, Err(WriteError::Deposed(_))));
    assert!(leadership.permit().is_err());
}

/// A process that is suspended in the middle of a write wakes with the write ready to go on.
#[tokio::test]
async fn a_write_that_wakes_after_the_deadline_does_not_go_on() {
    let leadership = leading();
    let mut polls = 0;
    let written = leadership.write(poll_fn(|context| {
        polls += 1;
        if polls == 2 {
            return Poll::Ready(Ok::<_, Infallible>(()));
        }
        while leadership.is_leading() {
            std::thread::yield_now();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }));
    assert!(matches!(written.await, Err(WriteError::Deposed(_))));
    assert_eq!(polls, 1);
}

#[tokio::test]
async fn draining_waits_for_the_writes_under_way() {
    let leadership = leading();
    let permit = leadership.permit().unwrap();
    let waiting = tokio::spawn({
        let leadership = leadership.clone();
        async move { leadership.drained(SOON).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(permit);
    tokio::time::timeout(SOON, waiting).await.expect("the last write is over").unwrap();
}

#[tokio::test]
async fn the_watchdog_ends_a_term_that_nobody_renews_and_says_so() {
    let mut leadership = Leadership::new(TERM);
    let _watchdog = Watchdog::start(&leadership, TERM, || panic!("nothing was under way")).unwrap();
    leadership.lead(Moment::now());
    assert!(leadership.changed().await);
    let leads = tokio::time::timeout(SOON, leadership.changed()).await.expect("the term has ended");
    assert!(!leads);
}

#[test]
fn the_watchdog_calls_for_the_end_when_a_write_outlives_its_term() {
    let leadership = Leadership::new(TERM);
    let (call, called) = mpsc::channel();
    let began = Instant::now();
    let _watchdog = Watchdog::start(&leadership, TERM, move || call.send(Instant::now()).unwrap()).unwrap();
    leadership.lead(Moment::now());
    let _stuck = leadership.permit().unwrap();
    let at = called.recv_timeout(SOON).expect("the watchdog has to call");
    assert!(at - began >= 2 * TERM, "called after {:?}, before the grace was over", at - began);
}

#[test]
fn the_watchdog_leaves_alone_what_was_finished_in_time() {
    let leadership = Leadership::new(TERM);
    let (call, called) = mpsc::channel::<()>();
    let watchdog = Watchdog::start(&leadership, TERM, move || call.send(()).unwrap_or_default()).unwrap();
    leadership.lead(Moment::now());
    drop(leadership.permit().unwrap());
    assert_eq!(called.recv_timeout(3 * TERM), Err(mpsc::RecvTimeoutError::Timeout));
    drop(watchdog);
    assert_eq!(called.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected), "its thread has ended");
}
