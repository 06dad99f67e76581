//! Keeps the kernel's sets as the API server's bans say.
//!
//! Owns the view and the connection to the sets. News from the watches come in; the kernel is changed at once,
//! with one message for one ban. What the chain must hold and how things stand go out, on two channels that
//! always hold the latest. Until the view is complete nothing is written, and when the agent ends nothing is
//! taken back.

use std::{error::Error, time::Duration};

use ip_sentry_core::{
    enforce::{
        plain,
        rules::Rules,
        sets::Family,
        view::{BanKey, Complete, Partial, Until, View},
    },
    net::{Network, Source},
    networks::Networks,
};
use ip_sentry_crd::node_firewall::Backend;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::BackendChoice,
    heard::Heard,
    kernel::{addresses, ipset::IpsetError},
    latency::Latency,
    metrics::Metrics,
    status::{ChainStatus, Problem, SetsStatus, Wanted},
    sync::{self, Outcome, Step},
};

mod excepted;
mod way;

use excepted::Excepted;
use way::{Way, left_out, open, problem_of, too_many};

/// How often the sets' headers are looked at.
const GLANCE: Duration = Duration::from_secs(2);
/// How often everything in the sets is read and compared.
const AUDIT: Duration = Duration::from_secs(30);
/// How many pieces of news are taken in before the sets are written, when many wait.
const BATCH: usize = 4_096;

/// Both states of the view.
enum Sight {
    Partial(View<Partial>),
    Complete(View<Complete>),
}

/// The task that keeps the sets.
pub struct Enforcer {
    choice: BackendChoice,
    capacity: u32,
    sight: Sight,
    way: Option<Way>,
    /// Everything has to be read and compared.
    dirty: bool,
    /// A full sync went through and the view has not changed as a whole since: one message is enough for one ban.
    settled: bool,
    /// That sync left nothing out: what differs from now on is somebody else's doing.
    whole: bool,
    /// Protected networks that are not in the kernel.
    unguarded: Networks,
    excepted: Excepted,
    version: Option<String>,
    latency: Latency,
    last_audit: Instant,
    metrics: Metrics,
    status: watch::Sender<SetsStatus>,
    wanted: watch::Sender<Option<Wanted>>,
}

impl Enforcer {
    /// A task that has heard nothing yet.
    #[must_use]
    pub fn new(
        choice: BackendChoice,
        capacity: u32,
        metrics: Metrics,
        status: watch::Sender<SetsStatus>,
        wanted: watch::Sender<Option<Wanted>>,
    ) -> Self {
        Self {
            choice,
            capacity,
            sight: Sight::Partial(View::default()),
            way: None,
            dirty: true,
            settled: false,
            whole: false,
            unguarded: Networks::default(),
            excepted: Excepted::default(),
            version: None,
            latency: Latency::default(),
            last_audit: Instant::now(),
            metrics,
            status,
            wanted,
        }
    }

