//! An API server that is away, refuses, is slow, or breaks off what it sends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ip_sentry_crd::IPBan;
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
    front::{Fault, Front, Seen},
    replica::{INSTALLATION, Replica},
};

fn per_second(seen: &[Seen], time: Duration) -> f64 {
    f64::from(u32::try_from(seen.len()).unwrap()) / time.as_secs_f64()
}

/// What was asked, by how often.
fn summary(seen: &[Seen]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for seen in seen {
        let kind = if seen.is_watch() { "WATCH" } else { &seen.method };
        *counts.entry((kind.to_owned(), seen.path.clone())).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_was_away_for_30_s_finds_all_bans_made_and_ended_within_30_s() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut first = Replica::leading(&cluster).await;
    let mut second = Replica::start(&cluster, "second", INSTALLATION).await;
    cluster.policy_in_force(json!({})).await;
    // Ends while nobody can delete it.
    cluster.detected("198.51.100.1", Duration::from_secs(20)).await;

    let fronts: [&Front; 2] = [&first.front, &second.front];
    for front in fronts {
        front.sever();
    }
    cluster.control_plane.stop_api_server();
    let gone = Instant::now();
    let attackers: Vec<String> = (1..=50).map(|last| format!("203.0.113.{last}")).collect();
    for attacker in &attackers {
        cluster.log.probe(attacker);
    }
    until("30 s", SOON * 2, async || gone.elapsed() >= Duration::from_secs(30)).await;
    // Connections are made again before it serves, as behind a load balancer.
    for front in fronts {
        front.heal();
    }
    cluster.control_plane.bring_up();
    let back = Instant::now();
    // Among the first to come are those who come before the API server knows its own admission policies.
    cluster.log.probe("198.51.100.2");
    let mut expect = attackers.clone();
    expect.push("198.51.100.2".into());
    // That takes the API server up to half a minute, and longer where the machine is busy.
    let admitting = cluster.until_bans_are_admitted().await;
    let took = cluster.until_banned(&expect, SOON).await;
    println!(
        "the API server admitted bans after {admitting:?}, 51 sources were banned and one let go {took:?} later"
    );
    assert!(first.is_running() && second.is_running(), "a replica has ended");
    for replica in [&first, &second] {
        let seen = replica.front.seen_since(back);
        let rate = per_second(&seen, back.elapsed().max(Duration::from_secs(10)));
        assert!(rate < 50.0, "{rate} requests a second: {:?}", summary(&seen));
    }
}

/// Three of ten requests are refused, one of them for being too many; all take `late` longer.
fn three_of_ten(late: Duration) -> impl FnMut(&Seen) -> Fault + Send + 'static {
    let mut number = 0_usize;
    move |_| {
        number += 1;
        let refused = match number % 10 {
            0 | 6 => Some(503),
            3 => Some(429),
            _ => None,
        };
        Fault { late, refused, ..Fault::default() }
    }
}

