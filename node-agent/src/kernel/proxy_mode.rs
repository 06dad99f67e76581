//! What this node's kube-proxy and kubelet write their rules with.
//!
//! Only reported: bans work with each. The traces are those that the project iptables-wrappers goes by, looked
//! for without tools where the kernel can be asked.

use std::fmt;

use super::{
    netlink::{Message, NETLINK_NETFILTER, Netlink, NetlinkError},
    tool::{self, ToolError},
};

/// What the node's rules are written with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyMode {
    /// kube-proxy's nftables mode.
    Nftables,
    /// `iptables` by way of `nf_tables`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
    /// No trace of either.
    Unknown,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Nft => "nft",
            Self::Legacy => "legacy",
            Self::Unknown => "unknown",
        })
    }
}

const NFT_GETTABLE: u16 = (10 << 8) | 1;
const NFT_GETCHAIN: u16 = (10 << 8) | 4;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// Chains that kubelet and kube-proxy leave in the table mangle.
const HINTS: [&str; 3] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"];

/// Looks for the traces.
///
/// Legacy tables are read without naming one: naming one that isn't there would make it.
pub async fn detect() -> Result<ProxyMode, ToolError> {
    if let Ok(mode) = nf_tables()
        && mode != ProxyMode::Unknown
    {
        return Ok(mode);
    }
    let is_hint = |line: &str| {
        line.strip_prefix(':')
            .is_some_and(|rest| HINTS.iter().any(|hint| rest.split(' ').next() == Some(hint)))
    };
    for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        match tool::run(tool, &[], "", is_hint).await {
            Ok(lines) if !lines.is_empty() => return Ok(ProxyMode::Legacy),
            // A kernel without these tables holds no traces in them.
            Ok(_) | Err(ToolError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ProxyMode::Unknown)
}

fn nf_tables() -> Result<ProxyMode, NetlinkError> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    for family in FAMILIES {
        let mut table = Message::new(NFT_GETTABLE, 0, &[family, 0, 0, 0]);
        table.text(NFTA_TABLE_NAME, "kube-proxy");
        if netlink.get(table, |_, _| {}).is_ok() {
            return Ok(ProxyMode::Nftables);
        }
    }
    for family in FAMILIES {
        for hint in HINTS {
            let mut chain = Message::new(NFT_GETCHAIN, 0, &[family, 0, 0, 0]);
            chain.text(NFTA_CHAIN_TABLE, "mangle");
            chain.text(NFTA_CHAIN_NAME, hint);
            if netlink.get(chain, |_, _| {}).is_ok() {
                return Ok(ProxyMode::Nft);
            }
        }
    }
    Ok(ProxyMode::Unknown)
}
