//! The control loop: from what exists to what should run and what should be said of it.
//!
//! Level-triggered: each round starts from the tables of what exists, never from what has changed. Policies are
//! judged, their targets resolved, streams started and ended, protected networks and statuses written. Every
//! replica does the first half; the writes go through only on the leader.
//!
//! The loop itself decides nothing: [`desired`] says which policies count and which logs are read, [`status::due`] which
//! statuses are written, [`protected::keeper`](crate::protected::keeper) what is written of the protected networks, and
//! [`status`] what a policy's conditions are.

pub mod desired;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use ip_sentry_core::net::Source;
use ip_sentry_crd::{
    ProbePolicy,
    probe_policy::ProbePolicyStatus,
    targets::{self, Resolved},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::desired::Desired;
use crate::{
    ban_queue::Report,
    bans::DELETION_SLACK,
    events::What,
    heartbeats::Gaps,
    inventory::Inventories,
    lease::Deposed,
    memory::Budget,
    metrics::{self, Metrics, policies::PolicySeries},
    policies::{Entry, PolicyKey},
    protected::{
        facts::{api_servers, facts},
        keeper::{Found, Keeper},
        lifted,
        select::{Selection, select},
    },
    state::State,
    status::{self, due::Written},
    streams::{Skew, StreamState, Streams},
    tail::Container,
};

/// How long changes are gathered before a round.
const GATHER: Duration = Duration::from_millis(50);
/// The longest time between two rounds.
const ROUND: Duration = Duration::from_secs(5);
/// The longest time that a source stays in a jail's memory; liftings from before it need no telling.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_hours(24);

/// What is to be told of policies, with the uid of each.
type News = HashMap<PolicyKey, (Option<String>, String)>;

/// What is said of every policy alike.
struct OfCluster<'a> {
    queue: &'a Report,
    gaps: Option<&'a Gaps>,
    paused_until: Option<Timestamp>,
}

/// The loop and what it keeps between rounds.
pub struct Control {
    state: Arc<State>,
    inventories: Inventories,
    streams: Streams,
    budget: Budget,
    /// Told of each change to what exists.
    dirty: Arc<Notify>,
    /// Told when policies or protected networks have changed.
    changed: Vec<Arc<Notify>>,
    protected: Keeper,
    desired: Desired,
    written: Written,
    series: PolicySeries,
    was_leading: bool,
}

