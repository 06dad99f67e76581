//! What a replay read, and what of it counted.

use std::{collections::BTreeMap, fmt};

use ip_sentry_core::detect::{counters::Counters, record::RecordError};
use serde::Serialize;

/// What a replay read, and what of it counted.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Lines that a request was read from.
    pub parsed: u64,
    /// Lines that none was read from, by reason.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// Requests that are hits, before what the policy exempts.
    pub hits: u64,
    /// Hits that the policy exempts.
    pub excepted: u64,
    /// Hits too old to count when they came.
    pub stale: u64,
    /// Requests of protected addresses.
    pub protected_clients: u64,
    /// Requests of private and special addresses.
    pub private_clients: u64,
    /// Bans.
    pub bans: u64,
}

impl Summary {
    /// What a jail has counted.
    #[must_use]
    pub fn of(counters: &Counters, bans: u64) -> Self {
        let unparsed = RecordError::ALL.iter().map(|&reason| (reason.label(), counters.unparsed(reason)));
        Self {
            lines: counters.lines,
            parsed: counters.parsed,
            unparsed: unparsed.filter(|&(_, count)| count > 0).collect(),
            hits: counters.hits,
            excepted: counters.excepted,
            stale: counters.stale,
            protected_clients: counters.protected_clients,
            private_clients: counters.private_clients,
            bans,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, parsed, hits, bans, .. } = self;
        writeln!(f, "{lines} lines, {parsed} parsed, {hits} hits, {bans} bans")?;
        for (reason, count) in &self.unparsed {
            writeln!(f, "not parsed: {count} {reason}")?;
        }
        Ok(())
    }
}
