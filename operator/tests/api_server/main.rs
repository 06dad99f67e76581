//! Elections and bans on a real API server: `kube-apiserver` and etcd, no nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its fixtures too")]

mod audit;
mod bans;
mod candidates;
mod control_plane;
mod endings;
mod networks;
mod offences;
mod race;
mod skew;
mod succession;
mod suspension;
