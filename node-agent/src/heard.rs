//! What the watches tell the enforcer.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use ip_sentry_core::{
    enforce::view::{BanKey, Bans, Until},
    net::Network,
};

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
    /// The protected networks, spec and status together.
    Protected(Vec<Network>),
    /// The addresses that the API server's packets carry.
    Peer(BTreeSet<IpAddr>),
}
