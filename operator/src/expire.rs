//! The end of bans: the leader deletes what has run out, writes down how each ban ended, and lets it go.
//!
//! No unban waits for any of this: each node ends a ban by itself, at its time or when its deletion begins.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use ip_sentry_core::networks::Networks;
use ip_sentry_crd::{
    FIELD_MANAGER, IPBan,
    condition::{self, Finding},
};
use jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    bans::{Ban, Due, EXPIRY_GRACE, Ended, due},
    events::{PolicyKey, What},
    history::store::StoreError,
    lease::Deposed,
    metrics::Metrics,
    policies::Policies,
    state::State,
};

/// The most bans that are worked on at a time.
const MOST_WRITES: usize = 8;
/// How often changed history is written, and all bans are looked through, at the least.
const ROUND: Duration = Duration::from_secs(5);
/// How soon after a failed write the next round comes.
const RETRY: Duration = Duration::from_secs(1);

/// Why a ban's end was not dealt with; it is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpireError {
    /// Another replica leads.
    #[error("not leading: the leader ends bans")]
    Deposed,
    /// How it ended could not be written down, so it is not let go.
    #[error("the end of ban {name} could not be written down")]
    History {
        /// The ban.
        name: String,
        /// Why.
        source: StoreError,
    },
    /// The API server refused the change or could not be reached.
    #[error("ban {name} could not be {what}")]
    Write {
        /// The ban.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Ends bans.
pub struct Expiry {
    state: Arc<State>,
    api: Api<IPBan>,
    changed: Arc<Notify>,
}

impl Expiry {
    /// `changed` is told when bans, protected networks or policies change.
    #[must_use]
    pub fn new(state: Arc<State>, changed: Arc<Notify>) -> Self {
        let api = Api::all(state.writer.clone());
        Self { state, api, changed }
    }

    /// Works until `shutdown`, while this replica leads.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut leadership = self.state.leadership.clone();
        loop {
            let wake = if leadership.is_leading() { self.round().await } else { Instant::now() + ROUND };
            tokio::select! {
                () = self.changed.notified() => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One round; returns when the next is due.
    async fn round(&self) -> Instant {
        let now = Timestamp::now();
        let (due, next) = self.look(now);
        let results: Vec<Result<(), ExpireError>> = stream::iter(due)
            .map(|(ban, due)| self.act(ban, due, now))
            .buffer_unordered(MOST_WRITES)
            .collect()
            .await;
        let mut failed = false;
        for error in results.into_iter().filter_map(Result::err) {
            failed |= !matches!(error, ExpireError::Deposed);
            self.report(&error);
        }
        if let Err(error) = self.state.history.flush().await
            && !matches!(error, StoreError::Deposed)
        {
            failed = true;
            Metrics::count(&self.state.metrics.write_errors, "OffenceHistory");
            tracing::warn!(error = &error as &dyn std::error::Error, "offences were not written down yet");
        }
        let wait = if failed { RETRY } else { next.min(ROUND) };
        Instant::now() + wait
    }

    fn report(&self, error: &ExpireError) {
        if !matches!(error, ExpireError::Deposed) {
            Metrics::count(&self.state.metrics.write_errors, "IPBan");
            tracing::warn!(error = error as &dyn std::error::Error, "a ban's end is dealt with later");
        }
    }

    /// What is due at `now`, and how long until the next ban runs out.
    fn look(&self, now: Timestamp) -> (Vec<(Ban, Due)>, Duration) {
        let protected = self.state.protected();
        let policies = self.state.policies();
        let bans = self.state.bans();
        let is_protected = |ban: &Ban| is_protected(ban, &protected, &policies);
        let due = bans.iter().filter_map(|ban| Some((ban.clone(), due(ban, now, is_protected)?))).collect();
        let ends = bans.iter().filter_map(|ban| ban.expires_at).map(|end| end + EXPIRY_GRACE);
        let next = ends.filter(|&end| end > now).min().map(|end| end.duration_since(now));
        (due, next.and_then(|next| next.try_into().ok()).unwrap_or(ROUND))
    }

    async fn act(&self, ban: Ban, due: Due, now: Timestamp) -> Result<(), ExpireError> {
        match due {
            Due::Delete(ended) => self.delete(&ban, ended).await,
            Due::Release => self.release(&ban, now).await,
            Due::Disown(ended) => self.disown(&ban, ended, now).await,
        }
    }

    /// Deletes exactly what was looked at: a ban that was extended or made anew meanwhile stays.
    async fn delete(&self, ban: &Ban, ended: Ended) -> Result<(), ExpireError> {
        let preconditions = Preconditions {
            uid: Some(ban.uid.clone()),
            resource_version: Some(ban.resource_version.clone()),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api.delete(&ban.name, &params).await {
            Ok(_) => {
                Metrics::count(&self.state.metrics.bans_ended, ended.reason());
                Ok(())
            }
            Err(error) => settled(&ban.name, "deleted", error),
        }
    }

    /// Writes down how it ended, then takes our finalizer off.
    async fn release(&self, ban: &Ban, now: Timestamp) -> Result<(), ExpireError> {
        let lifted = ban.lifted_at();
        self.state.history.with(|history| {
            if let Some(ended) = ban.offence_ended_at(now) {
                history.end(ban.source, ended);
            }
            if let Some(lifted) = lifted {
                history.lift(ban.source, lifted);
            }
        });
        match self.state.history.flush_shard_of(ban.source).await {
            Ok(()) => {}
            Err(StoreError::Deposed) => return Err(ExpireError::Deposed),
            Err(source) => return Err(ExpireError::History { name: ban.name.clone(), source }),
        }
        let patch = json!({"metadata": {
            "uid": ban.uid,
            "resourceVersion": ban.resource_version,
            "finalizers": ban.other_finalizers,
        }});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        if let Err(error) = self.api.patch(&ban.name, &params, &Patch::Merge(patch)).await {
            return settled(&ban.name, "released", error);
        }
        tracing::info!(ban = %ban.source, lifted = lifted.is_some(), "ban ended");
        if let Some(policy) = &ban.policy {
            let (what, note) = match lifted {
                None if ban.is_evicted => (
                    What::BanEvicted,
                    format!("the ban of {} gave way to a source with stronger evidence", ban.source),
                ),
                None => (What::BanExpired, format!("the ban of {} has run out", ban.source)),
                Some(_) if is_protected(ban, &self.state.protected(), &self.state.policies()) => (
                    What::BanLifted,
                    format!("the ban of {} was lifted: the network is protected now", ban.source),
                ),
                Some(_) => (What::BanLifted, format!("the ban of {} was lifted by hand", ban.source)),
            };
            self.state.events.tell(&key(policy), None, what, Some(&ban.name), note);
        }
        Ok(())
    }

    /// Says on somebody else's ban that it is not enforced.
    async fn disown(&self, ban: &Ban, ended: Ended, now: Timestamp) -> Result<(), ExpireError> {
        let message = match ended {
            Ended::Expired => "spec.expiresAt has passed: delete this ban, or set a later end",
            Ended::Evicted => return Ok(()), // Only the operator's own bans are evicted.
            Ended::Protected => "the network is protected: see ProtectedNetworks/cluster; delete this ban",
        };
        let finding = Finding::no("Enforced", ended.reason(), message);
        let patch = json!({
            "apiVersion": "ipsentry.dev/v1alpha1",
            "kind": "IPBan",
            "metadata": {"name": ban.name, "uid": ban.uid},
            "status": {"conditions": condition::merge(&[], &[finding], None, now)},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match self.api.patch_status(&ban.name, &params, &Patch::Apply(patch)).await {
            Ok(_) => Ok(()),
            Err(error) => settled(&ban.name, "marked as not enforced", error),
        }
    }
}

fn is_protected(ban: &Ban, protected: &Networks, policies: &Policies) -> bool {
    let network = ban.source.network();
    let exempts = ban.policy.as_ref().is_some_and(|policy| policies.exempts(&key(policy), &network));
    exempts || protected.overlaps(&network)
}

fn key(policy: &ip_sentry_crd::ip_ban::PolicyRef) -> PolicyKey {
    PolicyKey { namespace: policy.namespace.clone(), name: policy.name.clone() }
}

/// Gone (404) or changed meanwhile (409): the next look at it tells what is due now. Everything else is a failure.
fn settled(name: &str, what: &'static str, error: kube::Error) -> Result<(), ExpireError> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Ok(()),
        error if Deposed::is_cause_of(&error) => Err(ExpireError::Deposed),
        source => Err(ExpireError::Write { name: name.to_owned(), what, source: Box::new(source) }),
    }
}
