//! The offence history in the API: one `OffenceHistory` a shard, written by the leader, read by every replica.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use ip_sentry_crd::{
    FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, OffenceHistory,
    offence_history::{OffenceHistorySpec, Offences},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{History, SHARDS};
use crate::{lease::Deposed, metrics::Metrics, watch::Retries};

/// Why a shard was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another replica leads.
    #[error("not leading: the offence history is the leader's to write")]
    Deposed,
    /// The API server refused it or could not be reached.
    #[error("shard {name} of the offence history could not be written")]
    Write {
        /// The object.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// The history and its objects.
#[derive(Clone)]
pub struct HistoryStore {
    history: Arc<Mutex<History>>,
    /// The version of each shard's object that was last read or written.
    versions: Arc<Mutex<Vec<Option<String>>>>,
    api: Api<OffenceHistory>,
    synced: watch::Receiver<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(index: usize) -> String {
    format!("shard-{index:02}")
}

fn index_of(name: &str) -> Option<usize> {
    let index = name.strip_prefix("shard-")?.parse().ok()?;
    (index < SHARDS).then_some(index)
}

impl HistoryStore {
    /// Starts reading; `client` lets writes through only while this replica leads.
    pub fn start(
        client: Client,
        dirty: Arc<Notify>,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Self {
        let (announce, synced) = watch::channel(false);
        let versions = Arc::new(Mutex::new(vec![None; SHARDS]));
        let store = Self { history: Arc::default(), versions, api: Api::all(client.clone()), synced };
        let reading = store.clone();
        let api: Api<DeserializeGuard<OffenceHistory>> = Api::all(client);
        tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).backoff(Retries::default());
            let mut events = std::pin::pin!(events.take_until(cancel.cancelled_owned()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => match object.0 {
                        Ok(object) => reading.take_in(&object),
                        Err(error) => {
                            Metrics::count(&metrics.unreadable, "OffenceHistory");
                            tracing::warn!(%error, "an OffenceHistory can't be read");
                        }
                    },
                    Ok(watcher::Event::InitDone) => {
                        announce.send_replace(true);
                        dirty.notify_one();
                    }
                    // Who deletes a shard wants its offences forgotten at the next start, not bans to change now.
                    Ok(watcher::Event::Init | watcher::Event::Delete(_)) => {}
                    Err(error) => {
                        Metrics::count(&metrics.watch_errors, "OffenceHistory");
                        tracing::debug!(%error, "the offence history can't be watched");
                    }
                }
            }
        });
        store
    }

    fn take_in(&self, object: &OffenceHistory) {
        let entries = &object.spec.entries;
        let unreadable = self.with(|history| history.read(entries));
        if unreadable > 0 {
            tracing::warn!(shard = object.name_any(), unreadable, "entries can't be read");
        }
        if let Some(index) = index_of(&object.name_any()) {
            lock(&self.versions)[index] = object.resource_version();
            self.with(|history| history.stored(index, entries));
        }
    }

    /// Whether all that was ever written has been read.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Reads or changes the table.
    pub fn with<T>(&self, f: impl FnOnce(&mut History) -> T) -> T {
        f(&mut lock(&self.history))
    }

    /// Writes shard `index`, if it changed.
    pub async fn write(&self, index: usize) -> Result<(), StoreError> {
        if !self.with(|history| history.is_dirty(index)) {
            return Ok(());
        }
        let name = name_of(index);
        let written = self.write_merged(index, &name).await;
        if written.is_err() {
            self.with(|history| history.soil(index));
        }
        written.map_err(|source| {
            if Deposed::is_cause_of(&source) {
                StoreError::Deposed
            } else {
                StoreError::Write { name, source: Box::new(source) }
            }
        })
    }

    /// Writes all that is known over the version that was last read. When another leader has written meanwhile, what
    /// it wrote is read first: nothing is ever lost.
    async fn write_merged(&self, index: usize, name: &str) -> Result<(), kube::Error> {
        const TRIES: usize = 5;
        let mut version = lock(&self.versions)[index].clone();
        let mut last = None;
        for _ in 0..TRIES {
            let entries = self.with(|history| {
                history.clean(index);
                history.shard(index)
            });
            match self.write_over(version, name, entries).await {
                Ok(written) => {
                    lock(&self.versions)[index] = written;
                    return Ok(());
                }
                Err(error) if is_outdated(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
            let stored = self.api.get_opt(name).await?;
            if let Some(stored) = &stored {
                self.with(|history| history.read(&stored.spec.entries));
            }
            version = stored.and_then(|stored| stored.resource_version());
        }
        last.map_or(Ok(()), Err)
    }

    /// Makes the shard's object, or changes this version of it. Returns the new version.
    async fn write_over(
        &self,
        version: Option<String>,
        name: &str,
        entries: Vec<Offences>,
    ) -> Result<Option<String>, kube::Error> {
        let field_manager = Some(FIELD_MANAGER.into());
        if version.is_none() {
            let mut object = OffenceHistory::new(name, OffenceHistorySpec { entries });
            object.labels_mut().insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
            let params = PostParams { field_manager, ..PostParams::default() };
            return Ok(self.api.create(&params, &object).await?.resource_version());
        }
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"entries": entries}});
        let params = PatchParams { field_manager, ..PatchParams::default() };
        Ok(self.api.patch_metadata(name, &params, &Patch::Merge(patch)).await?.resource_version())
    }
}

/// Whether the object is not what it was taken for: changed (409), there already (409) or gone (404).
fn is_outdated(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}
