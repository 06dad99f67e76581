//! The gate that every write goes through.
//!
//! Owns the current term: until when this replica may write, and how many of its writes are under way.
//! The election opens it and renews it, the watchdog closes it on time, [`Leadership`] is what writers see.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use kube::Client;
use kube::client::Body;
use tokio::sync::{Notify, watch};
use tower::BoxError;

use super::{Moment, holder_of};

/// This replica doesn't hold the lease, or holds it for too short a time to write.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not leading: another replica writes, or this one could not renew its lease in time")]
pub struct Deposed;

impl Deposed {
    /// Whether a request through [`Leadership::gate`] failed for this reason.
    #[must_use]
    pub fn is_cause_of(error: &kube::Error) -> bool {
        matches!(error, kube::Error::Service(source) if source.is::<Self>())
    }
}

/// Why a write through [`Leadership::write`] did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// Nothing was sent, or it was cut off at the deadline and may or may not have been stored.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// The write itself failed.
    #[error(transparent)]
    Failed(E),
}

/// What there is to tell about the lease, for metrics and logs.
#[derive(Clone, Debug, Default)]
pub struct LeaseStatus {
    /// Whether this replica leads.
    pub leading: bool,
    /// Who held the lease when it was last read.
    pub holder: Option<String>,
    /// When this replica last renewed it.
    pub renewed_at: Option<Timestamp>,
    /// How often the lease has changed hands, as stored in it.
    pub transitions: i32,
}

/// Whether this replica leads. Cheap to clone.
///
/// Not a fence: the API server does not check it. What goes through it stops before another replica may start,
/// as long as clocks run at anything like the same speed.
#[derive(Clone)]
pub struct Leadership {
    gate: Arc<Gate>,
    leading: watch::Receiver<bool>,
}

impl Leadership {
    pub(super) fn new(deadline: Duration) -> Self {
        let (publish, leading) = watch::channel(false);
        let gate =
            Gate { deadline, state: Mutex::default(), publish, changed: Condvar::new(), idle: Notify::new() };
        Self { gate: Arc::new(gate), leading }
    }

    /// Whether this replica may write now.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.gate.lock().is_open(Moment::now())
    }

    /// Waits until this replica has begun or ceased to lead, and says which.
    ///
    /// A change that came since the last call, or since this was cloned, counts.
    pub async fn changed(&mut self) -> bool {
        // The sender lives in the gate that this holds, so there is no error to handle.
        if self.leading.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.leading.borrow_and_update()
    }

    /// What there is to tell about the lease.
    #[must_use]
    pub fn status(&self) -> LeaseStatus {
        let state = self.gate.lock();
        LeaseStatus { leading: state.is_open(Moment::now()), ..state.status.clone() }
    }

    /// Leave for one write, to be asked for right before it is sent and dropped when its reply is there.
    ///
    /// Holding one past the deadline ends the process. Prefer [`gate`](Self::gate) and [`write`](Self::write),
    /// which see to both.
    pub fn permit(&self) -> Result<Permit, Deposed> {
        let mut state = self.gate.lock();
        let term =
            state.term.filter(|term| !state.closed && term.is_running(Moment::now())).ok_or(Deposed)?;
        state.in_flight += 1;
        Ok(Permit { gate: self.gate.clone(), term })
    }

    /// Makes one write if this replica leads, and drops it where it stands when the term it began in ends.
    ///
    /// The clocks are read each time before the write goes on, so that a process which was suspended in the
    /// middle of one doesn't finish it when it wakes.
    pub async fn write<T, E>(&self, write: impl Future<Output = Result<T, E>>) -> Result<T, WriteError<E>> {
        let permit = self.permit()?;
        let mut write = pin!(write);
        let guarded = poll_fn(|context| {
            if !permit.term.is_running(Moment::now()) {
                return Poll::Ready(Err(WriteError::Deposed(Deposed)));
            }
            write.as_mut().poll(context).map_err(WriteError::Failed)
        });
        tokio::time::timeout_at(permit.term.until.into(), guarded).await.unwrap_or(Err(Deposed.into()))
    }

    /// The same client, but requests that change something are let through only while this replica leads.
    ///
    /// Others fail with [`Deposed`], see [`Deposed::is_cause_of`]. Reads, watches and log streams go through.
    /// [`crate::client::connect_writer`] makes one that has the connections gated as well.
    #[must_use]
    pub fn gate(&self, client: Client) -> Client {
        self.gate_writes(client.clone(), client)
    }

    /// A client that reads through `reader`, and writes through `writer` while this replica leads.
    #[must_use]
    pub fn gate_writes(&self, reader: Client, writer: Client) -> Client {
        let namespace = reader.default_namespace().to_owned();
        let leadership = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (reader, writer, leadership) = (reader.clone(), writer.clone(), leadership.clone());
            async move {
                if *request.method() == Method::GET {
                    return reader.send(request).await.map_err(BoxError::from);
                }
                leadership.write(writer.send(request)).await.map_err(|error| match error {
                    WriteError::Deposed(deposed) => deposed.into(),
                    WriteError::Failed(error) => error.into(),
                })
            }
        });
        Client::new(service, namespace)
    }

    /// Does what is done in no time if a term is running, and keeps the term's end waiting for it.
    pub(super) fn while_in_term<T>(&self, act: impl FnOnce() -> T) -> Result<T, Deposed> {
        let state = self.gate.lock();
        let is_running = state.term.is_some_and(|term| term.is_running(Moment::now()));
        is_running.then(act).ok_or(Deposed)
    }

    /// Begins or prolongs a term won by a request that was begun at `asked`.
    pub(super) fn lead(&self, asked: Moment) {
        let term = Term::new(asked, self.gate.deadline);
        let mut state = self.gate.lock();
        state.term = Some(term);
        state.last_until = Some(term.until);
        state.status.renewed_at = Some(asked.wall);
        self.gate.announce(&state);
    }

    /// Ends the term at once: another holds the lease.
    pub(super) fn lose(&self) {
        let mut state = self.gate.lock();
        state.term = None;
        self.gate.announce(&state);
    }

    /// Lets no write through from now on, for good.
    pub(super) fn close(&self) {
        let mut state = self.gate.lock();
        state.closed = true;
        self.gate.announce(&state);
    }

    /// Waits until no write is under way, but no longer than `limit`.
    pub(super) async fn drained(&self, limit: Duration) {
        let idle = async {
            loop {
                let notified = self.gate.idle.notified();
                if self.gate.lock().in_flight == 0 {
                    return;
                }
                notified.await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!("writes were still under way when the lease was released");
        }
    }

    /// Notes what was read of the lease.
    pub(super) fn saw(&self, spec: Option<&LeaseSpec>) {
        let mut state = self.gate.lock();
        state.status.holder = holder_of(spec).map(str::to_owned);
        state.status.transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    }

    /// What the watchdog looks after.
    pub(super) fn watched(&self) -> Arc<Gate> {
        self.gate.clone()
    }
}

