//! Which part feeds which, and in what order they end.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use ip_sentry_core::networks::Networks;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    args::Args,
    ban_watch,
    banning::Banning,
    client,
    clock::Clock,
    control::Control,
    expire::Expiry,
    heartbeats,
    history::store::HistoryStore,
    inventory::Inventories,
    lease::{Election, Timing, holder_id},
    memory::{self, Budget},
    metrics::Metrics,
    protected::keeper::Keeper,
    state::State,
    streams::Streams,
};

/// The name of the Lease.
const LEASE: &str = "ip-sentry-operator";
/// Decisions between the streams and the ban queue.
const DECISIONS: usize = 16_384;

/// Runs the operator until `shutdown`, then ends in order: what is being written is finished, the lease released.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = client::config().await?;
    let clock = Clock::default();
    let reader = client::connect(&config, &clock)?;
    let lease_client = client::connect_lease(&config, &clock)?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;

    let holder = holder_id(&args.pod_name, &args.pod_uid);
    let election = Election::new(lease_client, &args.namespace, LEASE, &holder, Timing::default());
    let leadership = election.leadership();
    let writer = client::connect_writer(&config, &clock, reader.clone(), &leadership)?;
    let metrics = Arc::new(Metrics::default());
    let limit = memory::limit(Path::new("/sys/fs/cgroup"), args.memory_limit_mib.map(|mib| mib << 20));
    let budget = Budget::of(limit);
    tracing::info!(limit, ?budget, "memory");

    // `dirty` wakes the control loop, which wakes the other two.
    let (dirty, for_banning, for_expiry) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (announce_protected, protected) = watch::channel(Arc::new(Networks::default()));
    let (decide, decided) = mpsc::channel(DECISIONS);

    let history = HistoryStore::start(writer.clone(), dirty.clone(), metrics.clone(), shutdown.clone());
    let state = Arc::new(State::new(
        clock.clone(),
        leadership.clone(),
        writer,
        &args.pod_name,
        metrics.clone(),
        history,
        protected.clone(),
    ));
    let inventories = Inventories::start(&reader, &dirty, &metrics, &shutdown);
    let streams = Streams::new(
        reader.clone(),
        clock,
        protected,
        decide,
        budget.read_backs,
        metrics.clone(),
        shutdown.clone(),
    );

    // Writers end first, then the election, so that a write under way is never cut off by its own lease.
    let mut tasks = JoinSet::new();
    tokio::spawn(ban_watch::run(reader, state.clone(), dirty.clone(), shutdown.clone()));
    let changed = vec![for_banning.clone(), for_expiry.clone()];
    let keeper = Keeper::new(&args.namespace, announce_protected);
    let control = Control::new(state.clone(), inventories, streams, budget, dirty.clone(), changed, keeper);
    tasks.spawn(control.run(shutdown.clone()));
    tasks.spawn(Banning::new(state.clone(), for_banning).run(decided, shutdown.clone()));
    tasks.spawn(Expiry::new(state.clone(), for_expiry).run(shutdown.clone()));
    tasks.spawn(heartbeats::run(state.clone(), shutdown.clone()));

    tokio::spawn(admin::serve(listener, state.clone(), shutdown.clone()));

    let end_election = CancellationToken::new();
    let elected = tokio::spawn(election.run(end_election.clone()));
    tracing::info!(holder, "started");
    shutdown.cancelled().await;
    while tasks.join_next().await.is_some() {}
    end_election.cancel();
    elected.await.context("the election ended badly")?.context("the lease can't be watched over")?;
    tracing::info!("stopped");
    Ok(())
}
