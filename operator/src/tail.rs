//! Follows one container's log through `pods/log`, losing no line that the kubelet still has and handing over
//! none twice.
//!
//! In comes a [`Container`] and the time to start from; out go its lines, each with the container runtime's stamp,
//! and [`StreamEvent`]s, to a [`LineSink`].
//! Lines are handed over as they come, on the task that reads: there is no queue that could overflow, and a sink that
//! can't keep up makes the kubelet wait.
//!
//! `pod` tells which instance of the container there is, and `stream` asks the API server for its log.
//! Then `framing` cuts the bytes into lines, `stamp` reads the time that the kubelet puts in front of each, `resume`
//! leaves out those that came before a reconnect, and `clock` sees through a node's clock that is wrong; `lines` puts
//! these four together.

mod clock;
mod framing;
mod lines;
mod pod;
mod resume;
mod stamp;
mod stream;
mod turns;

use std::time::Duration;

pub use ip_sentry_crd::targets::Container;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, jittered};
use lines::Lines;
use pod::{Instance, Sight};
use stream::{Edge, Patience, Refusal, Split, Which};
pub use turns::Turns;

/// Where the lines go.
pub trait LineSink: Send {
    /// One line, without its newline and without the stamp in front of it. Any bytes; of more than 64 KiB the beginning.
    ///
    /// `at` is when the line was written: the container runtime's stamp, but put right where the node's clock is
    /// ahead, or is behind and the line live. It is never more than two seconds ahead of the operator's clock, and may
    /// step back when the node's clock is set.
    fn line(&mut self, at: Timestamp, line: &[u8]);

    /// Something happened to the stream, or to a line that can't be handed over.
    fn event(&mut self, event: StreamEvent);
}

/// What happens to a stream besides lines.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// The API server has begun to send the log.
    Opened,
    /// How far back the log goes, told once: what the container has written since then is handed over.
    ReachesBack {
        /// The start that was asked for, or the first line's stamp where the node has nothing from before it.
        to: Timestamp,
    },
    /// The stream ended; it is opened again.
    Closed {
        /// Why it ended.
        reason: CloseReason,
    },
    /// The log or the pod could not be read; it is tried again.
    Failed {
        /// What kept us from it.
        what: Failure,
        /// The API server's words, or the network's.
        message: String,
    },
    /// A line was longer than 64 KiB, and what was over that was left out.
    LineTooLong {
        /// How long it was, with the stamp in front of it.
        bytes: u64,
    },
    /// A line's stamp was put right.
    Redated {
        /// Whether it was ahead; else it was behind.
        is_ahead: bool,
    },
    /// The clock of the container's node is off, or no more. Told each time that this changes.
    Skewed {
        /// The node.
        node: String,
        /// How far it is behind the operator's clock, zero when it is right. Negative where it is ahead.
        behind: SignedDuration,
    },
    /// A line had no stamp in front of it and was left out: the rest of one that began before the stream did.
    Undated,
    /// Whether standard output alone is read from now on, so that no line of standard error comes between the pieces
    /// of another. Told each time that this changes.
    Split(bool),
    /// The container was started anew. What its previous instance had still logged has been read.
    Restarted,
}

/// Why an open stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The kubelet ended it, as it does when the container ends and after some hours.
    Eof,
    /// It broke in the middle.
    Error,
    /// Nothing came for longer than is likely; the connection may be dead.
    Idle,
    /// It had been open for about an hour.
    Lifetime,
}

/// What keeps a log from being read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Failure {
    /// The pod has no container of that name.
    ContainerMissing,
    /// No permission: the operator's Role lacks `pods` or `pods/log` in that namespace.
    Forbidden,
    /// The API server or the kubelet could not be reached, or did not answer in time.
    Unreachable,
    /// There is no such log yet or any more.
    NotFound,
    /// The API server asks for patience (429).
    Throttled,
    /// The API server or the kubelet failed (5xx), or answered what isn't understood.
    Server,
    /// The container has not started yet.
    Waiting,
}

/// Why following has ended for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It was cancelled.
    Cancelled,
    /// The pod is gone, or another one has its name.
    PodGone,
}

