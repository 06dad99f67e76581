//! Writes events: a new message becomes an object, a repeated one raises the count of the object that exists.
//!
//! The text is part of what makes two messages the same. kube's own recorder leaves it out: the eighth ban of a policy
//! would be told in the words of the first.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::What;

/// Who says it.
const CONTROLLER: &str = "ipsentry.dev/operator";
/// Where events on objects without a namespace live: the API server takes them nowhere else.
const CLUSTER_EVENTS: &str = "default";
/// For how long a repeated message raises the count of its event.
const SERIES: Duration = Duration::from_mins(6);
/// The most messages that are remembered for that.
const MOST_SERIES: usize = 1_000;
/// The longest text that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// What is to be said, and about what.
#[derive(Debug)]
pub(super) struct Message {
    /// What happened.
    pub(super) what: What,
    /// The same in words.
    pub(super) note: String,
    /// The object that it shows on.
    pub(super) regarding: ObjectReference,
    /// The other object that it concerns.
    pub(super) related: Option<ObjectReference>,
}

/// All that must be the same of two messages in one series.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    what: What,
    note: String,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

impl Key {
    fn of(message: &Message) -> Self {
        let ObjectReference { namespace, name, uid, .. } = message.regarding.clone();
        Self { what: message.what, note: message.note.clone(), namespace, name, uid }
    }
}

#[derive(Debug)]
struct Told {
    event: String,
    count: i32,
    at: Instant,
}

/// What has been said lately.
#[derive(Debug, Default)]
struct Series(HashMap<Key, Told>);

impl Series {
    /// The event that a message belongs to, and how often it has been said with this time; 1: `event` is to be made.
    fn count(&mut self, key: Key, event: String, now: Instant) -> (String, i32) {
        let is_live = |told: &Told| now.saturating_duration_since(told.at) < SERIES;
        if self.0.len() >= MOST_SERIES {
            self.0.retain(|_, told| is_live(told));
        }
        if self.0.len() >= MOST_SERIES {
            self.0.clear();
        }
        let told = self.0.entry(key).or_insert_with(|| Told { event: event.clone(), count: 0, at: now });
        if told.count > 0 && !is_live(told) {
            *told = Told { event, count: 0, at: now };
        }
        (told.count, told.at) = (told.count.saturating_add(1), now);
        (told.event.clone(), told.count)
    }
}

/// Writes events.
pub(super) struct Recorder {
    client: Client,
    instance: String,
    series: Mutex<Series>,
}

impl Recorder {
    /// `instance` is this pod's name.
    pub(super) fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.to_owned(), series: Mutex::default() }
    }

    /// Writes one message.
    pub(super) async fn record(&self, message: Message) -> Result<(), kube::Error> {
        let (now, key) = (Timestamp::now(), Key::of(&message));
        let name = message.regarding.name.as_deref().unwrap_or_default();
        let new = format!("{name}.{:x}", now.as_nanosecond());
        let (name, count) = self.series().count(key.clone(), new, Instant::now());
        let namespace = message.regarding.namespace.clone().unwrap_or_else(|| CLUSTER_EVENTS.to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let written = if count == 1 {
            let event = self.event(message, name, namespace, now);
            api.create(&PostParams::default(), &event).await.map(drop)
        } else {
            let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
            api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(series)).await.map(drop)
        };
        if written.is_err() {
            // The next message like this creates an event.
            self.series().0.remove(&key);
        }
        written
    }

    fn series(&self) -> std::sync::MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, message: Message, name: String, namespace: String, now: Timestamp) -> Event {
        let Message { what, mut note, regarding, related } = message;
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            event_time: Some(MicroTime(now)),
            type_: Some(if what.is_warning() { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(what.reason().to_owned()),
            action: Some(what.reason().to_owned()),
            note: Some(note),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(regarding),
            related,
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_of_one_text() {
        let start = Instant::now();
        let mut series = Series::default();
        let mut say = |note: &str, event: &str, after: Duration| {
            let regarding = ObjectReference { name: Some("gw".into()), ..ObjectReference::default() };
            let message = Message { what: What::IPBanned, note: note.into(), regarding, related: None };
            series.count(Key::of(&message), event.into(), start + after)
        };
        let second = Duration::from_secs(1);
        #[rustfmt::skip]
        let table = [
            // text          after         the event      time
            ("offence 1",    second,       ("a".into(),   1)),
            ("offence 8",    second,       ("b".into(),   1)),
            ("offence 1",    second * 2,   ("a".into(),   2)),
            ("offence 1",    SERIES,       ("a".into(),   3)),
            ("offence 1",    SERIES * 2,   ("e".into(),   1)),
        ];
        for ((note, after, expect), event) in table.into_iter().zip(["a", "b", "c", "d", "e"]) {
            assert_eq!(say(note, event, after), expect, "{note} after {after:?}");
        }
    }
}
