//! One request to `pods/log`, from opening to its end.

use std::time::Duration;

use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Collected, Limited};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::client::Body;
use kube::core::{Request, Status};
use kube::{Client, Resource as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::lines::Lines;
use super::turns::Turn;
use super::{Clock, CloseReason, Container, Failure, LineSink, stamp};

/// How long the API server may take to begin its answer: the kubelet sends its headers at once, lines or none.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// What is read at most of an answer that is no log.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// How long the question for a line's stamp may take: the log's lines wait for the answer.
const STAMP_LIMIT: Duration = Duration::from_secs(5);

/// How much of a line is asked for, to have its stamp.
const STAMP_BYTES: i64 = 64;

/// The longest wait that the API server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Why a log could not be read.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Its kind.
    pub(super) what: Failure,
    /// The API server's words, or the network's.
    pub(super) message: String,
    /// How long the API server asks us to wait.
    pub(super) retry_after: Option<Duration>,
    /// The answer's status, if there was an answer.
    code: Option<u16>,
}

impl Refusal {
    /// A refusal without a wish for patience.
    pub(super) fn new(what: Failure, message: impl Into<String>) -> Self {
        Self { what, message: message.into(), retry_after: None, code: None }
    }

    /// What an API call has failed with.
    pub(super) fn from_error(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status.code, status.message),
            error => Self::new(Failure::Unreachable, error.to_string()),
        }
    }

    /// The kubelet's own refusals reach us as 400, with nothing but their words to tell them apart
    /// (`pkg/kubelet/kubelet_pods.go`, `validateContainerLogStatus`; `pkg/registry/core/pod/strategy.go`).
    fn from_status(code: u16, message: String) -> Self {
        let says = |words: &str| message.contains(words);
        let what = match code {
            401 | 403 => Failure::Forbidden,
            404 if says("container ") => Failure::ContainerMissing,
            404 => Failure::NotFound,
            429 => Failure::Throttled,
            400 if says("is waiting to start") || says("is not available") => Failure::Waiting,
            400 if says("is not valid for pod") => Failure::ContainerMissing,
            400 if says("not found") || says("cannot be found") || says("is terminated") => Failure::NotFound,
            _ => Failure::Server,
        };
        Self { code: Some(code), ..Self::new(what, message) }
    }

    /// Whether something about the request is not understood or not allowed.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.code, Some(400 | 422))
    }
}

/// Which log of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// The current instance's, and what it is going to write.
    Follow,
    /// All that the instance before it wrote.
    Previous,
}

/// Opens a container's log at `since`, which has no fraction of a second: it would be rounded up.
pub(super) async fn open(
    client: &Client,
    container: &Container,
    which: Which,
    since: Timestamp,
    is_stdout_alone: bool,
) -> Result<Body, Refusal> {
    let params = LogParams {
        container: Some(container.container.clone()),
        follow: which == Which::Follow,
        previous: which == Which::Previous,
        since_time: Some(since),
        timestamps: true,
        ..LogParams::default()
    };
    match timeout(OPEN_LIMIT, request(client, container, &params, is_stdout_alone)).await {
        Ok(answer) => answer,
        Err(_) => Err(Refusal::new(Failure::Unreachable, "no answer within 30 s")),
    }
}

/// One of the lines at which the log that the node still has begins and ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Edge {
    /// The first.
    First(Which),
    /// The last of the current instance's.
    Last,
}

/// The time stamp of the line at that edge: `None` when the request failed, `Some(None)` when the log is empty.
pub(super) async fn edge_stamp(
    client: &Client,
    container: &Container,
    edge: Edge,
) -> Option<Option<Timestamp>> {
    let params = LogParams {
        container: Some(container.container.clone()),
        previous: edge == Edge::First(Which::Previous),
        tail_lines: (edge == Edge::Last).then_some(1),
        limit_bytes: Some(STAMP_BYTES),
        timestamps: true,
        ..LogParams::default()
    };
    let read = async {
        let body = request(client, container, &params, false).await.ok()?;
        Limited::new(body, MAX_ERROR_BYTES).collect().await.ok().map(Collected::to_bytes)
    };
    let line = timeout(STAMP_LIMIT, read).await.ok()??;
    if line.is_empty() { Some(None) } else { stamp::split(&line).map(|(stamp, _)| Some(stamp)) }
}

/// Whether standard output can be read without standard error, which takes the feature gate `PodLogsQuerySplitStreams` on
/// the API server and the kubelet. (Kubelets before 1.32 don't know it, and send both without a word.)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Split {
    /// Nobody could say.
    Unknown,
    /// It can't.
    Unsupported,
    /// It can, but the container has written nothing to standard output: perhaps it logs to standard error.
    NotYet,
    /// It can, and it is where the container writes.
    Stdout,
}

/// Asks for a little of a container's standard output alone.
pub(super) async fn split(client: &Client, container: &Container) -> Split {
    let params = LogParams {
        container: Some(container.container.clone()),
        limit_bytes: Some(STAMP_BYTES),
        ..LogParams::default()
    };
    let read = async {
        let body = request(client, container, &params, true).await?;
        let failed = |_| Refusal::new(Failure::Unreachable, "the answer broke");
        Limited::new(body, MAX_ERROR_BYTES).collect().await.map(Collected::to_bytes).map_err(failed)
    };
    match timeout(STAMP_LIMIT, read).await {
        Ok(Ok(text)) if text.is_empty() => Split::NotYet,
        Ok(Ok(_)) => Split::Stdout,
        Ok(Err(refusal)) if refusal.is_invalid() => Split::Unsupported,
        Ok(Err(_)) | Err(_) => Split::Unknown,
    }
}

