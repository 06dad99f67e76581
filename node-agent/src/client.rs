//! The connection to the API server.

use std::time::Duration;

use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{Client, Config, client::ConfigExt};
use tower::{BoxError, ServiceBuilder};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not in a cluster.
    #[error(
        "no API server: run in a pod with a service account's token (KUBERNETES_SERVICE_HOST and its files)"
    )]
    Config(#[from] kube::config::InClusterError),
    /// TLS or the token.
    #[error("the service account's certificate or token can't be used")]
    Setup(#[from] kube::Error),
}

/// A client for the cluster that this pod runs in, by its environment: on the host's network there may be no
/// cluster DNS.
pub fn in_cluster() -> Result<Client, ClientError> {
    new(&Config::incluster_env()?)
}

/// A client that notices a dead connection: a watch says nothing for minutes, and a peer that went away without
/// a word would never be missed. It does not repeat requests by itself either: every caller has its own way.
pub fn new(config: &Config) -> Result<Client, ClientError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(Duration::from_secs(10)));
    http.set_keepalive(Some(Duration::from_secs(30)));
    http.set_keepalive_interval(Some(Duration::from_secs(10)));
    http.set_keepalive_retries(Some(3));
    http.set_tcp_user_timeout(Some(Duration::from_mins(1)));
    let https = config.rustls_https_connector_with_connector(http)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(HyperClient::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}
