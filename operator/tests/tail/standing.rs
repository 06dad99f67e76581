//! What is told of a stream follows what is known of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ip_sentry_core::networks::Networks;
use ip_sentry_operator::{
    clock::Clock,
    streams::{StreamState, Streams},
    tail::{Container, Failure},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::log_server::{LogServer, Script, at, numbered};

/// Waits until the stream stands as it should, at most five minutes; how long that took.
async fn until(streams: &Streams, container: &Container, expect: &StreamState) -> Duration {
    let began = Instant::now();
    while streams.state(container) != *expect {
        assert!(began.elapsed() < Duration::from_mins(5), "{:?}, not {expect:?}", streams.state(container));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_silent_and_then_never_answered_is_not_said_to_be_read() {
    // A kubelet behind the API server's proxy that hangs: it falls silent, and the next request is never answered.
    let server = LogServer::new(numbered([0, 10])).with_scripts([
        Script::Silence(80),
        Script::NoAnswer,
        Script::Silence(80),
        Script::End(40),
    ]);
    let (_, protected) = watch::channel(Arc::new(Networks::default()));
    let (decided, _) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let mut streams = Streams::new(
        server.client(),
        Clock::default(),
        protected,
        decided,
        1,
        Arc::default(),
        cancel.clone(),
    );
    let container = Container {
        namespace: "gateway".into(),
        pod: "nginx".into(),
        uid: "u1".into(),
        container: "nginx".into(),
    };
    streams.sync(&HashMap::from([(container.clone(), Vec::new())]), at(0), at(0));

    until(&streams, &container, &StreamState::Open).await;
    let silent = until(&streams, &container, &StreamState::Opening).await;
    assert!(silent < Duration::from_secs(40), "told after {silent:?}");
    let unreachable = StreamState::Failed(Failure::Unreachable, "no answer within 30 s".into());
    let hung = until(&streams, &container, &unreachable).await;
    assert!(hung <= Duration::from_secs(30), "told after another {hung:?}");
    until(&streams, &container, &StreamState::Open).await;

    // One that is silent for its log's sake is opened again at once, and stays read.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_mins(10) {
        assert_eq!(streams.state(&container), StreamState::Open, "after {:?}", quiet.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cancel.cancel();
}
