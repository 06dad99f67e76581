//! Keeps `ProtectedNetworks/cluster`: announces what is in force, and decides what the leader writes.
//!
//! [`Keeper`] only decides: in come the object as it is, what was found and the time, out comes the [`Write`] that is
//! due. [`perform`] makes it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_core::networks::Networks;
use ip_sentry_crd::{ProtectedNetworks, protected_networks::ProtectedNetworksStatus};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use super::{create, in_force, is_observed, select::Selection, status::status, write};

/// How long the object must be missing before it is created: who installs is about to create it, and would find the
/// name taken.
const MISSING: Duration = Duration::from_secs(10);

/// What the leader has to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The object, which is missing.
    Object,
    /// Its status.
    Status(ProtectedNetworksStatus),
}

/// What was found in the cluster.
pub struct Found<'a> {
    /// The networks.
    pub selection: &'a Selection<'a>,
    /// The kinds that can't be read though they must be.
    pub unread: &'a [&'static str],
}

/// What is known of the object between rounds.
pub struct Keeper {
    announce: watch::Sender<Arc<Networks>>,
    /// Since when there has been no object.
    missing_since: Option<Instant>,
}

impl Keeper {
    /// What is in force goes to `announce`.
    #[must_use]
    pub fn new(announce: watch::Sender<Arc<Networks>>) -> Self {
        Self { announce, missing_since: None }
    }

    /// Takes in the object as it is. Says whether it is known what is protected; until then nothing may be counted.
    pub fn read(&mut self, object: Option<&ProtectedNetworks>) -> bool {
        if let Some(object) = object
            && is_observed(object)
        {
            let networks = in_force(object);
            self.announce.send_if_modified(|known| {
                let differs = **known != networks;
                if differs {
                    *known = Arc::new(networks);
                }
                differs
            });
            return true;
        }
        !self.announce.borrow().is_empty()
    }

    /// What the leader has to write at `now`, which is `at` by the clock on the wall.
    pub fn due(
        &mut self,
        object: Option<&ProtectedNetworks>,
        found: &Found<'_>,
        now: Instant,
        at: Timestamp,
    ) -> Option<Write> {
        let Some(object) = object else {
            let since = *self.missing_since.get_or_insert(now);
            return (now.saturating_duration_since(since) >= MISSING).then_some(Write::Object);
        };
        self.missing_since = None;
        status(object, found.selection, found.unread, at).map(Write::Status)
    }
}

/// Writes what is due; `client` lets it through only while this replica leads.
pub async fn perform(client: &Client, due: &Write) -> Result<(), kube::Error> {
    match due {
        Write::Object => create(client).await,
        Write::Status(status) => write(client, status).await,
    }
}

#[cfg(test)]
mod tests {
    use ip_sentry_crd::protected_networks::ProtectedNetworksSpec;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_protected_is_known_once_it_was_observed_and_stays_known() {
        let (announce, protected) = watch::channel(Arc::default());
        let mut keeper = Keeper::new(announce);
        let selection =
            Selection { networks: vec!["10.99.0.11/32".parse().unwrap()], ..Selection::default() };
        let found = Found { selection: &selection, unread: &[] };
        let mut object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
        assert!(!keeper.read(None) && !keeper.read(Some(&object)));
        let Some(Write::Status(status)) = keeper.due(Some(&object), &found, Instant::now(), at(1)) else {
            panic!("the status is due")
        };
        object.status = Some(status);
        assert!(keeper.read(Some(&object)));
        assert!(protected.borrow().contains("10.99.0.11".parse().unwrap()));
        assert_eq!(keeper.due(Some(&object), &found, Instant::now(), at(2)), None);
        assert!(keeper.read(None), "an object that goes is no reason to forget what it said");
        assert!(protected.borrow().contains("10.99.0.11".parse().unwrap()));
    }

    #[test]
    fn the_object_is_created_once_it_has_been_missing_for_a_while() {
        let mut keeper = Keeper::new(watch::channel(Arc::default()).0);
        let selection = Selection::default();
        let found = Found { selection: &selection, unread: &[] };
        let object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
        let start = Instant::now();
        #[rustfmt::skip]
        let table = [
            // second, object is there, created
            (0,  false, false), (9,  false, false), (10, false, true),
            (11, true,  false), (12, false, false), (21, false, false), (22, false, true),
        ];
        for (second, is_there, created) in table {
            let now = start + Duration::from_secs(second);
            let due = keeper.due(is_there.then_some(&object), &found, now, at(0));
            assert_eq!(due == Some(Write::Object), created, "second {second}: {due:?}");
        }
    }
}
