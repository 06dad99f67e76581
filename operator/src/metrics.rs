//! Every figure that the operator tells, registered in one place.
//!
//! Labels are fixed words and the names of policies, never an address or a text from a log.

pub mod policies;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::protected::select::{Selection, Why};

/// A policy.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct PolicyLabel {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub policy: String,
}

/// One of a fixed few reasons or results.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct Because {
    /// The word.
    pub reason: &'static str,
}

/// What a policy's jail left out, and why.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct LeftOut {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub policy: String,
    /// The word.
    pub reason: &'static str,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    /// Lines read.
    pub lines: Family<PolicyLabel, Counter>,
    /// Lines that had the policy's format.
    pub parsed: Family<PolicyLabel, Counter>,
    /// Requests that matched and counted.
    pub hits: Family<PolicyLabel, Counter>,
    /// Sources forgotten before their time, because as many as allowed were followed.
    pub evicted: Family<PolicyLabel, Counter>,
    /// Lines and hits that did not count, and what a bound cut off, by reason.
    pub left_out: Family<LeftOut, Counter>,
    /// Lines whose client was a node, a private address or a protected network.
    pub infrastructure: Family<PolicyLabel, Counter>,
    /// Sources that earned a ban.
    pub decisions: Family<PolicyLabel, Counter>,
    /// Decisions that became no ban, by reason.
    pub decisions_dropped: Family<Because, Counter>,
    /// Decisions that wait to be stored.
    pub decisions_waiting: Gauge,
    /// Those of them that wait because bans are limited.
    pub decisions_held_back: Gauge,
    /// What became of the ones that were published, by result.
    pub published: Family<Because, Counter>,
    /// From the last hit's line to the stored IPBan.
    pub ban_delay: Histogram,
    /// Bans in force.
    pub bans: Gauge,
    /// Bans that were deleted and whose object something keeps.
    pub bans_stuck: Gauge,
    /// Bans that ended, by reason.
    pub bans_ended: Family<Because, Counter>,
    /// Sources whose earlier bans were forgotten, because the history was full.
    pub offences_forgotten: Counter,
    /// Networks of the cluster itself that are protected.
    pub protected: Gauge,
    /// Networks of the cluster itself that are not protected, by reason.
    pub protected_left_out: Family<Because, Gauge>,
    /// Whether this replica writes.
    pub leader: Gauge,
    /// How often the lease changed hands.
    pub lease_transitions: Gauge,
    /// Containers whose logs are read.
    pub streams: Gauge,
    /// Containers whose logs are not read, because too many are.
    pub streams_left_out: Gauge,
    /// Policies that don't count, because too many do.
    pub policies_left_out: Gauge,
    /// What the sources of all policies take at present, in bytes.
    pub table_bytes: Gauge,
    /// What they may take.
    pub table_budget_bytes: Gauge,
    /// Streams that ended and were opened again, by reason.
    pub stream_reconnects: Family<Because, Counter>,
    /// Lines left out, by reason.
    pub lines_left_out: Family<Because, Counter>,
    /// Lines whose stamp was put right, by what is wrong with their node's clock.
    pub lines_redated: Family<Because, Counter>,
    /// Watches that failed and were begun again, by kind.
    pub watch_errors: Family<Because, Counter>,
    /// Objects that could not be read, by kind.
    pub unreadable: Family<Because, Counter>,
    /// Writes that failed, by what was written.
    pub write_errors: Family<Because, Counter>,
    /// Events left out, so as not to flood.
    pub events_suppressed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Self {
            registry: Registry::with_prefix("ip_sentry"),
            lines: Family::default(),
            parsed: Family::default(),
            hits: Family::default(),
            evicted: Family::default(),
            left_out: Family::default(),
            infrastructure: Family::default(),
            decisions: Family::default(),
            decisions_dropped: Family::default(),
            decisions_waiting: Gauge::default(),
            decisions_held_back: Gauge::default(),
            published: Family::default(),
            // 5 ms to 82 s.
            ban_delay: Histogram::new(exponential_buckets(0.005, 2.0, 15)),
            bans: Gauge::default(),
            bans_stuck: Gauge::default(),
            bans_ended: Family::default(),
            offences_forgotten: Counter::default(),
            protected: Gauge::default(),
            protected_left_out: Family::default(),
            leader: Gauge::default(),
            lease_transitions: Gauge::default(),
            streams: Gauge::default(),
            streams_left_out: Gauge::default(),
            policies_left_out: Gauge::default(),
            table_bytes: Gauge::default(),
            table_budget_bytes: Gauge::default(),
            stream_reconnects: Family::default(),
            lines_left_out: Family::default(),
            lines_redated: Family::default(),
            watch_errors: Family::default(),
            unreadable: Family::default(),
            write_errors: Family::default(),
            events_suppressed: Counter::default(),
        };
        all.register();
        all.register_networks();
        all
    }
}

