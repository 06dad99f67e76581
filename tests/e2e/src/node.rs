//! The two nodes, and what their kernels hold.

use std::{fmt, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::Network;

use crate::lab;

/// The chain, by the name that is promised to users.
const CHAIN: &str = "IP-BLOCKER";

/// One of the two nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Node {
    /// kube-proxy writes rules of iptables-legacy.
    One,
    /// kube-proxy writes nftables.
    Two,
}

/// What a set holds about one banned network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Seconds until the kernel ends it; `None`: never.
    pub timeout: Option<u32>,
    /// Packets that it matched.
    pub packets: u64,
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node-{}", self.number())
    }
}

impl Node {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::One, Self::Two];

    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// Its own address of that family, with a port.
    #[must_use]
    pub fn address(self, is_ipv4: bool, port: u16) -> SocketAddr {
        let last = 10 + self.number();
        if is_ipv4 {
            SocketAddr::from(([10, 99, 0, last], port))
        } else {
            // fd99::11 and fd99::12, as written.
            SocketAddr::from(([0xfd99, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(self.number())], port))
        }
    }

    /// The file of its network namespace.
    #[must_use]
    pub fn space(self) -> String {
        format!("/run/netns/ipsentry-node-{}", self.number())
    }

    /// Runs a command in its network namespace and returns what it printed.
    pub async fn run(self, command: &[&str]) -> Result<String> {
        let space = format!("--net={}", self.space());
        let mut arguments = vec![space.as_str(), "--"];
        arguments.extend(command);
        lab::host("nsenter", &arguments).await.with_context(|| format!("on {self}"))
    }

    /// Runs a command as root on the node would, with its mounts and processes too.
    pub async fn run_inside(self, command: &[&str]) -> Result<String> {
        let number = self.number().to_string();
        let mut arguments = vec!["node", &number];
        arguments.extend(command);
        lab::cluster("cluster.sh", &arguments).await
    }

    /// What its kernel holds about exactly this banned network.
    pub async fn entry(self, network: Network) -> Result<Option<Entry>> {
        let listed = self.run(&["ipset", "list", set_of(network)]).await?;
        Ok(find(&listed, network))
    }

    /// Fails unless its kernel holds it.
    pub async fn entry_of(self, network: Network) -> Result<Entry> {
        self.entry(network).await?.with_context(|| format!("{self}'s kernel does not hold {network}"))
    }

    /// Packets that rules of the chain have dropped, of both families.
    pub async fn dropped(self) -> Result<u64> {
        let mut packets = 0;
        for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            packets += dropped(&self.run(&[tool, "--counters", "--table", "filter"]).await?);
        }
        Ok(packets)
    }

    /// Fails unless packets for the node and for its pods go through the chain first, the chain drops, and what
    /// connection tracking picks up is labelled, in both families.
    pub async fn check_chain(self) -> Result<()> {
        for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let table = self.run(&[tool, "--table", "filter"]).await?;
            for (hook, chain) in [("INPUT", CHAIN), ("FORWARD", CHAIN), ("OUTPUT", "IP-BLOCKER-OUT")] {
                let first = table.lines().find(|line| line.starts_with(&format!("-A {hook} ")));
                ensure!(
                    first == Some(&format!("-A {hook} -j {chain}")),
                    "on {self} {tool} shows {first:?} first in {hook}"
                );
            }
            let drops = table
                .lines()
                .filter(|line| line.starts_with("-A IP-BLOCKER-HIT ") && line.ends_with("-j DROP"));
            ensure!(drops.count() > 0, "on {self} {tool} shows no rule that drops");
            let labels =
                table.lines().filter(|line| line.contains("-m connlabel") && line.ends_with("--set"));
            ensure!(labels.count() == 2, "on {self} {tool} shows not two rules that label");
        }
        Ok(())
    }

    /// Fails when anything of ip-sentry is in its kernel.
    pub async fn check_clean(self) -> Result<()> {
        for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let table = self.run(&[tool]).await?;
            let left = table.lines().find(|line| line.contains(CHAIN) || line.contains("ipsentry"));
            ensure!(left.is_none(), "on {self} {tool} still shows {left:?}");
        }
        let sets = self.run(&["ipset", "list", "-name"]).await?;
        ensure!(!sets.contains("ipsentry"), "on {self} there are still the sets {}", sets.replace('\n', " "));
        Ok(())
    }
}

/// The set that a banned network is in.
fn set_of(network: Network) -> &'static str {
    match (network.is_ipv4(), network.prefix()) {
        (true, 32) => "ipsentry-hosts4",
        (true, _) => "ipsentry-nets4",
        (false, _) => "ipsentry-nets6",
    }
}

/// An entry in what `ipset list` prints: `203.0.113.7 timeout 86395 packets 3 bytes 180`.
fn find(listed: &str, network: Network) -> Option<Entry> {
    let is_it = |word: &str| {
        let with_prefix =
            if word.contains('/') { word.to_owned() } else { Network::host(word.parse().ok()?).to_string() };
        Some(with_prefix.parse::<Network>().ok()? == network)
    };
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = words.into_iter().find(|words| words.first().and_then(|word| is_it(word)) == Some(true))?;
    let after = |name: &str| words.iter().skip_while(|word| **word != name).nth(1);
    let timeout =
        after("timeout").and_then(|seconds| seconds.parse().ok()).filter(|&seconds: &u32| seconds > 0);
    Some(Entry { timeout, packets: after("packets")?.parse().ok()? })
}

/// The packets of the chain's rules in what `iptables-save --counters` prints: `[3:180] -A IP-BLOCKER-HIT …`.
fn dropped(table: &str) -> u64 {
    let rule = |line: &str| {
        let (counters, rule) = line.strip_prefix('[')?.split_once("] ")?;
        let is_drop = rule.starts_with("-A IP-BLOCKER-HIT ") && rule.ends_with("-j DROP");
        is_drop.then(|| counters.split_once(':')?.0.parse::<u64>().ok()).flatten()
    };
    table.lines().filter_map(rule).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_from_what_ipset_prints() {
        let listed = "Name: ipsentry-hosts4\nHeader: family inet timeout 0 counters\nMembers:\n\
                      203.0.113.7 timeout 86395 packets 3 bytes 180\n203.0.113.8 timeout 0 packets 0 bytes 0\n\
                      2001:db8::/64 timeout 5 packets 1 bytes 80\n";
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7/32",  Some(Entry { timeout: Some(86_395), packets: 3 })),
            ("203.0.113.8/32",  Some(Entry { timeout: None, packets: 0 })),
            ("203.0.113.9/32",  None),
            ("2001:db8::/64",   Some(Entry { timeout: Some(5), packets: 1 })),
            ("2001:db8::/65",   None),
        ];
        for (network, expect) in table {
            assert_eq!(find(listed, network.parse().unwrap()), expect, "{network}");
        }
    }

    #[test]
    fn dropped_packets_are_those_of_the_chains_drops() {
        let table = "*filter\n:IP-BLOCKER - [0:0]\n[9:540] -A INPUT -j IP-BLOCKER\n\
                     [6:360] -A IP-BLOCKER -m set --match-set ipsentry-hosts4 src -j IP-BLOCKER-HIT\n\
                     [1:60] -A IP-BLOCKER-HIT -m conntrack --ctdir REPLY -m connlabel ! --label \"115\" -j RETURN\n\
                     [5:300] -A IP-BLOCKER-HIT -j DROP\nCOMMIT\n";
        assert_eq!(dropped(table), 5);
    }
}
