//! Following logs against a scripted kubelet, in simulated time.

mod hostile;
mod log_server;
mod reconnect;
mod restart;
