//! Keeps the chains `IP-BLOCKER`, `IP-BLOCKER-HIT`, `IP-BLOCKER-OUT` and the jumps to them in place.
//!
//! Owns the `iptables-legacy` tools. What the chain has to hold comes in; how it stands, as read back from the
//! kernel, goes out. Whoever else writes rules locks the same file, so its being closed is the sign to look
//! again; writers that don't are found by a look from time to time.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    time::Duration,
};

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use ip_sentry_core::enforce::{
    chain::{Counters, Place, Table},
    paths::Paths,
    rules::Rules,
    sets::Family,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    kernel::{
        links,
        xtables::{self, XtablesError},
    },
    metrics::Metrics,
    status::{ChainStatus, Problem, Standing, Wanted},
};

/// How often the rules are read without a sign.
const AUDIT: Duration = Duration::from_secs(30);
/// How soon they are read again after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// The least time between two looks, however many signs there are.
const PACE: Duration = Duration::from_millis(100);
/// The least time between two looks at which way packets go.
const PATHS: Duration = Duration::from_secs(10);
/// That many lost first places within [`FIGHT`] are a fight, and the place is left to the other for [`TRUCE`].
const ROUNDS: usize = 5;
const FIGHT: Duration = Duration::from_mins(1);
const TRUCE: Duration = Duration::from_mins(5);

/// The task that keeps the chain.
pub struct ChainKeeper {
    wanted: watch::Receiver<Option<Wanted>>,
    status: watch::Sender<ChainStatus>,
    metrics: Metrics,
    /// What was read back whole the last time: what differs from it was changed by somebody else.
    in_place: Option<Wanted>,
    lost_places: VecDeque<Instant>,
    truce_until: Option<Instant>,
    /// What the rules of each family had counted when they were last read.
    counted: BTreeMap<Family, Counted>,
    /// Packets that went from FORWARD through the chain while this agent ran.
    forwarded: u64,
    paths: Paths,
    paths_seen: Option<Instant>,
}

/// What the rules of one family count.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    dropped: Counters,
    forwarded: Counters,
}

/// What one look found.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    rules_repaired: bool,
    place_lost: bool,
    first: bool,
}

impl ChainKeeper {
    /// A task that waits for something to be wanted.
    #[must_use]
    pub fn new(
        wanted: watch::Receiver<Option<Wanted>>,
        status: watch::Sender<ChainStatus>,
        metrics: Metrics,
    ) -> Self {
        Self {
            wanted,
            status,
            metrics,
            in_place: None,
            lost_places: VecDeque::new(),
            truce_until: None,
            counted: BTreeMap::new(),
            forwarded: 0,
            paths: Paths::default(),
            paths_seen: None,
        }
    }

