//! Lists and watches of the API server, for one kind each, as lean as can be.
//!
//! As client-go does it: one list, then a watch from where the list ended, resumed from the last event for as
//! long as the server remembers, else a new list. A list is read item by item as it comes in, and an item that
//! can't be understood costs only itself. Nothing is told before a list has come in whole; when the API server
//! is away, or says that the kind is gone, nothing is told either, and the bans stay.
//!
//! kube-rs's own watcher keeps 8 kB of each ban, reads whole lists at once and loses what was deleted while a
//! streamed list broke off (kube 4.2).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpInfo;
use kube::{Client, client::Body};
use tokio::sync::{mpsc, watch as latest};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, between},
    heard::Heard,
    kernel::addresses,
    metrics::Metrics,
    status::Problem,
};

pub mod items;
pub mod kinds;
pub mod protected;

use items::{Items, Lines, Overlong};
use kinds::{Event, Kind, Listing};

/// How long a watch is asked to last, in seconds: different each time, so that agents that started together do
/// not come back together for ever.
const WATCH_SECS: (u64, u64) = (180, 290);
/// How long a watch may outlast what was asked for before the connection counts as dead.
const GRACE: Duration = Duration::from_secs(30);
/// How long the server may take to begin an answer, and between two pieces of a list.
const ANSWER: Duration = Duration::from_mins(1);
/// The longest event, in bytes: an object is at most 1.5 MiB in etcd.
const LONGEST_LINE: usize = 3 * 1024 * 1024;