/// One container's log, to be followed.
pub struct Tail {
    client: Client,
    pods: Api<Pod>,
    container: Container,
    start: Timestamp,
    turns: Turns,
    lines: Lines,
    patience: Patience,
    backoff: Backoff,
    clock: Clock,
    split: Split,
    /// The instance whose log is read.
    instance: Option<Instance>,
    /// How often the log of the instance before the next one was asked for.
    drains: u8,
    /// How far back the log goes has been told.
    told_reach: bool,
    /// It has ended, and its log was read to the end.
    finished: bool,
    /// The last stream was closed for its silence.
    was_idle: bool,
}

/// Tells the time.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The longest wait for a container that has not started: a new gateway is to be heard soon.
const WAITING_CAP: Duration = Duration::from_secs(2);

/// How often the previous instance's log is tried for before the new one's goes first.
const MAX_DRAINS: u8 = 3;

/// How far a node's clock may be set back without the log falling silent: the lines of so long a time are sent again,
/// and left out, each time the stream is opened.
const REACH_BACK: SignedDuration = SignedDuration::from_secs(5);

/// The same once the log has fallen silent, in case that was why.
const REACH_BACK_IDLE: SignedDuration = SignedDuration::from_hours(1);

/// How soon after its start a gateway writes its first line, if it tells that it has started.
const FIRST_WORDS: SignedDuration = SignedDuration::from_mins(1);

/// How long a stream stays open, so that one that has quietly gone wrong doesn't for ever. ±20 %.
const LIFETIME: Duration = Duration::from_hours(1);

impl Tail {
    /// Will follow `container` from the lines of `start` on.
    ///
    /// `client` must not set a read time-out: [`crate::client::connect`]'s does not. `turns` are shared with the tails of
    /// other containers.
    #[must_use]
    pub fn new(client: Client, container: Container, start: Timestamp, turns: Turns) -> Self {
        Self {
            pods: Api::namespaced(client.clone(), &container.namespace),
            client,
            container,
            start,
            turns,
            lines: Lines::new(start),
            patience: Patience::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            clock: Box::new(Timestamp::now),
            split: Split::Unknown,
            instance: None,
            drains: 0,
            told_reach: false,
            finished: false,
            was_idle: false,
        }
    }

