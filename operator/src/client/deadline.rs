//! A time limit for every request, whichever part of the API server or of a proxy in front of it has gone silent.
//!
//! A connection that is accepted and never answered is not dead to the kernel: keepalive and user time-out notice no
//! peer that acknowledges and does not speak. So an answer must begin within [`ANSWER`] and be complete within
//! [`WHOLE`]. Watches and logs go on for as long as they like once they have begun: who reads one notices its silence.

use std::time::Duration;

use axum::body::{Body as Answer, HttpBody};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use kube::client::Body;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Service, ServiceExt as _};

/// How long an answer may take to begin, connecting included.
pub const ANSWER: Duration = Duration::from_secs(30);
/// How long the whole of an answer may take that is neither a watch nor a log.
pub const WHOLE: Duration = Duration::from_mins(1);

/// A request took too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TooSlow {
    /// Nothing came at all.
    #[error("no answer within {} s", ANSWER.as_secs())]
    NoAnswer,
    /// The answer began and did not end.
    #[error("the answer was not complete within {} s", WHOLE.as_secs())]
    Unfinished,
}

/// Sends a request through `service` and holds the answer to its time limit.
pub(super) async fn limited<S, A>(service: S, request: Request<Body>) -> Result<Response<Answer>, BoxError>
where
    S: Service<Request<Body>, Response = Response<A>>,
    S::Error: Into<BoxError>,
    A: HttpBody<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    let began = Instant::now();
    let is_stream = is_stream(&request);
    let answered = timeout_at(began + ANSWER, service.oneshot(request)).await;
    let answer = answered.map_err(|_| TooSlow::NoAnswer)?.map_err(Into::into)?;
    Ok(answer.map(|body| {
        let body = Answer::new(body);
        if is_stream { body } else { until(began + WHOLE, body) }
    }))
}

/// Whether the answer goes on until one side ends it.
fn is_stream<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let is_watch = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
    is_watch || request.uri().path().ends_with("/log")
}

/// The body, as far as it comes before `end`.
fn until(end: Instant, body: Answer) -> Answer {
    let chunks = stream::try_unfold(body.into_data_stream(), move |mut chunks| async move {
        let next = timeout_at(end, chunks.next()).await.map_err(|_| BoxError::from(TooSlow::Unfinished))?;
        Ok::<_, BoxError>(next.transpose()?.map(|chunk| (chunk, chunks)))
    });
    Answer::from_stream(chunks)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;
    use tower::service_fn;

    use super::*;

    /// An answer that begins, and then neither goes on nor ends.
    fn half() -> Answer {
        let begun = stream::iter([Ok::<_, Infallible>("{\"items\": [")]);
        Answer::from_stream(begun.chain(stream::pending()))
    }

    fn get(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[test]
    fn only_watches_and_logs_may_go_on() {
        #[rustfmt::skip]
        let table = [
            ("/api/v1/pods?&limit=500",                       false),
            ("/api/v1/pods?&watch=true&timeoutSeconds=290",   true),
            ("/api/v1/pods?watch=1",                          true),
            ("/api/v1/pods?fieldSelector=watch%3Dtrue",       false),
            ("/api/v1/namespaces/a/pods/b/log?&follow=true",  true),
            ("/api/v1/namespaces/a/pods/b",                   false),
        ];
        for (path, expect) in table {
            assert_eq!(is_stream(&get(path)), expect, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_waits_for_ever_for_its_answer_to_begin() {
        for path in
            ["/api/v1/pods?&watch=true", "/api/v1/namespaces/a/pods/b/log?&follow=true", "/api/v1/nodes"]
        {
            let began = Instant::now();
            let never =
                service_fn(async |_| std::future::pending::<Result<Response<Answer>, Infallible>>().await);
            let error = limited(never, get(path)).await.unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&TooSlow::NoAnswer), "{path}");
            assert_eq!(began.elapsed(), ANSWER, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_falls_silent_ends_but_a_watch_goes_on() {
        let half = || service_fn(async |_| Ok::<_, Infallible>(Response::new(half())));
        let began = Instant::now();
        let answer = limited(half(), get("/api/v1/nodes")).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err();
        assert!(error.to_string().contains("not complete within 60 s"), "{error}");
        assert_eq!(began.elapsed(), WHOLE);

        let watch = limited(half(), get("/api/v1/nodes?&watch=true")).await.unwrap();
        let day = Duration::from_hours(24);
        assert!(tokio::time::timeout(day, watch.into_body().collect()).await.is_err());
    }
}
