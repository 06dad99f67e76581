//! How the operator reaches the API server.
//!
//! Three clients with connections of their own: [`connect`] for watches and log streams, [`connect_writer`] for what
//! only the leader may do, and [`connect_lease`] for the lease alone, which must not wait behind anything else.
//!
//! All differ from kube's defaults in two ways.
//! A dead peer is noticed, by TCP keepalive and the kernel's user time-out: otherwise a log stream over a dead
//! connection hangs for ever, since kube sets no read time-out.
//! And nothing is sent a second time behind the caller's back: kube's default sends a request that was answered
//! 429 or 503 up to 15 times over some minutes, so that a write would still go out long after the lease was lost.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

use crate::lease::{GatedStream, Leadership};

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
pub fn connect(config: &Config) -> Result<Client, ClientError> {
    build(config, Duration::from_secs(10), None)
}

/// The client for the lease alone. A connection attempt takes at most 2 s, [`crate::lease`] bounds each request.
pub fn connect_lease(config: &Config) -> Result<Client, ClientError> {
    build(config, Duration::from_secs(2), None)
}

/// The client for what only the leader may do: it reads through `reader`, and writes only while this replica leads,
/// on connections that send nothing else and nothing late.
pub fn connect_writer(
    config: &Config,
    reader: Client,
    leadership: &Leadership,
) -> Result<Client, ClientError> {
    let writer = build(config, Duration::from_secs(2), Some(leadership.clone()))?;
    Ok(leadership.gate_writes(reader, writer))
}

fn build(
    config: &Config,
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
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build::<_, Body>(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
