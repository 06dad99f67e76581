//! How the operator reaches the API server.
//!
//! Three clients with connections of their own: [`connect`] for watches and log streams, [`connect_writer`] for what
//! only the leader may do, and [`connect_lease`] for the lease alone, which must not wait behind anything else.
//!
//! Each answer tells the API server's time to a [`Clock`]. Otherwise they differ from kube's defaults in three ways.
//! A dead peer is noticed, by TCP keepalive and the kernel's user time-out: otherwise a log stream over a dead
//! connection hangs for ever, since kube sets no read time-out.
//! Every request has a time limit ([`deadline`]), since a peer may live and never answer.
//! And nothing is sent a second time behind the caller's back: kube's default sends a request that was answered
//! 429 or 503 up to 15 times over some minutes, so that a write would still go out long after the lease was lost.

pub mod deadline;

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

use crate::{
    clock::Clock,
    lease::{GatedStream, Leadership},
};

/// How much of an answer is read ahead: there is a connection for each log.
const MOST_BUFFERED: usize = 64 * 1024;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Neither the pod's environment nor a kubeconfig says where the API server is.
    #[error("found no API server: run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration names credentials or certificates that can't be used.
    #[error("the API server's configuration can't be used, check its certificates and credentials")]
    Credentials(#[from] kube::Error),
}

/// Where the API server is: the service account's environment in a pod, else the kubeconfig.
///
/// In a pod the address comes from the environment, never from cluster DNS, which may be down when it matters.
pub async fn config() -> Result<Config, ClientError> {
    Ok(Config::infer().await?)
}

/// The client for reading: lists, watches and log streams. A connection attempt takes at most 10 s.
pub fn connect(config: &Config, clock: &Clock) -> Result<Client, ClientError> {
    build(config, clock, Duration::from_secs(10), None)
}

/// The client for the lease alone. A connection attempt takes at most 2 s, [`crate::lease`] bounds each request.
pub fn connect_lease(config: &Config, clock: &Clock) -> Result<Client, ClientError> {
    build(config, clock, Duration::from_secs(2), None)
}

/// The client for what only the leader may do: it reads through `reader`, and writes only while this replica leads,
/// on connections that send nothing else and nothing late.
pub fn connect_writer(
    config: &Config,
    clock: &Clock,
    reader: Client,
    leadership: &Leadership,
) -> Result<Client, ClientError> {
    let writer = build(config, clock, Duration::from_secs(2), Some(leadership.clone()))?;
    Ok(leadership.gate_writes(reader, writer))
}

fn build(
    config: &Config,
    clock: &Clock,
    connect_timeout: Duration,
    gate: Option<Leadership>,
) -> Result<Client, ClientError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(Duration::from_mins(1)));
    let gated = tcp.map_response(move |tcp| TokioIo::new(GatedStream::new(tcp.into_inner(), gate.clone())));
    let tls = config.rustls_https_connector_with_connector(gated)?;
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .http1_max_buf_size(MOST_BUFFERED)
        .build::<_, Body>(tls);
    let clock = clock.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(tower::service_fn(move |request| {
            let (http, clock) = (http.clone(), clock.clone());
            async move {
                let answer = deadline::limited(http, request).await;
                answer.inspect(|answer| clock.hear(answer.headers()))
            }
        }));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::{
        Api,
        api::{ListParams, LogParams, WatchParams},
    };
    use tokio::{net::TcpListener, time::Instant};

    use super::{
        deadline::{ANSWER, TooSlow},
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_accepts_and_never_answers_is_noticed_whatever_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        let client = connect(&Config::new(url.parse().unwrap()), &Clock::default()).unwrap();
        let pods: Api<Pod> = Api::namespaced(client, "shop");
        let began = Instant::now();
        let (params, log) = (ListParams::default(), LogParams { follow: true, ..LogParams::default() });
        let errors = tokio::join!(
            async { pods.get("a").await.unwrap_err() },
            async { pods.list(&params).await.unwrap_err() },
            async { pods.watch(&WatchParams::default(), "0").await.err().unwrap() },
            async { pods.log_stream("a", &log).await.err().unwrap() },
        );
        for error in [errors.0, errors.1, errors.2, errors.3] {
            let kube::Error::Service(cause) = &error else { panic!("{error:?}") };
            assert_eq!(cause.downcast_ref(), Some(&TooSlow::NoAnswer));
        }
        assert!(began.elapsed() <= ANSWER + Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
