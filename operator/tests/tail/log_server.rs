//! A kubelet and API server in this process: one pod with one container, whose log streams end as they are told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as Answer;
use bytes::Bytes;
use http::{Request, Response};
use ip_sentry_operator::tail::{Container, Ended, LineSink, StreamEvent, Tail, Turns};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

/// How a log stream goes. Byte counts are of the answer's body.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Breaks after so many bytes.
    Break(usize),
    /// Ends cleanly after so many bytes.
    End(usize),
    /// Falls silent after so many bytes, as a connection to a machine that is gone.
    Silence(usize),
    /// Is refused: status code, message, seconds to wait.
    Refuse(u16, &'static str, Option<u64>),
    /// Is asked for, and nothing ever comes.
    NoAnswer,
}

/// One run of the container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Its log, with what the kubelet puts in front.
    pub(crate) log: Vec<(Timestamp, Vec<u8>)>,
    pub(crate) began: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
}

#[derive(Default)]
pub(crate) struct State {
    /// The pod's uid; none when it is gone.
    pub(crate) uid: Option<String>,
    /// The container's runs so far; the log of the last but one is still there.
    pub(crate) runs: Vec<Run>,
    /// What the next streams do; afterwards all is well.
    pub(crate) scripts: VecDeque<Script>,
    /// The queries of the log requests.
    pub(crate) queries: Vec<String>,
    /// Whether standard output can be read alone.
    pub(crate) is_split: bool,
    /// How many times the pod was read.
    pub(crate) looks: usize,
}

#[derive(Clone)]
pub(crate) struct LogServer {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl LogServer {
    /// A running container that has logged `log`.
    pub(crate) fn new(log: Vec<(Timestamp, Vec<u8>)>) -> Self {
        let state =
            State { uid: Some("u1".into()), runs: vec![Run { log, ..Run::default() }], ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()) }
    }

    pub(crate) fn with_scripts(self, scripts: impl IntoIterator<Item = Script>) -> Self {
        self.change(|state| state.scripts.extend(scripts));
        self
    }

    /// Changes what there is; open streams notice.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = server.answer(request.uri().path(), request.uri().query().unwrap_or_default());
            async move {
                match answer {
                    Some(answer) => Ok::<_, BoxError>(answer),
                    None => std::future::pending().await,
                }
            }
        });
        Client::new(service, "gateway")
    }

    /// The answer to a request, unless there is none.
    fn answer(&self, path: &str, query: &str) -> Option<Response<Answer>> {
        let mut state = self.state.lock().unwrap();
        if !path.ends_with("/log") {
            state.looks += 1;
            let gone = || status(404, "pods \"nginx\" not found", None);
            return Some(state.pod().map_or_else(gone, |pod| json_answer(200, &pod)));
        }
        if query.contains("stream=Stdout") && !state.is_split {
            let message = "PodLogOptions \"nginx\" is invalid: stream: Forbidden: may not be specified";
            return Some(status(422, message, None));
        }
        let previous = query.contains("previous=true");
        if query.contains("limitBytes=64") {
            let run = state.runs.len().checked_sub(if previous { 2 } else { 1 }).map(|run| &state.runs[run]);
            let is_last = query.contains("tailLines=1");
            let line = run.and_then(|run| if is_last { run.log.last() } else { run.log.first() });
            let text = line.map(|(_, text)| text.clone()).unwrap_or_default();
            return Some(Response::new(Answer::from(text[..text.len().min(64)].to_vec())));
        }
        state.queries.push(query.into());
        let script = state.scripts.pop_front();
        match script {
            Some(Script::Refuse(code, message, wait)) => return Some(status(code, message, wait)),
            Some(Script::NoAnswer) => return None,
            _ => {}
        }
        let Some(run) = state.runs.len().checked_sub(if previous { 2 } else { 1 }) else {
            let message = "previous terminated container \"nginx\" in pod \"nginx\" not found";
            return Some(status(400, message, None));
        };
        let since =
            query.split('&').find_map(|pair| pair.strip_prefix("sinceTime=")).unwrap().replace("%3A", ":");
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().send(run, since.parse().unwrap(), !previous, script, sender));
        let stream = futures::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|chunk: Result<Bytes, &str>| (chunk, receiver))
        });
        Some(Response::new(Answer::from_stream(stream)))
    }

    /// Sends a run's log in odd chunks, then what is added to it, as the script says.
    async fn send(
        self,
        run: usize,
        since: Timestamp,
        follow: bool,
        script: Option<Script>,
        to: mpsc::Sender<Result<Bytes, &'static str>>,
    ) {
        let limit = match script {
            Some(Script::Break(bytes) | Script::End(bytes) | Script::Silence(bytes)) => bytes,
            _ => usize::MAX,
        };
        let mut changed = self.changed.subscribe();
        let (mut line, mut sent) = (0, 0);
        loop {
            let (text, over) = {
                let state = self.state.lock().unwrap();
                let run = &state.runs[run];
                // The kubelet compares each line with sinceTime, also those that come later.
                let lines = run.log[line..].iter().filter(|(stamp, _)| *stamp >= since);
                let text: Vec<u8> = lines.flat_map(|(_, text)| [text, &b"\n"[..]].concat()).collect();
                line = run.log.len();
                (text, run.ended.is_some() || !follow || state.uid.is_none())
            };
            for chunk in text[..text.len().min(limit - sent)].chunks(997.max(text.len() / 1_000)) {
                if to.send(Ok(Bytes::copy_from_slice(chunk))).await.is_err() {
                    return;
                }
                sent += chunk.len();
            }
            if sent == limit {
                match script {
                    Some(Script::Break(_)) => _ = to.send(Err("connection reset by peer")).await,
                    Some(Script::Silence(_)) => to.closed().await,
                    _ => {}
                }
                return;
            }
            if over {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = to.closed() => return,
            }
        }
    }
}