/// Why a list or a watch ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The server no longer knows where the watch left off.
    #[error("the server no longer remembers that resourceVersion")]
    Gone,
    /// The kind isn't there.
    #[error("the server has no {0}: apply deploy/kustomize/crds")]
    NoKind(&'static str),
    /// Not allowed.
    #[error("not allowed to list and watch {kind}: {message}")]
    Forbidden {
        /// The kind.
        kind: &'static str,
        /// What the server said.
        message: String,
    },
    /// Another answer than 200.
    #[error("the server answered {status}: {message}")]
    Status {
        /// The HTTP status, or the code in a watch's error event.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The request could not be made or sent.
    #[error("the API server could not be reached")]
    Unreachable(#[from] kube::Error),
    /// The connection broke while it was read.
    #[error("the connection broke")]
    Broken(#[source] kube::Error),
    /// The request makes no sense.
    #[error("the request could not be built")]
    Request(#[from] http::Error),
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Silent,
    /// The list ended in the middle.
    #[error("the list is cut short")]
    CutShort,
    /// A line without end.
    #[error(transparent)]
    Overlong(#[from] Overlong),
}

impl WatchError {
    fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NoKind(_) => "no_kind",
            Self::Forbidden { .. } => "forbidden",
            Self::Status { .. } => "status",
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::Request(_) => "request",
            Self::Silent => "silent",
            Self::CutShort => "cut_short",
            Self::Overlong(_) => "overlong",
        }
    }

    /// Whether the server answered, and it is no use to ask for the same again.
    fn asks_for_a_list(&self) -> bool {
        match self {
            Self::Gone | Self::NoKind(_) => true,
            Self::Status { status, .. } => *status != StatusCode::TOO_MANY_REQUESTS.as_u16(),
            _ => false,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoKind(_) => "KindMissing",
            Self::Forbidden { .. } => "Forbidden",
            _ => "ApiUnreachable",
        }
    }
}

/// The list and watch of one kind.
pub struct Watch<K> {
    client: Client,
    news: mpsc::Sender<Heard>,
    /// What keeps the list away, for the NodeFirewall.
    trouble: latest::Sender<Option<Problem>>,
    metrics: Metrics,
    kind: K,
    version: Option<String>,
    backoff: Backoff,
}

/// Nobody listens any more.
struct Deaf;

impl<K: Kind> Watch<K> {
    /// A watch that tells `news`.
    pub fn new(
        client: Client,
        kind: K,
        news: mpsc::Sender<Heard>,
        trouble: latest::Sender<Option<Problem>>,
        metrics: Metrics,
    ) -> Self {
        Self { client, news, trouble, metrics, kind, version: None, backoff: Backoff::default() }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            Deaf = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Deaf {
        loop {
            match self.list().await {
                Ok(Ok(())) => {
                    self.trouble.send_replace(None);
                }
                Ok(Err(deaf)) => return deaf,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            }
            if let Err(deaf) = self.resume().await {
                return deaf;
            }
        }
    }

    /// Watches from the last version until the server no longer knows it.
    async fn resume(&mut self) -> Result<(), Deaf> {
        loop {
            let started = Instant::now();
            match self.watch().await {
                Ok(ended) => ended?,
                Err(WatchError::Gone) => {
                    tracing::info!(kind = K::PLURAL, "the watch is too old, listing anew");
                    return Ok(());
                }
                Err(error) => {
                    self.failed(&error).await;
                    if error.asks_for_a_list() {
                        return Ok(());
                    }
                    continue;
                }
            }
            // A server that ends each watch at once must not be asked again at once.
            if started.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(self.backoff.pause()).await;
            } else {
                self.backoff = Backoff::default();
            }
        }
    }

    async fn failed(&mut self, error: &WatchError) {
        self.metrics.watch_failed(error.label());
        let problem = Problem { reason: error.reason(), message: story(error) };
        self.trouble.send_if_modified(|trouble| {
            let changed = trouble.as_ref() != Some(&problem);
            if changed {
                tracing::warn!(kind = K::PLURAL, reason = problem.reason, "{}", problem.message);
                *trouble = Some(problem);
            }
            changed
        });
        tokio::time::sleep(self.backoff.pause()).await;
    }

    /// Reads a whole list and tells it.
    async fn list(&mut self) -> Result<Result<(), Deaf>, WatchError> {
        // The first list asks for the newest; a later one for nothing older than was seen, which the server may
        // answer from its cache. No limit: pages are read from etcd.
        let at = self
            .version
            .as_ref()
            .map(|version| format!("?resourceVersion={version}&resourceVersionMatch=NotOlderThan"));
        let mut body = match self.open(&at.unwrap_or_default()).await {
            Err(error) => {
                // The version may be one that the server, restored from a backup, never had: ask for the newest.
                if error.asks_for_a_list() {
                    self.version = None;
                }
                return Err(error);
            }
            Ok(body) => body,
        };
        let mut items = Items::default();
        let mut listing = K::Listing::default();
        let mut bad = 0;
        while let Some(bytes) = next(&mut body, ANSWER).await? {
            items.feed(&bytes, |item| {
                if let Err(error) = item.map_err(kinds::ItemError::from).and_then(|item| listing.take(item)) {
                    bad += 1;
                    self.bad(&error, bad);
                }
            });
        }
        let version = items.finish().ok_or(WatchError::CutShort)?;
        self.metrics.listed(K::PLURAL);
        self.version = Some(version.clone());
        for heard in self.kind.listed(listing, version) {
            if self.news.send(heard).await.is_err() {
                return Ok(Err(Deaf));
            }
        }
        Ok(Ok(()))
    }

    /// Follows one watch to its end.
    async fn watch(&mut self) -> Result<Result<(), Deaf>, WatchError> {
        let seconds = between(WATCH_SECS.0, WATCH_SECS.1);
        let version = self.version.as_deref().unwrap_or("0");
        let query = format!(
            "?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}"
        );
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds) + GRACE;
        let mut body = self.open(&query).await?;
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        let mut lines = Lines::new(LONGEST_LINE);
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let Some(bytes) = next(&mut body, left).await? else { return Ok(Ok(())) };
            let at = Instant::now();
            lines.feed(&bytes)?;
            while let Some(line) = lines.next_line() {
                let heard = match Event::read::<K>(&line) {
                    Ok(event) => {
                        if let Some(version) = event.version {
                            self.version = Some(version);
                        }
                        match event.item {
                            None => continue,
                            Some(item) => {
                                self.kind.changed(item, self.version.clone().unwrap_or_default(), at)
                            }
                        }
                    }
                    Err(kinds::EventError::Gone) => return Err(WatchError::Gone),
                    Err(kinds::EventError::Status { status, message }) => {
                        return Err(WatchError::Status { status, message });
                    }
                    Err(kinds::EventError::Item { error, version }) => {
                        self.bad(&error, 1);
                        self.version = version.or(self.version.take());
                        continue;
                    }
                };
                self.backoff = Backoff::default();
                if let Some(heard) = heard
                    && self.news.send(heard).await.is_err()
                {
                    return Ok(Err(Deaf));
                }
            }
        }
    }

    async fn open(&mut self, query: &str) -> Result<Body, WatchError> {
        let path = format!("/apis/{}/{}/{}{query}", ip_sentry_crd::GROUP, ip_sentry_crd::VERSION, K::PLURAL);
        let request = Request::get(path).body(Body::empty())?;
        let response = tokio::time::timeout(ANSWER, self.client.send(request)).await;
        let response = response.map_err(|_| WatchError::Silent)??;
        if let Some(info) = response.extensions().get::<HttpInfo>() {
            let peers = addresses::of_peer(info.local_addr(), info.remote_addr());
            // A full channel or a closed one: the next request tells it again.
            let _told_again = self.news.try_send(Heard::Peer(peers));
        }
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Ok(Some(bytes)) = next(&mut body, ANSWER).await {
            text.extend_from_slice(&bytes);
            if text.len() > 16 * 1024 {
                break;
            }
        }
        let message = kinds::status_message(&text);
        Err(match status {
            StatusCode::GONE => WatchError::Gone,
            StatusCode::NOT_FOUND => WatchError::NoKind(K::PLURAL),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                WatchError::Forbidden { kind: K::PLURAL, message }
            }
            status => WatchError::Status { status: status.as_u16(), message },
        })
    }

    fn bad(&self, error: &kinds::ItemError, so_far: u32) {
        self.metrics.bad_item(K::PLURAL);
        // One log line for a list full of them.
        if so_far == 1 {
            tracing::warn!(
                kind = K::PLURAL,
                error = error as &dyn std::error::Error,
                "an object was left out"
            );
        }
    }
}

/// The next piece of a body; `None` at its end.
async fn next(body: &mut Body, patience: Duration) -> Result<Option<Bytes>, WatchError> {
    loop {
        match tokio::time::timeout(patience, body.frame()).await {
            Err(_) => return Err(WatchError::Silent),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(WatchError::Broken(error)),
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

fn story(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story.push_str(": ");
        story.push_str(&error.to_string());
        cause = error.source();
    }
    story
}
