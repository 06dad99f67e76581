//! Keeps `ProtectedNetworks/cluster`: announces what is in force, and decides what the leader writes.
//!
//! [`Keeper`] only decides: in come the object as it is, what was found and the time, out comes the [`Write`] that is
//! due. [`Keeper::perform`] makes it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_core::networks::Networks;
use ip_sentry_crd::{
    MANAGED_BY, MANAGED_BY_LABEL, PROTECTED_NETWORKS, ProtectedNetworks,
    protected_networks::{ProtectedNetworksSpec, ProtectedNetworksStatus},
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

use super::{
    create, in_force, is_observed,
    select::Selection,
    status::{cidrs, status},
    write,
};

/// How long an object that was never seen must be missing before it is created: who installs is about to create it, and
/// would find the name taken.
const MISSING: Duration = Duration::from_secs(10);
/// How long a list that the API server refused is not tried again. Another one is, at once.
const REFUSED: Duration = Duration::from_secs(15);

/// What the leader has to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The object, which is missing.
    Object(Box<ProtectedNetworks>),
    /// Its status.
    Status(ProtectedNetworksStatus),
}

/// What was found in the cluster.
pub struct Found<'a> {
    /// The networks.
    pub selection: &'a Selection<'a>,
    /// The kinds that can't be read though they must be.
    pub unread: &'a [&'static str],
}

/// What is known of the object between rounds.
pub struct Keeper {
    /// The operator's own namespace.
    namespace: String,
    announce: watch::Sender<Arc<Networks>>,
    /// The object as it was last seen, to put it back when somebody deletes it.
    last_seen: Option<Arc<ProtectedNetworks>>,
    /// Since when there has been no object.
    missing_since: Option<Instant>,
    refusal: Option<Refusal>,
}

/// A list that the API server has refused.
struct Refusal {
    cidrs: Vec<String>,
    /// What it said.
    why: String,
    at: Instant,
}

impl Keeper {
    /// What is in force goes to `announce`; the operator runs in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, announce: watch::Sender<Arc<Networks>>) -> Self {
        let namespace = namespace.to_owned();
        Self { namespace, announce, last_seen: None, missing_since: None, refusal: None }
    }

    /// Takes in the object as it is. Says whether it is known what is protected; until then nothing may be counted.
    pub fn read(&mut self, object: Option<&Arc<ProtectedNetworks>>) -> bool {
        if let Some(object) = object {
            self.last_seen = Some(object.clone());
        }
        if let Some(object) = object
            && is_observed(object)
        {
            let networks = in_force(object);
            self.announce.send_if_modified(|known| {
                let differs = **known != networks;
                if differs {
                    *known = Arc::new(networks);
                }
                differs
            });
            return true;
        }
        !self.announce.borrow().is_empty()
    }

    /// What the leader has to write at `now`, which is `at` by the clock on the wall.
    pub fn due(
        &mut self,
        object: Option<&ProtectedNetworks>,
        found: &Found<'_>,
        now: Instant,
        at: Timestamp,
    ) -> Option<Write> {
        if let Some(object) = object {
            self.missing_since = None;
            let refusal = self.refusal.as_ref().filter(|refusal| {
                now.saturating_duration_since(refusal.at) < REFUSED && refusal.cidrs == cidrs(found.selection)
            });
            let why = refusal.map(|refusal| refusal.why.as_str());
            return status(object, found.selection, found.unread, why, at).map(Write::Status);
        }
        let since = *self.missing_since.get_or_insert(now);
        if let Some(last_seen) = &self.last_seen {
            return Some(Write::Object(Box::new(as_it_was(last_seen))));
        }
        (now.saturating_duration_since(since) >= MISSING).then(|| Write::Object(Box::new(empty())))
    }

    /// Takes in what became of a write. Says whether the API server refused a new list: then the status is due again,
    /// with the last list and with what the API server said.
    pub fn written(&mut self, due: &Write, error: Option<&kube::Error>, now: Instant) -> bool {
        let (Write::Status(status), Some(kube::Error::Api(refusal))) = (due, error) else { return false };
        let listed = self.last_seen.as_ref().and_then(|object| object.status.as_ref());
        let is_new = listed.map_or(&[][..], |listed| &listed.cidrs) != status.cidrs;
        // Webhooks refuse with 400, too. What else goes wrong is none of the list's.
        let is_refused = is_new && matches!(refusal.code, 400 | 403 | 422);
        if is_refused {
            let (cidrs, why) = (status.cidrs.clone(), refusal.message.clone());
            self.refusal = Some(Refusal { cidrs, why, at: now });
        }
        is_refused
    }

    /// Writes what is due, which `client` lets through only while this replica leads. Returns the uid of an object that
    /// this created.
    pub async fn perform(&self, client: &Client, due: &Write) -> Result<Option<String>, kube::Error> {
        match due {
            Write::Object(object) => {
                let mut object = ProtectedNetworks::clone(object);
                match home(Api::all(client.clone()).get(&self.namespace).await)? {
                    Home::Goes => return Ok(None),
                    Home::Stays(owner) => object.metadata.owner_references = Some(vec![owner]),
                    Home::Unknown => {}
                }
                create(client, &object).await
            }
            Write::Status(status) => write(client, status).await.map(|()| None),
        }
    }
}

