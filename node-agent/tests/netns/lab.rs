//! A node with two clients and a pod, and an agent in it.

use std::{
    net::IpAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ip_sentry_core::{
    enforce::{
        chain::Table,
        sets::Family,
        view::{BanKey, Bans, Until},
    },
    net::{Network, Source},
};
use ip_sentry_node_agent::{
    args::{BackendChoice, Output},
    chain::ChainKeeper,
    enforcer::Enforcer,
    heard::{Heard, Told},
    kernel::xtables,
    list,
    metrics::Metrics,
    status::{ChainStatus, SetsStatus, is_in_step},
};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "IP_SENTRY_TEST_INSIDE";
/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test in a process with namespaces of its own. `name` is the test's path.
pub fn in_namespaces(name: &str, test: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        // What every test needs of its namespace. /run is private: names of namespaces, and the xtables lock.
        sh("mount -t tmpfs tmpfs /run && ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
        return;
    }
    if let Some(missing) = missing() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true and {missing}");
        eprintln!("SKIPPED {name}: {missing}");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env_remove("XTABLES_LOCKFILE")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed inside its namespaces");
}

fn missing() -> Option<String> {
    let tools = [
        "unshare",
        "setpriv",
        "mount",
        "ip",
        "ipset",
        "nft",
        "iptables-nft",
        "iptables-legacy",
        "ip6tables-legacy",
        "conntrack",
        "perl",
    ];
    let lacks = |tool: &&&str| {
        !["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(tool).exists())
    };
    if let Some(tool) = tools.iter().find(lacks) {
        return Some(format!(
            "{tool} is not installed: apt-get install conntrack iptables ipset nftables iproute2 util-linux"
        ));
    }
    let unshared = Command::new("unshare").args(["--net", "--mount", "true"]).stderr(Stdio::null()).status();
    (!unshared.is_ok_and(|status| status.success()))
        .then(|| "namespaces can't be made: run as root".to_owned())
}

/// Runs a shell command that must succeed and returns what it prints.
pub fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(
            started.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}\n{}",
            sh("iptables-legacy-save -c -t filter; ip6tables-legacy-save -c -t filter")
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Client {
    /// `203.0.113.7` and `2001:db8:7::7`.
    Seven,
    /// `203.0.113.8` and `2001:db8:8::8`.
    Eight,
}

/// Who receives: packets for the node pass INPUT, those for the pod FORWARD.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Node,
    Pod,
}

pub const EVERY_WAY: [(Target, Family); 4] = [
    (Target::Node, Family::V4),
    (Target::Node, Family::V6),
    (Target::Pod, Family::V4),
    (Target::Pod, Family::V6),
];

/// Lays the cables.
pub fn wire() {
    sh("
        mkdir -p /run/netns
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        # Neighbours are fixed: their discovery would be dropped with everything else of a banned neighbour,
        # where a real client is behind a router.
        cable() { # name, number, node's addresses, its own addresses
            ip netns add $1
            ip link add n-$1 address 02:00:00:00:01:0$2 type veth peer name c0 netns $1 address 02:00:00:00:02:0$2
            ip addr add $3 dev n-$1; ip -6 addr add $4 dev n-$1 nodad; ip link set n-$1 up
            ip -n $1 link set lo up
            ip -n $1 addr add $5 dev c0; ip -n $1 -6 addr add $6 dev c0 nodad; ip -n $1 link set c0 up
            local gate4=${3%/*} gate6=${4%/*} own4=${5%/*} own6=${6%/*}
            ip neigh replace $own4 lladdr 02:00:00:00:02:0$2 dev n-$1
            ip -6 neigh replace $own6 lladdr 02:00:00:00:02:0$2 dev n-$1
            ip -n $1 route add default via $gate4 dev c0 onlink; ip -n $1 -6 route add default via $gate6 dev c0 onlink
            ip -n $1 neigh replace $gate4 lladdr 02:00:00:00:01:0$2 dev c0
            ip -n $1 -6 neigh replace $gate6 lladdr 02:00:00:00:01:0$2 dev c0
        }
        # Uplinks have an address with a subnet, a pod's link a single one.
        cable seven 1 192.0.2.1/30 2001:db8:1::1/126 203.0.113.7/32 2001:db8:7::7/64
        cable eight 2 192.0.2.5/30 2001:db8:1::5/126 203.0.113.8/32 2001:db8:8::8/64
        cable pod   3 10.244.0.1/32 fd00:244::1/128 10.244.0.2/24 fd00:244::2/64
        ip route add 10.244.0.2 dev n-pod; ip -6 route add fd00:244::2 dev n-pod
        ip route add 203.0.113.7 dev n-seven; ip -6 route add 2001:db8:7::/64 dev n-seven
        ip route add 203.0.113.8 dev n-eight; ip -6 route add 2001:db8:8::/64 dev n-eight
    ");
}

/// Datagrams that reached this target's closed port so far.
fn arrived(target: Target, family: Family) -> u64 {
    let prefix = if target == Target::Pod { "ip netns exec pod " } else { "" };
    let file = if family == Family::V4 { "/proc/net/snmp" } else { "/proc/net/snmp6" };
    let text = sh(&format!("{prefix}cat {file}"));
    let count = match family {
        Family::V6 => text.lines().find_map(|line| line.strip_prefix("Udp6NoPorts")).map(str::trim),
        Family::V4 => text
            .lines()
            .filter_map(|line| line.strip_prefix("Udp: "))
            .nth(1)
            .and_then(|line| line.split(' ').nth(1)),
    };
    count.unwrap().parse().unwrap()
}

fn address(target: Target, family: Family) -> IpAddr {
    match (target, family) {
        (Target::Node, Family::V4) => "10.244.0.1",
        (Target::Node, Family::V6) => "fd00:244::1",
        (Target::Pod, Family::V4) => "10.244.0.2",
        (Target::Pod, Family::V6) => "fd00:244::2",
    }
    .parse()
    .unwrap()
}

/// Sends one datagram.
pub fn send(client: Client, target: Target, family: Family) {
    let name = if client == Client::Seven { "seven" } else { "eight" };
    sh(&format!("ip netns exec {name} bash -c 'echo -n x > /dev/udp/{}/9'", address(target, family)));
}

/// Whether a datagram of this client gets through. The kernel carries a datagram through these cables before
/// the sender goes on, so what has not arrived by then was dropped.
pub fn passes(client: Client, target: Target, family: Family) -> bool {
    let before = arrived(target, family);
    send(client, target, family);
    match arrived(target, family) - before {
        0 => false,
        1 => true,
        more => panic!("{more} datagrams arrived"),
    }
}

/// On which of the four ways this client gets through.
pub fn open_ways(client: Client) -> Vec<(Target, Family)> {
    EVERY_WAY.into_iter().filter(|(target, family)| passes(client, *target, *family)).collect()
}

/// An agent without an API server: the test tells it the news.
pub struct Agent {
    pub news: mpsc::Sender<Heard>,
    pub sets: watch::Receiver<SetsStatus>,
    pub chain: watch::Receiver<ChainStatus>,
    pub metrics: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    pub fn start(choice: BackendChoice, capacity: u32) -> Self {
        let stop = CancellationToken::new();
        let metrics = Metrics::default();
        let (news, heard) = mpsc::channel(64);
        let (sets_out, sets) = watch::channel(SetsStatus::default());
        let (chain_out, chain) = watch::channel(ChainStatus::default());
        let (wanted_out, wanted) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let enforcer = Enforcer::new(choice, capacity, metrics.clone(), sets_out, wanted_out);
        tasks.spawn(enforcer.run(heard, chain.clone(), stop.clone()));
        tasks.spawn(ChainKeeper::new(wanted, chain_out, metrics.clone()).run(stop.clone()));
        Self { news, sets, chain, metrics, stop, tasks }
    }

    /// An agent that has heard of these bans and protected networks, and has them in the kernel.
    pub async fn in_step(choice: BackendChoice, bans: &[(&str, i64)], protected: &[&str]) -> Self {
        let agent = Self::start(choice, 1_000);
        agent.list(bans, protected).await;
        agent.until_ready().await;
        agent
    }

    pub async fn list(&self, bans: &[(&str, i64)], protected: &[&str]) {
        self.tell(Heard::Peer(["198.18.0.1:6443".parse().unwrap()].into())).await;
        self.protect(protected).await;
        let mut listed = Bans::default();
        for (cidr, secs) in bans {
            listed.insert(key(cidr), ends_in(*secs));
        }
        self.tell(Heard::Bans { bans: listed, version: "100".to_owned() }).await;
    }

    pub async fn protect(&self, networks: &[&str]) {
        let networks = networks.iter().map(|text| text.parse::<Network>().unwrap()).collect();
        self.told(Told { networks, ..Told::default() }).await;
    }

    /// What `ProtectedNetworks` says.
    pub async fn told(&self, told: Told) {
        self.tell(Heard::Protected(told)).await;
    }

    /// A ban comes in, or with no seconds, goes.
    pub async fn ban(&self, cidr: &str, secs: Option<i64>) {
        let heard = Heard::Ban {
            key: key(cidr),
            until: secs.map(ends_in),
            version: "101".to_owned(),
            at: Instant::now(),
        };
        self.tell(heard).await;
    }

    async fn tell(&self, heard: Heard) {
        self.news.send(heard).await.unwrap();
    }

    pub fn is_ready(&self) -> bool {
        is_in_step(&self.sets.borrow(), &self.chain.borrow())
    }

    pub async fn until_ready(&self) {
        until("the agent is ready", async || self.is_ready()).await;
    }

    /// Whether one of its tasks has given up.
    pub fn has_ended(&self) -> bool {
        self.news.is_closed() || self.chain.has_changed().is_err()
    }

    /// Ends it as SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

pub fn key(cidr: &str) -> BanKey {
    let source: Source = cidr.parse().unwrap();
    BanKey::of(&source.ban_name(), source).unwrap()
}

pub fn ends_in(secs: i64) -> Until {
    Until::at(Timestamp::now() + SignedDuration::from_secs(secs))
}

/// The table `filter` of both families.
pub async fn tables() -> [Table; 2] {
    [xtables::read(Family::V4).await.unwrap(), xtables::read(Family::V6).await.unwrap()]
}

/// What `list -o json` prints.
pub async fn listing() -> serde_json::Value {
    let mut out = Vec::new();
    list::list(Output::Json, &mut out).await.unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// The networks that it prints.
pub async fn listed() -> Vec<String> {
    let listing = listing().await;
    listing.as_array().unwrap().iter().map(|ban| ban["cidr"].as_str().unwrap().to_owned()).collect()
}
