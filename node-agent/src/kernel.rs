//! The node's packet filter: everything that touches the kernel lies below here.
//!
//! [`ipset`] speaks to the kernel's sets over [`netlink`], [`xtables`] runs the `iptables-legacy` tools,
//! [`addresses`], [`links`] and [`proxy_mode`] ask what the node is like. What to write is decided in
//! `ip_sentry_core::enforce`.

pub mod addresses;
pub mod ipset;
pub mod links;
pub mod netlink;
pub mod proxy_mode;
pub mod tool;
pub mod xtables;
