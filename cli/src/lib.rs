//! `kubectl ip-sentry`: tries a ProbePolicy on logs before it is applied.
//!
//! The same core as the operator's reads, matches and counts; this crate brings the lines and prints what comes of
//! them. Nothing here writes to a cluster.
//!
//! * [`args`]: what can be asked.
//! * [`policy_file`]: the policy to try.
//! * [`input`]: the logs, as lines.
//! * [`cluster`]: the logs of a policy's pods.
//! * [`replay`]: who would be banned.
//! * [`explain`]: what becomes of each line.
//! * [`completion`]: what may be typed next.
//! * [`output`]: how it is printed.

pub mod args;
pub mod cluster;
pub mod completion;
pub mod explain;
pub mod input;
pub mod output;
pub mod policy_file;
pub mod progress;
pub mod replay;
