//! Bans that end because their network has become protected, and the object that protects it.
//!
//! The operator's own end as soon as a part of their network is protected. Others are people's: nodes let the protected
//! part in and drop the rest, and both is told.

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

use crate::{bans::Ban, events::What, state::State};

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

/// A ban, as far as its end by protection goes.
#[derive(Clone, Copy, Debug)]
pub struct Banned {
    /// Its network.
    pub source: Source,
    /// Whether the operator made it, and deletes it when a part of it is protected.
    pub is_own: bool,
}

/// What one object lifted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lifted<'a> {
    /// The object.
    pub by: By<'a>,
    /// The networks that it protects and that were banned.
    pub networks: BTreeSet<Network>,
    /// The bans that ended.
    pub bans: Vec<Source>,
    /// The bans of which nodes drop only the rest from now on.
    pub in_part: Vec<Source>,
}

impl Lifted<'_> {
    /// The text of the event about it.
    #[must_use]
    pub fn note(&self) -> String {
        let (networks, bans, in_part) = (list(&self.networks), list(&self.bans), list(&self.in_part));
        let ended = match self.bans.len() {
            0 => None,
            1 => Some(format!("the ban of {bans} is lifted")),
            _ => Some(format!("the bans of {bans} are lifted")),
        };
        let in_part =
            (!self.in_part.is_empty()).then(|| format!("of {in_part} only the rest is still dropped"));
        let told: Vec<String> = ended.into_iter().chain(in_part).collect();
        format!("{} protects {networks} now: {}", self.by, told.join("; "))
    }
}

fn list<'a, T: fmt::Display + 'a>(all: impl IntoIterator<Item = &'a T>) -> String {
    let mut texts = all.into_iter().map(ToString::to_string);
    let named = texts.by_ref().take(NAMED).collect::<Vec<_>>().join(", ");
    match texts.count() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Which of `bans` end, in whole or in part, as `after` is protected in place of `before`, by the object that says so.
/// `spec` is what people protect, `facts` what the cluster states.
#[must_use]
pub fn lifted<'a>(
    bans: impl IntoIterator<Item = Banned>,
    before: &Networks,
    after: &Networks,
    spec: &[Network],
    facts: &[Fact<'a>],
) -> Vec<Lifted<'a>> {
    let mut lifted: BTreeMap<By<'a>, Lifted<'a>> = BTreeMap::new();
    for Banned { source, is_own } in bans {
        let banned = source.network();
        let ends = |protected: &Networks| protected.covers(&banned) || is_own && protected.overlaps(&banned);
        let is_over = ends(after);
        if ends(before) || !is_over && (before.overlaps(&banned) || !after.overlaps(&banned)) {
            continue;
        }
        // What was protected before has ended nothing now.
        let is_new = |network: &Network| network.overlaps(&banned) && !before.covers(network);
        let stated = facts.iter().find(|fact| {
            fact.basis < Basis::Unconfirmed && is_new(&fact.network) && after.overlaps(&fact.network)
        });
        let (by, network) = match (spec.iter().find(|network| is_new(network)), stated) {
            (Some(network), _) => (By::Spec, *network),
            (None, Some(fact)) => (By::Object(fact.by), fact.network),
            (None, None) => (By::Cluster, banned),
        };
        let of = lifted.entry(by).or_insert_with(|| Lifted {
            by,
            networks: BTreeSet::new(),
            bans: Vec::new(),
            in_part: Vec::new(),
        });
        of.networks.insert(network);
        if is_over { of.bans.push(source) } else { of.in_part.push(source) }
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
    let banned = |ban: &Ban| Banned { source: ban.source, is_own: ban.is_managed };
    let bans: Vec<Banned> = state.bans().iter().filter(|ban| ban.is_active(now)).map(banned).collect();
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
        let what = if lifted.bans.is_empty() { What::BanNarrowed } else { What::BansLifted };
        state.events.tell_on_networks(object.uid(), what, related, lifted.note());
        tell_on_bans(state, &lifted, now);
    }
}

