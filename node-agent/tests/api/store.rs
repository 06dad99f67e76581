//! An API server that keeps its objects: it lists them, lets them be watched from any version on, and fails by plan.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// What a request is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    List,
    Watch,
    /// Anything about a single object.
    Object,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// How long it takes longer.
    pub late: Duration,
    /// It is answered with this status and goes no further.
    pub refused: Option<u16>,
    /// Nobody answers: the connection can't be made.
    pub away: bool,
    /// A watch ends after so long, in the middle of an event if `breaks`.
    pub cut: Option<Duration>,
    pub breaks: bool,
}

type Plan = Box<dyn FnMut(Asked) -> Fault + Send>;

struct Event {
    version: u64,
    line: Bytes,
}

#[derive(Default)]
struct Content {
    /// By path of the kind, then by name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    events: BTreeMap<String, Vec<Event>>,
    version: u64,
    /// Watches from before this version are refused.
    remembered: u64,
    plan: Option<Plan>,
    seen: Vec<(Instant, Asked)>,
    /// Cancelled when the watches that are open break.
    open: CancellationToken,
}

/// The server.
#[derive(Clone)]
pub struct Store {
    content: Arc<Mutex<Content>>,
    changed: watch::Sender<()>,
}

const KINDS: &str = "/apis/ipsentry.dev/v1alpha1";

impl Store {
    pub fn new() -> Self {
        Self { content: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// Stores an object, or with `None` removes it.
    pub fn put(&self, kind: &str, name: &str, object: Option<Value>) {
        let mut content = self.content.lock().unwrap();
        content.version += 1;
        let (version, path) = (content.version, format!("{KINDS}/{kind}"));
        let objects = content.objects.entry(path.clone()).or_default();
        let (what, mut object) = match object {
            Some(object) if objects.contains_key(name) => ("MODIFIED", object),
            Some(object) => ("ADDED", object),
            None => ("DELETED", objects.remove(name).unwrap()),
        };
        object["metadata"]["name"] = name.into();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if what != "DELETED" {
            objects.insert(name.to_owned(), object.clone());
        }
        let line = format!("{}\n", json!({"type": what, "object": object})).into();
        content.events.entry(path).or_default().push(Event { version, line });
        drop(content);
        self.changed.send_replace(());
    }

    /// From now on the plan says what happens to each request.
    pub fn disturb(&self, plan: impl FnMut(Asked) -> Fault + Send + 'static) {
        self.content.lock().unwrap().plan = Some(Box::new(plan));
    }

    pub fn calm(&self) {
        self.content.lock().unwrap().plan = None;
    }

    /// Breaks every watch that is open.
    pub fn break_watches(&self) {
        std::mem::take(&mut self.content.lock().unwrap().open).cancel();
    }

    /// What happened up to now is forgotten: a watch from before must list again.
    pub fn forget(&self) {
        let mut content = self.content.lock().unwrap();
        content.version += 1;
        content.remembered = content.version;
    }

    /// The requests since `start`, with their times.
    pub fn seen_since(&self, start: Instant) -> Vec<(Instant, Asked)> {
        let content = self.content.lock().unwrap();
        content.seen.iter().copied().filter(|(at, _)| *at >= start).collect()
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let store = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let store = store.clone();
            async move { store.answer(request.uri()).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, uri: &http::Uri) -> Result<Response<axum::body::Body>, std::io::Error> {
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        let asked = match () {
            () if query.contains("watch=true") => Asked::Watch,
            () if path.rsplit_once('/').is_some_and(|(parent, _)| parent == KINDS) => Asked::List,
            () => Asked::Object,
        };
        let fault = {
            let mut content = self.content.lock().unwrap();
            content.seen.push((Instant::now(), asked));
            content.plan.as_mut().map(|plan| plan(asked)).unwrap_or_default()
        };
        tokio::time::sleep(fault.late).await;
        if fault.away {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        if let Some(code) = fault.refused {
            return Ok(status(code));
        }
        Ok(match asked {
            Asked::Object => answer(200, &json!({"metadata": {"name": "node-1"}, "spec": {}})),
            Asked::List => {
                let content = self.content.lock().unwrap();
                let items: Vec<&Value> =
                    content.objects.get(&path).into_iter().flat_map(BTreeMap::values).collect();
                let version = content.version.to_string();
                answer(
                    200,
                    &json!({"kind": "List", "items": items, "metadata": {"resourceVersion": version}}),
                )
            }
            Asked::Watch => {
                let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
                let since: u64 = since.unwrap().parse().unwrap();
                if since < self.content.lock().unwrap().remembered {
                    return Ok(status(410));
                }
                let (sender, pieces) = unbounded();
                tokio::spawn(self.clone().send(path, since, fault, sender));
                Response::new(axum::body::Body::from_stream(pieces))
            }
        })
    }

    /// Sends what happened after `since`, and then what happens, as long as the fault lets it.
    async fn send(
        self,
        kind: String,
        mut since: u64,
        fault: Fault,
        to: UnboundedSender<Result<Bytes, std::io::Error>>,
    ) {
        let mut changed = self.changed.subscribe();
        let open = self.content.lock().unwrap().open.clone();
        let end = Instant::now() + fault.cut.unwrap_or(Duration::from_hours(1));
        loop {
            let news: Vec<Bytes> = {
                let content = self.content.lock().unwrap();
                let events = content.events.get(&kind).into_iter().flatten();
                let news =
                    events.filter(|event| event.version > since).map(|event| event.line.clone()).collect();
                since = content.version;
                news
            };
            for line in news {
                if to.unbounded_send(Ok(line)).is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(end) => break,
                () = open.cancelled() => break,
            }
        }
        if fault.breaks {
            let _gone = to.unbounded_send(Ok(Bytes::from_static(b"{\"type\":\"ADDED\",\"obj")));
            let _gone = to.unbounded_send(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
    }
}

fn status(code: u16) -> Response<axum::body::Body> {
    answer(code, &json!({"kind": "Status", "status": "Failure", "code": code, "message": "by plan"}))
}

fn answer(code: u16, body: &Value) -> Response<axum::body::Body> {
    Response::builder().status(code).body(body.to_string().into()).unwrap()
}
