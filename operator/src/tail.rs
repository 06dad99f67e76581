//! Follows one container's log through `pods/log`, losing no line that the kubelet still has and handing over
//! none twice.
//!
//! In comes a [`Container`] and the time to start from; out go its lines, each with the container runtime's stamp,
//! and [`StreamEvent`]s, to a [`LineSink`].
//! Lines are handed over as they come, on the task that reads: a sink that is slow slows the kubelet down, not
//! us up, and no queue can overflow.
//!
//! Four stages: `stream` asks the API server for the log, `framing` cuts its bytes into lines, `stamp` reads the
//! time that the kubelet puts in front of each, and `resume` leaves out those that came before a reconnect.
//! `pod` tells whether the container is still the one that was followed.

use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

/// Whose log it is. A pod that is deleted and made again under its name is another one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Container {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The container's name in the pod.
    pub container: String,
}

/// Where the lines go.
pub trait LineSink: Send {
    /// One line, without its newline and without the stamp in front of it. Any bytes, at most 64 KiB.
    ///
    /// `stamp` is the container runtime's time at which the line was written. It may step back when the node's
    /// clock is set.
    fn line(&mut self, stamp: Timestamp, line: &[u8]);

    /// Something happened to the stream, or to a line that can't be handed over.
    fn event(&mut self, event: StreamEvent);
}

/// What happens to a stream besides lines.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// The API server has begun to send the log.
    Opened,
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
    /// A line was longer than 64 KiB and was left out.
    LineTooLong {
        /// How long it was, with the stamp in front of it.
        bytes: u64,
    },
    /// A line had no stamp in front of it and was left out: the rest of one that began before the stream did.
    Undated,
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
    container: Container,
    start: Timestamp,
}

impl Tail {
    /// Will follow `container` from the lines of `start` on.
    ///
    /// `client` must not set a read time-out: [`crate::client::connect`]'s does not.
    #[must_use]
    pub fn new(client: Client, container: Container, start: Timestamp) -> Self {
        Self { client, container, start }
    }

    /// Follows the log until the pod is gone or `cancel` is.
    pub async fn run(self, sink: impl LineSink, cancel: CancellationToken) -> Ended {
        cancel.cancelled().await;
        let _ = (self.client, self.container, self.start, sink);
        Ended::Cancelled
    }
}
