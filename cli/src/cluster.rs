//! The logs of a policy's own pods, as the operator finds them; and what the cluster protects.
//!
//! Each pod's log is a stream of its own, in which the container runtime's stamp stands in front of each line. Nothing
//! is written to the cluster.

use std::{
    error::Error,
    io::{self, Read},
    iter,
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
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    args::ClusterArgs,
    input::{BytesRead, Lines, Log},
    output::{counted, in_words, tell},
};

/// Something to read, and the rule of a Role that lets somebody read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// What it is, in the plural.
    pub what: &'static str,
    /// The rule.
    pub rule: &'static str,
}

const PODS: Wanted = Wanted { what: "pods", rule: r#"{apiGroups: [""], resources: [pods], verbs: [list]}"# };
const LOGS: Wanted =
    Wanted { what: "logs of pods", rule: r#"{apiGroups: [""], resources: [pods/log], verbs: [get]}"# };
const SERVICES: Wanted =
    Wanted { what: "services", rule: r#"{apiGroups: [""], resources: [services], verbs: [list]}"# };
const GATEWAYS: Wanted = Wanted {
    what: "gateways",
    rule: "{apiGroups: [gateway.networking.k8s.io], resources: [gateways], verbs: [list]}",
};
const PROTECTED: Wanted = Wanted {
    what: "protectednetworks",
    rule: "{apiGroups: [ipsentry.dev], resources: [protectednetworks], verbs: [get]}",
};

/// Why the pods' logs can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No kubeconfig that says where the cluster is.
    #[error("--since reads the policy's pods, and needs a kubeconfig for that: {0}")]
    Config(String),
    /// The kubeconfig's credentials can't be used.
    #[error("the kubeconfig's certificates or credentials can't be used: {0}")]
    Credentials(String),
    /// No runtime for the connections.
    #[error("no connections can be made")]
    Runtime(#[source] io::Error),
    /// Who the kubeconfig names may not read something.
    #[error(
        "the kubeconfig's user may not read {} in namespace {namespace}: it is this user who reads with --since, not \
         the operator. Bind it to a Role of that namespace with the rule\n  - {}",
        wanted.what, wanted.rule
    )]
    Forbidden {
        /// What.
        wanted: Wanted,
        /// Where.
        namespace: String,
    },
    /// Something can't be read.
    #[error("the {what} of namespace {namespace} can't be read: {why}")]
    Read {
        /// What it is.
        what: String,
        /// Where.
        namespace: String,
        /// The API server's words, or the system's.
        why: String,
    },
    /// The policy's targets lead to no pods.
    #[error("{0}")]
    Targets(String),
}

impl ClusterError {
    /// A request for `what`, which is `wanted`, has failed.
    fn of(wanted: Wanted, what: impl Into<String>, namespace: &str, error: &kube::Error) -> Self {
        let namespace = namespace.to_owned();
        if is_answer(error, 403) {
            return Self::Forbidden { wanted, namespace };
        }
        Self::Read { what: what.into(), namespace, why: why(error) }
    }
}

fn is_answer(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// The API server's own words, or what is at the bottom of a failed connection.
fn why(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let first: &(dyn Error + 'static) = error;
    let last = iter::successors(Some(first), |error| (*error).source()).last();
    in_words(&last.unwrap_or(first).to_string())
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
        let config = config(args).await?;
        let namespace =
            args.namespace.clone().or_else(|| policy.namespace()).unwrap_or(config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ClusterError::Credentials(why(&error)))?;
        let containers = containers(&client, &namespace, policy).await?;
        let count = counted(containers.len() as u64, "container", "containers");
        tell(&format!("Reading the logs of {count} in namespace {namespace}.\n"));
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

async fn config(args: &ClusterArgs) -> Result<Config, ClusterError> {
    // Its messages quote paths twice.
    let failed = |error: KubeconfigError| {
        ClusterError::Config(in_words(&error.to_string()).replace("'\"", "").replace("\"'", ""))
    };
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig.map_err(failed)?, &options).await.map_err(failed)
}

/// The containers that the operator would read.
async fn containers(
    client: &Client,
    namespace: &str,
    policy: &ProbePolicy,
) -> Result<Vec<Container>, ClusterError> {
    let list = ListParams::default();
    let failed =
        |wanted: Wanted| move |error: kube::Error| ClusterError::of(wanted, wanted.what, namespace, &error);
    let targets = |kind| policy.spec.target_refs.iter().flatten().any(|target| target.kind == kind);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pods = shared(pods.list(&list).await.map_err(failed(PODS))?.items);
    // A right that the policy doesn't need isn't asked for.
    let services = if targets("Service") {
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        shared(services.list(&list).await.map_err(failed(SERVICES))?.items)
    } else {
        Vec::new()
    };
    let gateways = if targets("Gateway") {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &targets::gateways());
        match api.list(&list).await {
            Ok(gateways) => Ok(shared(gateways.items)),
            Err(error) if is_answer(&error, 404) => Err(Problem::NotInstalled),
            Err(error) => return Err(failed(GATEWAYS)(error)),
        }
    } else {
        Ok(Vec::new())
    };
    let inventory = Inventory {
        gateways: gateways.as_deref().map_err(|&problem| problem),
        services: &services,
        pods: Ok(&pods),
    };
    let resolved = targets::resolve(namespace, &policy.spec, &inventory);
    let is_resolved = resolved.finding.status == Some(true);
    if resolved.containers.is_empty() {
        let not_started =
            format!("no pod of the policy in namespace {namespace} has started: there is no log yet");
        return Err(ClusterError::Targets(if is_resolved { not_started } else { resolved.finding.message }));
    }
    if !is_resolved {
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
        Err(error) => {
            let Container { namespace, pod, container, .. } = container;
            let what = format!("log of pod {pod}, container {container},");
            Err(ClusterError::of(LOGS, what, namespace, &error))
        }
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
            let why = if is_answer(&error, 403) {
                format!("the kubeconfig's user needs the rule {} in a ClusterRole", PROTECTED.rule)
            } else {
                why(&error)
            };
            tell(&format!(
                "warning: what the cluster protects is not known, so bans of its own addresses may be listed: {why}\n"
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
