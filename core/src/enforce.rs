//! Enforcing: what the node has heard of becomes what its kernel should hold.
//!
//! One arrow after the other, each a pure function:
//!
//! * [`view`]: the bans and protected networks that a node has heard of. Only a view that has heard all of
//!   them can be asked anything.
//! * [`desired`]: the view at one moment, as entries with the time they have left.
//! * [`sets`]: which kernel set an entry belongs in.
//! * [`plan`]: the difference between what a set holds and what it should hold.
//! * [`rules`]: the few rules that use the sets, and what a banned source reaches all the same.
//! * [`chain`]: rules as text for `iptables-restore`, and back from `iptables-save`.
//! * [`paths`]: whether packets to pods pass those rules at all.
//! * [`plain`]: the same bans as one rule each, for kernels without sets.

pub mod chain;
pub mod desired;
pub mod paths;
pub mod plain;
pub mod plan;
pub mod rules;
pub mod sets;
pub mod view;
