//! What the kubelet and Prometheus ask: `/healthz`, `/readyz`, `/metrics`.
//!
//! Every pod may connect, so nobody may take the place of others: a connection serves one request within
//! [`CONNECTION`], and where there are more than [`MOST_CONNECTIONS`] the oldest is closed for the new one. A
//! client that opens many and sends nothing loses its own connections.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::State as With,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::state::State;

/// How long a connection may last, from its opening to the end of the answer.
pub const CONNECTION: Duration = Duration::from_secs(10);
/// How long a client may take to send what it asks.
const REQUEST: Duration = Duration::from_secs(5);
/// How many connections there may be.
pub const MOST_CONNECTIONS: usize = 64;
/// How much of a request is read.
const MOST_REQUEST_BYTES: usize = 16 * 1024;
/// How long to wait after a connection could not be accepted: the process is out of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, state: Arc<State>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    tokio::select! {
        () = accept(listener, router) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= MOST_CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        oldest_first.push_back(connections.spawn(answer(stream, router.clone())));
    }
}

/// One request and its answer.
async fn answer(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(MOST_REQUEST_BYTES)
        .keep_alive(false);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(CONNECTION, connection).await {
        tracing::debug!(%error, "a client of the metrics server went wrong");
    }
}

/// Ready means that every list is complete, leading or not: both replicas of a rollout must get there.
async fn ready(With(state): With<Arc<State>>) -> impl IntoResponse {
    if state.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not every list is complete yet\n")
    }
}

async fn metrics(With(state): With<Arc<State>>) -> impl IntoResponse {
    let lease = state.leadership.status();
    state.metrics.leader.set(i64::from(lease.leading));
    state.metrics.lease_transitions.set(i64::from(lease.transitions));
    match state.metrics.render() {
        Ok(text) => {
            Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
        }
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    async fn start() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(|| async { "ok\n" }));
        (address, tokio::spawn(accept(listener, router)))
    }

    async fn probe(address: std::net::SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_probe_is_answered_while_somebody_holds_more_connections_than_allowed() {
        let (address, _server) = start().await;
        let mut held = Vec::new();
        for _ in 0..2 * MOST_CONNECTIONS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = probe(address).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
        let mut closed = Vec::new();
        assert_eq!(held[0].read_to_end(&mut closed).await.unwrap_or(0), 0, "the oldest is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_or_drop_by_drop_is_closed_in_seconds() {
        let (address, _server) = start().await;
        for drops in [0, 3] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let began = Instant::now();
            for _ in 0..drops {
                stream.write_all(b"G").await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            let mut answer = Vec::new();
            _ = stream.read_to_end(&mut answer).await;
            assert!(began.elapsed() <= CONNECTION, "{drops}: {:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn a_connection_serves_one_request() {
        let (address, _server) = start().await;
        assert!(probe(address).await.contains("connection: close"));
    }
}