impl Control {
    /// `dirty` wakes the loop, and the loop wakes `changed`.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        inventories: Inventories,
        streams: Streams,
        budget: Budget,
        dirty: Arc<Notify>,
        changed: Vec<Arc<Notify>>,
        protected: Keeper,
    ) -> Self {
        Self {
            state,
            inventories,
            streams,
            budget,
            dirty,
            changed,
            protected,
            desired: Desired::default(),
            written: Written::new(Instant::now()),
            series: PolicySeries::default(),
            was_leading: false,
        }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut leadership = self.state.leadership.clone();
        loop {
            self.round().await;
            tokio::select! {
                () = self.dirty.notified() => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep(ROUND) => {}
                () = shutdown.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn round(&mut self) {
        let now = self.state.clock.now();
        let is_leading = self.state.leadership.is_leading();
        if is_leading != self.was_leading {
            self.was_leading = is_leading;
            // What another leader wrote in between is not known here.
            self.written.clear();
        }
        let is_protected_known = self.protect(now, is_leading).await;
        // Until the bans, their history and the protected networks are known, nothing may be counted.
        let is_past_known = self.state.bans().is_synced() && self.state.history.is_synced();
        if !is_protected_known || !is_past_known || !self.inventories.are_policies_known() {
            return;
        }
        self.state.ready.store(true, Ordering::Relaxed);
        let objects = self.inventories.policies();
        self.judge(&objects, now);
        self.attach(now);
        self.tidy(now);
        for notify in &self.changed {
            notify.notify_one();
        }
        if is_leading {
            self.tell(&objects, now).await;
        }
    }

    /// Reads what is protected, and as the leader writes what was found. Says whether it is known.
    async fn protect(&mut self, now: Timestamp, is_leading: bool) -> bool {
        let object = self.inventories.protected_networks();
        let before = self.state.protected();
        let is_known = self.protected.read(object.as_ref());
        if !is_leading || !self.inventories.is_cluster_known() {
            return is_known;
        }
        let unread = self.inventories.unread();
        let (state, keeper) = (&self.state, &mut self.protected);
        let due = self.inventories.with_cluster(|cluster| {
            let facts = facts(cluster);
            if let Some(object) = &object {
                lifted::tell(state, &before, object, &facts, now);
            }
            let selection = Selection { api_servers: api_servers(cluster), ..select(&facts) };
            state.metrics.selected(&selection);
            let found = Found { selection: &selection, unread: &unread };
            keeper.due(object.as_deref(), &found, Instant::now(), now)
        });
        if let Some(due) = due {
            let written = self.protected.perform(&self.state.writer, &due).await;
            if let Ok(Some(uid)) = &written {
                let note =
                    "it was missing: created again, with what people had written into the last one seen";
                let uid = Some(uid.clone());
                self.state.events.tell_on_networks(uid, What::NetworksRestored, None, note.to_owned());
            }
            if self.protected.written(&due, written.as_ref().err(), Instant::now()) {
                self.dirty.notify_one();
            }
            self.report("ProtectedNetworks", written.map(drop));
        }
        is_known
    }

    /// Takes in the policies, as many as may count.
    fn judge(&mut self, objects: &[ProbePolicy], now: Timestamp) {
        let (admitted, refused) = desired::admitted(objects, self.budget.policies);
        metrics::level(&self.state.metrics.policies_left_out, refused.len());
        let recently = now - LONGEST_WINDOW;
        let lifted: Vec<(Source, Timestamp)> = self.state.history.with(|history| {
            history.lifted_since(recently).map(|(source, at)| (source, at + DELETION_SLACK)).collect()
        });
        let mut policies = self.state.policies();
        policies.update(&admitted, self.budget.patterns, &lifted, now);
        policies.refuse(&refused);
        policies.share(self.budget.tables);
    }

    /// Resolves the targets and brings the streams in line.
    fn attach(&mut self, now: Timestamp) {
        let policies = self.state.policies();
        let namespaces: BTreeSet<String> = policies
            .iter()
            .filter(|(_, entry)| entry.jail.is_some())
            .map(|(key, _)| key.namespace.clone())
            .collect();
        self.inventories.follow(&namespaces);
        self.desired = desired::desired(&policies, self.budget.streams, |namespace, spec| {
            self.inventories.with(namespace, |inventory| targets::resolve(namespace, spec, inventory))
        });
        // A stream that starts reads back so far that no hit which still counts is missed.
        let back = SignedDuration::try_from(policies.longest_window()).unwrap_or(LONGEST_WINDOW);
        self.streams.sync(&self.desired.streams, now - back, now);
        metrics::level(&self.state.metrics.streams_left_out, self.desired.left_out);
    }

    /// Gives memory back that nobody needs, and brings the figures up to date.
    fn tidy(&mut self, now: Timestamp) {
        let metrics = &self.state.metrics;
        metrics::mirror(&metrics.offences_forgotten, self.state.history.with(|history| history.forgotten()));
        let policies = self.state.policies();
        let counting = policies.iter().filter_map(|(key, entry)| Some((key, entry.jail.as_ref()?)));
        let mut bytes = 0;
        let counters = counting.map(|(key, policy)| {
            let mut jail = policy.jail();
            jail.sweep(now);
            bytes += jail.tracked_bytes();
            (key, jail.counters().clone())
        });
        self.series.mirror(metrics, counters);
        metrics::level(&metrics.table_bytes, bytes);
        metrics::level(&metrics.table_budget_bytes, self.budget.tables);
    }

    /// Writes the statuses that are due, and tells of each policy that has just become unready.
    async fn tell(&mut self, objects: &[ProbePolicy], now: Timestamp) {
        let (all, mut news) = self.statuses(objects, now);
        for (key, status) in self.written.due(all, Instant::now()) {
            let written = status::write(&self.state.writer, &key, &status).await;
            let now = Instant::now();
            match &written {
                Ok(()) => {
                    if let Some((uid, note)) = news.remove(&key) {
                        self.state.events.tell(&key, uid, What::NotReady, None, note);
                    }
                    self.written.wrote(key, status, now);
                }
                Err(kube::Error::Api(_)) => self.written.refused(key, now),
                Err(_) => self.written.unanswered(now),
            }
            let goes_on = matches!(written, Ok(()) | Err(kube::Error::Api(_)));
            self.report("ProbePolicy", written);
            if !goes_on {
                break;
            }
        }
    }

    /// The status of each policy, and what is to be told of those that have just become unready.
    fn statuses(
        &self,
        objects: &[ProbePolicy],
        now: Timestamp,
    ) -> (Vec<(PolicyKey, ProbePolicyStatus)>, News) {
        let queue = self.state.queue_report();
        let gaps = self.state.gaps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paused_until =
            self.inventories.protected_networks().and_then(|object| object.spec.paused_until.clone());
        let cluster =
            OfCluster { queue: &queue, gaps: gaps.as_ref(), paused_until: paused_until.map(|time| time.0) };
        let policies = self.state.policies();
        let (mut all, mut news) = (Vec::new(), News::new());
        for object in objects {
            let key = PolicyKey::of(object);
            let Some(entry) = policies.get(&key) else { continue };
            let old = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let status = self.status(&key, entry, &cluster, old, now);
            let said = self.written.last(&key).map_or(old, |status| &status.conditions);
            if let Some(why) = status::unready(said, &status.conditions) {
                news.insert(key.clone(), (entry.uid.clone(), format!("not ready: {why}")));
            }
            all.push((key, status));
        }
        (all, news)
    }

    fn status(
        &self,
        key: &PolicyKey,
        entry: &Entry,
        cluster: &OfCluster<'_>,
        old: &[Condition],
        now: Timestamp,
    ) -> ProbePolicyStatus {
        let nothing = Resolved::unknown();
        let resolved = self.desired.resolved.get(key).unwrap_or(&nothing);
        let containers = &resolved.containers;
        let streams: Vec<StreamState> = containers.iter().map(|container| self.stream(container)).collect();
        let skews: Vec<Skew> =
            containers.iter().filter_map(|container| self.streams.skew(container)).collect();
        let reaches = entry.jail.iter().flat_map(|jail| {
            containers.iter().map(|container| (container, self.streams.reach(container, jail)))
        });
        let facts = status::Facts {
            key,
            entry,
            resolved,
            streams: &streams,
            skews: &skews,
            reaches: &reaches.collect::<Vec<_>>(),
            queue: cluster.queue,
            gaps: cluster.gaps,
            paused_until: cluster.paused_until,
        };
        status::status(&facts, old, now)
    }

    fn stream(&self, container: &Container) -> StreamState {
        if self.desired.streams.contains_key(container) {
            self.streams.state(container)
        } else {
            StreamState::LeftOut
        }
    }

    fn report(&self, what: &'static str, written: Result<(), kube::Error>) {
        if let Err(error) = written
            && !Deposed::is_cause_of(&error)
        {
            Metrics::count(&self.state.metrics.write_errors, what);
            tracing::warn!(what, error = &error as &dyn std::error::Error, "a status was not written yet");
        }
    }
}
