//! One gateway's log through all that the operator does with it, from the API server's chunks to decisions.
//!
//! `benches/peers/stream.py` runs it against a server on this machine and measures it from outside:
//!
//! ```text
//! stream URL LAST    follows the log of pod p in namespace n at URL until LAST is banned
//! ```
//!
//! Prints how long after the runtime's stamp of its last line each decision was there.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input has nothing to measure")]

use std::{collections::HashMap, env, sync::Arc, time::Duration};

use ip_sentry_crd::ProbePolicy;
use ip_sentry_operator::{
    client,
    clock::Clock,
    metrics::Metrics,
    policies::{Outcome, Policies},
    streams::Streams,
    tail::Container,
};
use jiff::Timestamp;
use kube::Config;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// As many as the operator holds.
const QUEUE: usize = 4096;
/// Memory for sources, in bytes.
const TABLES: usize = 16 << 20;

#[tokio::main]
async fn main() {
    let mut words = env::args().skip(1).filter(|word| word != "--bench");
    let (Some(url), Some(last)) = (words.next(), words.next()) else {
        return println!("benches/peers/stream.py runs this");
    };
    let clock = Clock::default();
    let client = client::connect(&Config::new(url.parse().unwrap()), &clock).unwrap();
    let policy: ProbePolicy = serde_json::from_value(json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
        "metadata": {"name": "default", "namespace": "n", "uid": "policy", "generation": 1},
        "spec": {"podSelector": {}, "privateClients": "Ban"},
    }))
    .unwrap();
    let now = Timestamp::now();
    let mut policies = Policies::default();
    policies.update(&[&policy], usize::MAX, &[], now);
    policies.share(TABLES);
    let jails = policies.iter().filter_map(|(_, entry)| entry.jail.clone()).collect();
    let container =
        Container { namespace: "n".into(), pod: "p".into(), uid: "u1".into(), container: "nginx".into() };

    let (_protected, protected) = watch::channel(Arc::default());
    let (decided, mut decisions) = mpsc::channel(QUEUE);
    let cancel = CancellationToken::new();
    let mut streams =
        Streams::new(client, clock, protected, decided, 1, Arc::new(Metrics::default()), cancel.clone());
    streams.sync(&HashMap::from([(container, jails)]), now, now);

    let mut lags = Vec::new();
    while let Some(decided) = decisions.recv().await {
        let Outcome::Earned(decision) = decided.outcome else { continue };
        let lag = Timestamp::now().duration_since(decision.evidence.last_seen);
        lags.push(Duration::try_from(lag).unwrap_or_default());
        if decision.source.to_string().starts_with(&last) {
            break;
        }
    }
    cancel.cancel();
    lags.sort_unstable();
    let counters = policies.iter().next().unwrap().1.jail.as_ref().unwrap().jail().counters().clone();
    let share = |per_cent: usize| lags[(lags.len() * per_cent / 100).min(lags.len() - 1)].as_micros();
    println!(
        "lines={} bans={} p50={} p99={} longest={}",
        counters.lines,
        lags.len(),
        share(50),
        share(99),
        share(100)
    );
}
