//! What can be set from outside; each flag is an environment variable too.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// Reads gateways' logs and bans the sources that probe.
#[derive(Clone, Debug, Parser)]
#[command(name = "ip-sentry-operator", version)]
pub struct Args {
    /// The namespace of the Lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ip-sentry")]
    pub namespace: String,
    /// This replica's pod, half of its name in the Lease.
    #[arg(long, env = "POD_NAME", default_value = "ip-sentry-operator")]
    pub pod_name: String,
    /// This replica's uid, the other half.
    #[arg(long, env = "POD_UID", default_value = "local")]
    pub pod_uid: String,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "IP_SENTRY_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// What the process may take, in MiB, if that is less than its container may. It decides how many sources, policies and
    /// logs there is room for. Where neither says anything it is 256.
    #[arg(long, env = "IP_SENTRY_MEMORY_LIMIT_MIB")]
    pub memory_limit_mib: Option<u64>,
    /// What is logged, as tracing's filter directives. `unread_lines=debug` adds the text of lines that have not their
    /// policy's format, which may hold secrets; nothing else does. Of what the libraries say, only what nothing else
    /// tells is logged.
    #[arg(
        long,
        env = "IP_SENTRY_LOG",
        default_value = "info,kube_leader_election=warn,kube_client=error,kube_runtime=error"
    )]
    pub log: String,
    /// How log lines are written.
    #[arg(long, env = "IP_SENTRY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
