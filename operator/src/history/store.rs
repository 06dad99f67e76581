//! The offence history in the API: one `OffenceHistory` a shard, written by the leader, read by every replica.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use ip_sentry_crd::{
    FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, OffenceHistory, offence_history::OffenceHistorySpec,
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

use super::{History, shard_of};
use crate::{lease::Deposed, metrics::Metrics};

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
    api: Api<OffenceHistory>,
    synced: watch::Receiver<bool>,
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
        let store = Self { history: Arc::default(), api: Api::all(client.clone()), synced };
        let history = store.history.clone();
        let api: Api<DeserializeGuard<OffenceHistory>> = Api::all(client);
        tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events.take_until(cancel.cancelled_owned()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => match object.0 {
                        Ok(object) => {
                            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
                            let unreadable = history.read(&object.spec.entries);
                            if unreadable > 0 {
                                tracing::warn!(
                                    shard = object.name_any(),
                                    unreadable,
                                    "entries can't be read"
                                );
                            }
                        }
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

    /// Whether all that was ever written has been read.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Reads or changes the table.
    pub fn with<T>(&self, f: impl FnOnce(&mut History) -> T) -> T {
        f(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes every shard that changed. The others are tried even when one fails; the first error returns.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for index in self.with(|history| history.dirty()) {
            let written = self.write(index).await;
            result = result.and(written);
        }
        result
    }

    /// Writes the shard of `source`, if it changed.
    pub async fn flush_shard_of(&self, source: ip_sentry_core::net::Source) -> Result<(), StoreError> {
        let index = shard_of(source);
        if self.with(|history| history.dirty().contains(&index)) { self.write(index).await } else { Ok(()) }
    }

    async fn write(&self, index: usize) -> Result<(), StoreError> {
        let name = format!("shard-{index:02}");
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

    /// Read, merge, write what was read at that version: what another leader wrote meanwhile is never lost.
    async fn write_merged(&self, index: usize, name: &str) -> Result<(), kube::Error> {
        const TRIES: usize = 5;
        let mut last = None;
        for _ in 0..TRIES {
            let stored = self.api.get_opt(name).await?;
            let entries = self.with(|history| {
                if let Some(stored) = &stored {
                    history.read(&stored.spec.entries);
                }
                history.clean(index);
                history.shard(index)
            });
            let written = match stored {
                None => {
                    let mut object = OffenceHistory::new(name, OffenceHistorySpec { entries });
                    object.labels_mut().insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
                    let params =
                        PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
                    self.api.create(&params, &object).await
                }
                Some(stored) => {
                    let patch = json!({
                        "metadata": {"resourceVersion": stored.metadata.resource_version},
                        "spec": {"entries": entries},
                    });
                    let params =
                        PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                    self.api.patch(name, &params, &Patch::Merge(patch)).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error @ kube::Error::Api(_)) if is_conflict(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(()), Err)
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