/// Leave for one write; the write counts as under way until this is dropped.
#[must_use = "a write is only covered while its permit lives"]
pub struct Permit {
    gate: Arc<Gate>,
    term: Term,
}

impl Permit {
    /// When the write must be over.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.term.until
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            drop(state);
            self.gate.idle.notify_waiters();
            self.gate.changed.notify_all();
        }
    }
}

/// A stretch of time in which this replica may write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    asked: Moment,
    until: Instant,
    length: SignedDuration,
}

impl Term {
    fn new(asked: Moment, length: Duration) -> Self {
        let signed = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
        Self { asked, until: asked.instant + length, length: signed }
    }

    /// Whether neither clock says that the term's time has passed.
    ///
    /// The wall clock is asked because the monotonic one stands still while a virtual machine is suspended; one
    /// that was set forward ends a term early, which the next renewal mends.
    fn is_running(&self, now: Moment) -> bool {
        now.instant < self.until && now.wall.duration_since(self.asked.wall) < self.length
    }
}

/// What the election, the watchdog and the writers share.
pub(super) struct Gate {
    /// How long a term lasts.
    deadline: Duration,
    state: Mutex<State>,
    publish: watch::Sender<bool>,
    /// Wakes the watchdog.
    changed: Condvar,
    /// Wakes whoever waits for the last write to finish.
    idle: Notify,
}

#[derive(Default)]
struct State {
    term: Option<Term>,
    /// When the latest of all terms ends or had to end.
    last_until: Option<Instant>,
    closed: bool,
    unwatched: bool,
    in_flight: usize,
    status: LeaseStatus,
}

impl State {
    fn is_open(&self, now: Moment) -> bool {
        !self.closed && self.term.is_some_and(|term| term.is_running(now))
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody about a state that may have changed; under the lock, so that the last word is true.
    fn announce(&self, state: &State) {
        let leading = state.term.is_some() && !state.closed;
        self.publish.send_if_modified(|published| std::mem::replace(published, leading) != leading);
        self.changed.notify_all();
    }

    /// Ends each term on time, until [`unwatch`](Self::unwatch); true when a write is still under way `grace` after
    /// the end of its term.
    ///
    /// The write's own limit needs a runtime that runs. If that hangs, nothing but the end of the process keeps
    /// the write from going out while another replica leads.
    pub(super) fn watch(&self, grace: Duration) -> bool {
        /// How soon a jump of the wall clock is noticed when nobody asks.
        const LOOK_AGAIN: Duration = Duration::from_millis(500);
        let mut state = self.lock();
        while !state.unwatched {
            let now = Moment::now();
            if state.term.is_some_and(|term| !term.is_running(now)) {
                state.term = None;
                self.announce(&state);
            }
            let pause = match (state.term, state.last_until) {
                (Some(term), _) => term.until.saturating_duration_since(now.instant).min(LOOK_AGAIN),
                (None, Some(until)) if state.in_flight > 0 => {
                    let left = (until + grace).saturating_duration_since(now.instant);
                    if left.is_zero() {
                        return true;
                    }
                    left
                }
                (None, _) => Duration::MAX,
            };
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Ends [`watch`](Self::watch), and with it all writing: an election that is gone renews nothing.
    pub(super) fn unwatch(&self) {
        let mut state = self.lock();
        state.unwatched = true;
        state.closed = true;
        self.announce(&state);
    }
}

#[cfg(test)]
mod tests;
