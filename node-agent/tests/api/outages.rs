//! An API server that is away for long, breaks off, refuses and is slow, in simulated time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ip_sentry_core::{enforce::view::Bans, net::Source};
use ip_sentry_node_agent::{
    heard::Heard,
    metrics::Metrics,
    watch::{
        Watch,
        kinds::{IpBans, Kind},
        protected::Protected,
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    reports,
    store::{Asked, Fault, Store},
};

fn name(number: u32) -> String {
    std::net::Ipv4Addr::from_bits(0x1400_0000 | number).to_string()
}

fn ban(number: u32) -> Value {
    json!({"spec": {"cidr": format!("{}/32", name(number)), "origin": "Manual", "expiresAt": "2099-01-01T00:00:00Z"}})
}

fn source(number: u32) -> Source {
    format!("{}/32", name(number)).parse().unwrap()
}

/// What a node's watch of the bans has told so far.
struct Follower {
    bans: Arc<Mutex<Bans>>,
    _stop: DropGuard,
}

fn watch<K: Kind + Send + 'static>(store: &Store, kind: K) -> (mpsc::Receiver<Heard>, DropGuard)
where
    K::Item: Send,
{
    let (sender, news) = mpsc::channel(64);
    let (trouble, _) = watch::channel(None);
    let stop = CancellationToken::new();
    tokio::spawn(Watch::new(store.client(), kind, sender, trouble, Metrics::default()).run(stop.clone()));
    (news, stop.drop_guard())
}

impl Follower {
    fn start(store: &Store) -> Self {
        let (mut news, stop) = watch(store, IpBans);
        let bans = Arc::<Mutex<Bans>>::default();
        let told = bans.clone();
        tokio::spawn(async move {
            while let Some(heard) = news.recv().await {
                let mut bans = told.lock().unwrap();
                match heard {
                    Heard::Bans { bans: all, .. } => *bans = all,
                    Heard::Ban { key, until: Some(until), .. } => bans.insert(key, until),
                    Heard::Ban { key, until: None, .. } => bans.remove(key),
                    _ => {}
                }
            }
        });
        Self { bans, _stop: stop }
    }

    /// How many bans it knows, and of those up to `count` which.
    fn knows(&self, count: u32) -> (usize, Vec<u32>) {
        let bans = self.bans.lock().unwrap();
        (bans.len(), (0..count).filter(|number| bans.until(source(*number)).is_some()).collect())
    }
}

/// Waits in simulated time.
async fn until(what: &str, limit: Duration, condition: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(100)).await;
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_every_second_for_two_minutes_misses_nothing_and_lists_once() {
    let store = Store::new();
    (0..10).for_each(|number| store.put("ipbans", &name(number), Some(ban(number))));
    let begun = Instant::now();
    let mut breaks = false;
    store.disturb(move |asked| {
        breaks = !breaks;
        let cut = (asked == Asked::Watch).then_some(Duration::from_secs(1));
        Fault { cut, breaks, ..Fault::default() }
    });
    let follower = Follower::start(&store);
    // A ban comes and an old one goes, seven times a second.
    let mut next = 10;
    while begun.elapsed() < Duration::from_mins(2) {
        store.put("ipbans", &name(next), Some(ban(next)));
        store.put("ipbans", &name(next - 10), None);
        next += 1;
        sleep(Duration::from_millis(143)).await;
    }
    let expect: Vec<u32> = (next - 10..next).collect();
    let took = until("the node knows what there is", Duration::from_secs(5), || {
        follower.knows(next) == (10, expect.clone())
    });
    println!("in step {:?} after the last change", took.await);
    let seen = store.seen_since(begun);
    let lists = seen.iter().filter(|(_, asked)| *asked == Asked::List).count();
    assert_eq!(lists, 1, "lists");
    assert!(seen.len() > 60, "only {} requests: nothing was cut", seen.len());
    assert!(seen.len() < 240, "{} requests in two minutes", seen.len());
}

#[tokio::test(start_paused = true)]
async fn three_of_ten_requests_refused_and_two_seconds_each_cost_nothing_but_time() {
    let store = Store::new();
    let mut number = 0;
    store.disturb(move |_| {
        number += 1;
        let refused = match number % 10 {
            0 | 6 => Some(503),
            3 => Some(429),
            _ => None,
        };
        // Watches that live would have nothing to be refused.
        Fault { late: Duration::from_secs(2), refused, cut: Some(Duration::from_secs(5)), ..Fault::default() }
    });
    let begun = Instant::now();
    let follower = Follower::start(&store);
    let (mut networks, _stop) = watch(&store, Protected::new(watch::channel(None).0));
    tokio::spawn(async move { while networks.recv().await.is_some() {} });
    let reporting = reports::start(store.client());
    for number in 0..600 {
        store.put("ipbans", &name(number), Some(ban(number)));
        if number >= 10 {
            store.put("ipbans", &name(number - 10), None);
        }
        reporting.sets.send_modify(|sets| sets.entries += 1);
        sleep(Duration::from_secs(1)).await;
    }
    let expect: Vec<u32> = (590..600).collect();
    until("the node knows what there is", Duration::from_secs(40), || {
        follower.knows(600) == (10, expect.clone())
    })
    .await;
    let seen = store.seen_since(begun);
    let rate = f64::from(u32::try_from(seen.len()).unwrap()) / begun.elapsed().as_secs_f64();
    println!("{rate:.2} requests a second");
    assert!(rate <= 2.0, "{rate} requests a second");
}

/// So many nodes lose the API server for so long. Returns the requests after it is back, by second.
async fn nodes_after_an_outage(nodes: usize, outage: Duration, forgets: bool) -> BTreeMap<u64, usize> {
    let store = Store::new();
    store.put("ipbans", &name(1), Some(ban(1)));
    store.put("ipbans", &name(2), Some(ban(2)));
    let followers: Vec<Follower> = (0..nodes).map(|_| Follower::start(&store)).collect();
    let all_know = |count: usize, numbers: &[u32]| {
        followers.iter().all(|follower| follower.knows(4) == (count, numbers.to_vec()))
    };
    until("every node knows both", Duration::from_mins(1), || all_know(2, &[1, 2])).await;

    // Open watches end within a second, and no other request gets through.
    store.disturb(|_| Fault { away: true, ..Fault::default() });
    store.break_watches();
    sleep(outage).await;
    assert!(all_know(2, &[1, 2]), "a node has let a ban go");
    store.put("ipbans", &name(2), None);
    store.put("ipbans", &name(3), Some(ban(3)));
    if forgets {
        store.forget();
    }
    store.calm();
    let back = Instant::now();
    let took = until("every node is in step", Duration::from_secs(31), || all_know(2, &[1, 3])).await;
    let mut by_second = BTreeMap::new();
    let mut lists = 0;
    for (at, asked) in store.seen_since(back) {
        // The list is what costs, where there is one.
        if forgets == (asked == Asked::List) {
            *by_second.entry((at - back).as_secs()).or_default() += 1;
        }
        lists += usize::from(asked == Asked::List);
    }
    assert_eq!(lists, if forgets { nodes } else { 0 }, "lists");
    println!("{nodes} nodes in step {took:?} after {outage:?} without an API server: {by_second:?}");
    by_second
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_without_an_api_server_nodes_come_back_within_30_s_and_one_by_one() {
    const NODES: usize = 4_000;
    // Where the server still knows where each watch was, nobody lists.
    nodes_after_an_outage(NODES / 10, Duration::from_mins(10), false).await;
    let by_second = nodes_after_an_outage(NODES, Duration::from_mins(10), true).await;
    // Over five seconds, since single ones differ by chance.
    for second in 0..26 {
        let window: usize = by_second.range(second..second + 5).map(|(_, count)| count).sum();
        let share = window * 100 / NODES;
        assert!(share <= 25, "{share} % of the nodes came within 5 s from second {second} on");
    }
}
