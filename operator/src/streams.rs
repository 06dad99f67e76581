//! The log streams that run: one a container, however many policies read it.
//!
//! In come the containers to read with the policies that read each; tails are started and ended to match.
//! Out go decisions, on a bounded channel, and each stream's state for the policies' conditions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use ip_sentry_core::{detect::trail::Trail, networks::Networks};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    metrics::{self, Metrics},
    policies::{Outcome, PolicyJail},
    tail::{CloseReason, Container, Failure, LineSink, StreamEvent, Tail, Turns},
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
    /// It is not read, because as many are as may be.
    LeftOut,
}

/// How long a stream that ended may take to open again before the status reports it as not read: a stream ends about
/// once an hour, and whenever its log is quiet.
const REOPENING: Duration = Duration::from_secs(5);

/// The latest that is known of a stream.
#[derive(Debug, Default)]
enum Standing {
    /// It was never open.
    #[default]
    Opening,
    Open,
    /// It ended, and is being opened again.
    Ended(Instant),
    Failed(Failure, String),
}

impl Standing {
    fn state(&self, now: Instant) -> StreamState {
        match self {
            Self::Ended(at) if now.saturating_duration_since(*at) < REOPENING => StreamState::Open,
            Self::Open => StreamState::Open,
            Self::Opening | Self::Ended(_) => StreamState::Opening,
            Self::Failed(what, message) => StreamState::Failed(*what, message.clone()),
        }
    }
}

/// A node whose clock is off, as a stream's lines show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Skew {
    /// The node.
    pub node: String,
    /// How far its clock is behind the operator's; negative where it is ahead.
    pub behind: SignedDuration,
}

/// Since when a policy has seen every line of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reach {
    /// From this time on no line is missing.
    pub since: Timestamp,
    /// That is when the policy came to a log that was read already; else it is where the log begins.
    pub is_late_comer: bool,
}

/// A policy that reads a log.
struct Follower {
    jail: Arc<PolicyJail>,
    /// When it came, if the log was read before.
    joined: Option<Timestamp>,
    /// What the last line means for the next.
    trail: Mutex<Trail>,
}

type Followers = Arc<RwLock<Vec<Follower>>>;

struct Running {
    followers: Followers,
    standing: Arc<Mutex<Standing>>,
    /// How far back its log goes, once that is known.
    reach: Arc<Mutex<Option<Timestamp>>>,
    skew: Arc<Mutex<Option<Skew>>>,
    cancel: CancellationToken,
}

