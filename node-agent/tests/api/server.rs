//! An API server by script: each request takes the next answer, and waits for ever when there is none.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};

type Piece = Result<Bytes, std::io::Error>;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub body: serde_json::Value,
}

struct Answer {
    status: u16,
    pieces: UnboundedReceiver<Piece>,
}

/// The script and what was asked.
#[derive(Clone, Default)]
pub struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// An answer that is still being sent; dropping it ends it.
pub struct Stream(UnboundedSender<Piece>);

impl Stream {
    /// Sends an event of a watch.
    pub fn event(&self, kind: &str, object: &serde_json::Value) {
        self.raw(&format!("{}\n", serde_json::json!({"type": kind, "object": object})));
    }

    /// Sends any bytes.
    pub fn raw(&self, text: &str) {
        self.0.unbounded_send(Ok(Bytes::from(text.to_owned()))).unwrap();
    }

    /// Breaks the connection.
    pub fn cut(self) {
        self.0.unbounded_send(Err(std::io::ErrorKind::ConnectionReset.into())).unwrap();
    }
}

impl Server {
    /// The next request is answered with this.
    pub fn answer(&self, status: u16, body: &serde_json::Value) {
        self.stream(status).raw(&body.to_string());
    }

    /// The next request is answered with what is sent here.
    pub fn stream(&self, status: u16) -> Stream {
        let (sender, pieces) = unbounded();
        self.answers.lock().unwrap().push_back(Answer { status, pieces });
        Stream(sender)
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                server.seen.lock().unwrap().push(Seen {
                    method: head.method.to_string(),
                    target: head.uri.to_string(),
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                });
                let answer = server.answers.lock().unwrap().pop_front();
                let Some(Answer { status, pieces }) = answer else { return std::future::pending().await };
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(status).body(axum::body::Body::from_stream(pieces)).unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }

    /// Waits for that many requests and returns the last of them.
    pub async fn request(&self, number: usize) -> Seen {
        for _ in 0..20_000 {
            if let Some(seen) = self.seen.lock().unwrap().get(number - 1) {
                return seen.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no request {number}: {:?}", self.seen.lock().unwrap());
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}
