//! The names of objects that changed since their consumer last looked.
//!
//! Many changes of one object are one entry, so what waits here is bounded by the number of objects, and a
//! consumer that is slow sees each object once, as it is then.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

/// Names from one producer to one consumer.
#[derive(Debug, Default)]
pub struct Changes {
    names: Mutex<BTreeSet<String>>,
    arrived: Notify,
}

impl Changes {
    /// The object of that name came, changed or went.
    pub fn add(&self, name: impl Into<String>) {
        self.extend([name.into()]);
    }

    /// All of these came, changed or went.
    pub fn extend(&self, names: impl IntoIterator<Item = String>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        self.arrived.notify_one();
    }

    /// What changed since the last call.
    pub fn take(&self) -> BTreeSet<String> {
        mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something has changed; a change since the last call of [`take`](Self::take) counts.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_changed_twice_is_looked_at_once() {
        let changes = Changes::default();
        changes.add("a");
        changes.extend(["b".to_owned(), "a".to_owned()]);
        changes.arrived().await;
        assert_eq!(changes.take(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(changes.take().is_empty());
    }
}
