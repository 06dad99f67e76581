//! What can be asked on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use ip_sentry_core::duration::{DurationError, GatewayDuration};

/// Tries ProbePolicies on logs, before they are applied.
///
/// A ProbePolicy says what probing looks like in a gateway's access log. What it would do can be seen on any log of
/// that gateway, with the same engine that the operator runs. Nothing here writes to a cluster.
#[derive(Debug, Parser)]
#[command(name = "kubectl ip-sentry", bin_name = "kubectl ip-sentry", version)]
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
    /// Say of each line what was read from it, and which pattern it matches or why none.
    Explain(ExplainArgs),
    /// Print a script that completes commands in a shell.
    Completion(CompletionArgs),
    /// Print the version.
    Version,
}

/// Which policy.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// The ProbePolicy to try, as it is applied, in YAML or JSON; `-` is standard input.
    #[arg(long, short = 'p', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: PathBuf,
    /// Which ProbePolicy, where a file holds several.
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
    /// Networks that are never banned: a ProtectedNetworks, as it is applied or as the cluster has it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub protected: Option<PathBuf>,
}

/// What to replay.
#[derive(Debug, clap::Args)]
#[command(after_help = REPLAY_HELP)]
pub struct ReplayArgs {
    /// The policy.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Logs to read, plain, gzip or zstd, merged by the time of their lines; `-` or none is standard input.
    #[arg(value_name = "LOG", value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,
    /// Show only which sources this ProbePolicy bans and --policy does not, and the other way round.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub against: Option<PathBuf>,
    /// Instead of files, read the policy's own pods' logs of this long, such as 24h.
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
    /// With --since: the pods' namespace; default: what the policy says, else the context's.
    #[arg(long, short = 'n', value_name = "NAMESPACE", requires = "since")]
    pub namespace: Option<String>,
    /// With --since: the kubeconfig; default: those that KUBECONFIG names, else ~/.kube/config.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "since")]
    pub kubeconfig: Option<PathBuf>,
    /// With --since: the kubeconfig's context; default: the current one.
    #[arg(long, value_name = "CONTEXT", requires = "since")]
    pub context: Option<String>,
}

/// What to explain.
#[derive(Debug, clap::Args)]
#[command(after_help = EXPLAIN_HELP)]
pub struct ExplainArgs {
    /// The policy.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Logs to read one after the other, plain, gzip or zstd; `-` or none is standard input.
    #[arg(value_name = "LOG", value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,
    /// How to print.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

/// For which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETION_HELP)]
pub struct CompletionArgs {
    /// The shell that runs the script, or `kubectl` for the program with which kubectl completes its plugins.
    pub shell: CompletionFor,
}

/// Who completes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CompletionFor {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
    /// PowerShell.
    Powershell,
    /// `kubectl ip-sentry`, in whatever shell kubectl's own completion is set up for.
    Kubectl,
}

impl CompletionFor {
    /// The shell; none for kubectl.
    #[must_use]
    pub fn shell(self) -> Option<Shell> {
        match self {
            Self::Bash => Some(Shell::Bash),
            Self::Zsh => Some(Shell::Zsh),
            Self::Fish => Some(Shell::Fish),
            Self::Powershell => Some(Shell::PowerShell),
            Self::Kubectl => None,
        }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OutputFormat {
    /// Columns, for people.
    Table,
    /// More columns.
    Wide,
    /// JSON: of replay one object, of explain an object a line.
    Json,
    /// YAML: of replay an object, of explain a list.
    Yaml,
}

/// A duration as policies write it.
fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse::<GatewayDuration>().map(GatewayDuration::get)
}

const REPLAY_HELP: &str = "\
Bans are as if the policy were in force and nothing else banned anybody: hits of a source that is banned by then are
not counted, and its next ban is its second. What a policy in mode Shadow would ban is listed all the same.

The time that counts is the line's own, in whatever zone it names, UTC where it names none; with --since it is the
container runtime's. A log whose lines have no time is refused: `kubectl logs --timestamps` has them. Several logs are
read as one in the order of time, whatever order they are named in.

Tables go to standard output and the summary to standard error. JSON and YAML are one object: `bans`, a list of IPBans
as the operator would write them, and `summary`.

Examples:
  kubectl ip-sentry replay -p policy.yaml access.log access.log.1 access.log.2.gz
  kubectl logs --timestamps --since=24h deploy/gateway | kubectl ip-sentry replay -p policy.yaml
  kubectl ip-sentry replay -p policy.yaml --since 24h -o wide
  kubectl ip-sentry replay -p stricter.yaml --against policy.yaml access.log
  kubectl -n web get probepolicy gw -o yaml | kubectl ip-sentry replay -p - --since 24h
  kubectl get protectednetworks cluster -o yaml > protected.yaml
  kubectl ip-sentry replay -p policy.yaml --protected protected.yaml access.log

With --since your kubeconfig's user reads the pods, not the operator: it needs the verb list on pods (on services and
gateways too, where the policy targets those), get on pods/log, and get on protectednetworks.

Exit codes: 0 done, whatever was found; 1 something could not be read or used; 2 wrong usage.";

const EXPLAIN_HELP: &str = "\
A hit is a line that counts against its client; how many it takes for a ban is the policy's threshold, which `replay`
looks at. With -o json there is exactly one object for each line, at once, with the fields line, parsed, ip, path,
normalisedPath, status, method, host, userAgent, event, matched, pattern and reason, null where unknown.

Examples:
  kubectl ip-sentry explain -p policy.yaml access.log
  kubectl logs deploy/gateway | kubectl ip-sentry explain -p policy.yaml -o json | jq 'select(.parsed | not)'

Exit codes: 0 done, whatever was found; 1 something could not be read or used; 2 wrong usage.";

const COMPLETION_HELP: &str = "\
Examples:
  kubectl ip-sentry completion kubectl > ~/.local/bin/kubectl_complete-ip_sentry
  chmod +x ~/.local/bin/kubectl_complete-ip_sentry
  source <(kubectl-ip_sentry completion bash)";
