//! `ProtectedNetworks`: what is never banned, what banned sources reach all the same, and the leader's sign of life.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use ip_sentry_core::{
    enforce::rules::{Port, Protocol},
    net::Network,
};
use serde::Deserialize;
use tokio::sync::watch;

use super::kinds::{ItemError, Kind, LeanMetadata, Listing};
use crate::{
    heard::{Heard, Told},
    leader::Sign,
};

/// The one object that says what is never banned.
#[derive(Debug)]
pub struct Protected {
    /// It was there once.
    known: bool,
    /// What the leader found, as last heard.
    found: Found,
    sign: watch::Sender<Option<Sign>>,
}

impl Protected {
    /// The kind; what it hears of the leader goes to `sign`.
    #[must_use]
    pub fn new(sign: watch::Sender<Option<Sign>>) -> Self {
        Self { known: false, found: Found::default(), sign }
    }

    fn hear(&mut self, object: Object) -> Heard {
        let Object { mut told, found, observed_at } = object;
        self.known = true;
        // An object that somebody deleted and that was put back says nothing of the cluster until the leader has
        // looked: what it found before stays protected.
        if observed_at.is_some() {
            self.found = found;
        }
        told.networks.extend(&self.found.networks);
        told.api_servers.clone_from(&self.found.api_servers);
        self.hear_sign(observed_at);
        Heard::Protected(told)
    }

    fn hear_sign(&self, observed_at: Option<String>) {
        let now = tokio::time::Instant::now();
        self.sign.send_if_modified(|sign| Sign::hear(sign, observed_at, now));
    }
}

/// What the leader found of the cluster itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Found {
    networks: Vec<Network>,
    api_servers: Vec<SocketAddr>,
}

/// What is needed of the object.
#[derive(Debug)]
pub struct Object {
    /// What people wrote.
    told: Told,
    found: Found,
    observed_at: Option<String>,
}

#[derive(Deserialize)]
struct LeanProtected {
    metadata: LeanMetadata,
    #[serde(default)]
    spec: Option<LeanSpec>,
    #[serde(default)]
    status: Option<LeanStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeanSpec {
    #[serde(default)]
    cidrs: Vec<String>,
    #[serde(default)]
    paused_until: Option<String>,
    #[serde(default)]
    failsafe_ports: Vec<LeanPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeanStatus {
    #[serde(default)]
    cidrs: Vec<String>,
    #[serde(default)]
    api_servers: Vec<String>,
    #[serde(default)]
    observed_at: Option<String>,
}

#[derive(Deserialize)]
struct LeanPort {
    #[serde(default)]
    protocol: Option<String>,
    port: i64,
}

/// What the object says, or `None` for another object or one that is gone.
fn read(object: &[u8], gone: bool) -> Result<Option<Object>, ItemError> {
    let LeanProtected { metadata, spec, status } = serde_json::from_slice(object)?;
    if gone || metadata.name != ip_sentry_crd::PROTECTED_NETWORKS {
        return Ok(None);
    }
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    let networks = |cidrs: &[String]| -> Vec<Network> {
        cidrs.iter().filter_map(|text| readable(text, "network", network(text))).collect()
    };
    let servers = status.api_servers.iter();
    let found = Found {
        networks: networks(&status.cidrs),
        api_servers: servers
            .filter_map(|text| readable(text, "address with a port", text.parse().ok()))
            .collect(),
    };
    let told = Told {
        networks: networks(&spec.cidrs),
        api_servers: Vec::new(),
        failsafe: failsafe(&spec.failsafe_ports),
        paused_until: spec.paused_until.and_then(|text| readable(&text, "time", text.parse().ok())),
    };
    Ok(Some(Object { told, found, observed_at: status.observed_at }))
}

/// What was read from a text, or nothing and a warning: a slip in one must not end the protection by the others.
fn readable<T>(text: &str, what: &str, read: Option<T>) -> Option<T> {
    if read.is_none() {
        let text: String = text.chars().take(64).collect();
        tracing::warn!(text, "ProtectedNetworks/cluster: not a {what}, left out");
    }
    read
}

/// A network in any spelling.
fn network(text: &str) -> Option<Network> {
    let (address, prefix) =
        text.split_once('/').map_or((text, Ok(u8::MAX)), |(address, prefix)| (address, prefix.parse()));
    Some(Network::around(address.trim().parse().ok()?, prefix.ok()?))
}

fn failsafe(ports: &[LeanPort]) -> BTreeSet<Port> {
    let port = |port: &LeanPort| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(_) => return None,
        };
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0)?;
        Some(Port { protocol, number })
    };
    ports.iter().filter_map(|lean| readable(&lean.port.to_string(), "TCP or UDP port", port(lean))).collect()
}

