//! What a replay read, and what of it counted.

use std::{collections::BTreeMap, fmt};

use ip_sentry_core::detect::{jail::Jail, record::RecordError};
use jiff::Timestamp;
use serde::Serialize;

use super::counted;

/// What a replay read, and what of it counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Lines that a request was read from.
    pub parsed: u64,
    /// Their share of the lines that are no messages of the gateway itself, from 0 to 1; absent where there is none.
    pub parsed_share: Option<f64>,
    /// Lines that no request was read from, by reason.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// The last of those, fit to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unparsed_sample: Option<String>,
    /// The earliest time of a request.
    pub from: Option<Timestamp>,
    /// The latest.
    pub to: Option<Timestamp>,
    /// Requests that the policy looks for, before what it exempts.
    pub hits: u64,
    /// Hits that the policy exempts.
    pub excepted: u64,
    /// Hits too old to count when they came.
    pub stale: u64,
    /// Hits of sources that were banned at the time: with the policy in force they would not have come.
    pub dropped: u64,
    /// Requests of protected addresses, which are never counted.
    pub protected_clients: u64,
    /// Requests of private and special addresses, which are counted only with privateClients: Ban.
    pub private_clients: u64,
    /// The kubelet's probes among the requests of such addresses.
    pub probes: u64,
    /// Bans.
    pub bans: u64,
    /// Bans that were not, because they would have dropped a protected network too.
    pub shielded: u64,
    /// Sources that were forgotten before their time, because there were too many.
    pub evicted: u64,
    /// Banned sources whose bans were forgotten, because there were too many.
    pub forgotten: u64,
    /// Request targets that were cut at their limit.
    pub cut_targets: u64,
}

impl Summary {
    /// What a jail has counted. `forgotten` are the sources whose bans were.
    #[must_use]
    pub fn of(jail: &Jail, bans: u64, forgotten: u64) -> Self {
        let counters = jail.counters();
        let unparsed = RecordError::ALL.iter().map(|&reason| (reason.label(), counters.unparsed(reason)));
        let lines = counters.lines - counters.unparsed(RecordError::Message);
        Self {
            lines: counters.lines,
            parsed: counters.parsed,
            parsed_share: (lines > 0).then(|| share(counters.parsed, lines)),
            unparsed: unparsed.filter(|&(_, count)| count > 0).collect(),
            unparsed_sample: jail.unparsed_sample(),
            from: jail.span().map(|(from, _)| from),
            to: jail.span().map(|(_, to)| to),
            hits: counters.hits,
            excepted: counters.excepted,
            stale: counters.stale,
            dropped: counters.dropped,
            protected_clients: counters.protected_clients,
            private_clients: counters.private_clients,
            probes: counters.probes,
            bans,
            shielded: counters.shielded,
            evicted: counters.evicted,
            forgotten,
            cut_targets: counters.cut_targets,
        }
    }
}

/// To four digits: more are noise.
#[expect(
    clippy::cast_precision_loss,
    reason = "a share of more than 2^52 lines may be off in its last digit"
)]
fn share(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { lines, parsed, hits, bans, .. } = self;
        write!(f, "{}", counted(lines, "line", "lines"))?;
        if let (Some(from), Some(to)) = (self.from, self.to) {
            write!(f, " from {from} to {to}")?;
        }
        write!(f, ": {}, {} not read; ", counted(parsed, "request", "requests"), lines - parsed)?;
        writeln!(f, "{}, {}", counted(hits, "hit", "hits"), counted(bans, "ban", "bans"))?;
        for (reason, count) in &self.unparsed {
            let meaning = RecordError::ALL.into_iter().find(|error| error.label() == *reason);
            writeln!(
                f,
                "  {count} not read: {}",
                meaning.map_or_else(String::new, |error| error.to_string())
            )?;
        }
        if let Some(sample) = self.unparsed_sample.as_ref().filter(|_| self.parsed_share < Some(0.99)) {
            writeln!(f, "  the last of them: {sample}")?;
        }
        #[rustfmt::skip]
        let notes = [
            (self.dropped,           ["hit of a source that was banned by then: in the cluster it would not have come",
                                      "hits of sources that were banned by then: in the cluster they would not have come"]),
            (self.excepted,          ["hit that the policy exempts", "hits that the policy exempts"]),
            (self.stale,             ["hit that came too late to count", "hits that came too late to count"]),
            (self.protected_clients, ["request of a protected address, which is never counted",
                                      "requests of protected addresses, which are never counted"]),
            (self.private_clients,   ["request of a private address, which counts only with privateClients: Ban",
                                      "requests of private addresses, which count only with privateClients: Ban; if they should be \
                                       your clients, the gateway does not see their addresses (externalTrafficPolicy: Local, or clientIP)"]),
            (self.shielded,          ["ban that is not, because it would drop a protected network too",
                                      "bans that are not, because they would drop a protected network too"]),
            (self.evicted,           ["source forgotten early, because there were too many",
                                      "sources forgotten early, because there were too many"]),
            (self.forgotten,         ["banned source forgotten, because there were too many: its next ban counts as the first",
                                      "banned sources forgotten, because there were too many: their next ban counts as the first"]),
            (self.cut_targets,       ["request target longer than is looked at", "request targets longer than are looked at"]),
        ];
        for (count, [one, many]) in notes {
            if count > 0 {
                writeln!(f, "  {}", counted(count, one, many))?;
            }
        }
        Ok(())
    }
}
