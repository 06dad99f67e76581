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
        utils, watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, metrics::Metrics};

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

/// How long a watch that fails waits before it is tried again.
///
/// kube starts its delays from the first at every event, also at the one that each new try to list begins with: what is
/// never allowed would be asked for, and logged, once a second. Here only time without a failure does that.
#[derive(Debug)]
pub struct Retries {
    delays: Backoff,
    failed_at: Option<Instant>,
}

/// How long nothing must fail for the delays to start from the first.
const CALM: Duration = Duration::from_mins(2);

impl Default for Retries {
    fn default() -> Self {
        Self { delays: Backoff::new(Duration::from_millis(800), Duration::from_secs(10)), failed_at: None }
    }
}

impl Iterator for Retries {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.failed_at.replace(now).is_some_and(|last| now.duration_since(last) > CALM) {
            self.delays.reset();
        }
        Some(self.delays.delay())
    }
}

impl utils::Backoff for Retries {
    fn reset(&mut self) {}
}

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
        let events = watcher(api, watcher::Config::default())
            .backoff(Retries::default())
            .modify(prune)
            .reflect(writer);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_never_allowed_is_asked_for_six_times_a_minute() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let forbidding = tower::service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let status = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403});
            let answer = Response::builder().status(403).body(axum::body::Body::from(status.to_string()));
            async { answer }
        });
        let api: Api<Pod> = Api::namespaced(Client::new(forbidding, "shop"), "shop");
        let (dirty, cancel) = (Arc::new(Notify::new()), CancellationToken::new());
        let watched = Watched::start(api, "Pod", |_| {}, dirty.clone(), Arc::default(), cancel.clone());
        dirty.notified().await;
        assert_eq!(watched.problem(), Some(Problem::Forbidden));
        tokio::time::sleep(Duration::from_hours(1)).await;
        let asked = asked.load(Ordering::Relaxed);
        assert!((300..480).contains(&asked), "asked {asked} times in an hour");
        cancel.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_time_without_failure_the_first_delay_is_short_again() {
        let mut retries = Retries::default();
        let grown = (0..10).filter_map(|_| retries.next()).last().unwrap();
        assert!(grown >= Duration::from_secs(8), "{grown:?}");
        tokio::time::sleep(CALM * 2).await;
        let first = retries.next().unwrap();
        assert!(first < Duration::from_secs(1), "{first:?}");
    }
}
