//! Which policies count and which logs are read, within the process's bounds.
//!
//! Pure: what exists comes in, what should run comes out. The same comes out on every replica.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ip_sentry_crd::{ProbePolicy, probe_policy::ProbePolicySpec, targets::Resolved};
use kube::ResourceExt as _;

use crate::{
    policies::{Policies, PolicyJail, PolicyKey},
    tail::Container,
};

/// What should run.
#[derive(Default)]
pub struct Desired {
    /// The logs to read, with the policies that read each.
    pub streams: HashMap<Container, Vec<Arc<PolicyJail>>>,
    /// The targets of each policy, as far as they are known.
    pub resolved: BTreeMap<PolicyKey, Resolved>,
    /// How many logs are left out, because there are too many.
    pub left_out: usize,
}

/// Finds what should run; `resolve` says what a policy's targets are, if that is known. Of more than `most` logs each
/// namespace has as many read as any other, those first whose pods come first by name.
#[must_use]
pub fn desired(
    policies: &Policies,
    most: usize,
    resolve: impl Fn(&str, &ProbePolicySpec) -> Option<Resolved>,
) -> Desired {
    let mut desired = Desired::default();
    let mut readers: BTreeMap<&str, BTreeMap<Container, Vec<Arc<PolicyJail>>>> = BTreeMap::new();
    for (key, entry) in policies.iter() {
        let (Some(spec), Some(jail)) = (&entry.spec, &entry.jail) else { continue };
        let Some(resolved) = resolve(&key.namespace, spec) else { continue };
        let logs = readers.entry(&key.namespace).or_default();
        for container in &resolved.containers {
            logs.entry(container.clone()).or_default().push(jail.clone());
        }
        desired.resolved.insert(key.clone(), resolved);
    }
    let groups = readers.into_values().map(BTreeMap::into_iter).collect();
    let mut turns = in_turns(groups);
    desired.streams = turns.by_ref().take(most).collect();
    desired.left_out = turns.count();
    desired
}

/// The policies that may count, and those that are too many. Of more than `most` each namespace has as many as any other,
/// the oldest first.
#[must_use]
pub fn admitted(objects: &[ProbePolicy], most: usize) -> (Vec<&ProbePolicy>, Vec<&ProbePolicy>) {
    let mut namespaces: BTreeMap<Option<String>, Vec<&ProbePolicy>> = BTreeMap::new();
    for object in objects {
        namespaces.entry(object.namespace()).or_default().push(object);
    }
    for of_namespace in namespaces.values_mut() {
        of_namespace
            .sort_by_cached_key(|object| (object.creation_timestamp().map(|time| time.0), object.name_any()));
    }
    let mut turns = in_turns(namespaces.into_values().map(Vec::into_iter).collect());
    let admitted = turns.by_ref().take(most).collect();
    (admitted, turns.collect())
}

/// One of each group, then another of each, until there are no more.
fn in_turns<I: Iterator>(mut groups: Vec<I>) -> impl Iterator<Item = I::Item> {
    let mut turn = 0;
    std::iter::from_fn(move || {
        while !groups.is_empty() {
            turn %= groups.len();
            if let Some(item) = groups[turn].next() {
                turn += 1;
                return Some(item);
            }
            groups.remove(turn);
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, created: i64) -> ProbePolicy {
        let created = Timestamp::from_second(created).unwrap().to_string();
        serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": name, "namespace": namespace, "uid": name, "generation": 1, "creationTimestamp": created},
            "spec": {"podSelector": {}},
        }))
        .unwrap()
    }

    fn pods(namespace: &str, count: usize) -> Resolved {
        let container = |number: usize| Container {
            namespace: namespace.into(),
            pod: format!("gw-{number}"),
            uid: number.to_string(),
            container: "nginx".into(),
        };
        Resolved { containers: (0..count).map(container).collect(), ..Resolved::unknown() }
    }

    #[test]
    fn one_log_is_read_once_however_many_policies_read_it() {
        let mut policies = Policies::default();
        let objects = [object("web", "a", 0), object("web", "b", 0), object("shop", "c", 0)];
        policies.update(&objects.each_ref(), usize::MAX, &[], Timestamp::UNIX_EPOCH);
        let desired = desired(&policies, 100, |namespace, _| (namespace == "web").then(|| pods("web", 2)));
        assert_eq!(desired.streams.len(), 2);
        assert!(desired.streams.values().all(|jails| jails.len() == 2));
        assert_eq!(desired.resolved.len(), 2, "what is not known of shop is not told either");
    }

    #[test]
    fn a_namespace_with_many_pods_takes_no_log_from_one_with_few() {
        let mut policies = Policies::default();
        let objects = [object("big", "a", 0), object("small", "b", 0)];
        policies.update(&objects.each_ref(), usize::MAX, &[], Timestamp::UNIX_EPOCH);
        let count = |namespace: &str| if namespace == "big" { 50 } else { 3 };
        for (most, big, small) in [(100, 50, 3), (20, 17, 3), (4, 2, 2), (0, 0, 0)] {
            let desired = desired(&policies, most, |namespace, _| Some(pods(namespace, count(namespace))));
            assert_eq!(desired.left_out, 53 - big - small, "at most {most}");
            let read = |namespace| desired.streams.keys().filter(|log| log.namespace == namespace).count();
            assert_eq!((read("big"), read("small")), (big, small), "at most {most}");
        }
    }

    #[test]
    fn of_too_many_policies_each_namespace_keeps_its_oldest() {
        let mut objects: Vec<ProbePolicy> =
            (0..5).map(|number| object("many", &format!("m{number}"), 10 - number)).collect();
        objects.push(object("few", "f", 99));
        #[rustfmt::skip]
        let table: [(usize, &[&str], usize); 4] = [
            (6, &["f", "m0", "m1", "m2", "m3", "m4"], 0),
            (3, &["f", "m3", "m4"],                   3),
            (1, &["f"],                               5),
            (0, &[],                                  6),
        ];
        for (most, expect, refused) in table {
            let (admitted, rest) = admitted(&objects, most);
            let mut names: Vec<String> = admitted.iter().map(|object| object.name_any()).collect();
            names.sort();
            assert_eq!(
                (names, rest.len()),
                (expect.iter().map(ToString::to_string).collect(), refused),
                "at most {most}"
            );
        }
    }
}
