//! Following logs against a scripted kubelet, in simulated time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its fixtures too")]

mod clocks;
mod hostile;
mod log_server;
mod reconnect;
mod restart;
mod standing;
