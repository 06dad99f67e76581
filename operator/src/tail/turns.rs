//! Turns to read what was logged before a stream was opened: at a start, or after an outage, every log has much of that,
//! and all at once they would take the machine from those that are read already.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How long a log pauses when all that it had has been read, and what comes is being written.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a log may take to begin, which the kubelet spends looking for the first line; it has nothing to say after that.
const BEGINNING: Duration = Duration::from_millis(250);
/// How long a turn lasts at most: a log that is always behind keeps no other one waiting for ever.
const LONGEST: Duration = Duration::from_secs(10);

/// The turns of all streams.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// So many at the same time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.max(1))))
    }

    /// Waits for a turn, which begins at the `clock`'s time. First come, first served.
    pub(super) async fn take(&self, clock: impl Fn() -> Timestamp) -> Turn {
        // The semaphore is never closed; if it were, there would be no bound to keep.
        let permit = self.0.clone().acquire_owned().await.ok();
        Turn { permit, began: Instant::now(), began_at: clock(), has_begun: false }
    }
}

/// One stream's turn, until it has caught up with its log.
#[derive(Debug)]
pub(super) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
    began_at: Timestamp,
    /// Something came.
    has_begun: bool,
}

impl Turn {
    /// When to call it caught up if nothing comes until then; none when it has.
    pub(super) fn ends(&self, heard: Instant) -> Option<Instant> {
        let ends = if self.has_begun { heard + PAUSE } else { self.began + BEGINNING };
        self.permit.as_ref().map(|_| ends)
    }

    /// Something came at `now`, after a pause; `newest` is the latest stamp so far.
    pub(super) fn heard(&mut self, now: Instant, pause: Duration, newest: Timestamp) {
        let is_live = std::mem::replace(&mut self.has_begun, true) && pause >= PAUSE;
        if self.permit.is_some()
            && (is_live || newest >= self.began_at || now.duration_since(self.began) >= LONGEST)
        {
            self.end();
        }
    }

    /// It has caught up: another one may begin.
    pub(super) fn end(&mut self) {
        self.permit = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_when_the_log_pauses_or_is_of_now_or_after_ten_seconds() {
        let turns = Turns::new(1);
        let old = Timestamp::UNIX_EPOCH;
        let (soon, late) = (Duration::from_millis(1), Duration::from_secs(10));
        #[rustfmt::skip]
        let table = [
            // after, pause, newest,                                       ended
            (soon,    soon,  old,                                          false),
            (soon,    PAUSE, old,                                          true),
            (soon,    soon,  Timestamp::now() + Duration::from_mins(1),    true),
            (late,    soon,  old,                                          true),
        ];
        for (after, pause, newest, ended) in table {
            let mut turn = turns.take(Timestamp::now).await;
            turn.heard(Instant::now(), BEGINNING, old);
            assert!(turn.ends(Instant::now()).is_some(), "the kubelet has only just found the first line");
            turn.heard(Instant::now() + after, pause, newest);
            assert_eq!(turn.ends(Instant::now()).is_none(), ended, "{after:?}, {pause:?}, {newest}");
            assert_eq!(turns.0.available_permits(), usize::from(ended));
        }
    }
}
