//! The control loop: from what exists to what should run and what should be said of it.
//!
//! Level-triggered: each round starts from the tables of what exists, never from what has changed. Policies are
//! judged, their targets resolved, streams started and ended, protected networks and statuses written. Every
//! replica does the first half; the writes go through only on the leader.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{jail::Limits, record::RecordError},
    net::Source,
};
use ip_sentry_crd::{
    ProbePolicy,
    targets::{self, Resolved},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    bans::DELETION_SLACK,
    events::What,
    inventory::Inventories,
    lease::Deposed,
    metrics::{self, LeftOut, Metrics, PolicyLabel},
    policies::{PolicyJail, PolicyKey},
    protected::{
        facts::facts,
        keeper::{Found, Keeper},
        lifted,
        select::select,
    },
    state::State,
    status::{self, due::Written},
    streams::{Reach, Skew, StreamState, Streams},
    tail::Container,
};

/// How long changes are gathered before a round.
const GATHER: Duration = Duration::from_millis(50);
/// The longest time between two rounds.
const ROUND: Duration = Duration::from_secs(5);
/// The longest time that a source stays in a jail's memory; liftings from before it need no telling.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_hours(24);

/// The loop and what it keeps between rounds.
pub struct Control {
    state: Arc<State>,
    inventories: Inventories,
    streams: Streams,
    limits: Limits,
    /// Told of each change to what exists.
    dirty: Arc<Notify>,
    /// Told when policies or protected networks have changed.
    changed: Vec<Arc<Notify>>,
    protected: Keeper,
    resolved: BTreeMap<PolicyKey, Resolved>,
    written: Written,
    was_leading: bool,
}

