//! The end of bans: the leader deletes what has run out, writes down how each ban ended, and lets it go.
//!
//! [`Endings`] decides all of it; this task hears what has changed, performs what is due, and says how that went.
//! No unban waits for any of this: each node ends a ban by itself, at its time or when its deletion begins.

mod author;
pub mod perform;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_crd::IPBan;
use kube::Api;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::perform::{ActError, perform};
use crate::{
    bans::Ban,
    endings::{
        Action, Endings, Outcome,
        due::{Due, Ended, Unenforced},
    },
    events::What,
    history::store::StoreError,
    metrics::{self, Metrics},
    state::State,
};

/// The most requests under way.
const MOST_WRITES: usize = 8;
/// The longest time between two looks at the clock.
const ROUND: Duration = Duration::from_secs(5);

/// What a request came to.
enum Done {
    Acted(Arc<Ban>, Due, Result<(), ActError>),
    Written(usize, Result<(), StoreError>),
}

/// Ends bans.
pub struct Expiry {
    state: Arc<State>,
    api: Api<IPBan>,
    endings: Endings,
    work: JoinSet<Done>,
    changed: Arc<Notify>,
}

impl Expiry {
    /// `changed` is told when policies may have changed.
    #[must_use]
    pub fn new(state: Arc<State>, changed: Arc<Notify>) -> Self {
        let api = Api::all(state.writer.clone());
        Self { state, api, endings: Endings::default(), work: JoinSet::new(), changed }
    }

    /// Works until `shutdown`; only while this replica leads does anything become of it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (state, changed) = (self.state.clone(), self.changed.clone());
        let (mut leadership, mut protected) = (state.leadership.clone(), state.protected.clone());
        self.compare();
        loop {
            self.hear();
            self.start();
            let wake = Instant::now() + self.rest();
            tokio::select! {
                () = state.bans_for_expiry.arrived() => {}
                Some(done) = self.work.join_next() => if let Ok(done) = done { self.done(done) },
                () = changed.notified() => self.compare(),
                Ok(()) = protected.changed() => self.compare(),
                _ = leadership.changed() => self.compare(),
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.cancelled() => break,
            }
        }
        while let Some(done) = self.work.join_next().await {
            if let Ok(done) = done {
                self.done(done);
            }
        }
    }

    /// Takes in which bans changed.
    fn hear(&mut self) {
        let now = self.state.clock.now();
        for name in self.state.bans_for_expiry.take() {
            let ban = self.state.bans().share(&name);
            self.endings.ban(&name, ban, now);
        }
    }

    /// Takes in everything else that may have changed.
    fn compare(&mut self) {
        let now = self.state.clock.now();
        self.endings.protect(self.state.protected(), now);
        let policies = self.state.policies();
        self.endings.except(policies.iter().map(|(key, entry)| (key, &entry.exempt)), now);
        drop(policies);
        self.endings.lead(self.state.leadership.is_leading(), now);
        let unwritten: Vec<usize> = self.state.history.with(|history| history.dirty().collect());
        self.endings.unwritten(unwritten);
    }

    /// Starts what is due, as far as there is room.
    fn start(&mut self) {
        while self.work.len() < MOST_WRITES
            && let Some(action) = self.endings.next(self.state.clock.now())
        {
            match action {
                Action::Write(shard) => {
                    let history = self.state.history.clone();
                    self.work.spawn(async move { Done::Written(shard, history.write(shard).await) });
                }
                Action::Act { ban, due, failure } => {
                    let (api, now) = (self.api.clone(), self.state.clock.now());
                    self.work.spawn(async move {
                        let result = perform(&api, &ban, due, failure.as_deref(), now).await;
                        Done::Acted(ban, due, result)
                    });
                }
            }
        }
        metrics::level(&self.state.metrics.bans, self.endings.in_force());
        metrics::level(&self.state.metrics.bans_stuck, self.endings.stuck());
    }

    /// How long nothing is due.
    fn rest(&self) -> Duration {
        let wake = self.endings.wake().filter(|_| self.work.len() < MOST_WRITES);
        let rest =
            wake.map(|wake| wake.duration_since(self.state.clock.now()).max(jiff::SignedDuration::ZERO));
        rest.and_then(|rest| rest.try_into().ok()).map_or(ROUND, |rest: Duration| rest.min(ROUND))
    }

    fn done(&mut self, done: Done) {
        let now = self.state.clock.now();
        match done {
            Done::Written(shard, result) => {
                if let Err(error) = &result
                    && !matches!(error, StoreError::Deposed)
                {
                    Metrics::count(&self.state.metrics.write_errors, "OffenceHistory");
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "offences are written down later"
                    );
                }
                self.endings.written(shard, result.is_ok(), now);
            }
            Done::Acted(ban, due, result) => {
                let outcome = match result {
                    Ok(()) => {
                        self.tell(&ban, due);
                        Outcome::Settled
                    }
                    Err(ActError::Changed) => Outcome::Settled,
                    Err(ActError::Deposed) => Outcome::Deposed,
                    Err(error) => {
                        Metrics::count(&self.state.metrics.write_errors, "IPBan");
                        tracing::warn!(
                            ban = ban.name,
                            error = &error as &dyn std::error::Error,
                            "a ban's end is dealt with later"
                        );
                        Outcome::Failed(error.cause().into())
                    }
                };
                self.endings.acted(&ban, outcome, now);
            }
        }
    }

    /// Counts what was done, and sends events about it.
    fn tell(&self, ban: &Ban, due: Due) {
        let source = ban.source;
        let (what, note) = match due {
            Due::Delete(_) | Due::Tell(None) => return,
            Due::Release(ended) => {
                Metrics::count(&self.state.metrics.bans_ended, ended.label());
                tracing::info!(ban = %source, how = ended.label(), "ban ended");
                match ended {
                    Ended::Expired => (What::BanExpired, format!("the ban of {source} has run out")),
                    Ended::Evicted => {
                        (What::BanEvicted, format!("the ban of {source} gave way to stronger evidence"))
                    }
                    Ended::Protected => (
                        What::BanLifted,
                        format!("the ban of {source} was lifted: the network is protected now"),
                    ),
                    Ended::Lifted => (What::BanLifted, format!("the ban of {source} was lifted by hand")),
                }
            }
            Due::LetGo => (
                What::BanTakenOver,
                format!("the ban of {source} is Manual now: the operator leaves it to its author"),
            ),
            Due::Tell(Some(Unenforced::Deleting)) => (
                What::BanStuck,
                format!(
                    "the ban of {source} was deleted and is not enforced, but something keeps its object: \
                     kubectl describe ban {}",
                    ban.name
                ),
            ),
            Due::Tell(Some(why)) => {
                let why = perform::message(why, ban, None);
                return self.state.tell_on_ban(ban, What::BanNotEnforced, why);
            }
        };
        self.state.tell_on_policy_of(ban, what, note.clone());
        if !matches!(due, Due::Release(_)) {
            self.state.tell_on_ban(ban, what, note);
        }
    }
}