async fn request(
    client: &Client,
    container: &Container,
    params: &LogParams,
    is_stdout_alone: bool,
) -> Result<Body, Refusal> {
    let mut request = Request::new(Pod::url_path(&(), Some(&container.namespace)))
        .logs(&container.pod, params)
        .map_err(|error| Refusal::new(Failure::Server, error.to_string()))?;
    if is_stdout_alone {
        // kube has no parameter for it.
        let uri = format!("{}&stream=Stdout", request.uri());
        *request.uri_mut() =
            uri.parse().map_err(|_| Refusal::new(Failure::Server, "the log's address can't be written"))?;
    }
    let answer = client.send(request.map(Body::from)).await.map_err(Refusal::from_error)?;
    if answer.status() == StatusCode::OK { Ok(answer.into_body()) } else { Err(refusal(answer).await) }
}

async fn refusal(answer: Response<Body>) -> Refusal {
    let code = answer.status().as_u16();
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = timeout(OPEN_LIMIT, Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect()).await;
    let text = body.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice::<Status>(&text)
        .map_or_else(|_| String::from_utf8_lossy(&text).into_owned(), |status| status.message);
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    Refusal { retry_after, ..Refusal::from_status(code, message) }
}

/// Reads an open stream to its end. The flag says whether anything new came.
pub(super) async fn read(
    mut body: Body,
    mut turn: Turn,
    lines: &mut Lines,
    sink: &mut impl LineSink,
    patience: &mut Patience,
    lifetime: Duration,
    clock: &Clock,
) -> (CloseReason, bool) {
    let mut news = false;
    let mut heard = Instant::now();
    let dies = heard + lifetime;
    loop {
        let ends = (heard + patience.limit()).min(dies);
        let until = turn.ends(heard).map_or(ends, |caught_up| caught_up.min(ends));
        let frame = match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "log stream broke");
                return (CloseReason::Error, news);
            }
            Ok(None) => return (CloseReason::Eof, news),
            Err(_) if Instant::now() < ends => {
                turn.end();
                continue;
            }
            Err(_) => {
                let now = Instant::now();
                patience.heard(now - heard);
                return (if now >= dies { CloseReason::Lifetime } else { CloseReason::Idle }, news);
            }
        };
        let now = Instant::now();
        let pause = now - heard;
        patience.heard(pause);
        heard = now;
        if let Some(chunk) = frame.data_ref() {
            news |= lines.feed(chunk, clock(), sink);
            // A log that is behind has the next piece ready at once: the lease and the bans are to have their turn.
            tokio::task::yield_now().await;
        }
        turn.heard(now, pause, lines.newest());
        // A stream that never pauses lives no longer than another.
        if now >= dies {
            return (CloseReason::Lifetime, news);
        }
    }
}

/// How long a stream may be silent before its connection is taken for dead: three times its usual pause, and
/// between 30 s and two minutes.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The moving average of the pauses, in seconds.
    usual_secs: f64,
}

impl Patience {
    const LEAST: Duration = Duration::from_secs(30);
    const MOST: Duration = Duration::from_mins(2);

    fn limit(&self) -> Duration {
        Duration::try_from_secs_f64(3.0 * self.usual_secs)
            .unwrap_or(Self::MOST)
            .clamp(Self::LEAST, Self::MOST)
    }

    /// A long pause counts at once, so that a quiet log is not opened anew each half minute; short ones by and by.
    fn heard(&mut self, pause: Duration) {
        let pause = pause.as_secs_f64();
        self.usual_secs = if pause > self.usual_secs { pause } else { 0.9 * self.usual_secs + 0.1 * pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_a_quiet_log_and_wanes_with_a_busy_one() {
        let mut patience = Patience::default();
        assert_eq!(patience.limit(), Duration::from_secs(30));
        patience.heard(Duration::from_secs(30));
        assert_eq!(patience.limit(), Duration::from_secs(90));
        patience.heard(Duration::from_secs(90));
        assert_eq!(patience.limit(), Duration::from_mins(2));
        for _ in 0..100 {
            patience.heard(Duration::from_millis(10));
        }
        assert_eq!(patience.limit(), Duration::from_secs(30));
    }

    #[test]
    fn a_refusal_is_known_by_its_code_or_its_words() {
        #[rustfmt::skip]
        let table = [
            (403, "pods \"a\" is forbidden: cannot get resource \"pods/log\"",                          Failure::Forbidden),
            (404, "pods \"a\" not found",                                                               Failure::NotFound),
            (404, "container \"x\" not found in pod \"gw_a\"",                                          Failure::ContainerMissing),
            (429, "too many requests",                                                                  Failure::Throttled),
            (503, "service unavailable",                                                                Failure::Server),
            (400, "container \"x\" in pod \"a\" is waiting to start: ContainerCreating",                Failure::Waiting),
            (400, "container \"x\" in pod \"a\" is waiting to start: trying and failing to pull image", Failure::Waiting),
            (400, "container x is not valid for pod a",                                                 Failure::ContainerMissing),
            (400, "previous terminated container \"x\" in pod \"a\" not found",                         Failure::NotFound),
            (400, "something new",                                                                      Failure::Server),
        ];
        for (code, message, expect) in table {
            assert_eq!(Refusal::from_status(code, message.into()).what, expect, "{code} {message}");
        }
    }
}
