//! Ends the term on time when nothing else does: a thread of its own, which needs no async runtime to run.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::gate::{Gate, Leadership};

/// The watchdog's thread; it ends when this is dropped.
pub(super) struct Watchdog {
    gate: Arc<Gate>,
}

impl Watchdog {
    /// Starts watching; `overrun` is called when a write is still under way `grace` after the end of its term.
    pub(super) fn start(
        leadership: &Leadership,
        grace: Duration,
        overrun: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let gate = leadership.watched();
        let watched = gate.clone();
        thread::Builder::new().name("lease-watchdog".into()).spawn(move || {
            if watched.watch(grace) {
                overrun();
            }
        })?;
        Ok(Self { gate })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.gate.unwatch();
    }
}

/// Ends the process without running anything else in it.
pub(super) fn abort() {
    // On a thread of its own, since a log that nobody reads any more must not keep the process alive.
    let told = thread::Builder::new().spawn(|| {
        tracing::error!(
            "a write was under way too long after the lease ran out: aborting rather than write late"
        );
    });
    if told.is_ok() {
        thread::sleep(Duration::from_millis(50));
    }
    std::process::abort();
}
