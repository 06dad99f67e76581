//! Writes this node's NodeFirewall: conditions as soon as they change, figures with a heartbeat every minute.
//!
//! When the API server is away nothing waits for this, and nothing is lost: the next write says how things are.

use std::{error::Error, time::Duration};

use ip_sentry_crd::{
    FIELD_MANAGER, NodeFirewall,
    condition::{Finding, merge},
    node_firewall::{NodeFirewallSpec, NodeFirewallStatus},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, between},
    identity::Node,
    kernel::proxy_mode::ProxyMode,
    metrics::Metrics,
    status::{self, ChainStatus, Problem, SetsStatus},
};

/// Between two heartbeats, in milliseconds: 60 s, give or take.
const HEARTBEAT_MILLIS: (u64, u64) = (55_000, 63_000);
/// The least time between two writes, however often the conditions change.
const PACE: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why the NodeFirewall was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It could not be made.
    #[error("NodeFirewall {name} could not be made")]
    Create {
        /// The node.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Its status could not be written.
    #[error("the status of NodeFirewall {name} could not be written")]
    Status {
        /// The node.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("the API server did not answer within {secs} s", secs = PATIENCE.as_secs())]
    TimedOut,
}

/// The task that writes it.
pub struct Reporter {
    api: Api<NodeFirewall>,
    node: Node,
    sets: watch::Receiver<SetsStatus>,
    chain: watch::Receiver<ChainStatus>,
    lists: [watch::Receiver<Option<Problem>>; 2],
    proxy_mode: watch::Receiver<ProxyMode>,
    synced: watch::Sender<bool>,
    metrics: Metrics,
    conditions: Vec<Condition>,
}

impl Reporter {
    /// A task that tells how `sets`, `chain` and `lists` stand.
    #[expect(clippy::too_many_arguments, reason = "one for each thing that is told")]
    #[must_use]
    pub fn new(
        client: Client,
        node: Node,
        sets: watch::Receiver<SetsStatus>,
        chain: watch::Receiver<ChainStatus>,
        lists: [watch::Receiver<Option<Problem>>; 2],
        proxy_mode: watch::Receiver<ProxyMode>,
        synced: watch::Sender<bool>,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::all(client),
            node,
            sets,
            chain,
            lists,
            proxy_mode,
            synced,
            metrics,
            conditions: Vec::new(),
        }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut written: Vec<Finding> = Vec::new();
        let mut due = Instant::now();
        let mut last = Instant::now() - PACE;
        loop {
            let (findings, status) = self.look();
            let changed = findings != written;
            if changed || Instant::now() >= due {
                sleep_until(last + PACE).await;
                last = Instant::now();
                match self.write(&status).await {
                    Ok(()) => {
                        written = findings;
                        backoff = Backoff::default();
                        due = last + Duration::from_millis(between(HEARTBEAT_MILLIS.0, HEARTBEAT_MILLIS.1));
                        continue;
                    }
                    Err(error) => {
                        self.metrics.report_failed();
                        tracing::warn!(
                            error = &error as &dyn Error,
                            "NodeFirewall not written, trying again"
                        );
                        due = last + backoff.pause();
                        // What is not written yet does not count as changed again.
                        written = findings;
                    }
                }
            }
            let [bans, protected] = &mut self.lists;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due) => {}
                changed = async {
                    tokio::select! {
                        changed = self.sets.changed() => changed,
                        changed = self.chain.changed() => changed,
                        changed = bans.changed() => changed,
                        changed = protected.changed() => changed,
                        changed = self.proxy_mode.changed() => changed,
                    }
                } => if changed.is_err() { return },
            }
        }
    }

    /// How things stand now: what decides whether to write at once, and what to write.
    fn look(&mut self) -> (Vec<Finding>, NodeFirewallStatus) {
        let sets = self.sets.borrow_and_update().clone();
        let chain = self.chain.borrow_and_update().clone();
        let lists = self.lists.each_mut().map(|list| list.borrow_and_update().clone());
        let findings = status::findings(&sets, &chain, lists.iter().flatten().next());
        let ready = status::is_ready(&sets, &chain);
        self.metrics.ready(ready);
        if ready {
            self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        let now = Timestamp::now();
        self.conditions = merge(&self.conditions, &findings, None, now);
        let status = NodeFirewallStatus {
            conditions: self.conditions.clone(),
            backend: sets.backend,
            kube_proxy: Some(self.proxy_mode.borrow_and_update().to_string()),
            entries: whole(sets.entries as u64),
            packets_dropped: whole(chain.dropped.packets),
            bytes_dropped: whole(chain.dropped.bytes),
            last_applied_resource_version: sets.version,
            apply_micros_p99: sets.apply_p99.map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
            repairs: whole(sets.repairs + chain.repairs),
            last_heartbeat: Some(Time(now)),
        };
        // How many there are is a figure and waits for the heartbeat.
        let mut decisive = findings;
        decisive
            .iter_mut()
            .filter(|finding| finding.status == Some(true))
            .for_each(|finding| finding.message.clear());
        (decisive, status)
    }

    async fn write(&self, status: &NodeFirewallStatus) -> Result<(), ReportError> {
        let write = async {
            match self.apply(status).await {
                // A status can't be written before its object is there.
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    self.create().await?;
                    self.apply(status).await
                }
                other => other,
            }
            .map_err(|source| ReportError::Status { name: self.node.name.clone(), source: Box::new(source) })
        };
        tokio::time::timeout(PATIENCE, write).await.unwrap_or(Err(ReportError::TimedOut))
    }

    async fn apply(&self, status: &NodeFirewallStatus) -> Result<(), kube::Error> {
        let mut object = NodeFirewall::new(&self.node.name, NodeFirewallSpec {});
        object.status = Some(status.clone());
        // By force: the leader may have set Ready to Unknown while this node was not heard from.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api.patch_status(&self.node.name, &params, &Patch::Apply(&object)).await.map(drop)
    }

    async fn create(&self) -> Result<(), ReportError> {
        let object = NodeFirewall {
            metadata: ObjectMeta {
                name: Some(self.node.name.clone()),
                owner_references: self.node.as_owner().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            ..NodeFirewall::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api.create(&params, &object).await {
            Ok(_) => Ok(()),
            // Made meanwhile, by the agent that this one takes over from.
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            Err(source) => {
                Err(ReportError::Create { name: self.node.name.clone(), source: Box::new(source) })
            }
        }
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
