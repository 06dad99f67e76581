//! The operator as it is installed, against faults that a cluster shows only now and then.
//!
//! Replicas run as processes of their own. The API server is a real one, with everything of ip-sentry applied; what
//! a replica asks goes through a [`front`] that may answer late, refuse, break off or be away. Each test has a control
//! plane of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its fixtures too")]

mod clocks;
mod cluster;
#[path = "../api_server/control_plane.rs"]
mod control_plane;
mod flood;
mod front;
mod gateway_log;
mod leaders;
mod many_nodes;
mod outages;
mod release;
mod replica;
