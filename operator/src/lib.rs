//! The operator's parts: log lines in, IPBans out.

pub mod backoff;
pub mod client;
pub mod lease;
pub mod tail;
