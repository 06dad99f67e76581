//! Who would be banned: the lines of logs go through a jail as in the operator, and what it decides becomes bans as if
//! the policy were in force and nothing else banned anybody.

mod against;
mod trial;

use std::{
    io::{self, BufWriter},
    path::Path,
};

use ip_sentry_core::{detect::policy::Policy, networks::Networks};

use self::trial::Trial;
use crate::{
    args::ReplayArgs,
    cluster::{self, ClusterError},
    input::{self, BytesRead, Clock, InputError, Log, Merged},
    output::Bans,
    policy_file::{self, ObjectFileError, PolicyFile},
    progress::Progress,
};

/// Why a log can't be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A policy or what is protected can't be used.
    #[error(transparent)]
    Object(#[from] ObjectFileError),
    /// A file can't be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The pods' logs can't be read.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What was found can't be printed.
    #[error("the results can't be written")]
    Output(#[from] io::Error),
    /// Its lines don't say when they were logged.
    #[error(
        "the log's lines have no time that is understood, so nobody can say when a ban would begin: {hint}, or take \
         the log with `kubectl logs --timestamps`"
    )]
    NoTime {
        /// What to change in the policy or at the gateway.
        hint: &'static str,
    },
}

/// The logs to replay.
struct Logs {
    each: Vec<Log>,
    /// Whether the container runtime's stamp stands in front of each line.
    is_stamped: bool,
    total_bytes: Option<u64>,
}

/// Replays logs.
pub fn run(args: &ReplayArgs) -> Result<(), ReplayError> {
    let name = args.policy.policy_name.as_deref();
    let objects = [Some(&args.policy.policy), args.policy.protected.as_ref(), args.against.as_ref()];
    input::check_stdin(&objects, args.since.is_none().then_some(&args.logs))?;
    let file = policy_file::load(&args.policy.policy, name)?;
    let bytes_read = BytesRead::default();
    let mut protected = policy_file::protected(args.policy.protected.as_deref())?;
    let logs = if let Some(since) = args.since {
        let pods = cluster::open(&file.object, since, &args.cluster, &bytes_read)?;
        protected.extend(pods.protected);
        Logs { each: pods.logs, is_stamped: true, total_bytes: None }
    } else {
        open_files(args, &bytes_read)?
    };
    let progress = Progress::new(logs.total_bytes, bytes_read);
    let mut lines = merge(logs, &file.policy)?;
    let protected = protected.into_iter().collect();
    match &args.against {
        Some(path) => {
            let other = policy_file::load(path, name)?;
            let names = [&args.policy.policy, path].map(|path| name_of(path));
            against::run([file, other], &names, &mut lines, &protected, args.output, progress)
        }
        None => print_bans(file, &mut lines, &protected, args, progress),
    }
}

fn print_bans(
    file: PolicyFile,
    lines: &mut Merged,
    protected: &Networks,
    args: &ReplayArgs,
    mut progress: Progress,
) -> Result<(), ReplayError> {
    let mut trial = Trial::new(file);
    let mut out = Bans::new(BufWriter::new(io::stdout().lock()), args.output, None);
    loop {
        if !out.is_flushed() && !lines.is_ready() {
            progress.aside(|| out.flush())?;
        }
        let Some(line) = lines.next_line()? else { break };
        progress.line();
        if let Some(ban) = trial.observe(line, protected)? {
            out.print(&ban, None)?;
        }
    }
    progress.aside(|| out.flush())?;
    progress.finish();
    let summary = trial.finish()?;
    Ok(out.finish(&summary, &summary.to_string())?)
}

fn open_files(args: &ReplayArgs, bytes_read: &BytesRead) -> Result<Logs, InputError> {
    let paths = input::or_stdin(&args.logs)?;
    Ok(Logs {
        each: input::open(paths, bytes_read)?,
        is_stamped: false,
        total_bytes: input::total_bytes(paths),
    })
}

/// One log's lines say their time to the jail themselves; of several it must be known before.
fn merge(logs: Logs, policy: &Policy) -> Result<Merged, InputError> {
    if logs.is_stamped {
        return Merged::stamped(logs.each);
    }
    let clock: Option<Clock> = if logs.each.len() > 1 {
        let mut policy = policy.clone();
        Some(Box::new(move |line| (policy.time(line), 0)))
    } else {
        None
    };
    Merged::new(logs.each, clock)
}

fn name_of(path: &Path) -> String {
    if input::is_stdin(path) {
        return "standard input".to_owned();
    }
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
