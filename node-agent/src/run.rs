//! Which task feeds which, and how they end.

use anyhow::{Context, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    args::RunArgs,
    chain::ChainKeeper,
    client,
    enforcer::Enforcer,
    identity,
    kernel::proxy_mode::{self, ProxyMode},
    metrics::Metrics,
    report::{Reporter, Sources},
    status::{ChainStatus, SetsStatus},
    watch::{Watch, kinds::IpBans, protected::Protected},
};

/// How many pieces of news may wait for the enforcer. A watch that finds no room waits, and the server buffers.
const NEWS: usize = 1_024;
/// How often kube-proxy's mode is looked up.
const PROXY_MODE: Duration = Duration::from_mins(10);

/// Runs the agent until SIGTERM or SIGINT. The bans stay in the kernel.
pub async fn run(args: RunArgs) -> Result<()> {
    let node = identity::find(args.node_name.as_deref())?;
    let client = client::in_cluster()?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;
    tracing::info!(node = node.name, listen = %args.listen, backend = ?args.backend, "starting");

    let stop = CancellationToken::new();
    let metrics = Metrics::default();
    let (news, heard) = mpsc::channel(NEWS);
    let (bans_trouble, bans_state) = watch::channel(None);
    let (protected_trouble, protected_state) = watch::channel(None);
    let (sets, sets_state) = watch::channel(SetsStatus::default());
    let (wanted, wanted_state) = watch::channel(None);
    let (chain, chain_state) = watch::channel(ChainStatus::default());
    let (proxy_mode, proxy_mode_state) = watch::channel(ProxyMode::Unknown);
    let (synced, synced_state) = watch::channel(false);
    let (sign, sign_state) = watch::channel(None);

    let protected =
        Watch::new(client.clone(), Protected::new(sign), news.clone(), protected_trouble, metrics.clone());
    let bans = Watch::new(client.clone(), IpBans, news, bans_trouble, metrics.clone());
    let enforcer = Enforcer::new(args.backend, args.max_entries, metrics.clone(), sets, wanted);
    let keeper = ChainKeeper::new(wanted_state, chain, metrics.clone());
    let sources = Sources {
        sets: sets_state,
        chain: chain_state.clone(),
        lists: [bans_state, protected_state],
        sign: sign_state,
        proxy_mode: proxy_mode_state,
    };
    let reporter = Reporter::new(client, node, sources, synced, metrics.clone());

    let mut tasks = JoinSet::new();
    tasks.spawn(protected.run(stop.clone()));
    tasks.spawn(bans.run(stop.clone()));
    tasks.spawn(enforcer.run(heard, chain_state, stop.clone()));
    tasks.spawn(keeper.run(stop.clone()));
    tasks.spawn(reporter.run(stop.clone()));
    tasks.spawn(follow_proxy_mode(proxy_mode, stop.clone()));
    let serving = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = admin::serve(listener, metrics, synced_state, serving).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "metrics and probes are no longer served"
            );
        }
    });

    let ended = tokio::select! {
        told = stopped() => {
            told?;
            None
        }
        ended = tasks.join_next() => ended,
    };
    stop.cancel();
    if let Some(ended) = ended {
        ended.context("a task failed")?;
        anyhow::bail!("a task ended before its time");
    }
    tracing::info!("stopping; the bans stay in the kernel and end there");
    tasks.join_all().await;
    Ok(())
}

/// Waits until this process is told to stop.
pub async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signal handler")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn follow_proxy_mode(mode: watch::Sender<ProxyMode>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PROXY_MODE);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match proxy_mode::detect().await {
            Ok(found) => {
                mode.send_if_modified(|mode| std::mem::replace(mode, found) != found);
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "kube-proxy's mode could not be looked up"
                );
            }
        }
    }
}