    /// Takes the operator's time from `clock`.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// Follows the log until the pod is gone or `cancel` is.
    pub async fn run(mut self, mut sink: impl LineSink, cancel: CancellationToken) -> Ended {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ended::Cancelled,
            () = self.follow(&mut sink) => Ended::PodGone,
        }
    }

    async fn follow(&mut self, sink: &mut impl LineSink) {
        loop {
            let pause = match pod::look(&self.pods, &self.container).await {
                Ok(Sight::Gone) => return,
                Ok(Sight::Waiting(reason)) => {
                    let refusal = Refusal::new(Failure::Waiting, reason);
                    self.failed(refusal, sink).min(WAITING_CAP)
                }
                Ok(Sight::Instance(instance)) => self.follow_instance(instance, sink).await,
                Err(refusal) => self.failed(refusal, sink),
            };
            sleep(pause).await;
        }
    }

    /// Reads one stream of an instance. Returns how long to wait before the next.
    async fn follow_instance(&mut self, instance: Instance, sink: &mut impl LineSink) -> Duration {
        if self.is_new(&instance) {
            if self.is_worth_draining(&instance) {
                self.drains += 1;
                match self.read(Which::Previous, None, sink).await {
                    // Not found: the node has cleaned up.
                    Ok(CloseReason::Eof) | Err(Refusal { what: Failure::NotFound, .. }) => {}
                    Ok(_) => return self.backoff.delay(),
                    Err(refusal) => return self.failed(refusal, sink),
                }
            }
            self.adopt(instance.clone(), sink);
        }
        let born = instance.born;
        if self.finished && !instance.running {
            return self.backoff.delay();
        }
        match self.read(Which::Follow, born, sink).await {
            // Nothing is wrong with the log.
            Ok(CloseReason::Idle | CloseReason::Lifetime) => Duration::ZERO,
            Ok(reason) => {
                self.finished = reason == CloseReason::Eof && !instance.running;
                self.backoff.delay()
            }
            Err(refusal) => self.failed(refusal, sink),
        }
    }

    fn is_new(&self, instance: &Instance) -> bool {
        self.instance.as_ref().is_none_or(|known| known.id != instance.id)
    }

    /// Whether the instance before `instance` may have logged something after the last line that was read, or since
    /// the start. The kubelet keeps the log of one instance back.
    fn is_worth_draining(&self, instance: &Instance) -> bool {
        let was_followed = self.instance.is_some();
        let may_have_more = instance.previous_ended.is_some_and(|ended| was_followed || ended >= self.start);
        may_have_more && self.drains < MAX_DRAINS
    }

    fn adopt(&mut self, instance: Instance, sink: &mut impl LineSink) {
        self.lines.restart(&instance.node);
        self.drains = 0;
        self.finished = false;
        if self.instance.replace(instance).is_some() {
            sink.event(StreamEvent::Restarted);
        }
    }

    /// Opens a stream and reads it to its end; `born` is when the log began, if that is known.
    async fn read(
        &mut self,
        which: Which,
        born: Option<Timestamp>,
        sink: &mut impl LineSink,
    ) -> Result<CloseReason, Refusal> {
        if which == Which::Follow && !self.lines.has_begun() {
            self.begin().await;
        }
        self.settle_split(sink).await;
        let reach_back = if self.was_idle { REACH_BACK_IDLE } else { REACH_BACK };
        let since = self.lines.reopen(reach_back);
        let is_split = self.split == Split::Stdout;
        let body = match stream::open(&self.client, &self.container, which, since, is_split).await {
            // Another API server may answer now.
            Err(refusal) if is_split && refusal.is_invalid() => {
                self.settle(Split::Unknown, sink);
                return Err(refusal);
            }
            opened => opened?,
        };
        let reach = if self.told_reach { None } else { Some(self.reach(which, born).await) };
        // Only who has been answered takes a turn: a log that hangs keeps no other one waiting.
        let turn = self.turns.take(&self.clock).await;
        sink.event(StreamEvent::Opened);
        if let Some(to) = reach {
            self.told_reach = true;
            sink.event(StreamEvent::ReachesBack { to });
        }
        let lifetime = jittered(LIFETIME);
        let (reason, news) =
            stream::read(body, turn, &mut self.lines, sink, &mut self.patience, lifetime, &self.clock).await;
        if news {
            self.backoff.reset();
        }
        self.was_idle = reason == CloseReason::Idle;
        sink.event(StreamEvent::Closed { reason });
        Ok(reason)
    }

    /// Sees to it that lines come also where the node's clock is behind by more than is read back.
    ///
    /// The kubelet compares each line that it is ever going to send with the start, by the node's clock. So the start
    /// is no later than the last line that there is; that one and those before it are left out.
    async fn begin(&mut self) {
        match stream::edge_stamp(&self.client, &self.container, Edge::Last).await {
            Some(Some(last)) if last < self.start => self.lines.begin_after(last),
            // Whatever it will ever say is still to be written.
            Some(None) => self.lines.begin_at(Timestamp::UNIX_EPOCH),
            _ => {}
        }
    }

    /// Reads standard output alone where the API server and the kubelet can and the container writes to it.
    async fn settle_split(&mut self, sink: &mut impl LineSink) {
        if matches!(self.split, Split::Unknown | Split::NotYet) {
            let split = stream::split(&self.client, &self.container).await;
            self.settle(split, sink);
        }
    }

    fn settle(&mut self, split: Split, sink: &mut impl LineSink) {
        let was_split = std::mem::replace(&mut self.split, split) == Split::Stdout;
        let is_split = split == Split::Stdout;
        if is_split != was_split {
            sink.event(StreamEvent::Split(is_split));
        }
    }

    /// Since when no line is missing. The kubelet serves what was written since it last rotated the log, which may
    /// begin later than it was asked for; but the first line of a container that had just begun is the first of all.
    async fn reach(&self, which: Which, born: Option<Timestamp>) -> Timestamp {
        let first = stream::edge_stamp(&self.client, &self.container, Edge::First(which)).await;
        // Where nobody can say, only what comes from now on is known to be whole.
        let first = first.map_or_else(&self.clock, |first| first.unwrap_or(self.start)).max(self.start);
        match born {
            Some(born) if born >= self.start && first.duration_since(born) <= FIRST_WORDS => self.start,
            _ => first,
        }
    }

    /// Reports what went wrong. Returns how long to wait before the next attempt.
    fn failed(&mut self, refusal: Refusal, sink: &mut impl LineSink) -> Duration {
        let Refusal { what, message, retry_after, .. } = refusal;
        sink.event(StreamEvent::Failed { what, message });
        self.backoff.delay().max(retry_after.unwrap_or_default())
    }
}
