//! Watches that never end, each with a table of what exists and the reason for which it may be out of date.

use std::{
    fmt::Debug,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use ip_sentry_crd::targets::Problem;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The objects of one kind, kept up to date.
#[derive(Clone)]
pub struct Watched<K>
where
    K: Resource + 'static,
    K::DynamicType: Hash + Eq,
{
    store: Store<K>,
    listed: Arc<AtomicBool>,
    problem: Arc<Mutex<Option<Problem>>>,
}

/// How long until a kind is looked for again that the cluster does not have: somebody may install it.
const NOT_INSTALLED_RETRY: Duration = Duration::from_secs(30);

impl<K> Watched<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Default + Eq + Hash + Send + Sync,
{
    /// Starts watching `api`; `prune` drops what nobody needs before it is kept, `dirty` is told of each change.
    pub fn start(
        api: Api<K>,
        kind: &'static str,
        prune: fn(&mut K),
        dirty: Arc<Notify>,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Self {
        Self::start_with(api, K::DynamicType::default(), kind, prune, dirty, metrics, cancel)
    }
}

impl<K> Watched<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
{
    /// [`start`](Self::start) for a kind that is known only at run time.
    pub fn start_with(
        api: Api<K>,
        dyntype: K::DynamicType,
        kind: &'static str,
        prune: fn(&mut K),
        dirty: Arc<Notify>,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Self {
        let writer = reflector::store::Writer::new(dyntype);
        let watched = Self { store: writer.as_reader(), listed: Arc::default(), problem: Arc::default() };
        let (problem, listed) = (watched.problem.clone(), watched.listed.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff().modify(prune).reflect(writer);
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events.take_until(cancel.cancelled_owned()));
            while let Some(event) = events.next().await {
                let now = match event {
                    // A list begins with every try, so it proves nothing yet.
                    Ok(watcher::Event::Init) => continue,
                    Ok(event) => {
                        if matches!(event, watcher::Event::InitDone) {
                            listed.store(true, Ordering::Relaxed);
                        }
                        None
                    }
                    Err(error) => {
                        Metrics::count(&metrics.watch_errors, kind);
                        // A kind that is not there or not allowed is told by a condition, not once a retry.
                        tracing::debug!(kind, %error, "watch failed");
                        Some(problem_of(&error))
                    }
                };
                *problem.lock().unwrap_or_else(PoisonError::into_inner) = now;
                dirty.notify_one();
                if now == Some(Problem::NotInstalled) {
                    tokio::time::sleep(NOT_INSTALLED_RETRY).await;
                }
            }
        });
        watched
    }

    /// What exists, as far as is known.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// What keeps it from being up to date, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything that exists has been listed once.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

/// What a watch's error means.
#[must_use]
pub fn problem_of(error: &watcher::Error) -> Problem {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code,
        _ => 0,
    };
    match code {
        401 | 403 => Problem::Forbidden,
        404 => Problem::NotInstalled,
        _ => Problem::Unreachable,
    }
}