impl Metrics {
    /// Gives each its name and says what it counts.
    fn register(&mut self) {
        self.register_by_policy();
        let registry = &mut self.registry;
        registry.register(
            "decisions_dropped",
            "Decisions that became no ban, by reason",
            self.decisions_dropped.clone(),
        );
        registry.register(
            "decisions_waiting",
            "Decisions that wait to be stored",
            self.decisions_waiting.clone(),
        );
        registry.register(
            "decisions_held_back",
            "Decisions that wait because bans are limited",
            self.decisions_held_back.clone(),
        );
        registry.register(
            "bans_published",
            "What became of published decisions, by result",
            self.published.clone(),
        );
        registry.register_with_unit(
            "ban_delay",
            "From the last hit's line to the stored IPBan",
            Unit::Seconds,
            self.ban_delay.clone(),
        );
        registry.register("bans", "Bans in force", self.bans.clone());
        registry.register(
            "bans_stuck",
            "Bans that were deleted and whose object something keeps, such as a foreign finalizer",
            self.bans_stuck.clone(),
        );
        registry.register("bans_ended", "Bans that ended, by reason", self.bans_ended.clone());
        registry.register(
            "offences_forgotten",
            "Sources whose earlier bans were forgotten because the history was full",
            self.offences_forgotten.clone(),
        );
        registry.register("leader", "1 while this replica writes", self.leader.clone());
        registry.register(
            "lease_transitions",
            "How often the lease changed hands",
            self.lease_transitions.clone(),
        );
        registry.register("streams", "Containers whose logs are read", self.streams.clone());
        registry.register(
            "streams_left_out",
            "Containers whose logs are not read because too many are",
            self.streams_left_out.clone(),
        );
        registry.register(
            "policies_left_out",
            "Policies that don't count because too many do",
            self.policies_left_out.clone(),
        );
        registry.register_with_unit(
            "tables",
            "What the sources of all policies take",
            Unit::Bytes,
            self.table_bytes.clone(),
        );
        registry.register_with_unit(
            "tables_budget",
            "What the sources of all policies may take",
            Unit::Bytes,
            self.table_budget_bytes.clone(),
        );
        registry.register(
            "stream_reconnects",
            "Log streams opened again, by reason",
            self.stream_reconnects.clone(),
        );
        registry.register("log_lines_left_out", "Lines left out, by reason", self.lines_left_out.clone());
        registry.register(
            "log_lines_redated",
            "Lines whose stamp was put right, by what is wrong with their node's clock",
            self.lines_redated.clone(),
        );
        registry.register("watch_errors", "Watches begun again, by kind", self.watch_errors.clone());
        registry.register(
            "unreadable_objects",
            "Objects that could not be read, by kind",
            self.unreadable.clone(),
        );
        registry.register(
            "write_errors",
            "Writes that failed, by what was written",
            self.write_errors.clone(),
        );
        registry.register(
            "events_suppressed",
            "Events left out, so as not to flood",
            self.events_suppressed.clone(),
        );
    }

    fn register_by_policy(&mut self) {
        let registry = &mut self.registry;
        registry.register("log_lines", "Lines read, by policy", self.lines.clone());
        registry.register("log_lines_parsed", "Lines that had the policy's format", self.parsed.clone());
        registry.register("hits", "Requests that matched and counted", self.hits.clone());
        registry.register(
            "sources_evicted",
            "Sources forgotten because too many were followed",
            self.evicted.clone(),
        );
        registry.register(
            "jail_left_out",
            "Lines and hits that did not count, and what a bound cut off, by reason",
            self.left_out.clone(),
        );
        registry.register(
            "infrastructure_lines",
            "Lines whose client was a node, a private address or a protected network",
            self.infrastructure.clone(),
        );
        registry.register("decisions", "Sources that earned a ban", self.decisions.clone());
    }

    /// Every family with a series for each policy: they go when the policy does.
    pub(crate) fn by_policy(&self) -> [&Family<PolicyLabel, Counter>; 6] {
        [&self.lines, &self.parsed, &self.hits, &self.evicted, &self.infrastructure, &self.decisions]
    }

    /// One more for `reason`.
    pub fn count(family: &Family<Because, Counter>, reason: &'static str) {
        family.get_or_create(&Because { reason }).inc();
    }

    fn register_networks(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "protected_networks",
            "Networks of the cluster itself that are protected, as the leader found them",
            self.protected.clone(),
        );
        registry.register(
            "protected_networks_left_out",
            "Networks of the cluster itself that are not protected, by reason",
            self.protected_left_out.clone(),
        );
    }

    /// What of the cluster itself is protected and what is not.
    pub fn selected(&self, selection: &Selection<'_>) {
        level(&self.protected, selection.networks.len());
        for why in Why::ALL {
            let reason = Because { reason: why.label() };
            let count = selection.left_out.iter().filter(|(because, _)| *because == why).count();
            level(&self.protected_left_out.get_or_create(&reason), count);
        }
    }

    /// Everything, in `OpenMetrics`' text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Sets a counter that is kept elsewhere to where it stands there.
pub fn mirror(counter: &Counter<u64, AtomicU64>, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

/// Sets a gauge from a count.
pub fn level(gauge: &Gauge<i64, AtomicI64>, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