impl Control {
    /// `dirty` wakes the loop, and the loop wakes `changed`.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        inventories: Inventories,
        streams: Streams,
        limits: Limits,
        dirty: Arc<Notify>,
        changed: Vec<Arc<Notify>>,
        protected: Keeper,
    ) -> Self {
        Self {
            state,
            inventories,
            streams,
            limits,
            dirty,
            changed,
            protected,
            resolved: BTreeMap::new(),
            written: Written::new(Instant::now()),
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
        let now = Timestamp::now();
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
        let policies = self.inventories.policies();
        self.judge(&policies, now);
        self.attach(&policies, now);
        for notify in &self.changed {
            notify.notify_one();
        }
        self.tell(&policies, now, is_leading).await;
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
            let selection = select(&facts);
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
            self.report("ProtectedNetworks", written.map(drop));
        }
        is_known
    }

    fn judge(&mut self, policies: &[ProbePolicy], now: Timestamp) {
        let recently = now - LONGEST_WINDOW;
        let lifted: Vec<(Source, Timestamp)> = self.state.history.with(|history| {
            history.lifted_since(recently).map(|(source, at)| (source, at + DELETION_SLACK)).collect()
        });
        self.state.policies().update(policies, self.limits, &lifted, now);
    }

    /// Resolves the targets and brings the streams in line.
    fn attach(&mut self, objects: &[ProbePolicy], now: Timestamp) {
        let namespaces: BTreeSet<String> =
            objects.iter().filter_map(|object| object.metadata.namespace.clone()).collect();
        self.inventories.follow(&namespaces);
        let policies = self.state.policies();
        let mut wanted: HashMap<Container, Vec<Arc<PolicyJail>>> = HashMap::new();
        self.resolved.clear();
        for (key, entry) in policies.iter() {
            let (Some(spec), Some(jail)) = (&entry.spec, &entry.jail) else { continue };
            let Some(resolved) = self
                .inventories
                .with(&key.namespace, |inventory| targets::resolve(&key.namespace, spec, inventory))
            else {
                continue;
            };
            for container in &resolved.containers {
                wanted.entry(container.clone()).or_default().push(jail.clone());
            }
            self.resolved.insert(key.clone(), resolved);
        }
        // A stream that starts reads back so far that no hit which still counts is missed.
        let back = SignedDuration::try_from(policies.longest_window()).unwrap_or(LONGEST_WINDOW);
        self.streams.sync(wanted, now - back, now);
        let forgotten = self.state.history.with(|history| history.forgotten());
        metrics::mirror(&self.state.metrics.offences_forgotten, forgotten);
        for (_, entry) in policies.iter() {
            if let Some(jail) = &entry.jail {
                jail.jail().sweep(now);
                mirror_counters(&self.state.metrics, jail);
            }
        }
    }

    /// Writes the statuses that are due, and tells of each policy that has just become unready.
    async fn tell(&mut self, objects: &[ProbePolicy], now: Timestamp, is_leading: bool) {
        if !is_leading {
            return;
        }
        let gaps = self.state.gaps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        let mut news = HashMap::new();
        {
            let policies = self.state.policies();
            let queue = self.state.queue_report();
            for (key, entry) in policies.iter() {
                let nothing = Resolved::unknown();
                let resolved = self.resolved.get(key).unwrap_or(&nothing);
                let streams: Vec<StreamState> =
                    resolved.containers.iter().map(|container| self.streams.state(container)).collect();
                let skews: Vec<Skew> =
                    resolved.containers.iter().filter_map(|container| self.streams.skew(container)).collect();
                let reaches: Vec<(&Container, Option<Reach>)> = entry
                    .jail
                    .iter()
                    .flat_map(|jail| {
                        resolved
                            .containers
                            .iter()
                            .map(|container| (container, self.streams.reach(container, jail)))
                    })
                    .collect();
                let old = objects
                    .iter()
                    .find(|object| is_named(object, key))
                    .and_then(|object| object.status.as_ref())
                    .map_or(&[][..], |status| &status.conditions);
                let status = status::status(
                    &status::Facts {
                        key,
                        entry,
                        resolved,
                        streams: &streams,
                        skews: &skews,
                        reaches: &reaches,
                        queue: &queue,
                        gaps: gaps.as_ref(),
                    },
                    old,
                    now,
                );
                let said = self.written.last(key).map_or(old, |status| &status.conditions);
                if let Some(why) = status::unready(said, &status.conditions) {
                    news.insert(key.clone(), (entry.uid.clone(), format!("not ready: {why}")));
                }
                all.push((key.clone(), status));
            }
        }
        for (key, status) in self.written.due(all, Instant::now()) {
            let written = status::write(&self.state.writer, &key, &status).await;
            if written.is_ok() {
                if let Some((uid, note)) = news.remove(&key) {
                    self.state.events.tell(&key, uid, What::NotReady, None, note);
                }
                self.written.wrote(key, status, Instant::now());
            }
            self.report("ProbePolicy", written);
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

fn is_named(object: &ProbePolicy, key: &PolicyKey) -> bool {
    object.metadata.namespace.as_ref() == Some(&key.namespace)
        && object.metadata.name.as_ref() == Some(&key.name)
}

fn mirror_counters(metrics: &Metrics, policy: &PolicyJail) {
    let label = PolicyLabel { namespace: policy.key.namespace.clone(), policy: policy.key.name.clone() };
    let counters = policy.jail().counters().clone();
    let unparsed = RecordError::ALL.map(|reason| (reason.label(), counters.unparsed(reason)));
    let bounds = [
        ("client_unknown", counters.unknown_clients),
        ("excepted", counters.excepted),
        ("stale", counters.stale),
        ("shielded", counters.shielded),
        ("target_cut", counters.cut_targets),
        ("long_line", counters.long_lines),
        ("read_by_beginning", counters.beginnings),
        ("lifting_forgotten", counters.pardons_dropped),
    ];
    for (reason, value) in unparsed.into_iter().chain(bounds) {
        let label = LeftOut { namespace: label.namespace.clone(), policy: label.policy.clone(), reason };
        metrics::mirror(&metrics.left_out.get_or_create(&label), value);
    }
    let hidden = counters.protected_clients + counters.private_clients;
    for (family, value) in [
        (&metrics.lines, counters.lines),
        (&metrics.parsed, counters.parsed),
        (&metrics.hits, counters.hits),
        (&metrics.evicted, counters.evicted),
        (&metrics.infrastructure, hidden),
        (&metrics.decisions, counters.earned),
    ] {
        metrics::mirror(&family.get_or_create(&label), value);
    }
}
