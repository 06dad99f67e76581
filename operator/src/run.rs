//! Which part feeds which, and in what order they end.

use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt as _;
use ip_sentry_core::{detect::jail::Limits, networks::Networks};
use ip_sentry_crd::IPBan;
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    args::Args,
    bans::{Ban, Bans},
    changes::Changes,
    client,
    control::Control,
    docket::Docket,
    events::Events,
    expire::Expiry,
    heartbeats,
    history::store::HistoryStore,
    inventory::Inventories,
    lease::{Election, Timing, holder_id},
    metrics::{self, Metrics},
    policies::Policies,
    protected::keeper::Keeper,
    publish::Publisher,
    state::State,
    streams::Streams,
};

/// The name of the Lease.
const LEASE: &str = "ip-sentry-operator";
/// Decisions between the streams and the docket.
const DECISIONS: usize = 4096;

/// Runs the operator until `shutdown`, then ends in order: what is being written is finished, the lease released.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = client::config().await?;
    let reader = client::connect(&config)?;
    let lease_client = client::connect_lease(&config)?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;

    let holder = holder_id(&args.pod_name, &args.pod_uid);
    let election = Election::new(lease_client, &args.namespace, LEASE, &holder, Timing::default());
    let leadership = election.leadership();
    let writer = client::connect_writer(&config, reader.clone(), &leadership)?;
    let metrics = Arc::new(Metrics::default());

    // `dirty` wakes the control loop; it and the bans wake the other two.
    let (dirty, for_docket, for_expiry) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (announce_protected, protected) = watch::channel(Arc::new(Networks::default()));
    let (decide, decided) = mpsc::channel(DECISIONS);

    let history = HistoryStore::start(writer.clone(), dirty.clone(), metrics.clone(), shutdown.clone());
    let state = Arc::new(State {
        leadership: leadership.clone(),
        publisher: Publisher::new(writer.clone()),
        events: Events::new(writer.clone(), &args.pod_name, metrics.clone()),
        writer,
        metrics: metrics.clone(),
        history,
        protected: protected.clone(),
        policies: Policies::default().into(),
        bans: Bans::default().into(),
        bans_for_queue: Changes::default(),
        bans_for_expiry: Changes::default(),
        held_back: 0.into(),
        ready: false.into(),
    });
    let inventories = Inventories::start(&reader, &dirty, &metrics, &shutdown);
    let streams = Streams::new(reader.clone(), protected, decide, metrics.clone(), shutdown.clone());
    let limits = Limits { source_bytes: args.source_memory_mib << 20, ..Limits::default() };

    // Writers end first, then the election, so that a write under way is never cut off by its own lease.
    let mut tasks = JoinSet::new();
    let wakes = [dirty.clone(), for_docket.clone(), for_expiry.clone()];
    tokio::spawn(watch_bans(reader, state.clone(), wakes, shutdown.clone()));
    let changed = vec![for_docket.clone(), for_expiry.clone()];
    let keeper = Keeper::new(announce_protected);
    let control = Control::new(state.clone(), inventories, streams, limits, dirty.clone(), changed, keeper);
    tasks.spawn(control.run(shutdown.clone()));
    tasks.spawn(Docket::new(state.clone(), for_docket.clone()).run(decided, shutdown.clone()));
    tasks.spawn(Expiry::new(state.clone(), for_expiry).run(shutdown.clone()));
    tasks.spawn(heartbeats::run(state.clone(), shutdown.clone()));
    tasks.spawn(wake_on_leading(state.clone(), for_docket, shutdown.clone()));

    tokio::spawn(serve(listener, state.clone(), shutdown.clone()));

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

/// Keeps the table of bans; `wakes` are told of each change.
async fn watch_bans(client: Client, state: Arc<State>, wakes: [Arc<Notify>; 3], shutdown: CancellationToken) {
    let api: Api<DeserializeGuard<IPBan>> = Api::all(client);
    let events =
        watcher(api, watcher::Config::default()).default_backoff().take_until(shutdown.cancelled_owned());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take_in(&state, event),
            Err(error) => {
                Metrics::count(&state.metrics.watch_errors, "IPBan");
                tracing::debug!(%error, "the bans can't be watched");
            }
        }
        for wake in &wakes {
            wake.notify_one();
        }
    }
}

fn take_in(state: &State, event: watcher::Event<DeserializeGuard<IPBan>>) {
    let now = Timestamp::now();
    let changed: Vec<String> = match &event {
        watcher::Event::Init | watcher::Event::InitApply(_) => Vec::new(),
        // What a list no longer names has changed as well.
        watcher::Event::InitDone => state.bans().iter().map(|ban| ban.name.clone()).collect(),
        watcher::Event::Apply(object) | watcher::Event::Delete(object) => vec![object.name_any()],
    };
    match event {
        watcher::Event::Init => state.bans().list_begins(),
        watcher::Event::InitApply(object) => {
            if let Some(ban) = read(state, object) {
                if ban.deleting_since.is_some() {
                    state.ended(&ban, now);
                }
                state.bans().listed(ban);
            }
        }
        watcher::Event::InitDone => {
            let gone = state.bans().list_done();
            for ban in &gone {
                state.ended(ban, now);
            }
            let listed: Vec<String> = state.bans().iter().map(|ban| ban.name.clone()).collect();
            state.bans_changed(listed);
        }
        watcher::Event::Apply(object) => {
            if let Some(ban) = read(state, object) {
                if ban.deleting_since.is_some() {
                    state.ended(&ban, now);
                }
                state.bans().applied(ban);
            }
        }
        watcher::Event::Delete(object) => {
            let gone = state.bans().deleted(&object.name_any());
            if let Some(ban) = gone {
                state.ended(&ban, now);
            }
        }
    }
    state.bans_changed(changed);
    let bans = state.bans();
    metrics::level(&state.metrics.bans, bans.iter().filter(|ban| ban.is_active(now)).count());
}

/// One that can't be read costs only itself.
fn read(state: &State, object: DeserializeGuard<IPBan>) -> Option<Ban> {
    let ban = match object.0 {
        Ok(object) => Ban::read(&object).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    ban.inspect_err(|error| {
        Metrics::count(&state.metrics.unreadable, "IPBan");
        tracing::warn!(error, "a ban can't be read and is left alone");
    })
    .ok()
}

/// What a standby has kept is due the moment it leads.
async fn wake_on_leading(state: Arc<State>, docket: Arc<Notify>, shutdown: CancellationToken) {
    let mut leadership = state.leadership.clone();
    loop {
        tokio::select! {
            _ = leadership.changed() => docket.notify_one(),
            () = shutdown.cancelled() => return,
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, shutdown: CancellationToken) {
    if let Err(error) = admin::serve(listener, state, shutdown.clone()).await {
        tracing::error!(%error, "metrics and probes can't be served");
        shutdown.cancel();
    }
}
