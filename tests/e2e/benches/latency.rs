//! How fast ip-sentry is on a real cluster: `make bench-e2e`.
//!
//! Prints one Markdown table. How the times are taken:
//!
//! * A packet is a SYN to a port of node 1 or 2 where nobody listens, sent from the source in question in a tight
//!   loop: a reset within some milliseconds means that it passed, silence that it was dropped. The first of three
//!   silent attempts in a row was dropped, at the time when it was sent; so the figures are upper bounds, by the
//!   time of one attempt.
//! * A line is written when the container runtime stamps it, on this machine's clock.
//! * Each source is banned once: it has a /64 or an IPv4 address of its own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::{Network, Source};
use ip_sentry_crd::ip_ban::Origin;
use ip_sentry_e2e::{
    address,
    bans::manual,
    client::{Client, open_socket},
    eventually,
    gateway::Gateway,
    node::Node,
    operator,
    process::Process,
    scenario::{LONG, Scenario, alone},
};
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

/// Sources that earn a ban by their log lines.
const DETECTED: usize = 240;
/// Sources that are banned and let in by hand.
const BY_HAND: usize = 200;
/// Leaders that crash.
const CRASHES: usize = 5;
/// How long a packet that passes may take to be answered.
const ANSWER: Duration = Duration::from_millis(8);
/// How long until a measurement is given up.
const GIVE_UP: Duration = Duration::from_secs(30);

fn main() {
    // Cargo runs benchmarks with --bench; `cargo test --benches` without it.
    if std::env::args().any(|argument| argument == "--bench") {
        alone(measure);
    }
}

async fn measure(scenario: &Scenario) -> Result<()> {
    let mut table = Table::default();
    let (operators, agents) = memory(scenario).await?;
    let gateway = scenario.gateway().await?;
    scenario.policy_in_force("probes", json!({})).await?;

    let detected = detected(scenario, &gateway).await?;
    table.times("log line written → packet dropped", &detected, &[(50, 100), (99, 500)]);
    let ByHand { sent, stored, lifted } = by_hand(scenario).await?;
    table.times("IPBan sent to the API server → packet dropped", &sent, &[(50, 0), (99, 0)]);
    table.times("IPBan stored (the API server has answered) → packet dropped", &stored, &[(50, 0), (99, 50)]);
    table.times("IPBan deleted → packet passes", &lifted, &[(50, 0), (99, 1_000)]);
    let crashed = crashed(scenario, &gateway).await?;
    table.times("leader killed → next source dropped", &crashed, &[(50, 0), (100, 15_000)]);
    for node in Node::BOTH {
        let status = scenario.lab.firewall(node).await?.status.unwrap_or_default();
        let micros = status.apply_micros_p99.map_or_else(|| "?".to_owned(), |micros| format!("{micros} µs"));
        table.row(&format!("{node}: change heard of → kernel confirms"), "p99", &micros, "");
    }
    for (pod, kib) in operators {
        table.row(&format!("memory of {pod}, idle"), "RSS", &mebibytes(kib), "30 MB");
    }
    for (node, kib) in agents {
        table.row(&format!("memory of the agent on {node}, idle"), "RSS", &mebibytes(kib), "15 MB");
    }
    table.print();
    Ok(())
}

/// The memory of each operator and agent.
async fn memory(scenario: &Scenario) -> Result<(Vec<(String, u64)>, Vec<(Node, u64)>)> {
    let mut operators = Vec::new();
    for pod in operator::pods(&scenario.lab).await? {
        let process = Process::of_operator(&pod).context("it does not run")?;
        operators.push((pod, process.resident_kib()?));
    }
    let mut agents = Vec::new();
    for node in Node::BOTH {
        let process = Process::of_agent(node).context("no agent runs")?;
        agents.push((node, process.resident_kib()?));
    }
    Ok((operators, agents))
}

/// A client with so many addresses, IPv4 and IPv6 by turns.
async fn many(scenario: &Scenario, count: usize) -> Result<(Client, Vec<IpAddr>)> {
    let one = |index: usize| -> IpAddr {
        if index.is_multiple_of(2) {
            address::ipv4().into()
        } else {
            address::host_of(&address::ipv6_network(), 1).into()
        }
    };
    let addresses: Vec<IpAddr> = (0..count).map(one).collect();
    Ok((scenario.client_at(&addresses).await?, addresses))
}

/// From a source's third hit in the log to its first dropped packet, at both nodes by turns.
async fn detected(scenario: &Scenario, gateway: &Gateway) -> Result<Vec<Duration>> {
    let (client, addresses) = many(scenario, DETECTED).await?;
    let mut times = Vec::new();
    for (index, &from) in addresses.iter().enumerate() {
        let node = Node::BOTH[index / 2 % 2];
        client.probe_from(from, gateway.through(node, from.is_ipv4()), &["/.env"; 3]).await?;
        let door = node.address(from.is_ipv4(), 9);
        let dropped = client.inside(move || first_dropped(from, door)).await??;
        let mark = format!("{from} ");
        let written = gateway.logged(scenario, node, |line| line.starts_with(&mark)).await?;
        times.push(between(written, dropped));
    }
    Ok(times)
}

