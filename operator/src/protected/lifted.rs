//! Bans that end because their network has become protected, and the object that protects it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ip_sentry_core::{
    net::{Network, Source},
    networks::Networks,
};
use ip_sentry_crd::ProtectedNetworks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt as _;

use crate::{events::What, state::State};

use super::facts::{Basis, Fact, Stater};

/// How many bans a note names.
const NAMED: usize = 8;

/// Who made a network protected.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum By<'a> {
    /// A person, in `spec.cidrs`.
    Spec,
    /// A controller, in an object of the cluster.
    Object(Stater<'a>),
    /// No single object: a network that contains several of the cluster's.
    Cluster,
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec => f.write_str("spec.cidrs"),
            Self::Object(stater) => stater.fmt(f),
            Self::Cluster => f.write_str("the cluster"),
        }
    }
}

/// What one object lifted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lifted<'a> {
    /// The object.
    pub by: By<'a>,
    /// The networks that it protects and that were banned.
    pub networks: BTreeSet<Network>,
    /// The bans.
    pub bans: Vec<Source>,
}

impl Lifted<'_> {
    /// The text of the event about it.
    #[must_use]
    pub fn note(&self) -> String {
        let list = |texts: Vec<String>| {
            let more = texts.len().saturating_sub(NAMED);
            let named = texts.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
            if more == 0 { named } else { format!("{named} and {more} more") }
        };
        let networks = list(self.networks.iter().map(ToString::to_string).collect());
        let bans = list(self.bans.iter().map(ToString::to_string).collect());
        let (ban, is) = if self.bans.len() == 1 { ("ban", "is") } else { ("bans", "are") };
        format!("{} protects {networks} now: the {ban} of {bans} {is} lifted", self.by)
    }
}

/// Which of `bans` end as `after` is protected in place of `before`, by the object that says so. `spec` is what people
/// protect, `facts` what the cluster states.
#[must_use]
pub fn lifted<'a>(
    bans: impl IntoIterator<Item = Source>,
    before: &Networks,
    after: &Networks,
    spec: &[Network],
    facts: &[Fact<'a>],
) -> Vec<Lifted<'a>> {
    let mut lifted: BTreeMap<By<'a>, Lifted<'a>> = BTreeMap::new();
    for ban in bans {
        let banned = ban.network();
        if before.overlaps(&banned) || !after.overlaps(&banned) {
            continue;
        }
        let stated = facts.iter().find(|fact| {
            fact.basis < Basis::Unconfirmed && fact.network.overlaps(&banned) && after.overlaps(&fact.network)
        });
        let (by, network) = match (spec.iter().find(|network| network.overlaps(&banned)), stated) {
            (Some(network), _) => (By::Spec, *network),
            (None, Some(fact)) => (By::Object(fact.by), fact.network),
            (None, None) => (By::Cluster, banned),
        };
        let of =
            lifted.entry(by).or_insert_with(|| Lifted { by, networks: BTreeSet::new(), bans: Vec::new() });
        of.networks.insert(network);
        of.bans.push(ban);
    }
    lifted.into_values().collect()
}

/// Says in events which bans ended since `before` was protected.
pub fn tell(
    state: &State,
    before: &Networks,
    object: &ProtectedNetworks,
    facts: &[Fact<'_>],
    now: Timestamp,
) {
    let after = state.protected();
    // A replica that knew of no networks yet has seen none become protected.
    if before.is_empty() || *before == *after {
        return;
    }
    let spec: Vec<Network> = object.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    let bans: Vec<Source> =
        state.bans().iter().filter(|ban| ban.is_active(now)).map(|ban| ban.source).collect();
    for lifted in lifted(bans, before, &after, &spec, facts) {
        let related = match lifted.by {
            By::Object(stater) => Some(ObjectReference {
                kind: Some(stater.kind.to_owned()),
                namespace: (!stater.namespace.is_empty()).then(|| stater.namespace.to_owned()),
                name: Some(stater.name.to_owned()),
                ..ObjectReference::default()
            }),
            By::Spec | By::Cluster => None,
        };
        state.events.tell_on_networks(object.uid(), What::BansLifted, related, lifted.note());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: Stater<'_> = Stater { kind: "Service", namespace: "shop", name: "front" };

    fn set(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse::<Network>().unwrap()).collect()
    }

    #[test]
    fn each_lifted_ban_is_told_with_the_object_that_lifted_it() {
        type Texts = &'static [&'static str];
        #[rustfmt::skip]
        let table: [(Texts, Texts, Texts, Texts); 6] = [
            // before,           after,                                  spec,                what is told
            (&["10.0.0.0/8"],    &["10.0.0.0/8"],                        &[],                 &[]),
            (&["203.0.113.7/32"], &["203.0.113.7/32"],                   &[],                 &[]),
            (&[],                &["203.0.113.7/32"],                    &[],
                &["Service shop/front protects 203.0.113.7/32 now: the ban of 203.0.113.7/32 is lifted"]),
            (&[],                &["203.0.113.0/24"],                    &["203.0.113.0/24"],
                &["spec.cidrs protects 203.0.113.0/24 now: the bans of 203.0.113.7/32, 203.0.113.8/32 are lifted"]),
            (&[],                &["203.0.113.7/32", "203.0.113.8/32"],  &["203.0.113.8/32"],
                &["spec.cidrs protects 203.0.113.8/32 now: the ban of 203.0.113.8/32 is lifted",
                  "Service shop/front protects 203.0.113.7/32 now: the ban of 203.0.113.7/32 is lifted"]),
            (&["203.0.113.7/32"], &["203.0.113.0/28"],                   &[],
                &["the cluster protects 203.0.113.8/32 now: the ban of 203.0.113.8/32 is lifted"]),
        ];
        let network = "203.0.113.7/32".parse().unwrap();
        let other = Stater { name: "wish", ..SHOP };
        let facts = [
            Fact { network, basis: Basis::Unconfirmed, by: other },
            Fact { network, basis: Basis::Given, by: SHOP },
        ];
        for (before, after, spec, expect) in table {
            let bans =
                ["203.0.113.7/32", "203.0.113.8/32", "198.51.100.1/32"].map(|text| text.parse().unwrap());
            let spec: Vec<Network> = spec.iter().map(|text| text.parse().unwrap()).collect();
            let lifted = lifted(bans, &set(before), &set(after), &spec, &facts);
            let notes: Vec<String> = lifted.iter().map(Lifted::note).collect();
            assert_eq!(notes, expect, "{before:?} → {after:?}");
        }
    }

    #[test]
    fn a_thousand_lifted_bans_are_one_short_note() {
        let bans = (0..1000u32).map(|n| {
            Source::new(Network::host(std::net::Ipv4Addr::from_bits(0xcb00_0000 + n).into())).unwrap()
        });
        let spec = ["203.0.0.0/16".parse().unwrap()];
        let lifted = lifted(bans, &set(&[]), &set(&["203.0.0.0/16"]), &spec, &[]);
        assert_eq!((lifted.len(), lifted[0].bans.len()), (1, 1000));
        let note = lifted[0].note();
        assert!(note.ends_with("203.0.0.7/32 and 992 more are lifted") && note.len() < 1024, "{note}");
    }
}
