//! Reads gateways' logs and bans the sources that probe: see the library's first page for the way through it.

use std::process::ExitCode;

use clap::Parser as _;
use ip_sentry_operator::{args::Args, logging, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

// A thread for each processor would take memory with the size of the machine, and detection needs a few.
#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logging::start(&args.log, args.log_format) {
        eprintln!("ip-sentry-operator: --log: {error}");
        return ExitCode::from(2);
    }
    let shutdown = CancellationToken::new();
    let on_signal = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = signalled().await {
            tracing::error!(%error, "signals can't be caught");
        }
        on_signal.cancel();
    });
    match run::run(args, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

async fn signalled() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