impl Running {
    /// Replaces the policies that read the log; which of them are new at `now` is remembered.
    fn follow(&self, jails: &[Arc<PolicyJail>], now: Timestamp) {
        let mut followers = self.followers.write().unwrap_or_else(PoisonError::into_inner);
        *followers = jails
            .iter()
            .map(|jail| {
                let known = followers.iter().find(|follower| Arc::ptr_eq(&follower.jail, jail));
                let joined = known.map_or(Some(now), |known| known.joined);
                let trail = known.map_or_else(Trail::stamped, |known| lock(&known.trail).clone());
                Follower { jail: jail.clone(), joined, trail: trail.into() }
            })
            .collect();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All streams.
pub struct Streams {
    running: HashMap<Container, Running>,
    client: Client,
    clock: Clock,
    protected: watch::Receiver<Arc<Networks>>,
    decided: mpsc::Sender<Decided>,
    turns: Turns,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

impl Streams {
    /// No streams yet. Decisions go to `decided`; what is `protected` never becomes one. `read_backs` streams at a time
    /// read what was logged before they were opened.
    #[must_use]
    pub fn new(
        client: Client,
        clock: Clock,
        protected: watch::Receiver<Arc<Networks>>,
        decided: mpsc::Sender<Decided>,
        read_backs: usize,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Self {
        let turns = Turns::new(read_backs);
        Self { running: HashMap::new(), client, clock, protected, decided, turns, metrics, cancel }
    }

    /// Starts, keeps and ends streams so that exactly the `wanted` ones run; those that are new at `now` start at
    /// `since`.
    pub fn sync(
        &mut self,
        wanted: &HashMap<Container, Vec<Arc<PolicyJail>>>,
        since: Timestamp,
        now: Timestamp,
    ) {
        self.running.retain(|container, running| {
            let stays = wanted.contains_key(container);
            if !stays {
                running.cancel.cancel();
            }
            stays
        });
        for (container, jails) in wanted {
            if let Some(running) = self.running.get(container) {
                running.follow(jails, now);
            } else {
                self.start(container.clone(), jails, since);
            }
        }
        metrics::level(&self.metrics.streams, self.running.len());
    }

    /// Where the stream of `container` stands.
    #[must_use]
    pub fn state(&self, container: &Container) -> StreamState {
        self.running
            .get(container)
            .map(|running| {
                running.standing.lock().unwrap_or_else(PoisonError::into_inner).state(Instant::now())
            })
            .unwrap_or_default()
    }

    /// How the clock of the node of `container` is off, if it is.
    #[must_use]
    pub fn skew(&self, container: &Container) -> Option<Skew> {
        let running = self.running.get(container)?;
        running.skew.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since when `policy` has seen every line of `container`, once that is known.
    #[must_use]
    pub fn reach(&self, container: &Container, policy: &Arc<PolicyJail>) -> Option<Reach> {
        let running = self.running.get(container)?;
        let log = (*running.reach.lock().unwrap_or_else(PoisonError::into_inner))?;
        let followers = running.followers.read().unwrap_or_else(PoisonError::into_inner);
        let follower = followers.iter().find(|follower| Arc::ptr_eq(&follower.jail, policy))?;
        Some(match follower.joined {
            Some(joined) if joined > log => Reach { since: joined, is_late_comer: true },
            _ => Reach { since: log, is_late_comer: false },
        })
    }

    fn start(&mut self, container: Container, jails: &[Arc<PolicyJail>], since: Timestamp) {
        let follower = |jail: &Arc<PolicyJail>| Follower {
            jail: jail.clone(),
            joined: None,
            trail: Trail::stamped().into(),
        };
        let followers = jails.iter().map(follower).collect();
        let running = Running {
            followers: Arc::new(RwLock::new(followers)),
            standing: Arc::default(),
            reach: Arc::default(),
            skew: Arc::default(),
            cancel: self.cancel.child_token(),
        };
        let sink = GatewayLog {
            followers: running.followers.clone(),
            standing: running.standing.clone(),
            reach: running.reach.clone(),
            skew: running.skew.clone(),
            protected: self.protected.clone(),
            decided: self.decided.clone(),
            metrics: self.metrics.clone(),
            is_split: false,
        };
        let clock = self.clock.clone();
        let tail = Tail::new(self.client.clone(), container.clone(), since, self.turns.clone())
            .with_clock(move || clock.now());
        tokio::spawn(tail.run(sink, running.cancel.clone()));
        self.running.insert(container, running);
    }
}

/// One container's log on its way to the policies that read it.
struct GatewayLog {
    followers: Followers,
    standing: Arc<Mutex<Standing>>,
    reach: Arc<Mutex<Option<Timestamp>>>,
    skew: Arc<Mutex<Option<Skew>>>,
    protected: watch::Receiver<Arc<Networks>>,
    decided: mpsc::Sender<Decided>,
    metrics: Arc<Metrics>,
    /// Whether standard error is left out, so that no line of it cuts another in two.
    is_split: bool,
}

impl GatewayLog {
    fn set(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

impl LineSink for GatewayLog {
    fn line(&mut self, stamp: Timestamp, line: &[u8]) {
        let protected = self.protected.borrow();
        for Follower { jail: policy, trail, .. } in
            self.followers.read().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let mut trail = lock(trail);
            if self.is_split {
                *trail = Trail::stamped();
            }
            if let Some(outcome) = policy.observe(&mut trail, stamp, line, &protected) {
                // A full channel means thousands of bans wait: the source earns its own again if it goes on.
                if self.decided.try_send(Decided { policy: policy.clone(), outcome }).is_err() {
                    Metrics::count(&self.metrics.decisions_dropped, "queue_full");
                }
            }
        }
    }

    fn event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened => self.set(Standing::Open),
            StreamEvent::ReachesBack { to } => {
                *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
            }
            StreamEvent::Closed { reason } => {
                let label = match reason {
                    CloseReason::Eof => "eof",
                    CloseReason::Error => "error",
                    CloseReason::Idle => "idle",
                    CloseReason::Lifetime => "lifetime",
                };
                Metrics::count(&self.metrics.stream_reconnects, label);
                self.set(Standing::Ended(Instant::now()));
            }
            StreamEvent::Failed { what, message } => self.set(Standing::Failed(what, message)),
            StreamEvent::LineTooLong { .. } => Metrics::count(&self.metrics.lines_left_out, "cut"),
            StreamEvent::Redated { is_ahead } => {
                Metrics::count(
                    &self.metrics.lines_redated,
                    if is_ahead { "clock_ahead" } else { "clock_behind" },
                );
            }
            StreamEvent::Skewed { node, behind } => {
                let skew = (!behind.is_zero()).then_some(Skew { node, behind });
                *self.skew.lock().unwrap_or_else(PoisonError::into_inner) = skew;
            }
            StreamEvent::Split(is_split) => self.is_split = is_split,
            StreamEvent::Undated => Metrics::count(&self.metrics.lines_left_out, "undated"),
            StreamEvent::Restarted => Metrics::count(&self.metrics.stream_reconnects, "restarted"),
        }
    }
}
