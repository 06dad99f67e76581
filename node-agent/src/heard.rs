//! What the watches tell the enforcer.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use ip_sentry_core::{
    enforce::{
        rules::Port,
        view::{BanKey, Bans, Until},
    },
    net::Network,
};
use jiff::Timestamp;

/// A piece of news from the API server.
#[derive(Clone, Debug)]
pub enum Heard {
    /// All bans there are, as of that resourceVersion.
    Bans {
        /// The bans.
        bans: Bans,
        /// The list's resourceVersion.
        version: String,
    },
    /// One ban was made or changed, or, without an end, lifted.
    Ban {
        /// Which one.
        key: BanKey,
        /// When it ends; `None`: it was lifted.
        until: Option<Until>,
        /// The event's resourceVersion.
        version: String,
        /// When the event came in.
        at: Instant,
    },
    /// What `ProtectedNetworks` says.
    Protected(Told),
    /// The addresses and ports that the API server's packets carry.
    Peer(BTreeSet<SocketAddr>),
}

/// What `ProtectedNetworks` says, spec and status together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// The networks that are never banned.
    pub networks: Vec<Network>,
    /// The API servers.
    pub api_servers: Vec<SocketAddr>,
    /// The nodes' ports that banned sources reach too.
    pub failsafe: BTreeSet<Port>,
    /// Until when nothing is dropped.
    pub paused_until: Option<Timestamp>,
}
