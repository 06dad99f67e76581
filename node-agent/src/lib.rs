//! IPBans in, kernel sets out: drops the banned sources on one node.
//!
//! From a line on the wire to a dropped packet: [`watch`] reads bans from the API server and tells the
//! [`enforcer`], which keeps them in a view, has [`sync`] bring the kernel's sets in step, and says which rules
//! are wanted; [`chain`] keeps those in place. What all that amounts to, [`status`] turns into conditions, and
//! [`report`] writes them into this node's NodeFirewall. Below it all lies [`kernel`].
//!
//! Nothing is taken back when the agent ends: bans stay in the kernel, and end there by themselves.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod chain;
pub mod cleanup;
pub mod client;
pub mod enforcer;
pub mod heard;
pub mod identity;
pub mod kernel;
pub mod latency;
pub mod leader;
pub mod list;
pub mod metrics;
pub mod report;
pub mod run;
pub mod status;
pub mod sync;
pub mod watch;