    /// Runs until it is told to stop; the rules stay as they are.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut signs = Signs::default();
        let mut retry = RETRY.0;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let mut pause = AUDIT;
            if let Some(wanted) = wanted {
                if self.keep(&wanted).await {
                    retry = RETRY.0;
                } else {
                    pause = retry;
                    retry = RETRY.1.min(retry * 2);
                }
                if signs.watch() {
                    // Whatever was written before gave no sign.
                    continue;
                }
            }
            let looked = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = signs.next(), if self.in_place.is_some() => sleep_until(looked + PACE).await,
                () = sleep_until(looked + pause) => {}
            }
        }
    }

    /// Looks and repairs, once; says whether everything is in place.
    async fn keep(&mut self, wanted: &Wanted) -> bool {
        let keep_place = self.truce_until.is_some_and(|until| Instant::now() < until);
        let mut looks = Vec::new();
        let mut failure = None;
        for &family in xtables::families() {
            match self.keep_family(family, wanted, keep_place).await {
                Ok(look) => looks.push(look),
                Err(error) => failure = Some(error),
            }
        }
        self.look_at_paths();
        let ours = self.in_place.as_ref() == Some(wanted);
        let repairs =
            looks.iter().filter(|look| ours && (look.rules_repaired || look.place_lost)).count() as u64;
        if repairs > 0 {
            self.metrics.repaired("chain", repairs);
            tracing::warn!(
                tables = repairs,
                "the chain or its jumps were changed by somebody else and put right"
            );
        }
        if ours && looks.iter().any(|look| look.place_lost) {
            self.place_was_lost();
        }
        let standing = if looks.iter().all(|look| look.first) {
            Standing::First
        } else if keep_place {
            Standing::Contended
        } else {
            Standing::Behind
        };
        self.tell(wanted, failure.as_ref(), standing, repairs)
    }

    async fn keep_family(
        &mut self,
        family: Family,
        wanted: &Wanted,
        keep_place: bool,
    ) -> Result<Look, XtablesError> {
        let rules = rules_of(wanted, family);
        let mut table = self.read(family).await?;
        let mut look = Look::default();
        if let Some(text) = table.repair(rules, keep_place) {
            look.rules_repaired = !table.holds(rules) || table.place() == Place::Missing;
            look.place_lost = table.place() == Place::Behind;
            let replaced = !table.holds(rules);
            xtables::restore(family, &text).await.inspect_err(|_| self.metrics.kernel_error("restore"))?;
            if replaced {
                // New rules count from zero.
                self.counted.entry(family).or_default().dropped = Counters::default();
            }
            table = self.read(family).await?;
        }
        if !table.holds(rules) || table.place() == Place::Missing {
            return Err(XtablesError::NotAsWritten);
        }
        look.first = table.place() == Place::First;
        Ok(look)
    }

    async fn read(&mut self, family: Family) -> Result<Table, XtablesError> {
        let table = xtables::read(family).await.inspect_err(|_| self.metrics.kernel_error("read"))?;
        let now = Counted { dropped: table.dropped(), forwarded: table.forwarded() };
        let before = self.counted.insert(family, now).unwrap_or_default();
        // Fewer than before: somebody zeroed the counters or made the rules anew.
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let more = Counters {
            packets: since(now.dropped.packets, before.dropped.packets),
            bytes: since(now.dropped.bytes, before.dropped.bytes),
        };
        self.forwarded += since(now.forwarded.packets, before.forwarded.packets);
        self.metrics.dropped(more);
        self.status.send_if_modified(|status| {
            status.dropped = status.dropped + more;
            false
        });
        Ok(table)
    }

    /// Looks at which way packets to pods go, from time to time.
    fn look_at_paths(&mut self) {
        let now = Instant::now();
        if self.paths_seen.is_some_and(|seen| now.duration_since(seen) < PATHS) {
            return;
        }
        self.paths_seen = Some(now);
        let look = match links::look(self.forwarded) {
            Ok(look) => look,
            Err(error) => {
                self.metrics.kernel_error("links");
                tracing::warn!(error = &error as &dyn Error, "this node's links could not be read");
                return;
            }
        };
        let verdict = self.paths.judge(look);
        self.status.send_if_modified(|status| {
            let changed = status.paths != verdict;
            if changed {
                tracing::warn!(?verdict, "which way packets to pods go");
            }
            status.paths = verdict;
            changed
        });
    }

    fn place_was_lost(&mut self) {
        let now = Instant::now();
        self.metrics.repaired("place", 1);
        self.lost_places.push_back(now);
        self.lost_places.retain(|lost| now.duration_since(*lost) < FIGHT);
        if self.lost_places.len() >= ROUNDS {
            self.lost_places.clear();
            self.truce_until = Some(now + TRUCE);
            tracing::error!(
                minutes = TRUCE.as_secs() / 60,
                "another program keeps taking the first place in INPUT, FORWARD or OUTPUT: leaving it to it for a while"
            );
        }
    }

    fn tell(
        &mut self,
        wanted: &Wanted,
        failure: Option<&XtablesError>,
        standing: Standing,
        repairs: u64,
    ) -> bool {
        let whole = failure.is_none();
        if whole {
            if self.in_place.as_ref().map(|wanted| wanted.backend) != Some(wanted.backend) {
                tracing::info!(backend = ?wanted.backend, ?standing, "the chain is in place");
            }
            self.in_place = Some(wanted.clone());
        }
        let problem = failure.map(|error| Problem { reason: error.reason(), message: error.to_string() });
        self.status.send_if_modified(|status| {
            let before = status.clone();
            if let Some(problem) = problem.as_ref().filter(|problem| before.problem.as_ref() != Some(problem))
            {
                let error = failure.map(|error| error as &dyn Error);
                tracing::error!(reason = problem.reason, error, "the chain could not be kept in place");
            }
            status.verified = whole.then_some(wanted.backend);
            status.standing = whole.then_some(standing);
            if whole {
                status.exceptions = wanted.exceptions.clone();
            }
            status.no_set_match |= matches!(failure, Some(XtablesError::NoSetMatch(_)));
            status.matches.dates &= !matches!(failure, Some(XtablesError::NoTimeMatch(_)));
            status.matches.labels &= !matches!(failure, Some(XtablesError::NoLabelMatch(_)));
            status.repairs += repairs;
            status.problem = problem;
            *status != before
        });
        whole
    }
}

fn rules_of(wanted: &Wanted, family: Family) -> &Rules {
    match family {
        Family::V4 => &wanted.v4,
        Family::V6 => &wanted.v6,
    }
}

/// Signs that somebody has written rules: the lock file was closed.
#[derive(Default)]
struct Signs(Option<EventStream<[u8; 1024]>>);

impl Signs {
    /// Starts to watch, if it doesn't yet and the file is there: the first writer makes it. Says whether it has
    /// just begun.
    fn watch(&mut self) -> bool {
        if self.0.is_some() {
            return false;
        }
        let watch = || -> std::io::Result<EventStream<[u8; 1024]>> {
            let inotify = Inotify::init()?;
            inotify.watches().add(xtables::lock_file(), WatchMask::CLOSE)?;
            inotify.into_event_stream([0; 1024])
        };
        match watch() {
            Ok(signs) => self.0 = Some(signs),
            Err(error) => {
                tracing::debug!(error = &error as &dyn Error, "the xtables lock file is not watched yet");
            }
        }
        self.0.is_some()
    }

    /// Waits for the next sign; for ever where the file is not watched.
    async fn next(&mut self) {
        let Some(signs) = &mut self.0 else { return std::future::pending().await };
        let lost = match signs.next().await {
            Some(Ok(event)) => event.mask.intersects(EventMask::IGNORED | EventMask::Q_OVERFLOW),
            Some(Err(_)) | None => true,
        };
        if lost {
            // The file is another one by now: watched anew with the next look.
            self.0 = None;
        }
    }
}