impl State {
    fn pod(&self) -> Option<Value> {
        let uid = self.uid.as_ref()?;
        let ended = |index: usize| {
            let run = self.runs.get(index)?;
            Some(json!({"terminated": {"containerID": format!("run-{index}"), "exitCode": 1,
                "finishedAt": run.ended?.to_string()}}))
        };
        let status = self.runs.len().checked_sub(1).map(|last| {
            let running = json!({"startedAt": self.runs[last].began.map(|began| began.to_string())});
            let state = ended(last).unwrap_or_else(|| json!({"running": running}));
            let before = last.checked_sub(1).and_then(ended).unwrap_or_else(|| json!({}));
            json!({"name": "nginx", "image": "", "imageID": "", "ready": true, "restartCount": last,
                "containerID": format!("run-{last}"), "state": state, "lastState": before})
        });
        Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nginx", "uid": uid},
            "spec": {"nodeName": "node-1", "containers": [{"name": "nginx"}]},
            "status": {"containerStatuses": status.into_iter().collect::<Vec<_>>()}}))
    }
}

fn json_answer(code: u16, body: &Value) -> Response<Answer> {
    Response::builder().status(code).body(Answer::from(body.to_string())).unwrap()
}

fn status(code: u16, message: &str, retry_after: Option<u64>) -> Response<Answer> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": if code == 404 { "NotFound" } else { "" }, "code": code});
    let mut answer = json_answer(code, &body);
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}

/// What a tail has handed over.
#[derive(Clone, Default)]
pub(crate) struct Record {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Clone, Default)]
pub(crate) struct Heard {
    pub(crate) lines: Vec<String>,
    /// When each was written.
    pub(crate) dated: Vec<Timestamp>,
    /// What happened, but for how far back the log goes.
    pub(crate) events: Vec<StreamEvent>,
    /// How far back the log goes, each time that it was told.
    pub(crate) reach: Vec<Timestamp>,
}

impl LineSink for Record {
    fn line(&mut self, at: Timestamp, line: &[u8]) {
        let mut heard = self.heard.lock().unwrap();
        heard.lines.push(String::from_utf8_lossy(line).into_owned());
        heard.dated.push(at);
    }

    fn event(&mut self, event: StreamEvent) {
        let mut heard = self.heard.lock().unwrap();
        match event {
            StreamEvent::ReachesBack { to } => heard.reach.push(to),
            event => heard.events.push(event),
        }
    }
}

/// A tail of the server's container that runs on a task of its own.
pub(crate) struct Following {
    record: Record,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<Ended>,
}

impl Following {
    /// Follows the log from `start` on, at a time long after all that is logged.
    pub(crate) fn start(server: &LogServer, start: Timestamp) -> Self {
        Self::start_at(server, start, || at(1_000_000_000_000))
    }

    /// Follows the log from `start` on, by that clock.
    pub(crate) fn start_at(
        server: &LogServer,
        start: Timestamp,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let container = Container {
            namespace: "gateway".into(),
            pod: "nginx".into(),
            uid: "u1".into(),
            container: "nginx".into(),
        };
        let (record, cancel) = (Record::default(), CancellationToken::new());
        let tail = Tail::new(server.client(), container, start, Turns::new(1)).with_clock(clock);
        Self { record: record.clone(), cancel: cancel.clone(), task: tokio::spawn(tail.run(record, cancel)) }
    }

    pub(crate) fn heard(&self) -> Heard {
        self.record.heard.lock().unwrap().clone()
    }

    /// Waits until what was heard is as it should be, at most `limit`. Returns it and how long that took.
    pub(crate) async fn until(&self, limit: Duration, is_so: impl Fn(&Heard) -> bool) -> (Heard, Duration) {
        let began = Instant::now();
        loop {
            let heard = self.heard();
            if is_so(&heard) {
                return (heard, began.elapsed());
            }
            let tail: Vec<_> = heard.lines.iter().rev().take(5).collect();
            assert!(
                began.elapsed() < limit,
                "not within {limit:?}: {} lines, {tail:?}, {:?}",
                heard.lines.len(),
                heard.events
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many lines have come, lets a minute pass in which more may, and returns all.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        self.until(Duration::from_mins(10), |heard| heard.lines.len() >= count).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        self.heard().lines
    }
}

/// A time in the test's day, in milliseconds.
pub(crate) fn at(milli: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + milli).unwrap()
}

/// A line as the kubelet sends it.
pub(crate) fn logged(milli: i64, text: &str) -> (Timestamp, Vec<u8>) {
    (at(milli), format!("{:.9} {text}", at(milli)).into_bytes())
}

/// Lines `0`, `1`, … at the given times.
pub(crate) fn numbered(times: impl IntoIterator<Item = i64>) -> Vec<(Timestamp, Vec<u8>)> {
    times.into_iter().enumerate().map(|(number, milli)| logged(milli, &number.to_string())).collect()
}

/// `0`, `1`, … up to `count`.
pub(crate) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}