/// Says on each ban of which only the rest is dropped that it is so.
fn tell_on_bans(state: &State, lifted: &Lifted<'_>, now: Timestamp) {
    let in_part: BTreeSet<Source> = lifted.in_part.iter().copied().collect();
    if in_part.is_empty() {
        return;
    }
    let networks = list(&lifted.networks);
    let is_narrowed = |ban: &&Ban| !ban.is_managed && ban.is_active(now) && in_part.contains(&ban.source);
    for ban in state.bans().iter().filter(is_narrowed) {
        let note = format!(
            "{} protects {networks} now: packets from there are let in, the rest of {} is dropped",
            lifted.by, ban.source
        );
        state.tell_on_ban(ban, What::BanNarrowed, note);
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
            let bans = ["203.0.113.7/32", "203.0.113.8/32", "198.51.100.1/32"]
                .map(|text| Banned { source: text.parse().unwrap(), is_own: false });
            let spec: Vec<Network> = spec.iter().map(|text| text.parse().unwrap()).collect();
            let lifted = lifted(bans, &set(before), &set(after), &spec, &facts);
            let notes: Vec<String> = lifted.iter().map(Lifted::note).collect();
            assert_eq!(notes, expect, "{before:?} → {after:?}");
        }
    }

    #[test]
    fn a_partly_protected_ban_is_lifted_if_it_is_the_operators_and_else_told_to_go_on_with_the_rest() {
        type Texts = &'static [&'static str];
        #[rustfmt::skip]
        let table: [(bool, Texts, Texts, Option<&str>); 7] = [
            // own, before,          after,                                   what is told
            (true,  &[],             &["203.0.113.7/32"],                     Some("spec.cidrs protects 203.0.113.7/32 now: the ban of 203.0.113.0/24 is lifted")),
            (false, &[],             &["203.0.113.7/32"],                     Some("spec.cidrs protects 203.0.113.7/32 now: of 203.0.113.0/24 only the rest is still dropped")),
            (false, &["203.0.113.7/32"], &["203.0.113.7/32", "203.0.113.9/32"], None),
            (false, &["203.0.113.7/32"], &[],                                 None),
            (false, &["203.0.113.0/25"], &["203.0.113.0/25", "203.0.113.128/25"], Some("spec.cidrs protects 203.0.113.128/25 now: the ban of 203.0.113.0/24 is lifted")),
            (false, &["203.0.113.0/24"], &["203.0.113.0/24", "203.0.112.0/24"], None),
            (false, &["203.0.113.0/24"], &["203.0.113.0/25"],                 None),
        ];
        for (is_own, before, after, expect) in table {
            let banned = Banned { source: "203.0.113.0/24".parse().unwrap(), is_own };
            let spec: Vec<Network> = after.iter().map(|text| text.parse().unwrap()).collect();
            let lifted = lifted([banned], &set(before), &set(after), &spec, &[]);
            let notes: Vec<String> = lifted.iter().map(Lifted::note).collect();
            assert_eq!(notes, Vec::from_iter(expect), "{is_own}, {before:?} → {after:?}");
        }
    }

    #[test]
    fn a_thousand_lifted_bans_are_one_short_note() {
        let bans = (0..1000u32).map(|n| {
            let network = Network::host(std::net::Ipv4Addr::from_bits(0xcb00_0000 + n).into());
            Banned { source: Source::new(network).unwrap(), is_own: true }
        });
        let spec = ["203.0.0.0/16".parse().unwrap()];
        let lifted = lifted(bans, &set(&[]), &set(&["203.0.0.0/16"]), &spec, &[]);
        assert_eq!((lifted.len(), lifted[0].bans.len()), (1, 1000));
        let note = lifted[0].note();
        assert!(note.ends_with("203.0.0.7/32 and 992 more are lifted") && note.len() < 1024, "{note}");
    }
}
