//! Writes this node's NodeFirewall: conditions as soon as they change, the number of entries some seconds after it
//! changes, and all figures with a heartbeat every minute.
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
    backoff::Backoff,
    identity::Node,
    kernel::proxy_mode::ProxyMode,
    leader::Sign,
    metrics::Metrics,
    status::{self, ChainStatus, Facts, Problem, SetsStatus},
};

mod pace;

use pace::Pace;

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many texts each list of the status takes.
const MOST_TEXTS: usize = 64;

/// What decides when to write.
#[derive(Default)]
struct Told {
    findings: Vec<Finding>,
    entries: i64,
}

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

/// Everything that is told, as its owners publish it.
pub struct Sources {
    /// How the bans stand.
    pub sets: watch::Receiver<SetsStatus>,
    /// How the chain stands.
    pub chain: watch::Receiver<ChainStatus>,
    /// What keeps the lists of bans and of protected networks away.
    pub lists: [watch::Receiver<Option<Problem>>; 2],
    /// The leader's sign of life.
    pub sign: watch::Receiver<Option<Sign>>,
    /// What kube-proxy writes its rules with.
    pub proxy_mode: watch::Receiver<ProxyMode>,
}

impl Sources {
    fn look(&mut self) -> Facts {
        let [bans, protected] = &mut self.lists;
        Facts {
            sets: self.sets.borrow_and_update().clone(),
            chain: self.chain.borrow_and_update().clone(),
            bans_trouble: bans.borrow_and_update().clone(),
            protected_trouble: protected.borrow_and_update().clone(),
            sign: self.sign.borrow_and_update().clone(),
        }
    }

    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        let [bans, protected] = &mut self.lists;
        tokio::select! {
            changed = self.sets.changed() => changed,
            changed = self.chain.changed() => changed,
            changed = bans.changed() => changed,
            changed = protected.changed() => changed,
            changed = self.sign.changed() => changed,
            changed = self.proxy_mode.changed() => changed,
        }
    }
}

/// The task that writes it.
pub struct Reporter {
    api: Api<NodeFirewall>,
    node: Node,
    sources: Sources,
    synced: watch::Sender<bool>,
    metrics: Metrics,
    conditions: Vec<Condition>,
}

impl Reporter {
    /// A task that tells how `sources` stand.
    #[must_use]
    pub fn new(
        client: Client,
        node: Node,
        sources: Sources,
        synced: watch::Sender<bool>,
        metrics: Metrics,
    ) -> Self {
        Self { api: Api::all(client), node, sources, synced, metrics, conditions: Vec::new() }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut written = Told::default();
        let mut pace = Pace::new(Instant::now());
        loop {
            let (told, status, next) = self.look();
            let now = Instant::now();
            pace.differs(told.findings != written.findings, told.entries != written.entries, now);
            if now >= pace.due() {
                match self.write(&status).await {
                    Ok(()) => {
                        backoff = Backoff::default();
                        pace.written(now);
                    }
                    Err(error) => {
                        self.metrics.report_failed();
                        tracing::warn!(
                            error = &error as &dyn Error,
                            "NodeFirewall not written, trying again"
                        );
                        pace.failed(now, backoff.pause());
                    }
                }
                written = told;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(pace.due()) => {}
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                changed = self.sources.changed() => if changed.is_err() { return },
            }
        }
    }

    /// How things stand now: what decides when to write, what to write, and when to look again in any case.
    fn look(&mut self) -> (Told, NodeFirewallStatus, Option<Instant>) {
        let facts = self.sources.look();
        let at = Instant::now();
        let findings = status::findings(&facts, at);
        let next = facts.sign.as_ref().map(Sign::patience_ends).filter(|ends| *ends > at);
        let Facts { sets, chain, .. } = facts;
        let ready = findings.iter().any(|finding| finding.kind == "Ready" && finding.status == Some(true));
        self.metrics.ready(ready);
        if status::is_in_step(&sets, &chain) {
            self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        let now = Timestamp::now();
        self.conditions = merge(&self.conditions, &findings, None, now);
        let texts = |texts: Vec<String>| texts.into_iter().take(MOST_TEXTS).collect();
        let exceptions = chain.exceptions;
        let status = NodeFirewallStatus {
            conditions: self.conditions.clone(),
            backend: sets.backend,
            kube_proxy: Some(self.sources.proxy_mode.borrow_and_update().to_string()),
            entries: whole(sets.entries as u64),
            packets_dropped: whole(chain.dropped.packets),
            bytes_dropped: whole(chain.dropped.bytes),
            last_applied_resource_version: sets.version,
            apply_micros_p99: sets.apply_p99.map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
            repairs: whole(sets.repairs + chain.repairs),
            paused_until: exceptions.paused_until.map(Time),
            failsafe_ports: texts(exceptions.node_ports.iter().map(ToString::to_string).collect()),
            api_servers: texts(exceptions.api_servers.iter().map(ToString::to_string).collect()),
            last_heartbeat: Some(Time(now)),
        };
        // What is told of a condition that holds is a figure in most cases and waits for the heartbeat.
        let mut findings = findings;
        findings
            .iter_mut()
            .filter(|finding| finding.status == Some(true))
            .for_each(|finding| finding.message.clear());
        (Told { findings, entries: status.entries }, status, next)
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
