//! The logs of a policy's own pods, as the operator finds them; and what the cluster protects.
//!
//! Each pod's log is a stream of its own, in which the container runtime's stamp stands in front of each line. Nothing
//! is written to the cluster.

use std::{
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{AsyncBufRead, AsyncReadExt as _};
use ip_sentry_core::net::Network;
use ip_sentry_crd::{
    PROTECTED_NETWORKS, ProbePolicy, ProtectedNetworks,
    targets::{self, Container, Inventory, Problem},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DynamicObject, ListParams, LogParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    args::ClusterArgs,
    input::{BytesRead, Lines, Log},
    output::tell,
};

/// Why the pods' logs can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No kubeconfig that says where the cluster is.
    #[error("--since reads the policy's pods, and needs a kubeconfig for that")]
    Config(#[from] kube::config::KubeconfigError),
    /// The kubeconfig's credentials can't be used.
    #[error("the kubeconfig's certificates or credentials can't be used")]
    Credentials(#[source] Box<kube::Error>),
    /// No runtime for the connections.
    #[error("no connections can be made")]
    Runtime(#[source] io::Error),
    /// Something can't be listed.
    #[error("the {what} of namespace {namespace} can't be listed")]
    List {
        /// Their kind, in the plural.
        what: &'static str,
        /// Where.
        namespace: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// The policy's targets lead to no pods.
    #[error("{0}")]
    Targets(String),
    /// A pod's log can't be opened.
    #[error("the log of pod {pod}, container {container}, can't be read")]
    Log {
        /// The pod's name.
        pod: String,
        /// The container's name.
        container: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The logs of a policy's pods.
pub struct Pods {
    /// Each container's log.
    pub logs: Vec<Log>,
    /// What the cluster protects.
    pub protected: Vec<Network>,
}

/// Opens the logs of the pods that a policy is about, of the last `since`.
pub fn open(
    policy: &ProbePolicy,
    since: Duration,
    args: &ClusterArgs,
    bytes_read: &BytesRead,
) -> Result<Pods, ClusterError> {
    // Connections are served on a thread of their own, so that no pod's stalls while another's is read.
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(ClusterError::Runtime)?;
    let runtime = Arc::new(runtime);
    runtime.block_on(async {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await?;
        let namespace =
            args.namespace.clone().or_else(|| policy.namespace()).unwrap_or(config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ClusterError::Credentials(Box::new(error)))?;
        let containers = containers(&client, &namespace, policy).await?;
        tell(&format!("Reading the logs of {} containers in namespace {namespace}.\n", containers.len()));
        let mut logs = Vec::with_capacity(containers.len());
        for container in &containers {
            let log = follow(&client, container, since).await?;
            let reader = PodLog { runtime: runtime.clone(), log, bytes_read: bytes_read.clone() };
            let name = format!("pod {}, container {}", container.pod, container.container);
            let reader: Box<dyn Read> = Box::new(reader);
            logs.push(Log { name, lines: Lines::new(reader) });
        }
        Ok(Pods { logs, protected: protected(&client).await })
    })
}

/// The containers that the operator would read.
async fn containers(
    client: &Client,
    namespace: &str,
    policy: &ProbePolicy,
) -> Result<Vec<Container>, ClusterError> {
    let list = ListParams::default();
    let failed = |what| {
        move |source| ClusterError::List { what, namespace: namespace.to_owned(), source: Box::new(source) }
    };
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&list).await.map_err(failed("pods"))?;
    let services = Api::<Service>::namespaced(client.clone(), namespace)
        .list(&list)
        .await
        .map_err(failed("services"))?;
    let gateways = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &targets::gateways());
    let gateways = match gateways.list(&list).await {
        Ok(gateways) => Ok(shared(gateways.items)),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Problem::NotInstalled),
        // Only a policy on a Gateway needs them.
        Err(_) => Err(Problem::Forbidden),
    };
    let (pods, services) = (shared(pods.items), shared(services.items));
    let inventory = Inventory {
        gateways: gateways.as_deref().map_err(|&problem| problem),
        services: &services,
        pods: Ok(&pods),
    };
    let resolved = targets::resolve(namespace, &policy.spec, &inventory);
    if resolved.containers.is_empty() {
        return Err(ClusterError::Targets(resolved.finding.message));
    }
    if resolved.finding.status != Some(true) {
        tell(&format!("warning: {}\n", resolved.finding.message));
    }
    Ok(resolved.containers.into_iter().collect())
}

fn shared<T>(items: Vec<T>) -> Vec<Arc<T>> {
    items.into_iter().map(Arc::new).collect()
}

async fn follow(
    client: &Client,
    container: &Container,
    since: Duration,
) -> Result<Pin<Box<dyn AsyncBufRead>>, ClusterError> {
    let params = LogParams {
        container: Some(container.container.clone()),
        since_seconds: Some(i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
        timestamps: true,
        ..LogParams::default()
    };
    let pods = Api::<Pod>::namespaced(client.clone(), &container.namespace);
    match pods.log_stream(&container.pod, &params).await {
        Ok(log) => Ok(Box::pin(log)),
        Err(source) => Err(ClusterError::Log {
            pod: container.pod.clone(),
            container: container.container.clone(),
            source: Box::new(source),
        }),
    }
}

/// What the cluster protects; where that can't be read, it is said and nothing is.
async fn protected(client: &Client) -> Vec<Network> {
    match Api::<ProtectedNetworks>::all(client.clone()).get(PROTECTED_NETWORKS).await {
        Ok(object) => {
            let found = object.status.map(|status| status.cidrs).unwrap_or_default();
            object.spec.cidrs.iter().chain(&found).filter_map(|text| text.parse().ok()).collect()
        }
        Err(error) => {
            tell(&format!(
                "warning: what the cluster protects is not known, so bans of its own addresses may be listed: {error}\n"
            ));
            Vec::new()
        }
    }
}

/// A pod's log as a file.
struct PodLog {
    runtime: Arc<Runtime>,
    log: Pin<Box<dyn AsyncBufRead>>,
    bytes_read: BytesRead,
}

impl Read for PodLog {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.runtime.block_on(self.log.read(buffer))?;
        self.bytes_read.add(count);
        Ok(count)
    }
}
