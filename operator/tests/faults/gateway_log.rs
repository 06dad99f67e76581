//! What a gateway writes, and how the kubelet serves it: the only part of the cluster that is made up here.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

/// How much of a log is sent in one piece.
const PIECE: usize = 64 * 1024;

/// The log of the one gateway there is, in the format of NGINX.
#[derive(Clone)]
pub(crate) struct GatewayLog {
    lines: Arc<Mutex<Vec<(Timestamp, Bytes)>>>,
    changed: watch::Sender<()>,
}

/// A line about one request.
pub(crate) fn request(client: &str, target: &str) -> String {
    let now = Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000");
    format!(r#"{client} - - [{now}] "GET {target} HTTP/1.1" 404 153 "-" "curl/8.5""#)
}

impl GatewayLog {
    pub(crate) fn new() -> Self {
        Self { lines: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// Writes lines at this moment, any bytes in them.
    pub(crate) fn write<L: AsRef<[u8]>>(&self, lines: impl IntoIterator<Item = L>) {
        let now = Timestamp::now();
        let stamp = format!("{now:.9} ");
        let lines = lines.into_iter().map(|line| [stamp.as_bytes(), line.as_ref(), b"\n"].concat());
        let lines: Vec<_> = lines.map(|line| (now, line.into())).collect();
        self.lines.lock().unwrap().extend(lines);
        self.changed.send_replace(());
    }

    /// Writes bytes as they are, without the stamp that the kubelet puts before each line.
    pub(crate) fn write_raw(&self, bytes: &'static [u8]) {
        self.lines.lock().unwrap().push((Timestamp::now(), bytes.into()));
        self.changed.send_replace(());
    }

    /// Lets a client probe often enough for a ban.
    pub(crate) fn probe(&self, client: &str) {
        self.write(["/.env", "/wp-admin/", "/.env"].map(|target| request(client, target)));
    }

    /// What the kubelet answers to `pods/log`.
    pub(crate) fn answer(&self, query: &str) -> Response<Body> {
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        if parameter("previous").as_deref() == Some("true") {
            let answer = Response::builder().status(400);
            return answer.body(Body::from("previous terminated container not found")).unwrap();
        }
        if let Some(limit) = parameter("limitBytes") {
            let limit = limit.parse().unwrap();
            let lines = self.lines.lock().unwrap();
            let first = lines.first().map(|(_, line)| line.slice(..line.len().min(limit)));
            return Response::new(Body::from(first.unwrap_or_default()));
        }
        let since = parameter("sinceTime").map(|time| time.replace("%3A", ":").parse().unwrap());
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().send(since.unwrap_or(Timestamp::MIN), sender));
        let pieces = futures::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece: Bytes| (Ok::<_, std::io::Error>(piece), receiver))
        });
        Response::new(Body::from_stream(pieces))
    }

    /// Sends what there is and then what comes, until nobody listens.
    async fn send(self, since: Timestamp, to: mpsc::Sender<Bytes>) {
        let mut changed = self.changed.subscribe();
        let mut sent = 0;
        loop {
            let new: Vec<(Timestamp, Bytes)> = self.lines.lock().unwrap()[sent..].to_vec();
            sent += new.len();
            let mut piece = Vec::new();
            for (_, mut line) in new.into_iter().filter(|(stamp, _)| *stamp >= since) {
                if piece.len() + line.len() > PIECE
                    && to.send(std::mem::take(&mut piece).into()).await.is_err()
                {
                    return;
                }
                while line.len() > PIECE {
                    if to.send(line.split_to(PIECE)).await.is_err() {
                        return;
                    }
                }
                piece.extend(line);
            }
            if !piece.is_empty() && to.send(piece.into()).await.is_err() {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = to.closed() => return,
            }
        }
    }
}
