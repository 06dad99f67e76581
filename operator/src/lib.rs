//! The operator's parts: log lines in, IPBans out.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod bans;
pub mod client;
pub mod events;
pub mod history;
pub mod lease;
pub mod metrics;
pub mod protected;
pub mod tail;
pub mod targets;
pub mod watch;