    /// Runs until it is told to stop; the kernel stays as it is.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<Heard>,
        mut chain: watch::Receiver<ChainStatus>,
        stop: CancellationToken,
    ) {
        let mut glance = tokio::time::interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let next_end = self.next_end(Timestamp::now());
            tokio::select! {
                () = stop.cancelled() => return,
                count = news.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for heard in batch.drain(..) {
                        self.hear(heard);
                    }
                }
                _ = glance.tick() => self.glance(),
                Ok(()) = chain.changed() => self.hear_of_chain(&chain.borrow()),
                () = tokio::time::sleep(next_end), if next_end != Duration::MAX => self.want_again(),
            }
            if self.dirty {
                let chain = chain.borrow_and_update().clone();
                self.bring_in_step(&chain);
            }
        }
    }

    /// How long until the rules have to change, because a pause ends or the ban behind a plain rule does.
    fn next_end(&self, now: Timestamp) -> Duration {
        let ban = match (&self.way, &self.sight) {
            (Some(Way::Rules), Sight::Complete(view)) => {
                view.next_end(now).map(|end| now.duration_until(end))
            }
            _ => None,
        };
        let ban = ban.and_then(|left| Duration::try_from(left).ok());
        ban.into_iter().chain(self.excepted.pause_left(now)).min().unwrap_or(Duration::MAX)
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Bans { bans, version } => {
                match &mut self.sight {
                    Sight::Partial(view) => view.bans_listed(bans),
                    Sight::Complete(view) => view.replace_bans(bans),
                }
                self.version = Some(version);
                self.changed_as_a_whole();
            }
            Heard::Ban { key, until, version, at } => {
                self.hear_of_ban(key, until);
                self.version = Some(version);
                if self.settled && !self.dirty && self.change_one(key.source()) {
                    self.latency.record(at.elapsed());
                    self.metrics.apply_seconds.observe(at.elapsed().as_secs_f64());
                } else {
                    self.dirty = true;
                }
            }
            Heard::Protected(told) => {
                self.excepted.told(&told, Timestamp::now());
                self.want_again();
                let changed = match &mut self.sight {
                    Sight::Partial(view) => {
                        view.protected_listed(told.networks);
                        true
                    }
                    Sight::Complete(view) => view.protect(told.networks),
                };
                if changed {
                    self.changed_as_a_whole();
                }
            }
            Heard::Peer(peers) => {
                self.excepted.met(peers);
                self.look_for_own();
            }
        }
    }

    fn hear_of_ban(&mut self, key: BanKey, until: Option<Until>) {
        match (&mut self.sight, until) {
            (Sight::Partial(view), Some(until)) => view.ban(key, until),
            (Sight::Partial(view), None) => view.lift(key),
            (Sight::Complete(view), Some(until)) => view.ban(key, until),
            (Sight::Complete(view), None) => view.lift(key),
        }
    }

    /// Looks up the node's own addresses.
    fn look_for_own(&mut self) {
        let own = match addresses::of_node() {
            Ok(own) => own,
            Err(error) => {
                self.metrics.kernel_error("addresses");
                tracing::warn!(error = &error as &dyn Error, "this node's addresses could not be read");
                return;
            }
        };
        let networks: Vec<Network> = addresses::as_networks(&self.excepted.found(own));
        self.want_again();
        let changed = match &mut self.sight {
            Sight::Partial(view) => {
                view.own_found(networks);
                true
            }
            Sight::Complete(view) => view.protect_own(networks),
        };
        if changed {
            self.changed_as_a_whole();
        }
    }

    fn changed_as_a_whole(&mut self) {
        self.settled = false;
        self.dirty = true;
    }

    /// Changes one network in the kernel; says whether it is in step now.
    fn change_one(&mut self, source: Source) -> bool {
        let (Sight::Complete(view), Some(Way::Ipset(ipset))) = (&self.sight, &mut self.way) else {
            return false;
        };
        match sync::one(ipset, view, source, &self.unguarded, Timestamp::now()) {
            Ok(Step::Added) => true,
            // There may be room now for one that had none.
            Ok(Step::Removed) => self.whole,
            // The first of its kind has to be told; after that, it is known that there is no room.
            Ok(Step::NoRoom | Step::Withheld) => !self.whole,
            Err(error) => {
                self.metrics.kernel_error("change");
                tracing::warn!(error = &error as &dyn Error, "a ban could not be changed: reading all sets");
                false
            }
        }
    }

    fn hear_of_chain(&mut self, chain: &ChainStatus) {
        let with_sets = matches!(self.way, Some(Way::Ipset(_)));
        self.dirty |= chain.no_set_match && with_sets && self.choice == BackendChoice::Auto;
        if self.excepted.kernel_can(chain.matches) {
            self.want_again();
        }
    }

    /// A look at what changes without news: addresses, headers, and from time to time everything.
    fn glance(&mut self) {
        self.look_for_own();
        self.dirty |= self.last_audit.elapsed() >= AUDIT;
        let (Sight::Complete(view), false) = (&self.sight, self.dirty) else { return };
        let now = Timestamp::now();
        match &mut self.way {
            Some(Way::Ipset(ipset)) => match sync::looks_right(ipset, view, self.capacity, now) {
                Ok(right) => self.dirty = !right,
                Err(error) => {
                    self.metrics.kernel_error("glance");
                    tracing::warn!(error = &error as &dyn Error, "the sets' headers could not be read");
                    self.dirty = true;
                }
            },
            // Tries again, and sees whether a kernel that had no sets has them by now.
            Some(Way::Rules) | None => self.dirty = true,
        }
        if !self.dirty && self.whole {
            let entries = view.in_force(now).count();
            self.metrics.bans(entries, 0, 0);
            self.status.send_if_modified(|status| {
                status.version.clone_from(&self.version);
                status.apply_p99 = self.latency.p99();
                // The other figures wake nobody; they are told with the next heartbeat.
                std::mem::replace(&mut status.entries, entries) != entries
            });
        }
    }

    /// Reads everything and brings it in step, whatever the way.
    fn bring_in_step(&mut self, chain: &ChainStatus) {
        self.dirty = false;
        self.excepted.kernel_can(chain.matches);
        self.complete_sight();
        let Sight::Complete(view) = &self.sight else {
            self.tell_waiting();
            return;
        };
        self.last_audit = Instant::now();
        let now = Timestamp::now();
        let (mut way, why) = match open(self.choice, chain, self.way.take()) {
            Ok(opened) => opened,
            Err(error) => return self.tell_failure(&error),
        };
        let synced = match &mut way {
            Way::Ipset(ipset) => {
                let synced = sync::full(ipset, view, self.capacity, now);
                self.metrics.sync_seconds.observe(self.last_audit.elapsed().as_secs_f64());
                synced
            }
            Way::Rules => return self.tell_plain(why),
        };
        match synced {
            Ok(outcome) => {
                self.way = Some(way);
                self.tell_synced(outcome, why);
            }
            Err(error @ IpsetError::Missing) if self.choice == BackendChoice::Auto => {
                self.tell_plain(error.to_string());
            }
            Err(error) => self.tell_failure(&error),
        }
    }

    fn complete_sight(&mut self) {
        let sight = std::mem::replace(&mut self.sight, Sight::Partial(View::default()));
        self.sight = match sight {
            Sight::Partial(view) => match view.complete() {
                Ok(view) => {
                    tracing::info!(
                        bans = view.heard(),
                        protected = view.protected().len(),
                        "both lists are here"
                    );
                    Sight::Complete(view)
                }
                Err(view) => Sight::Partial(view),
            },
            complete @ Sight::Complete(_) => complete,
        };
    }

    fn tell_waiting(&self) {
        let Sight::Partial(view) = &self.sight else { return };
        let missing = Some(view.missing());
        self.status.send_if_modified(|status| {
            let changed = status.waiting_for != missing;
            status.waiting_for = missing;
            changed
        });
    }

    fn tell_synced(&mut self, outcome: Outcome, why: String) {
        let repairs = if self.settled && self.whole { outcome.drifted as u64 } else { 0 };
        if repairs > 0 {
            self.metrics.repaired("sets", repairs);
            tracing::warn!(sets = repairs, "sets were changed by somebody else and put right");
        }
        self.settled = true;
        self.whole = outcome.is_whole();
        self.metrics.bans(outcome.entries, outcome.refused, outcome.withheld);
        // No drop before every exception is in: the chain is asked for once they all were.
        if outcome.unguarded.is_empty() {
            self.want_sets();
        }
        self.tell(Backend::Ipset, why, outcome.entries, left_out(&outcome, self.capacity), repairs);
        self.unguarded = outcome.unguarded;
    }

    /// Enforces by plain rules: the chain's task writes them.
    fn tell_plain(&mut self, why: String) {
        let Sight::Complete(view) = &self.sight else { return };
        let now = Timestamp::now();
        let exceptions = self.excepted.at(now);
        let [v4, v6] =
            Family::BOTH.map(|family| plain::rules(view, family, &exceptions, now, self.excepted.matches));
        let (entries, refused) = (v4.bans + v6.bans, v4.refused + v6.refused);
        self.way = Some(Way::Rules);
        self.settled = false;
        self.metrics.bans(entries, refused, 0);
        self.want(Wanted { backend: Backend::Rules, v4: v4.rules, v6: v6.rules, exceptions });
        self.tell(Backend::Rules, why, entries, too_many(refused), 0);
    }

    fn tell(&self, backend: Backend, why: String, entries: usize, problem: Option<Problem>, repairs: u64) {
        let before = self.status.borrow().clone();
        match (&before.problem, &problem) {
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                tracing::error!(reason = problem.reason, "{}", problem.message);
            }
            (Some(_), None) => tracing::info!("every ban is in the kernel again"),
            _ => {}
        }
        if before.backend != Some(backend) {
            tracing::info!(?backend, why, "backend chosen");
        }
        let status = SetsStatus {
            waiting_for: None,
            backend: Some(backend),
            backend_why: why,
            entries,
            problem,
            repairs: before.repairs + repairs,
            version: self.version.clone(),
            apply_p99: self.latency.p99(),
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn tell_failure(&mut self, error: &IpsetError) {
        self.metrics.kernel_error("sync");
        self.settled = false;
        let problem = problem_of(error);
        self.status.send_if_modified(|status| {
            let changed = status.problem.as_ref() != Some(&problem);
            if changed {
                tracing::error!(reason = problem.reason, "{}", problem.message);
            }
            status.waiting_for = None;
            status.problem = Some(problem);
            changed
        });
    }

    /// Has the chain hold what it must by now, where it is asked for already: a pause, an exception, the end of
    /// either. That waits for no set, so that a pause works while those can't be written.
    fn want_again(&mut self) {
        let backend = self.wanted.borrow().as_ref().map(|wanted| wanted.backend);
        match backend {
            Some(Backend::Ipset) => self.want_sets(),
            // These rules are the bans.
            Some(Backend::Rules) => self.dirty = true,
            None => {}
        }
    }

    fn want_sets(&self) {
        let exceptions = self.excepted.at(Timestamp::now());
        let [v4, v6] = Family::BOTH.map(|family| Rules::of_sets(family, &exceptions, self.excepted.matches));
        self.want(Wanted { backend: Backend::Ipset, v4, v6, exceptions });
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&wanted);
            *current = Some(wanted);
            changed
        });
    }
}
