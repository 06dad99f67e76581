//! The series of each policy: updated from its jail, and removed with the policy.

use std::collections::HashSet;

use ip_sentry_core::detect::{counters::Counters, record::RecordError};

use super::{LeftOut, Metrics, PolicyLabel, mirror};
use crate::policies::PolicyKey;

/// The policies that have series.
#[derive(Debug, Default)]
pub struct PolicySeries {
    told: HashSet<PolicyLabel>,
}

impl PolicySeries {
    /// Brings the series in line with the policies that count.
    pub fn mirror<'a>(
        &mut self,
        metrics: &Metrics,
        policies: impl Iterator<Item = (&'a PolicyKey, Counters)>,
    ) {
        let mut gone = std::mem::take(&mut self.told);
        for (key, counters) in policies {
            let label = PolicyLabel { namespace: key.namespace.clone(), policy: key.name.clone() };
            gone.remove(&label);
            tell(metrics, &label, &counters);
            self.told.insert(label);
        }
        for label in gone {
            forget(metrics, &label);
        }
    }
}

/// What a jail left out, by reason.
fn left_out(counters: &Counters) -> impl Iterator<Item = (&'static str, u64)> {
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
    unparsed.into_iter().chain(bounds)
}

fn label_of(label: &PolicyLabel, reason: &'static str) -> LeftOut {
    LeftOut { namespace: label.namespace.clone(), policy: label.policy.clone(), reason }
}

fn tell(metrics: &Metrics, label: &PolicyLabel, counters: &Counters) {
    for (reason, value) in left_out(counters) {
        mirror(&metrics.left_out.get_or_create(&label_of(label, reason)), value);
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
        mirror(&family.get_or_create(label), value);
    }
}

fn forget(metrics: &Metrics, label: &PolicyLabel) {
    for (reason, _) in left_out(&Counters::default()) {
        metrics.left_out.remove(&label_of(label, reason));
    }
    for family in metrics.by_policy() {
        family.remove(label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_gone_takes_all_its_series_along() {
        let metrics = Metrics::default();
        let mut series = PolicySeries::default();
        let key = |name: &str| PolicyKey { namespace: "web".into(), name: name.into() };
        let (stays, goes) = (key("stays"), key("goes"));
        let mut counters = Counters::default();
        counters.lines = 7;
        series.mirror(&metrics, [(&stays, counters.clone()), (&goes, counters.clone())].into_iter());
        for family in metrics.by_policy() {
            _ = family.get_or_create(&PolicyLabel { namespace: "web".into(), policy: "goes".into() });
        }
        let count = |name: &str| metrics.render().unwrap().matches(&format!("policy=\"{name}\"")).count();
        let series_of_one = count("stays");
        assert!(series_of_one > 10 && count("goes") >= series_of_one);
        series.mirror(&metrics, [(&stays, counters)].into_iter());
        assert_eq!((count("stays"), count("goes")), (series_of_one, 0));
    }
}
