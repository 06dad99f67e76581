//! Prints the banned networks as the kernel holds them.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use ip_sentry_core::{
    enforce::{
        chain::{Counters, Place, Table},
        rules::HIT_CHAIN,
        sets::{Family, Set},
    },
    net::Network,
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde::Serialize;

use crate::{
    args::Output,
    kernel::{
        ipset::{Ipset, IpsetError},
        xtables::{self, XtablesError},
    },
};

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The rules.
    #[error("the rules can't be read")]
    Rules(#[from] XtablesError),
    /// The sets.
    #[error("the sets can't be read")]
    Sets(#[from] IpsetError),
    /// The output.
    #[error("the listing can't be printed")]
    Print(#[from] io::Error),
    /// The output as JSON.
    #[error("the listing can't be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// One banned network.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ban {
    cidr: String,
    /// Seconds until the kernel ends it; absent for a rule without a date.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<i64>,
    packets: u64,
    bytes: u64,
}

/// Prints all of them.
pub async fn list(output: Output, out: &mut impl Write) -> Result<(), ListError> {
    let mut bans = BTreeMap::new();
    let mut hooked = true;
    for &family in xtables::families() {
        if !xtables::has_filter(family) {
            hooked = false;
            continue;
        }
        let table = xtables::read(family).await?;
        hooked &= table.place() != Place::Missing;
        bans.extend(of_rules(&table, Timestamp::now()));
        if table.rules().iter().any(|(rule, _)| rule.contains("--match-set")) {
            bans.extend(of_sets(family)?);
        }
    }
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &bans.values().collect::<Vec<_>>())?;
            writeln!(out)?;
        }
        Output::Table => print(bans.values(), out)?,
    }
    if !hooked {
        tracing::warn!(
            "INPUT, FORWARD or OUTPUT does not go through our chains: not everything here is dropped"
        );
    }
    Ok(())
}

fn of_sets(family: Family) -> Result<BTreeMap<Network, Ban>, IpsetError> {
    let mut ipset = Ipset::open()?;
    let mut bans = BTreeMap::new();
    for set in Set::ALL.into_iter().filter(|set| set.family() == family && !set.is_allow()) {
        ipset.entries(set.name(), |held| {
            bans.insert(held.network, ban(held.network, held.left.map(i64::from), held.matched));
        })?;
    }
    Ok(bans)
}

/// The bans among plain rules: `-s NETWORK [-m time --datestop DATE] -j IP-BLOCKER-HIT`.
fn of_rules(table: &Table, now: Timestamp) -> BTreeMap<Network, Ban> {
    let read = |rule: &str| -> Option<(Network, Option<i64>)> {
        let ban = rule.strip_prefix("-s ")?.strip_suffix(HIT_CHAIN)?.strip_suffix(" -j ")?;
        let (network, rest) = ban.split_once(' ').unwrap_or((ban, ""));
        let left = match rest.strip_prefix("-m time --datestop ") {
            None => None,
            Some(date) => {
                let last: DateTime = date.parse().ok()?;
                let end = last.to_zoned(TimeZone::UTC).ok()?.timestamp() + SignedDuration::from_secs(1);
                Some(end.duration_since(now).as_secs())
            }
        };
        Some((network.parse().ok()?, left))
    };
    table
        .rules()
        .iter()
        .filter_map(|(rule, matched)| {
            let (network, left) = read(rule)?;
            // A rule past its date matches nothing any more.
            left.is_none_or(|left| left > 0).then(|| (network, ban(network, left, *matched)))
        })
        .collect()
}

fn ban(network: Network, seconds_left: Option<i64>, matched: Counters) -> Ban {
    Ban { cidr: network.to_string(), seconds_left, packets: matched.packets, bytes: matched.bytes }
}

fn print<'a>(bans: impl Iterator<Item = &'a Ban>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<43} {:>12} {:>12} {:>14}", "NETWORK", "TIME LEFT", "PACKETS", "BYTES")?;
    for ban in bans {
        let left = ban.seconds_left.map_or_else(|| "-".to_owned(), spoken);
        writeln!(out, "{:<43} {left:>12} {:>12} {:>14}", ban.cidr, ban.packets, ban.bytes)?;
    }
    Ok(())
}

/// Seconds as people say them: `23h59m58s`, `24d20h`.
fn spoken(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m{}s", seconds % 60),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_rules_are_read_back() {
        let table = Table::parse([
            "[5:300] -A IP-BLOCKER -s 203.0.113.0/28 -j IP-BLOCKER-HIT",
            "[1:60] -A IP-BLOCKER -s 2001:db8::/64 -m time --datestop 1970-01-01T00:01:39 -j IP-BLOCKER-HIT",
            "[1:60] -A IP-BLOCKER -s 203.0.113.9/32 -m time --datestop 1970-01-01T00:00:09 -j IP-BLOCKER-HIT",
            "[1:60] -A IP-BLOCKER -s 10.0.0.0/8 -j RETURN",
        ]);
        let bans = of_rules(&table, Timestamp::from_second(10).unwrap());
        let mut out = Vec::new();
        print(bans.values(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1..],
            [vec!["203.0.113.0/28", "-", "5", "300"], vec!["2001:db8::/64", "1m30s", "1", "60"]]
        );
    }

    #[test]
    fn times_are_spoken_in_two_or_three_parts() {
        #[rustfmt::skip]
        let table = [(5, "5s"), (65, "1m5s"), (86_399, "23h59m59s"), (86_400, "1d0h"), (2_147_483, "24d20h")];
        for (seconds, expect) in table {
            assert_eq!(spoken(seconds), expect);
        }
    }
}
