//! The node agent's program: reads the command line, starts what it asks for.

use anyhow::Result;
use clap::Parser;
use ip_sentry_node_agent::{
    args::{Args, Command, LogFormat},
    cleanup, list, run,
};
use tracing_subscriber::EnvFilter;

// One thread is enough for a few messages a second, and keeps the agent small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&args.log)?)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    match args.command.unwrap_or(Command::Run) {
        Command::Run => run::run(args.run).await,
        Command::List { output } => Ok(list::list(output, &mut std::io::stdout().lock()).await?),
        Command::Cleanup { wait } => {
            cleanup::cleanup().await?;
            if wait { run::stopped().await } else { Ok(()) }
        }
    }
}
