//! The log streams that run: one a container, however many policies read it.
//!
//! In come the containers to read with the policies that read each; tails are started and ended to match.
//! Out go decisions, on a bounded channel, and each stream's state for the policies' conditions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use ip_sentry_core::networks::Networks;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{self, Metrics},
    policies::{Outcome, PolicyJail},
    tail::{CloseReason, Container, Failure, LineSink, StreamEvent, Tail},
};

/// A source that a policy's lines have convicted.
#[derive(Clone)]
pub struct Decided {
    /// The policy.
    pub policy: Arc<PolicyJail>,
    /// What it came to.
    pub outcome: Outcome,
}

/// Where a stream stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum StreamState {
    /// Not open yet, or between two connections.
    #[default]
    Opening,
    /// Lines come.
    Open,
    /// It can't be read; it is tried again.
    Failed(Failure, String),
}

type Followers = Arc<RwLock<Vec<Arc<PolicyJail>>>>;

struct Running {
    followers: Followers,
    state: Arc<Mutex<StreamState>>,
    cancel: CancellationToken,
}

/// All streams.
pub struct Streams {
    running: HashMap<Container, Running>,
    client: Client,
    protected: watch::Receiver<Arc<Networks>>,
    decided: mpsc::Sender<Decided>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

impl Streams {
    /// No streams yet. Decisions go to `decided`; what is `protected` never becomes one.
    #[must_use]
    pub fn new(
        client: Client,
        protected: watch::Receiver<Arc<Networks>>,
        decided: mpsc::Sender<Decided>,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Self {
        Self { running: HashMap::new(), client, protected, decided, metrics, cancel }
    }

    /// Starts, keeps and ends streams so that exactly the `wanted` ones run; new ones start at `since`.
    pub fn sync(&mut self, wanted: HashMap<Container, Vec<Arc<PolicyJail>>>, since: Timestamp) {
        self.running.retain(|container, running| {
            let stays = wanted.contains_key(container);
            if !stays {
                running.cancel.cancel();
            }
            stays
        });
        for (container, jails) in wanted {
            if let Some(running) = self.running.get(&container) {
                *running.followers.write().unwrap_or_else(PoisonError::into_inner) = jails;
            } else {
                self.start(container, jails, since);
            }
        }
        metrics::level(&self.metrics.streams, self.running.len());
    }

    /// Where the stream of `container` stands.
    #[must_use]
    pub fn state(&self, container: &Container) -> StreamState {
        self.running
            .get(container)
            .map(|running| running.state.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    fn start(&mut self, container: Container, jails: Vec<Arc<PolicyJail>>, since: Timestamp) {
        let running = Running {
            followers: Arc::new(RwLock::new(jails)),
            state: Arc::default(),
            cancel: self.cancel.child_token(),
        };
        let sink = GatewayLog {
            followers: running.followers.clone(),
            state: running.state.clone(),
            protected: self.protected.clone(),
            decided: self.decided.clone(),
            metrics: self.metrics.clone(),
        };
        let tail = Tail::new(self.client.clone(), container.clone(), since);
        tokio::spawn(tail.run(sink, running.cancel.clone()));
        self.running.insert(container, running);
    }
}

/// One container's log on its way to the policies that read it.
struct GatewayLog {
    followers: Followers,
    state: Arc<Mutex<StreamState>>,
    protected: watch::Receiver<Arc<Networks>>,
    decided: mpsc::Sender<Decided>,
    metrics: Arc<Metrics>,
}

impl GatewayLog {
    fn set(&self, state: StreamState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl LineSink for GatewayLog {
    fn line(&mut self, stamp: Timestamp, line: &[u8]) {
        let protected = self.protected.borrow();
        for policy in self.followers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(outcome) = policy.observe(stamp, line, &protected) {
                // A full channel means thousands of bans wait: the source earns its own again if it goes on.
                if self.decided.try_send(Decided { policy: policy.clone(), outcome }).is_err() {
                    Metrics::count(&self.metrics.decisions_dropped, "queue_full");
                }
            }
        }
    }

    fn event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened => self.set(StreamState::Open),
            StreamEvent::Closed { reason } => {
                let label = match reason {
                    CloseReason::Eof => "eof",
                    CloseReason::Error => "error",
                    CloseReason::Idle => "idle",
                    CloseReason::Lifetime => "lifetime",
                };
                Metrics::count(&self.metrics.stream_reconnects, label);
            }
            StreamEvent::Failed { what, message } => self.set(StreamState::Failed(what, message)),
            StreamEvent::LineTooLong { .. } => Metrics::count(&self.metrics.lines_left_out, "too_long"),
            StreamEvent::Undated => Metrics::count(&self.metrics.lines_left_out, "undated"),
            StreamEvent::Restarted => Metrics::count(&self.metrics.stream_reconnects, "restarted"),
        }
    }
}
