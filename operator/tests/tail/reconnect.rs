//! Streams that end, break, fall silent or are refused: every line comes, and once.

use std::time::Duration;

use ip_sentry_operator::tail::{CloseReason, Ended, Failure, StreamEvent};
use proptest::prelude::*;

use crate::log_server::{Following, LogServer, Run, Script, at, logged, numbered, numbers};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn lines_come_as_they_are_written() {
    let server = LogServer::new(numbered([0, 10]));
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 2).await;
    server.change(|state| state.runs[0].log.push(logged(20, "2")));
    let (heard, took) = following.until(SOON, |heard| heard.lines.len() == 3).await;
    assert!(took < Duration::from_millis(20), "{took:?}");
    assert_eq!(heard.lines, numbers(3));
    assert_eq!(heard.events, [StreamEvent::Opened]);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_asked_for_by_whole_seconds_from_the_start_on() {
    let server = LogServer::new(numbered([1_999, 9_500])).with_scripts([Script::End(66)]);
    let following = Following::start(&server, at(1_900));
    following.lines(2).await;
    let queries = server.change(|state| state.queries.clone());
    assert!(queries[0].contains("sinceTime=2023-11-14T22%3A13%3A21Z"), "{queries:?}");
    assert!(queries[1].contains("sinceTime=2023-11-14T22%3A13%3A24Z"), "{queries:?}");
    for query in queries {
        assert!(query.contains("follow=true") && query.contains("timestamps=true"), "{query}");
        assert!(query.contains("container=nginx") && !query.contains("tailLines"), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn standard_output_is_read_alone_while_that_is_possible() {
    let server = LogServer::new(numbered([0, 10]));
    server.change(|state| state.is_split = true);
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 2).await;
    // Another API server answers from now on, of which the feature gate is off.
    server.change(|state| {
        state.is_split = false;
        state.runs[0].ended = Some(at(20));
        state.runs.push(Run { log: vec![logged(30, "2")], ..Run::default() });
    });
    let (heard, _) = following.until(SOON, |heard| heard.lines.len() == 3).await;
    assert_eq!(heard.lines, numbers(3));
    let told = heard.events.iter().filter(|event| matches!(event, StreamEvent::Split(_)));
    assert_eq!(told.collect::<Vec<_>>(), [&StreamEvent::Split(true), &StreamEvent::Split(false)]);
    let queries = server.change(|state| state.queries.clone());
    assert!(
        queries[0].contains("stream=Stdout") && !queries.last().unwrap().contains("stream"),
        "{queries:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn both_streams_are_read_where_the_container_has_written_nothing_to_standard_output() {
    let server = LogServer::new(vec![]);
    server.change(|state| state.is_split = true);
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| !heard.events.is_empty()).await;
    assert!(!server.change(|state| state.queries[0].contains("stream")));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_lines_of_one_stamp_come_once_though_the_stream_breaks_among_them() {
    let server = LogServer::new(numbered([0; 1_000])).with_scripts([
        Script::Break(20_000),
        Script::Break(10_000),
        Script::End(30_017),
        Script::Silence(32_000),
    ]);
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(1_000).await, numbers(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_given_up_after_half_a_minute_and_then_less_eagerly() {
    let server = LogServer::new(numbered([0, 10, 20])).with_scripts([Script::Silence(40)]);
    let following = Following::start(&server, at(0));
    let (_, took) = following.until(SOON * 3, |heard| heard.lines.len() == 3).await;
    assert!((29..32).contains(&took.as_secs()), "{took:?}");
    // The log is quiet, not dead: the next pauses are of about 80 and 120 s.
    let idle = StreamEvent::Closed { reason: CloseReason::Idle };
    let (_, took) = following
        .until(Duration::from_mins(10), |heard| {
            heard.events.iter().filter(|event| **event == idle).count() == 3
        })
        .await;
    assert!((195..210).contains(&took.as_secs()), "{took:?}");
    assert_eq!(following.heard().lines, numbers(3));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_is_opened_anew_after_about_an_hour() {
    let server = LogServer::new(numbered([0]));
    let following = Following::start(&server, at(0));
    let lifetime = StreamEvent::Closed { reason: CloseReason::Lifetime };
    let mut seconds = 0;
    while !following.heard().events.contains(&lifetime) {
        tokio::time::sleep(Duration::from_secs(10)).await;
        seconds += 10;
        server.change(|state| state.runs[0].log.push(logged(seconds * 1_000, "more")));
        assert!(seconds < 2 * 3_600, "still the same stream");
    }
    assert!((48 * 60 - 10..=72 * 60 + 10).contains(&seconds), "{seconds} s");
    let written = server.change(|state| state.runs[0].log.len());
    assert_eq!(following.lines(written).await.len(), written);
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_are_opened_less_and_less_often() {
    let server = LogServer::new(numbered([0])).with_scripts(vec![Script::End(0); 10_000]);
    let following = Following::start(&server, at(0));
    tokio::time::sleep(Duration::from_mins(5)).await;
    let opened = server.change(|state| state.queries.len());
    assert!((25..60).contains(&opened), "{opened} times in five minutes");
    drop(following);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_tried_again() {
    let table = [
        (403, "pods \"nginx\" is forbidden", None, Failure::Forbidden),
        (429, "too many requests", Some(7), Failure::Throttled),
        (
            400,
            "container \"nginx\" in pod \"nginx\" is waiting to start: ContainerCreating",
            None,
            Failure::Waiting,
        ),
        (503, "no kubelet", None, Failure::Server),
    ];
    for (code, message, wait, what) in table {
        let server = LogServer::new(numbered([0])).with_scripts([Script::Refuse(code, message, wait)]);
        let following = Following::start(&server, at(0));
        let (heard, took) = following.until(SOON, |heard| heard.lines == numbers(1)).await;
        assert_eq!(
            heard.events,
            [StreamEvent::Failed { what, message: message.into() }, StreamEvent::Opened]
        );
        assert!(took >= Duration::from_secs(wait.unwrap_or(0)), "{code}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_tail_ends() {
    let server = LogServer::new(numbered([0]));
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 1).await;
    following.cancel.cancel();
    assert_eq!(following.task.await.unwrap(), Ended::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_silences_the_log_for_a_minute_at_most() {
    let hour = 3_600_000;
    let server = LogServer::new(numbered([hour, hour + 1_000])).with_scripts([Script::End(40)]);
    let following = Following::start(&server, at(0));
    following.until(SOON, |heard| heard.lines.len() == 2).await;
    // Half an hour back: the kubelet leaves these out until it is asked anew.
    server.change(|state| state.runs[0].log.extend([logged(hour / 2, "2"), logged(hour / 2 + 1, "3")]));
    let (heard, _) = following.until(Duration::from_mins(1), |heard| heard.lines.len() == 4).await;
    assert_eq!(heard.lines, numbers(4));
}

fn script() -> impl Strategy<Value = Script> {
    let bytes = 0_usize..4_000;
    prop_oneof![
        4 => bytes.clone().prop_map(Script::Break),
        3 => bytes.clone().prop_map(Script::End),
        2 => bytes.prop_map(Script::Silence),
        1 => Just(Script::Refuse(503, "no kubelet", None)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_line_comes_exactly_once(
        steps in proptest::collection::vec(prop_oneof![4 => Just(0_i64), 4 => 1_i64..300, 1 => 300_i64..20_000], 1..100),
        scripts in proptest::collection::vec(script(), 0..12),
        written_before in 0_usize..100,
    ) {
        let times = steps.iter().scan(0, |now, step| { *now += step; Some(*now) });
        let mut log = numbered(times);
        let later = log.split_off(written_before.min(log.len()));
        let count = steps.len();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let lines = runtime.block_on(async {
            let server = LogServer::new(log).with_scripts(scripts);
            let following = Following::start(&server, at(0));
            for line in later {
                tokio::time::sleep(Duration::from_millis(50)).await;
                server.change(|state| state.runs[0].log.push(line));
            }
            following.lines(count).await
        });
        prop_assert_eq!(lines, numbers(count));
    }
}
