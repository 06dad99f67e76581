//! What can be asked on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Tries ProbePolicies on logs, before they are applied.
#[derive(Debug, Parser)]
#[command(name = "kubectl ip-sentry", bin_name = "kubectl ip-sentry", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say who would be banned: when, for how long, why, with the evidence.
    Replay(ReplayArgs),
}

/// What to replay.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The ProbePolicy, as it is applied, in YAML or JSON.
    #[arg(long, short = 'p', value_name = "FILE")]
    pub policy: PathBuf,
    /// Which ProbePolicy, where the file holds several.
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
    /// Logs to read, plain, gzip or zstd; `-` is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub logs: Vec<PathBuf>,
    /// How to print.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

/// How to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OutputFormat {
    /// Columns.
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}