/// A list of [`Protected`].
#[derive(Debug, Default)]
pub struct ProtectedList(Option<Object>);

impl Listing for ProtectedList {
    fn take(&mut self, item: &[u8]) -> Result<(), ItemError> {
        if let Some(object) = read(item, false)? {
            self.0 = Some(object);
        }
        Ok(())
    }
}

impl Kind for Protected {
    const PLURAL: &'static str = "protectednetworks";
    type Listing = ProtectedList;
    type Item = Option<Object>;

    fn listed(&mut self, list: ProtectedList, _: String) -> Vec<Heard> {
        match list.0 {
            Some(object) => vec![self.hear(object)],
            None if self.known => {
                warn_deleted();
                Vec::new()
            }
            None => {
                tracing::warn!(
                    "there is no ProtectedNetworks/cluster: only this node's own addresses are protected"
                );
                self.hear_sign(None);
                vec![Heard::Protected(Told::default())]
            }
        }
    }

    fn read(object: &[u8], gone: bool) -> Result<Self::Item, ItemError> {
        read(object, gone)
    }

    fn changed(&mut self, object: Self::Item, _: String, _: Instant) -> Option<Heard> {
        if object.is_none() {
            warn_deleted();
        }
        object.map(|object| self.hear(object))
    }
}

/// Deleting the object is most likely a mistake, and no reason to begin dropping what it protects.
fn warn_deleted() {
    tracing::warn!("ProtectedNetworks/cluster was deleted: what it listed stays protected until it is back");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_object_is_read_by_itself() {
        let object = br#"{
            "metadata": {"name": "cluster"},
            "spec": {
                "cidrs": ["198.51.100.9/24", "nonsense"],
                "pausedUntil": "2026-11-22T10:00:00Z",
                "failsafePorts": [{"port": 22}, {"protocol": "UDP", "port": 500}, {"protocol": "SCTP", "port": 1}, {"port": 0}]
            },
            "status": {"cidrs": ["10.0.0.0/8"], "apiServers": ["10.0.0.5:6443", "[fd00::5]:6443", "10.0.0.5"], "observedAt": "t"}
        }"#;
        let (sign, _) = watch::channel(None);
        let mut protected = Protected::new(sign);
        let observed_at = read(object, false).unwrap().unwrap().observed_at;
        let Heard::Protected(told) = protected.hear(read(object, false).unwrap().unwrap()) else {
            panic!("it tells what is protected")
        };
        let texts = |networks: &[Network]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&told.networks), ["198.51.100.0/24", "10.0.0.0/8"]);
        assert_eq!(told.paused_until, Some("2026-11-22T10:00:00Z".parse().unwrap()));
        let ports: Vec<String> = told.failsafe.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["TCP/22", "UDP/500"]);
        assert_eq!(told.api_servers, ["10.0.0.5:6443", "[fd00::5]:6443"].map(|text| text.parse().unwrap()));
        assert_eq!(observed_at.as_deref(), Some("t"));
        assert!(read(object, true).unwrap().is_none());

        let put_back = br#"{"metadata": {"name": "cluster"}, "spec": {"cidrs": ["198.51.100.0/25"]}}"#;
        let Heard::Protected(told) = protected.hear(read(put_back, false).unwrap().unwrap()) else {
            panic!("it tells what is protected")
        };
        assert_eq!(texts(&told.networks), ["198.51.100.0/25", "10.0.0.0/8"], "until the leader has looked");
        assert_eq!(told.api_servers.len(), 2);
    }
}
