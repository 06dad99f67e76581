//! Replicas that die or lead when they should not.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ip_sentry_crd::IPBan;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
    front::{Fault, Seen},
    replica::{INSTALLATION, Replica},
};

fn attackers(count: u8) -> Vec<String> {
    (1..=count).map(|last| format!("203.0.113.{last}")).collect()
}

fn is_create(seen: &Seen) -> bool {
    seen.method == "POST" && seen.path.ends_with("/ipbans")
}

/// The names in requests that made a ban.
fn made(seen: &[Seen]) -> Vec<String> {
    let made = seen.iter().filter(|seen| is_create(seen) && seen.status == Some(201));
    made.map(|seen| serde_json::from_str::<IPBan>(&seen.body).unwrap().name_any()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_amid_200_attackers_all_are_banned_and_none_twice() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut first = Replica::leading(&cluster).await;
    let second = Replica::start(&cluster, "second", INSTALLATION).await;
    cluster.policy_in_force(json!({})).await;

    // The hundredth ban is never sent: the leader dies of it.
    let (victim, creates) = (first.id().to_string(), Arc::new(AtomicUsize::new(0)));
    first.front.disturb({
        let creates = creates.clone();
        move |seen| {
            if is_create(seen) && creates.fetch_add(1, Ordering::Relaxed) + 1 == 100 {
                std::process::Command::new("kill").args(["-KILL", &victim]).status().unwrap();
            }
            let refused = (creates.load(Ordering::Relaxed) >= 100).then_some(503);
            Fault { refused, ..Fault::default() }
        }
    });
    let attackers = attackers(200);
    for attacker in &attackers {
        cluster.log.probe(attacker);
    }
    until("the leader is dead", SOON, async || !first.is_running()).await;
    let since = Instant::now();
    let before = cluster.banned().await.len();
    assert!((1..200).contains(&before), "the leader was killed with {before} of 200 banned");
    cluster.until_banned(&attackers, Duration::from_secs(40)).await;
    let took = since.elapsed();
    println!("{before} were banned when the leader died, all 200 {took:?} later");
    assert!(took < Duration::from_secs(17 + 2), "all were banned only after {took:?}");

    // Who was killed starts again and reads the same lines; it finds nothing to do.
    let reborn = Replica::start(&cluster, "first", INSTALLATION).await;
    cluster.log.probe("198.51.100.7");
    let mut all = attackers.clone();
    all.push("198.51.100.7".into());
    cluster.until_banned(&all, SOON).await;
    let fronts = [&first.front, &second.front, &reborn.front];
    let mut times: HashMap<String, usize> = HashMap::new();
    for name in fronts.iter().flat_map(|front| made(&front.seen())) {
        *times.entry(name).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "made more than once: {twice:?}");
    for ban in cluster.banned().await {
        assert_eq!((ban.spec.offence, ban.metadata.generation), (Some(1), Some(1)), "{}", ban.name_any());
    }
    assert_eq!(cluster.ended().await, [], "no ban has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_lead_at_once_for_80_s_make_the_same_bans_and_end_none_early() {
    let Some(cluster) = Cluster::start().await else { return };
    // Two leases, so that each is sure to lead.
    cluster.control_plane.kubectl(&["create", "namespace", "twin"]);
    let rights = "--clusterrole=cluster-admin";
    let account = "--serviceaccount=ip-sentry:ip-sentry-operator";
    cluster.control_plane.kubectl(&["--namespace=twin", "create", "rolebinding", "twin", rights, account]);
    let mut first = Replica::leading(&cluster).await;
    let mut second = Replica::start(&cluster, "second", "twin").await;
    second.leads(SOON).await;
    // One replica hears of everything later than the other.
    second.front.disturb(|_| Fault { late: Duration::from_millis(150), ..Fault::default() });
    cluster.policy_in_force(json!({"banDuration": "1m"})).await;

    // The bans of the first ten are prolonged without end. Those of the others end, and are earned again.
    let (begun, attackers) = (Instant::now(), attackers(20));
    let (steady, others) = attackers.split_at(10);
    let (mut early, mut together) = (Vec::new(), 0);
    while begun.elapsed() < Duration::from_secs(80) {
        // On a busy machine a lease may be lost for a moment.
        together += u32::from(first.is_leading().await && second.is_leading().await);
        for attacker in steady {
            cluster.log.probe(attacker);
        }
        if !(4..67).contains(&begun.elapsed().as_secs()) {
            for attacker in others {
                cluster.log.probe(attacker);
            }
        }
        for ban in cluster.banned().await {
            let ends = ban.spec.expires_at.as_ref().unwrap().0;
            if let Some(deleted) = &ban.metadata.deletion_timestamp
                && deleted.0 < ends
            {
                early.push((ban.name_any(), deleted.0, ends));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(together >= 40, "both led at {together} looks in 80 s: this shows nothing");
    assert_eq!(early, [], "bans were deleted before their end");
    assert!(first.is_running() && second.is_running());
    // Each ban's number is one more than the bans that its source had.
    let ended: HashMap<String, usize> = cluster.ended().await.into_iter().collect();
    let bans = cluster.banned().await;
    for (attackers, bans_had, offence) in [(steady, 0, 1), (others, 1, 2)] {
        for attacker in attackers {
            let cidr = format!("{attacker}/32");
            let had = ended.get(&cidr).copied().unwrap_or(0);
            let offences: Vec<_> =
                bans.iter().filter(|ban| ban.spec.cidr == cidr).map(|ban| ban.spec.offence).collect();
            assert_eq!((had, offences), (bans_had, vec![Some(offence)]), "{attacker}");
        }
    }
}
