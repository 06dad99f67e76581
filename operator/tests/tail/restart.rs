//! Containers that start anew, and pods that go.

use std::time::Duration;

use ip_sentry_operator::tail::{Ended, Failure, StreamEvent};

use crate::log_server::{Following, LogServer, Run, Script, at, numbered, numbers};

const SOON: Duration = Duration::from_secs(20);

/// Lines with numbers from `first` on.
fn run(first: usize, times: &[i64]) -> Run {
    let log = numbered(std::iter::repeat_n(0, first).chain(times.iter().copied())).split_off(first);
    Run { log, ..Run::default() }
}

fn restarts(events: &[StreamEvent]) -> usize {
    events.iter().filter(|event| **event == StreamEvent::Restarted).count()
}

#[tokio::test(start_paused = true)]
async fn a_restarted_container_is_read_to_its_end_and_then_from_its_beginning() {
    let server = LogServer::new(numbered([0, 500, 500])).with_scripts([Script::Silence(70)]);
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 2).await;
    // While the connection is dead it writes on, dies, and comes back.
    server.change(|state| {
        state.runs[0].log.extend(run(3, &[600, 700]).log);
        state.runs[0].ended = Some(at(800));
        state.runs.push(run(5, &[701, 900, 5_000]));
    });
    assert_eq!(following.lines(8).await, numbers(8));
    assert_eq!(restarts(&following.heard().events), 1);
    let previous =
        server.change(|state| state.queries.iter().filter(|query| query.contains("previous=true")).count());
    assert_eq!(previous, 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_noticed_within_two_seconds_of_the_end_of_a_stream() {
    let server = LogServer::new(numbered([0]));
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 1).await;
    server.change(|state| state.runs[0].ended = Some(at(100)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.change(|state| state.runs.push(run(1, &[2_000])));
    let (heard, took) = following.until(SOON, |heard| heard.lines.len() == 2).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(heard.lines, numbers(2));
}

#[tokio::test(start_paused = true)]
async fn what_died_in_the_window_before_the_start_is_read_too() {
    let server = LogServer::new(numbered([0, 10]));
    server.change(|state| {
        state.runs[0].ended = Some(at(20));
        state.runs.push(run(2, &[30]));
    });
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(3).await, numbers(3));
    assert_eq!(restarts(&following.heard().events), 0, "it was not followed before");
}

#[tokio::test(start_paused = true)]
async fn what_died_before_the_window_is_left_alone() {
    let server = LogServer::new(numbered([0]));
    server.change(|state| {
        state.runs[0].ended = Some(at(20));
        state.runs.push(run(1, &[60_000]));
    });
    let following = Following::start(&server, at(30_000));
    assert_eq!(following.lines(1).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_previous_log_that_can_not_be_read_does_not_keep_the_new_one_from_being_followed() {
    let refuse = |_| Script::Refuse(500, "disk failure", None);
    let server = LogServer::new(numbered([0])).with_scripts((0..100).map(refuse));
    server.change(|state| {
        state.runs[0].ended = Some(at(20));
        state.runs.push(run(1, &[30]));
        state.scripts.truncate(3);
    });
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(1).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_ended_for_good_costs_a_look_now_and_then() {
    let server = LogServer::new(numbered([0]));
    server.change(|state| state.runs[0].ended = Some(at(100)));
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(1).await, numbers(1));
    let before = server.change(|state| (state.queries.len(), state.looks));
    tokio::time::sleep(Duration::from_mins(5)).await;
    let after = server.change(|state| (state.queries.len(), state.looks));
    assert_eq!(before.0, after.0, "its log was opened again");
    assert!((25..45).contains(&(after.1 - before.1)), "{} looks in five minutes", after.1 - before.1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_not_started_is_waited_for() {
    let server = LogServer::new(Vec::new());
    server.change(|state| state.runs.clear());
    let following = Following::start(&server, at(0));
    let waits = |event: &StreamEvent| matches!(event, StreamEvent::Failed { what: Failure::Waiting, .. });
    following.until(SOON, |heard| heard.events.iter().filter(|event| waits(event)).count() > 5).await;
    server.change(|state| state.runs.push(run(0, &[10])));
    let (_, took) = following.until(SOON, |heard| heard.lines.len() == 1).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tail_ends_with_its_pod() {
    for successor in [None, Some("u2".to_owned())] {
        let server = LogServer::new(numbered([0]));
        let following = Following::start(&server, at(0));
        following.until(SOON, |heard| heard.lines.len() == 1).await;
        server.change(|state| {
            state.uid = successor;
            state.runs[0].ended = Some(at(10));
        });
        let ended = tokio::time::timeout(SOON, following.task).await.expect("the pod is gone").unwrap();
        assert_eq!(ended, Ended::PodGone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_rotated_after_the_start_is_told_once_to_begin_later() {
    #[rustfmt::skip]
    let table = [
        // first line that the node has, start, when the container began, reach
        (500,     0,   None,          500),
        (0,       500, None,          500),
        (500,     500, None,          500),
        (500,     0,   Some(-1),      500), // it may have logged before the start
        (500,     0,   Some(0),       0),
        (60_001,  0,   Some(0),       60_001), // its first words are gone
    ];
    for (first, start, began, expect) in table {
        let server = LogServer::new(numbered([first, first + 600])).with_scripts([Script::End(40)]);
        server.change(|state| state.runs[0].began = began.map(at));
        let following = Following::start(&server, at(start));
        let (heard, _) = following.until(SOON, |heard| heard.lines.contains(&"1".to_owned())).await;
        assert_eq!(heard.reach, [at(expect)], "first line at {first}, start at {start}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_without_a_line_misses_none() {
    let server = LogServer::new(Vec::new());
    let following = Following::start(&server, at(0));
    let (heard, _) = following.until(SOON, |heard| !heard.reach.is_empty()).await;
    assert_eq!(heard.reach, [at(0)]);
}
