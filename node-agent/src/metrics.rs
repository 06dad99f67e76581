//! Every figure that the agent tells, registered in one place. Labels are fixed words, never an address.

use std::sync::{Arc, atomic::AtomicU64};

use ip_sentry_core::enforce::chain::Counters;
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

/// One of a fixed few things.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct What {
    /// The word.
    pub what: &'static str,
}

/// The agent's metrics; a clone counts into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    bans: Family<What, Gauge>,
    ready: Gauge,
    /// From a change's arrival to the kernel's confirmation.
    pub apply_seconds: Histogram,
    /// A full read and sync of all sets.
    pub sync_seconds: Histogram,
    repairs: Family<What, Counter>,
    kernel_errors: Family<What, Counter>,
    lists: Family<What, Counter>,
    watch_errors: Family<What, Counter>,
    bad_items: Family<What, Counter>,
    dropped_packets: Counter<u64, AtomicU64>,
    dropped_bytes: Counter<u64, AtomicU64>,
    report_errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ip_sentry_node");
        let bans: Family<What, Gauge> = Family::default();
        let ready = Gauge::default();
        // 2 µs to 1 s.
        let apply_seconds = Histogram::new(exponential_buckets(2e-6, 3.3, 12));
        let sync_seconds = Histogram::new(exponential_buckets(1e-4, 3.0, 10));
        let repairs: Family<What, Counter> = Family::default();
        let kernel_errors: Family<What, Counter> = Family::default();
        let lists: Family<What, Counter> = Family::default();
        let watch_errors: Family<What, Counter> = Family::default();
        let bad_items: Family<What, Counter> = Family::default();
        let dropped_packets = Counter::default();
        let dropped_bytes = Counter::default();
        let report_errors = Counter::default();
        registry.register(
            "bans",
            "Bans: enforced, refused for want of room, withheld for a protected network",
            bans.clone(),
        );
        registry.register("ready", "1 while every banned source is dropped here", ready.clone());
        registry.register_with_unit(
            "apply",
            "From the arrival of a changed ban to the kernel's confirmation",
            Unit::Seconds,
            apply_seconds.clone(),
        );
        registry.register_with_unit(
            "sync",
            "Reading all sets and bringing them in step",
            Unit::Seconds,
            sync_seconds.clone(),
        );
        registry.register("repairs", "What somebody else had changed and was put right", repairs.clone());
        registry.register(
            "kernel_errors",
            "Refused reads and writes of sets and rules",
            kernel_errors.clone(),
        );
        registry.register("lists", "Full lists that were read from the API server", lists.clone());
        registry.register("watch_errors", "Lists and watches that failed", watch_errors.clone());
        registry.register(
            "bad_items",
            "Objects that could not be understood and were left out",
            bad_items.clone(),
        );
        registry.register(
            "dropped_packets",
            "Packets of banned sources that were dropped",
            dropped_packets.clone(),
        );
        registry.register_with_unit("dropped", "Bytes of those packets", Unit::Bytes, dropped_bytes.clone());
        registry.register("report_errors", "Writes of the NodeFirewall that failed", report_errors.clone());
        Self {
            registry: Arc::new(registry),
            bans,
            ready,
            apply_seconds,
            sync_seconds,
            repairs,
            kernel_errors,
            lists,
            watch_errors,
            bad_items,
            dropped_packets,
            dropped_bytes,
            report_errors,
        }
    }
}

impl Metrics {
    /// The figures as Prometheus reads them.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// How many bans are enforced, had no room, are held back.
    pub fn bans(&self, enforced: usize, refused: usize, withheld: usize) {
        for (what, count) in [("enforced", enforced), ("refused", refused), ("withheld", withheld)] {
            self.bans.get_or_create(&What { what }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether the node is ready.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// `sets`, `chain` or `place` were put right.
    pub fn repaired(&self, what: &'static str, times: u64) {
        self.repairs.get_or_create(&What { what }).inc_by(times);
    }

    /// The kernel refused: `change`, `sync`, `glance`, `read`, `restore`, `links`, `addresses`.
    pub fn kernel_error(&self, what: &'static str) {
        self.kernel_errors.get_or_create(&What { what }).inc();
    }

    /// A list was read.
    pub fn listed(&self, what: &'static str) {
        self.lists.get_or_create(&What { what }).inc();
    }

    /// A list or watch failed.
    pub fn watch_failed(&self, what: &'static str) {
        self.watch_errors.get_or_create(&What { what }).inc();
    }

    /// An object was left out.
    pub fn bad_item(&self, what: &'static str) {
        self.bad_items.get_or_create(&What { what }).inc();
    }

    /// Packets were dropped since the last call.
    pub fn dropped(&self, more: Counters) {
        self.dropped_packets.inc_by(more.packets);
        self.dropped_bytes.inc_by(more.bytes);
    }

    /// The NodeFirewall was not written.
    pub fn report_failed(&self) {
        self.report_errors.inc();
    }
}
