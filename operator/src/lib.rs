//! The operator's parts: log lines in, IPBans out.
//!
//! The way of a line, file by file: [`tail`] follows a container's log, [`streams`] hands each line to the
//! policies that read it, [`policies`] lets their jails count, [`ban_queue`] decides which ban is next, [`banning`]
//! performs that, and [`publish`] writes the `IPBan`. [`endings`] decides how it ends, [`expire`] carries that out.
//! [`control`] decides which logs are read, and tells people how it goes.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod ban_queue;
pub mod ban_watch;
pub mod banning;
pub mod bans;
pub mod budget;
pub mod changes;
pub mod client;
pub mod clock;
pub mod control;
pub mod endings;
pub mod events;
pub mod evict;
pub mod expire;
pub mod heartbeats;
pub mod history;
pub mod inventory;
pub mod lease;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod policies;
pub mod protected;
pub mod publish;
pub mod recent;
pub mod refusal;
pub mod run;
pub mod state;
pub mod status;
pub mod streams;
pub mod tail;
pub mod watch;