/// The object with what people wrote into it. A pause ends with the object that said so: it is not the operator's to
/// begin one.
fn as_it_was(seen: &ProtectedNetworks) -> ProtectedNetworks {
    let spec = ProtectedNetworksSpec { paused_until: None, ..seen.spec.clone() };
    let mut object = ProtectedNetworks::new(PROTECTED_NETWORKS, spec);
    object.metadata.labels.clone_from(&seen.metadata.labels);
    object.metadata.annotations.clone_from(&seen.metadata.annotations);
    object
}

fn empty() -> ProtectedNetworks {
    let mut object = ProtectedNetworks::new(PROTECTED_NETWORKS, ProtectedNetworksSpec::default());
    object.labels_mut().insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    object
}

/// What becomes of the operator's own namespace.
#[derive(Debug, PartialEq)]
enum Home {
    /// It stays. An object that is put back belongs to it: where an uninstall deletes the object first and the
    /// namespace later, the garbage collector takes along what was put back in between.
    Stays(OwnerReference),
    /// It is being deleted or gone: ip-sentry is being uninstalled.
    Goes,
    /// The operator has no right to know.
    Unknown,
}

fn home(answer: Result<Namespace, kube::Error>) -> Result<Home, kube::Error> {
    match answer {
        Ok(namespace) if namespace.metadata.deletion_timestamp.is_some() => Ok(Home::Goes),
        Ok(namespace) => Ok(Home::Stays(OwnerReference {
            api_version: "v1".into(),
            kind: "Namespace".into(),
            name: namespace.name_any(),
            uid: namespace.uid().unwrap_or_default(),
            ..OwnerReference::default()
        })),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Home::Goes),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Home::Unknown),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object() -> ProtectedNetworks {
        ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default())
    }

    #[test]
    fn what_is_protected_is_known_once_it_was_observed_and_stays_known() {
        let (announce, protected) = watch::channel(Arc::default());
        let mut keeper = Keeper::new("ip-sentry", announce);
        let selection =
            Selection { networks: vec!["10.99.0.11/32".parse().unwrap()], ..Selection::default() };
        let found = Found { selection: &selection, unread: &[] };
        let mut object = object();
        assert!(!keeper.read(None) && !keeper.read(Some(&Arc::new(object.clone()))));
        let Some(Write::Status(status)) = keeper.due(Some(&object), &found, Instant::now(), at(1)) else {
            panic!("the status is due")
        };
        object.status = Some(status);
        assert!(keeper.read(Some(&Arc::new(object.clone()))));
        assert!(protected.borrow().contains("10.99.0.11".parse().unwrap()));
        assert_eq!(keeper.due(Some(&object), &found, Instant::now(), at(2)), None);
        assert!(keeper.read(None), "an object that goes is no reason to forget what it said");
        assert!(protected.borrow().contains("10.99.0.11".parse().unwrap()));
    }

    #[test]
    fn a_refused_list_is_told_at_once_and_tried_again_later_or_when_it_differs() {
        let networks =
            |text: &str| Selection { networks: vec![text.parse().unwrap()], ..Selection::default() };
        let [old, new, other] = ["10.99.0.11/32", "10.99.0.12/32", "10.99.0.13/32"].map(networks);
        let mut keeper = Keeper::new("ip-sentry", watch::channel(Arc::default()).0);
        let start = Instant::now();
        let mut object = object();
        let due =
            |keeper: &mut Keeper, object: &ProtectedNetworks, selection: &Selection<'_>, second: u64| {
                let now = start + Duration::from_secs(second);
                let due = keeper.due(Some(object), &Found { selection, unread: &[] }, now, at(1))?;
                let Write::Status(status) = due else { panic!("the object is there: {due:?}") };
                Some(status)
            };
        object.status = due(&mut keeper, &object, &old, 0);
        keeper.read(Some(&Arc::new(object.clone())));
        let answered =
            |code| kube::Error::Api(Box::new(Status { code, message: "no".into(), ..Status::default() }));
        let write = Write::Status(due(&mut keeper, &object, &new, 1).unwrap());
        for code in [404, 409, 429, 500, 503] {
            assert!(!keeper.written(&write, Some(&answered(code)), start), "{code} says nothing of the list");
        }
        assert!(!keeper.written(&write, None, start));
        assert!(keeper.written(&write, Some(&answered(422)), start));

        object.status = due(&mut keeper, &object, &new, 1);
        let told = object.status.clone().unwrap();
        assert_eq!(
            (told.cidrs, told.conditions[0].reason.as_str()),
            (vec!["10.99.0.11/32".into()], "Refused")
        );
        let write = Write::Status(object.status.clone().unwrap());
        assert!(!keeper.written(&write, Some(&answered(403)), start), "it has no new list");
        for (selection, second, expect) in [
            (&new, 14, None),
            (&new, 15, Some("10.99.0.12/32")),
            (&other, 14, Some("10.99.0.13/32")),
            (&old, 14, Some("10.99.0.11/32")),
        ] {
            let cidrs = due(&mut keeper, &object, selection, second).map(|status| status.cidrs.concat());
            assert_eq!(cidrs.as_deref(), expect, "after {second} s");
        }
    }

    #[test]
    fn an_object_that_was_never_seen_is_created_once_it_has_been_missing_for_a_while() {
        let mut keeper = Keeper::new("ip-sentry", watch::channel(Arc::default()).0);
        let selection = Selection::default();
        let found = Found { selection: &selection, unread: &[] };
        let start = Instant::now();
        for (second, created) in [(0, false), (9, false), (10, true), (11, true)] {
            let due = keeper.due(None, &found, start + Duration::from_secs(second), at(0));
            assert_eq!(due.is_some(), created, "second {second}: {due:?}");
        }
    }

    #[test]
    fn an_object_that_is_deleted_is_due_at_once_as_people_had_it() {
        let mut keeper = Keeper::new("ip-sentry", watch::channel(Arc::default()).0);
        let selection = Selection::default();
        let found = Found { selection: &selection, unread: &[] };
        let seen: ProtectedNetworks = serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProtectedNetworks",
            "metadata": {
                "name": "cluster", "uid": "u", "resourceVersion": "7", "labels": {"team": "edge"},
                "annotations": {"argocd.argoproj.io/tracking-id": "x"},
            },
            "spec": {
                "cidrs": ["203.0.113.0/24"], "failsafePorts": [{"port": 22}],
                "pausedUntil": "2026-11-22T10:00:00Z",
            },
            "status": {"cidrs": ["10.99.0.11/32"]},
        }))
        .unwrap();
        keeper.read(Some(&Arc::new(seen)));
        keeper.read(None);
        let Some(Write::Object(object)) = keeper.due(None, &found, Instant::now(), at(0)) else {
            panic!("the object is due")
        };
        assert_eq!(
            serde_json::to_value(&*object).unwrap(),
            json!({
                "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProtectedNetworks",
                "metadata": {
                    "name": "cluster", "labels": {"team": "edge"},
                    "annotations": {"argocd.argoproj.io/tracking-id": "x"},
                },
                "spec": {"cidrs": ["203.0.113.0/24"], "failsafePorts": [{"protocol": "TCP", "port": 22}]},
            })
        );
    }

    #[test]
    fn nothing_is_put_back_while_the_operators_namespace_goes() {
        let namespace = |deleted: Option<i64>| {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some("ip-sentry".into());
            namespace.metadata.uid = Some("u".into());
            namespace.metadata.deletion_timestamp = deleted.map(|second| Time(at(second)));
            Ok(namespace)
        };
        let refused = |code| Err(kube::Error::Api(Box::new(Status { code, ..Status::default() })));
        let Home::Stays(owner) = home(namespace(None)).unwrap() else { panic!("it stays") };
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()),
            ("Namespace", "ip-sentry", "u")
        );
        assert_eq!(owner.block_owner_deletion, None);
        assert_eq!(home(namespace(Some(1))).unwrap(), Home::Goes);
        assert_eq!(home(refused(404)).unwrap(), Home::Goes);
        assert_eq!(home(refused(403)).unwrap(), Home::Unknown);
        assert!(home(refused(500)).is_err(), "nobody knows, so it is tried again");
    }
}
