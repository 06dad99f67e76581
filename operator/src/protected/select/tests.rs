use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::protected::facts::Stater;

const SHOP: Stater<'_> = Stater { kind: "Service", namespace: "shop", name: "front" };
const BLOG: Stater<'_> = Stater { kind: "Gateway", namespace: "blog", name: "public" };

fn node(name: &str) -> Stater<'_> {
    Stater { kind: "Node", namespace: "", name }
}

fn fact<'a>(network: &str, basis: Basis, by: Stater<'a>) -> Fact<'a> {
    Fact { network: network.parse().unwrap(), basis, by }
}

fn v4(bits: u32) -> Network {
    Network::host(Ipv4Addr::from_bits(bits).into())
}

fn texts(selection: &Selection<'_>) -> Vec<String> {
    selection.networks.iter().map(ToString::to_string).collect()
}

fn reasons(selection: &Selection<'_>) -> Vec<(Why, String)> {
    selection.left_out.iter().map(|(why, fact)| (*why, fact.network.to_string())).collect()
}

#[test]
fn each_fact_protects_what_it_states_or_is_left_out_for_a_reason() {
    use Basis::*;
    #[rustfmt::skip]
    let table: [(&str, Basis, Stater<'_>, Option<Why>); 13] = [
        ("10.99.0.11/32",   Host,         node("one"), None),
        ("2001:db8::1/128", Host,         node("one"), None),
        ("10.97.0.0/24",    PodRange,     node("one"), None),
        ("0.0.0.0/0",       PodRange,     node("one"), Some(Why::TooWide)),
        ("10.0.0.0/8",      PodRange,     node("one"), None),
        ("96.0.0.0/7",      ServiceRange, SHOP,        Some(Why::TooWide)),
        ("fd00::/8",        ServiceRange, SHOP,        Some(Why::TooWide)),
        ("fd96::/112",      ServiceRange, SHOP,        None),
        ("198.51.100.1/32", Given,        SHOP,        None),
        ("198.51.100.2/32", Given,        BLOG,        None),
        ("198.51.100.3/32", Asked,        SHOP,        None),
        ("198.51.100.4/32", Unconfirmed,  BLOG,        Some(Why::Unconfirmed)),
        ("198.51.100.5/32", Surplus,      node("one"), Some(Why::Share)),
    ];
    for (network, basis, by, why) in table {
        let selection = select(&[fact(network, basis, by)]);
        let expect = if why.is_none() { vec![network.to_owned()] } else { Vec::new() };
        assert_eq!(texts(&selection), expect, "{network} of {by}");
        let expect: Vec<_> = why.into_iter().map(|why| (why, network.to_owned())).collect();
        assert_eq!(reasons(&selection), expect, "{network} of {by}");
    }
}

#[test]
fn what_another_fact_protects_is_not_left_out() {
    let selection = select(&[
        fact("198.51.100.4/32", Basis::Unconfirmed, BLOG),
        fact("198.51.100.4/32", Basis::Asked, SHOP),
        fact("10.96.0.7/32", Basis::Unconfirmed, BLOG),
        fact("10.96.0.0/16", Basis::ServiceRange, SHOP),
    ]);
    assert_eq!(texts(&selection), ["10.96.0.0/16", "198.51.100.4/32"]);
    assert!(selection.left_out.is_empty(), "{selection:?}");
}

#[test]
fn a_namespace_gets_sixteen_addresses_that_it_asked_for_and_any_number_that_it_was_given() {
    let asked = (0..20).map(|n| Fact { network: v4(0xc633_6400 + 2 * n), basis: Basis::Asked, by: SHOP });
    let given = (0..20).map(|n| Fact { network: v4(0xcb00_7100 + 2 * n), basis: Basis::Given, by: SHOP });
    let selection = select(&asked.chain(given).collect::<Vec<_>>());
    assert_eq!(selection.networks.len(), 36);
    assert_eq!(selection.left_out.len(), 4);
    assert!(selection.left_out.iter().all(|(why, fact)| *why == Why::Share && fact.basis == Basis::Asked));
}

#[test]
fn one_namespaces_load_balancers_crowd_out_neither_nodes_nor_another_namespaces() {
    let nodes =
        (0..300).map(|n| Fact { network: v4(0x0a63_0000 + 2 * n), basis: Basis::Host, by: node("all") });
    // As many nodes as there are addresses: each has its own name.
    let names: Vec<String> = (0..300).map(|n| format!("node-{n}")).collect();
    let nodes: Vec<_> = nodes.zip(&names).map(|(fact, name)| Fact { by: node(name), ..fact }).collect();
    let flood = (0..2000).map(|n| Fact { network: v4(0x0100_0000 + 2 * n), basis: Basis::Given, by: SHOP });
    let honest = (0..5).map(|n| Fact { network: v4(0xcb00_7100 + 2 * n), basis: Basis::Given, by: BLOG });
    let facts: Vec<_> = nodes.iter().copied().chain(flood).chain(honest.clone()).collect();
    let selection = select(&facts);
    assert_eq!(selection.networks.len(), MOST);
    assert!(!selection.is_widened);
    assert_eq!(selection.left_out.len(), 300 + 2000 + 5 - MOST);
    assert!(selection.left_out.iter().all(|(why, fact)| *why == Why::NoRoom && fact.by == SHOP));
    for fact in nodes.into_iter().chain(honest) {
        assert!(selection.networks.contains(&fact.network), "{fact:?}");
    }
}

#[test]
fn two_thousand_nodes_stay_protected_and_only_the_family_that_overflows_becomes_wider() {
    let names: Vec<String> = (0..2000).map(|n| format!("node-{n}")).collect();
    // In IPv4 each has a neighbour that is not a node; in IPv6 a random interface identifier.
    let facts: Vec<_> = names
        .iter()
        .zip(0u32..)
        .flat_map(|(name, n)| {
            let v6 = (0x2001_0db8_u128 << 96) | u128::from(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let hosts = [v4(0x0a00_0000 + 2 * n), Network::host(Ipv6Addr::from_bits(v6).into())];
            hosts.map(|network| Fact { network, basis: Basis::Host, by: node(name) })
        })
        .collect();
    let both = select(&facts);
    assert!(both.is_widened && both.left_out.is_empty() && both.networks.len() <= MOST);
    let widest: Vec<Network> = facts
        .iter()
        .map(|fact| Network::around(fact.network.address(), WIDEST_HOST.of(&fact.network)))
        .collect();
    assert!(is_within(facts.iter().map(|fact| fact.network), &both.networks), "every node is protected");
    assert!(is_within(both.networks.iter().copied(), &widest), "nothing beyond the /24 or /64 of a node is");

    let few = facts.into_iter().enumerate().filter(|(index, fact)| *index < 800 || !fact.network.is_ipv4());
    let few: Vec<_> = few.map(|(_, fact)| fact).collect();
    let (v4, v6): (Vec<Network>, Vec<Network>) =
        few.iter().map(|fact| fact.network).partition(Network::is_ipv4);
    let selection = select(&few);
    assert!(selection.is_widened && is_within(v6, &selection.networks));
    let selected: Vec<Network> = selection.networks.into_iter().filter(Network::is_ipv4).collect();
    assert!(selected == aggregate(v4), "IPv4 has room and stays as it is");
}

#[test]
fn no_node_is_left_out_however_many_networks_nodes_are_in() {
    // Each in a /24 and a /64 of its own, as nodes with public addresses are.
    let names: Vec<String> = (0..5000).map(|n| format!("node-{n}")).collect();
    let mut facts: Vec<Fact<'_>> = names
        .iter()
        .zip(1u32..)
        .flat_map(|(name, n)| {
            let v4_bits = n.wrapping_mul(0x9e37_79b9) | 0x0100_0000;
            let v6_bits = (0x2001_u128 << 112) | (u128::from(n.wrapping_mul(0x85eb_ca6b)) << 64);
            let hosts = [v4(v4_bits), Network::host(Ipv6Addr::from_bits(v6_bits).into())];
            hosts.map(|network| Fact { network, basis: Basis::Host, by: node(name) })
        })
        .collect();
    let hosts: Vec<Network> = facts.iter().map(|fact| fact.network).collect();
    // Ranges give way to nodes.
    facts.extend((0..2000u32).map(|n| Fact {
        network: Network::around(Ipv4Addr::from_bits(0x0a00_0000 + (n << 8)).into(), 24),
        basis: Basis::PodRange,
        by: SHOP,
    }));
    let selection = select(&facts);
    assert!(selection.is_widened && selection.networks.len() <= MOST, "{}", selection.networks.len());
    assert!(is_within(hosts, &selection.networks), "every node is protected");
    assert!(selection.left_out.iter().all(|(_, fact)| fact.basis != Basis::Host));
    let narrowest = selection.networks.iter().filter(|network| network.is_ipv4()).map(Network::prefix).max();
    assert!(narrowest < Some(24), "only where they have to be wide: {narrowest:?}");
}

/// Whether every address of `inner` is in `outer` as well.
fn is_within(inner: impl IntoIterator<Item = Network>, outer: &[Network]) -> bool {
    let both: Networks = inner.into_iter().chain(outer.iter().copied()).collect();
    both == outer.iter().copied().collect()
}

/// A fact of any basis, in one of a few namespaces, close enough to others to merge with them.
fn any_fact() -> impl Strategy<Value = Fact<'static>> {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let basis = prop::sample::select(vec![
        Basis::Host,
        Basis::PodRange,
        Basis::ServiceRange,
        Basis::Given,
        Basis::Asked,
        Basis::Unconfirmed,
    ]);
    (any::<bool>(), any::<u32>(), basis, 0..4usize, 0..=32u8).prop_map(
        |(is_v4, bits, basis, name, prefix)| {
            let address = if is_v4 {
                Ipv4Addr::from_bits(bits & 0xc0ff_3fff).into()
            } else {
                Ipv6Addr::from_bits((0x2001 << 112) | u128::from(bits & 0x3fff)).into()
            };
            let is_range = matches!(basis, Basis::PodRange | Basis::ServiceRange);
            let prefix = match (is_range, is_v4) {
                (true, true) => prefix,
                (true, false) => 2 * prefix,
                (false, _) => 128,
            };
            let (kind, namespace) = match basis {
                Basis::Host | Basis::PodRange => ("Node", ""),
                Basis::ServiceRange => ("ServiceCIDR", ""),
                _ => ("Service", NAMES[name]),
            };
            Fact {
                network: Network::around(address, prefix),
                basis,
                by: Stater { kind, namespace, name: NAMES[name] },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_list_is_short_and_protects_what_was_stated_and_nothing_else(
        facts in prop::collection::vec(any_fact(), 0..40),
        flood in prop::sample::select(vec![0u32, 900, 1100]),
    ) {
        let flood = (0..flood).map(|n| Fact { network: v4(0x0100_0000 + 2 * n), basis: Basis::Given, by: SHOP });
        let facts: Vec<_> = facts.into_iter().chain(flood).collect();
        let selection = select(&facts);
        prop_assert!(selection.networks.len() <= MOST);
        prop_assert!(!selection.is_widened, "so few of the cluster's own networks have room");
        let is_true = |fact: &&Fact<'_>| {
            fact.basis != Basis::Unconfirmed && fact.network.prefix() >= WIDEST_RANGE.of(&fact.network)
        };
        let stated: Vec<Network> = facts.iter().filter(is_true).map(|fact| fact.network).collect();
        prop_assert!(is_within(selection.networks.iter().copied(), &stated));
        let left_out = selection.left_out.iter().map(|(_, fact)| fact.network);
        let told: Vec<Network> = selection.networks.iter().copied().chain(left_out).collect();
        prop_assert!(is_within(facts.iter().map(|fact| fact.network), &told));
    }

    #[test]
    fn the_order_of_the_facts_means_nothing(
        facts in prop::collection::vec(any_fact(), 0..60).prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
    ) {
        let (one, other) = facts;
        prop_assert_eq!(select(&one).networks, select(&other).networks);
    }
}
