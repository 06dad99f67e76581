//! The program behind `kubectl ip-sentry`.
//!
//! Exit codes: 0 done, whatever was found; 1 something could not be read or the policy can't be used; 2 wrong usage.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;
use ip_sentry_cli::{
    args::{Args, Command},
    completion, explain,
    output::{causes, tell},
    replay,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as `head` has.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {}\n", causes(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = env::args_os().skip(1);
    // Before the arguments are judged: what is still being typed is mostly wrong.
    if words.next().is_some_and(|word| word == completion::ASK) {
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        return Ok(completion::answer(&words, &mut io::stdout())?);
    }
    match Args::parse().command {
        Command::Replay(args) => Ok(replay::run(&args)?),
        Command::Explain(args) => Ok(explain::run(&args)?),
        Command::Completion(args) => Ok(completion::script(args.shell, &mut io::stdout())?),
        Command::Version => Ok(writeln!(io::stdout(), "{}", env!("CARGO_PKG_VERSION"))?),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
