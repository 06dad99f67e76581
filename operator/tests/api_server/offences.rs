//! What is remembered of sources, over restarts and between two leaders.

use std::sync::Arc;

use ip_sentry_core::net::Source;
use ip_sentry_operator::{
    history::{shard_of, store::HistoryStore},
    metrics::Metrics,
};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    bans::{SOON, Server, server},
    control_plane::until,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A replica's memory, which has read all that there is.
async fn replica(server: &Server) -> (HistoryStore, DropGuard) {
    let cancel = CancellationToken::new();
    let (dirty, metrics) = (Arc::<Notify>::default(), Arc::<Metrics>::default());
    let store = HistoryStore::start(server.client.clone(), dirty, metrics, cancel.clone());
    until("the history is read", SOON, async || store.is_synced()).await;
    (store, cancel.drop_guard())
}

fn ends(store: &HistoryStore, source: Source) -> Vec<Timestamp> {
    store.with(|history| history.get(source).past.ends().collect())
}

#[tokio::test]
async fn the_ends_of_bans_that_two_leaders_wrote_down_outlive_both() {
    let Some(server) = server().await else { return };
    let source: Source = "203.0.113.77/32".parse().unwrap();
    {
        let ((one, _guard), (other, _other_guard)) = (replica(&server).await, replica(&server).await);
        one.with(|history| history.end(source, at(100)));
        other.with(|history| {
            history.end(source, at(100));
            history.end(source, at(200));
            history.lift(source, at(200));
        });
        let index = shard_of(source);
        let (first, second) = tokio::join!(one.write(index), other.write(index));
        // A lost race is tried again, as the leader does.
        for (result, store) in [(first, &one), (second, &other)] {
            if result.is_err() {
                store.write(index).await.unwrap();
            }
        }
        until("one leader hears of the other's", SOON, async || ends(&one, source).len() == 2).await;
    }
    let (later, _guard) = replica(&server).await;
    assert_eq!(ends(&later, source), [at(100), at(200)]);
    assert_eq!(later.with(|history| history.get(source).lifted_at), Some(at(200)));
}
