//! The program behind `kubectl ip-sentry`.
//!
//! Exit codes: 0 done, whatever was found; 1 something could not be read or the policy can't be used; 2 wrong usage.

use std::{io, process::ExitCode};

use clap::Parser as _;
use ip_sentry_cli::{
    args::{Args, Command},
    replay,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Command::Replay(args) => replay::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as `head` has.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
