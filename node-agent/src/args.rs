//! What can be set from outside; each flag is an environment variable too.

use std::net::SocketAddr;

use clap::{Parser, Subcommand, ValueEnum};

use crate::kernel::ipset::DEFAULT_CAPACITY;

/// Drops the sources that IPBans name in this node's kernel.
#[derive(Clone, Debug, Parser)]
#[command(name = "ip-sentry-node-agent", version)]
pub struct Args {
    /// What to do; without a word, run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What is logged, as tracing's filter directives.
    #[arg(long, env = "IP_SENTRY_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How log lines are written.
    #[arg(long, env = "IP_SENTRY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json, global = true)]
    pub log_format: LogFormat,
    /// The flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What the program does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Watch the API server and keep the kernel in step, until ended. Ending it leaves the bans in force.
    Run,
    /// Print the banned networks that this node's kernel holds, the time they have left and their packets.
    List {
        /// How to print them.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Take the chain, the jumps to it and the sets out of this node's kernel. Stop the agent first.
    Cleanup {
        /// Stay until told to stop, so that a DaemonSet's rollout tells when every node is clean.
        #[arg(long)]
        wait: bool,
    },
}

/// The flags of `run`.
#[derive(Clone, Debug, Parser)]
pub struct RunArgs {
    /// This node's name, which its NodeFirewall has too. Without it, the name in the agent's token.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Where /metrics, /healthz and /readyz are served: on the host's network, so on loopback unless told.
    #[arg(long, env = "IP_SENTRY_LISTEN", default_value = "127.0.0.1:9753")]
    pub listen: SocketAddr,
    /// How bans get into the kernel.
    #[arg(long, env = "IP_SENTRY_BACKEND", value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// How many banned networks each set takes; more are refused and counted.
    #[arg(long, env = "IP_SENTRY_MAX_ENTRIES", default_value_t = DEFAULT_CAPACITY,
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_entries: u32,
}

/// How bans get into the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum BackendChoice {
    /// Sets where the kernel has them, else rules.
    Auto,
    /// Sets, or nothing.
    Ipset,
    /// One rule a ban, at most 500 of each family.
    Rules,
}

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON array.
    Json,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