/// What becomes of bans made by hand.
#[derive(Default)]
struct ByHand {
    /// From the request that stores a ban to the first dropped packet.
    sent: Vec<Duration>,
    /// From the answer to that request; nothing when the packet was dropped before.
    stored: Vec<Duration>,
    /// From the request that deletes it to the first packet that passes.
    lifted: Vec<Duration>,
}

async fn by_hand(scenario: &Scenario) -> Result<ByHand> {
    let (client, addresses) = many(scenario, BY_HAND).await?;
    let mut times = ByHand::default();
    for (index, &from) in addresses.iter().enumerate() {
        let door = Node::BOTH[index / 2 % 2].address(from.is_ipv4(), 9);
        let network = Network::around(from, if from.is_ipv4() { 32 } else { 64 });
        let ban = manual(network, None)?;
        let name = Source::new(network)?.ban_name();
        let watched = client.inside(move || first_dropped(from, door));
        let store = async {
            let sent = Timestamp::now();
            scenario.bans().create(&PostParams::default(), &ban).await.map(|_| (sent, Timestamp::now()))
        };
        let (dropped, stored) = futures::join!(watched, store);
        let (dropped, (sent, answered)) = (dropped??, stored?);
        times.sent.push(between(sent, dropped));
        times.stored.push(between(answered, dropped));

        let watched = client.inside(move || first_passed(from, door));
        let delete = async {
            let sent = Timestamp::now();
            scenario.bans().delete(&name, &DeleteParams::default()).await.map(|_| sent)
        };
        let (passed, sent) = futures::join!(watched, delete);
        times.lifted.push(between(sent?, passed??));
    }
    Ok(times)
}

/// From the end of the leader's process to the first dropped packet of a source that attacks right then.
async fn crashed(scenario: &Scenario, gateway: &Gateway) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..CRASHES {
        let client = scenario.client().await?;
        let leader = operator::leads(&scenario.lab).await?;
        let killed = Timestamp::now();
        operator::crash(&leader)?;
        let front = gateway.through(Node::One, true);
        client.probe(front, &["/.env"; 3]).await?;
        let (from, door) = (client.address_towards(front)?, Node::One.address(true, 9));
        times.push(between(killed, client.inside(move || first_dropped(from, door)).await??));
        let ban = eventually(LONG, "the ban is there", async || {
            Ok(scenario.bans().get(&client.ipv4().ban_name()).await?)
        });
        ensure!(ban.await?.spec.origin == Origin::Detected);
    }
    Ok(times)
}

fn between(begin: Timestamp, end: Timestamp) -> Duration {
    end.duration_since(begin).max(SignedDuration::ZERO).unsigned_abs()
}

/// When the first packet was sent that got no answer, nor did two after it.
fn first_dropped(from: IpAddr, to: SocketAddr) -> Result<Timestamp> {
    let begun = Instant::now();
    let (mut first, mut silent) = (Timestamp::now(), 0);
    while silent < 3 {
        ensure!(begun.elapsed() < GIVE_UP, "{from} is still not dropped");
        let sent = Timestamp::now();
        if passes(from, to)? {
            silent = 0;
        } else {
            first = if silent == 0 { sent } else { first };
            silent += 1;
        }
    }
    Ok(first)
}

/// When the first packet was sent that was answered.
fn first_passed(from: IpAddr, to: SocketAddr) -> Result<Timestamp> {
    let begun = Instant::now();
    loop {
        ensure!(begun.elapsed() < GIVE_UP, "{from} is still dropped");
        let sent = Timestamp::now();
        if passes(from, to)? {
            return Ok(sent);
        }
    }
}

fn passes(from: IpAddr, to: SocketAddr) -> Result<bool> {
    match open_socket(from)?.connect_timeout(&to.into(), ANSWER) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error).with_context(|| format!("from {from} to {to}")),
    }
}

/// The figures, as they go into `benches/RESULTS.md`.
#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    /// The percentiles of these times, each with its target in milliseconds (0: none).
    fn times(&mut self, what: &str, times: &[Duration], percentiles: &[(usize, u64)]) {
        let mut times = times.to_vec();
        times.sort_unstable();
        let count = times.len();
        for &(percentile, target) in percentiles {
            let index = (count * percentile).div_ceil(100).clamp(1, count) - 1;
            let name = if percentile == 100 { "longest".to_owned() } else { format!("p{percentile}") };
            let figure = format!("{:.1} ms", times[index].as_secs_f64() * 1e3);
            let target = if target == 0 { String::new() } else { format!("{target} ms") };
            self.row(&format!("{what} ({count})"), &name, &figure, &target);
        }
    }

    fn row(&mut self, what: &str, figure: &str, value: &str, target: &str) {
        let row = format!("| {what} | {figure} | {value} | {target} |");
        println!("{row}");
        self.0.push(row);
    }

    fn print(&self) {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.trim_start_matches(['\t', ':', ' '])));
        let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
        println!("\n## {}\n", Timestamp::now().strftime("%Y-%m-%d"));
        println!(
            "{cores} × {}, Linux {}\n",
            model.unwrap_or("unknown"),
            read("/proc/sys/kernel/osrelease").trim()
        );
        println!("| what (samples) | figure | measured | target |\n|---|---|---|---|");
        for row in &self.0 {
            println!("{row}");
        }
    }
}

fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}
