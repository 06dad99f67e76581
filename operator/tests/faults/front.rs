//! Stands between one replica and the API server: what passes is written down, and may be disturbed.
//!
//! The API server is a real one, and sees the requests as those of the operator's service account, so that its
//! rights and the admission policies hold. Only pods' logs come from here: there is no kubelet.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::State, serve::Listener};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::Client;
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::gateway_log::GatewayLog;

/// Who the API server takes a replica for.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:ip-sentry:ip-sentry-operator";
const GROUPS: [&str; 3] =
    ["system:serviceaccounts", "system:serviceaccounts:ip-sentry", "system:authenticated"];

/// A request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: String,
    /// `None` while it is not answered.
    pub(crate) status: Option<u16>,
    /// Whether the API server has forgotten where a watch was: then only a list helps.
    pub(crate) is_gone: bool,
    pub(crate) at: Instant,
}

impl Seen {
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=")
    }

    pub(crate) fn is_log(&self) -> bool {
        self.path.ends_with("/log")
    }

    /// A list, and the plural of its kind.
    pub(crate) fn listed(&self) -> Option<&str> {
        let kind = self.path.rsplit('/').next()?;
        let is_list = self.method == "GET" && !self.is_watch() && kind.ends_with('s') && !kind.contains('.');
        is_list.then_some(kind)
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fault {
    /// How long it takes longer.
    pub(crate) late: Duration,
    /// It is answered with this status and goes no further.
    pub(crate) refused: Option<u16>,
    /// Its answer breaks off after so long.
    pub(crate) cut: Option<Duration>,
}

type Plan = Box<dyn FnMut(&Seen) -> Fault + Send>;

struct Inner {
    upstream: Client,
    log: GatewayLog,
    plan: Mutex<Plan>,
    seen: Mutex<Vec<Seen>>,
    /// Cancelled while nothing gets through.
    away: Mutex<CancellationToken>,
}

/// One replica's way to the API server.
pub(crate) struct Front {
    inner: Arc<Inner>,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Front {
    pub(crate) async fn start(upstream: Client, log: GatewayLog) -> Self {
        let inner = Arc::new(Inner {
            upstream,
            log,
            plan: Mutex::new(Box::new(|_| Fault::default())),
            seen: Mutex::default(),
            away: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(pass).with_state(inner.clone());
        let listener = Severable { listener, inner: inner.clone() };
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, address, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the plan says what happens to each request.
    pub(crate) fn disturb(&self, plan: impl FnMut(&Seen) -> Fault + Send + 'static) {
        *self.inner.plan.lock().unwrap() = Box::new(plan);
    }

    pub(crate) fn calm(&self) {
        self.disturb(|_| Fault::default());
    }

    /// Breaks every connection, and lets none be made until [`heal`](Self::heal).
    pub(crate) fn sever(&self) {
        self.inner.away.lock().unwrap().cancel();
    }

    pub(crate) fn heal(&self) {
        *self.inner.away.lock().unwrap() = CancellationToken::new();
    }

    /// Every request so far, oldest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// Those since `start`.
    pub(crate) fn seen_since(&self, start: Instant) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.at >= start);
        seen
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(State(front): State<Arc<Inner>>, request: Request<Body>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        status: None,
        is_gone: false,
        at: Instant::now(),
    };
    let fault = (front.plan.lock().unwrap())(&seen);
    let number = {
        let mut all = front.seen.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    tokio::time::sleep(fault.late).await;
    let answer = if let Some(code) = fault.refused {
        refusal(code, "disturbed by a test")
    } else if seen.is_log() {
        front.log.answer(&seen.query)
    } else {
        head.headers.remove(header::HOST);
        head.headers.insert("impersonate-user", HeaderValue::from_static(ACCOUNT));
        for group in GROUPS {
            head.headers.append("impersonate-group", HeaderValue::from_static(group));
        }
        match front.upstream.send(Request::from_parts(head, body.into())).await {
            Ok(answer) => answer.map(Body::new),
            Err(error) => refusal(503, &error.to_string()),
        }
    };
    front.seen.lock().unwrap()[number].status = Some(answer.status().as_u16());
    let answer = if seen.is_watch() { note_gone(answer, front.clone(), number) } else { answer };
    match fault.cut {
        None => answer,
        Some(after) => answer.map(|body| {
            let broken = Err(axum::Error::new(io::Error::from(io::ErrorKind::ConnectionReset)));
            let whole = body.into_data_stream().take_until(tokio::time::sleep(after));
            Body::from_stream(whole.chain(futures::stream::once(async { broken })))
        }),
    }
}

/// Notes when the answer to a watch says 410: with a status of its own, or in its body.
fn note_gone(answer: Response<Body>, front: Arc<Inner>, number: usize) -> Response<Body> {
    let is_refused = answer.status() == StatusCode::GONE;
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().inspect_ok(move |chunk| {
            let says_so = chunk.windows(10).any(|window| window == br#""code":410"#);
            if is_refused || says_so {
                front.seen.lock().unwrap()[number].is_gone = true;
            }
        }))
    })
}

fn refusal(code: u16, message: &str) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
    });
    Response::builder().status(code).body(Body::from(status.to_string())).unwrap()
}

/// Connections that can all be broken at once.
struct Severable {
    listener: TcpListener,
    inner: Arc<Inner>,
}

impl Listener for Severable {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            let away = self.inner.away.lock().unwrap().clone();
            if !away.is_cancelled() {
                return (Connection { stream, broken: Box::pin(away.cancelled_owned()) }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Connection {
    stream: TcpStream,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let is_broken = self.broken.as_mut().poll(context).is_ready();
        if is_broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.check(context)?;
        Pin::new(&mut connection.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        connection.check(context)?;
        Pin::new(&mut connection.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