/// Neither replica ends, and never do both lead, for so long. Returns how much of it somebody led.
async fn watch_over(first: &mut Replica, second: &mut Replica, time: Duration) -> f64 {
    let begun = Instant::now();
    let (mut looks, mut led) = (0, 0);
    while begun.elapsed() < time {
        assert!(first.is_running() && second.is_running(), "a replica has ended");
        let leading = (first.is_leading().await, second.is_leading().await);
        // One was asked a moment before the other.
        assert!(
            leading != (true, true) || !(first.is_leading().await && second.is_leading().await),
            "both lead"
        );
        looks += 1;
        led += u32::from(leading.0 || leading.1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    f64::from(led) / f64::from(looks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_refuses_three_of_ten_and_is_slow_is_not_pressed_and_bans_go_on() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut first = Replica::leading(&cluster).await;
    let mut second = Replica::start(&cluster, "second", INSTALLATION).await;
    cluster.policy_in_force(json!({})).await;

    // Slow as for a lease that can still be renewed: somebody leads most of the time, and bans.
    for replica in [&first, &second] {
        replica.front.disturb(three_of_ten(Duration::from_millis(300)));
    }
    cluster.log.probe("203.0.113.1");
    let begun = Instant::now();
    let led = watch_over(&mut first, &mut second, Duration::from_secs(30)).await;
    println!("at 0.3 s somebody led for {:.0} % of the time", led * 100.0);
    assert!(led > 0.5, "somebody led for {:.0} % of the time", led * 100.0);
    cluster.until_banned(&["203.0.113.1".into()], Duration::from_secs(30)).await;
    for replica in [&first, &second] {
        let seen = replica.front.seen_since(begun);
        let rate = per_second(&seen, begun.elapsed());
        println!("{rate:.1} requests a second");
        assert!(rate < 10.0, "{rate} requests a second: {:?}", summary(&seen));
    }

    // So slow that no renewal is answered in time: who leads stops, and nobody starts.
    for replica in [&first, &second] {
        replica.front.disturb(three_of_ten(Duration::from_secs(2)));
    }
    let begun = Instant::now();
    cluster.log.probe("203.0.113.2");
    watch_over(&mut first, &mut second, Duration::from_secs(30)).await;
    assert!(
        !first.is_leading().await && !second.is_leading().await,
        "a lease that can't be renewed was kept"
    );
    for replica in [&first, &second] {
        let seen = replica.front.seen_since(begun);
        let rate = per_second(&seen, begun.elapsed());
        println!("at 2 s {rate:.1} requests a second");
        assert!(rate < 10.0, "{rate} requests a second: {:?}", summary(&seen));
        replica.front.calm();
    }
    let both = ["203.0.113.1".into(), "203.0.113.2".into()];
    let took = cluster.until_banned(&both, Duration::from_secs(30)).await;
    println!("the ban that had to wait was made {took:?} after the API server had recovered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_cut_every_second_miss_nothing_and_list_nothing_again() {
    let Some(cluster) = Cluster::start().await else { return };
    let replica = Replica::leading(&cluster).await;
    cluster.policy_in_force(json!({})).await;
    replica.front.disturb(|seen| {
        let cut = seen.is_watch().then_some(Duration::from_secs(1));
        Fault { cut, ..Fault::default() }
    });
    // What is under way goes on from before; the next ones are cut.
    replica.front.sever();
    replica.front.heal();
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < Duration::from_mins(1) {
        round += 1;
        let name = format!("203.0.113.{round}");
        cluster.log.probe(&name);
        until(&format!("{name} is banned"), SOON, async || {
            cluster.bans().get_opt(&name).await.is_ok_and(|ban| ban.is_some())
        })
        .await;
        // The leader must hear of this: it holds the object until it has written down that it was lifted.
        cluster.bans().delete(&name, &DeleteParams::default()).await.unwrap();
        until(&format!("{name} is let go"), SOON, async || {
            matches!(cluster.bans().get_opt(&name).await, Ok(None::<IPBan>))
        })
        .await;
    }
    let seen = replica.front.seen_since(begun);
    let watches = seen.iter().filter(|seen| seen.is_watch()).count();
    println!("{round} bans were made and lifted over {watches} watches");
    assert!(watches > 60, "only {watches} watches: nothing was cut");
    // The leader asks twice a minute which nodes have an agent: two lists that no watch begins with.
    let of_a_watch =
        |seen: &&Seen| !seen.path.ends_with("/nodefirewalls") && !seen.query.contains("labelSelector=");
    // What is not installed is looked for again every half a minute.
    let lists = seen.iter().filter(|seen| seen.status == Some(200)).filter(of_a_watch);
    let mut lists: Vec<&str> = lists.filter_map(Seen::listed).collect();
    // A busy API server may begin its cache of a kind again.
    let gone = seen.iter().filter(|seen| seen.is_gone).filter_map(|seen| seen.path.rsplit('/').next());
    for kind in gone {
        println!("the API server had forgotten where a watch of {kind} was");
        lists.iter().position(|listed| *listed == kind).map(|index| lists.remove(index));
    }
    assert!(lists.is_empty(), "listed again: {lists:?}");
    assert!(cluster.banned().await.is_empty(), "a lifted ban came back");
}
