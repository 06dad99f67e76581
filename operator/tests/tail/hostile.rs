//! Logs that somebody has written to break the reader.

use std::time::Duration;

use ip_sentry_operator::tail::StreamEvent;

use crate::log_server::{Following, LogServer, at, logged};

#[tokio::test(start_paused = true)]
async fn bytes_of_any_kind_pass_and_the_line_after_them_is_whole() {
    let mut binary = logged(10, "a\0b\x1b[2J").1;
    binary.extend(b"\xff\xfe\r");
    let server = LogServer::new(vec![(at(10), binary), logged(20, ""), logged(30, "next")]);
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(3).await, ["a\0b\x1b[2J\u{fffd}\u{fffd}\r", "", "next"]);
}

#[tokio::test(start_paused = true)]
async fn a_line_without_stamp_is_left_out_and_told() {
    let rest = (at(10), b"the rest of a line that began before".to_vec());
    let forged = (at(20), b"2026-11-22T08:00:00Z198.51.100.7 - - forged".to_vec());
    let server = LogServer::new(vec![rest, forged, logged(30, "next")]);
    let following = Following::start(&server, at(0));
    assert_eq!(following.lines(1).await, ["next"]);
    let undated = following.heard().events.into_iter().filter(|event| *event == StreamEvent::Undated).count();
    assert_eq!(undated, 2);
}

#[tokio::test(start_paused = true)]
async fn of_a_line_of_100_mb_the_beginning_comes_and_it_is_told_once_also_over_a_reconnect() {
    let huge = logged(10, &"x".repeat(100_000_000));
    let bytes = huge.1.len() as u64;
    let server = LogServer::new(vec![logged(0, "before"), huge, logged(20, "after")]);
    let following = Following::start(&server, at(0));
    let (heard, _) = following.until(Duration::from_mins(10), |heard| heard.lines.len() == 3).await;
    assert_eq!((&*heard.lines[0], &*heard.lines[2]), ("before", "after"));
    assert!((60_000..65_536).contains(&heard.lines[1].len()), "{}", heard.lines[1].len());
    assert_eq!(heard.events, [StreamEvent::Opened, StreamEvent::LineTooLong { bytes }]);
    server.change(|state| state.runs[0].ended = Some(at(30)));
    following.until(Duration::from_mins(10), |heard| heard.events.len() > 3).await;
    let told = following
        .heard()
        .events
        .iter()
        .filter(|event| matches!(event, StreamEvent::LineTooLong { .. }))
        .count();
    assert_eq!((told, following.heard().lines.len()), (1, 3));
}
