//! What can be asked on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum, ValueHint};
use ip_sentry_core::duration::{DurationError, GatewayDuration};

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
#[command(after_help = REPLAY_HELP)]
pub struct ReplayArgs {
    /// The ProbePolicy to try, as it is applied, in YAML or JSON.
    #[arg(long, short = 'p', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: PathBuf,
    /// Which ProbePolicy, where the file holds several.
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
    /// Logs to read, plain, gzip or zstd, merged by their lines' time; `-` or none is standard input.
    #[arg(value_name = "LOG", value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,
    /// Show only what this ProbePolicy and --policy ban differently.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub against: Option<PathBuf>,
    /// Networks that are never banned: a ProtectedNetworks, as it is applied or as the cluster has it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub protected: Option<PathBuf>,
    /// Read the last so much of the policy's own pods' logs, such as 24h, instead of files.
    #[arg(long, value_name = "DURATION", conflicts_with = "logs", value_parser = duration)]
    pub since: Option<Duration>,
    /// Where those pods are.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How to print.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

/// Which cluster and where in it.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    /// The policy's namespace; default: what the policy says, else the context's.
    #[arg(long, short = 'n', value_name = "NAMESPACE", requires = "since")]
    pub namespace: Option<String>,
    /// The kubeconfig's context; default: the current one.
    #[arg(long, value_name = "CONTEXT", requires = "since")]
    pub context: Option<String>,
}

const REPLAY_HELP: &str = "\
Bans are as if the policy were in force and nothing else banned anybody: a source's lines while it is banned are not
counted, and its next ban is its second. The time that counts is the line's own; with --since it is the container
runtime's. A log whose lines have no time is refused; `kubectl logs --timestamps` has them.

Tables are printed to standard output and the summary to standard error. JSON and YAML are one object: `bans`, a list
of IPBans as the operator would write them, and `summary`.

Examples:
  kubectl ip-sentry replay -p policy.yaml access.log access.log.1 access.log.2.gz
  kubectl logs --timestamps --since=24h deploy/gateway | kubectl ip-sentry replay -p policy.yaml
  kubectl ip-sentry replay -p policy.yaml --since 24h -o wide
  kubectl ip-sentry replay -p stricter.yaml --against policy.yaml access.log

Exit codes: 0 done, whatever was found; 1 something could not be read or used; 2 wrong usage.";

/// A duration as policies write it.
fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse::<GatewayDuration>().map(GatewayDuration::get)
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
