//! The bans that are enforced, as the queue needs to find them: by network, by strength, by end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ip_sentry_core::net::{Network, Source};
use ip_sentry_crd::ip_ban::Origin;
use jiff::Timestamp;

use crate::{bans::Ban, policies::PolicyKey};

/// One enforced ban.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Enforced {
    source: Source,
    end: Option<Timestamp>,
    /// The hits of a Detected ban; `None` for a Manual one. Only Detected bans count towards the limit and give way.
    hits: Option<u32>,
    policy: Option<PolicyKey>,
}

/// What is enforced on one network, under one name or two.
#[derive(Clone, Copy, Debug, Default)]
struct OnNetwork {
    bans: u32,
    detected: u32,
    hits: u32,
}

/// Every ban that is enforced.
#[derive(Default)]
pub(super) struct Stored {
    by_name: HashMap<String, Enforced>,
    networks: BTreeMap<Source, OnNetwork>,
    /// How many networks have each prefix length, IPv4 and IPv6.
    prefixes: [BTreeMap<u8, u32>; 2],
    /// What the operator made, the least hits and the nearest end first.
    detected: BTreeSet<(u32, Option<Timestamp>, String)>,
    ends: BTreeSet<(Timestamp, String)>,
    by_policy: BTreeMap<PolicyKey, usize>,
}

impl Stored {
    /// How many the operator made.
    pub(super) fn detected(&self) -> usize {
        self.detected.len()
    }

    /// How many bans of each policy are enforced.
    pub(super) fn by_policy(&self) -> &BTreeMap<PolicyKey, usize> {
        &self.by_policy
    }

    /// The ban of that name is now `ban`, where it is enforced at all. Returns the network that the name stood for.
    pub(super) fn update(&mut self, name: &str, ban: Option<&Ban>) -> Option<Source> {
        let before = self.remove(name);
        if let Some(ban) = ban {
            self.insert(ban);
        }
        before.or_else(|| ban.map(|ban| ban.source))
    }

    fn insert(&mut self, ban: &Ban) {
        let is_ours = ban.is_managed && ban.origin == Origin::Detected;
        let policy = ban.policy.as_ref().filter(|_| is_ours);
        let enforced = Enforced {
            source: ban.source,
            end: ban.expires_at,
            hits: is_ours.then_some(ban.hits),
            policy: policy
                .map(|policy| PolicyKey { namespace: policy.namespace.clone(), name: policy.name.clone() }),
        };
        let network = self.networks.entry(ban.source).or_default();
        if network.bans == 0 {
            *self.prefixes[family(ban.source)].entry(ban.source.network().prefix()).or_default() += 1;
        }
        network.bans += 1;
        if let Some(hits) = enforced.hits {
            network.detected += 1;
            network.hits = network.hits.saturating_add(hits);
            self.detected.insert((hits, enforced.end, ban.name.clone()));
        }
        if let Some(end) = enforced.end {
            self.ends.insert((end, ban.name.clone()));
        }
        if let Some(policy) = &enforced.policy {
            *self.by_policy.entry(policy.clone()).or_default() += 1;
        }
        self.by_name.insert(ban.name.clone(), enforced);
    }

    fn remove(&mut self, name: &str) -> Option<Source> {
        let Enforced { source, end, hits, policy } = self.by_name.remove(name)?;
        if let Some(network) = self.networks.get_mut(&source) {
            network.bans -= 1;
            if let Some(hits) = hits {
                network.detected -= 1;
                network.hits = network.hits.saturating_sub(hits);
            }
            if network.bans == 0 {
                self.networks.remove(&source);
                let prefix = source.network().prefix();
                let prefixes = &mut self.prefixes[family(source)];
                if let Some(count) = prefixes.get_mut(&prefix) {
                    *count -= 1;
                    if *count == 0 {
                        prefixes.remove(&prefix);
                    }
                }
            }
        }
        if let Some(hits) = hits {
            self.detected.remove(&(hits, end, name.to_owned()));
        }
        if let Some(end) = end {
            self.ends.remove(&(end, name.to_owned()));
        }
        if let Some(policy) = policy
            && let Some(count) = self.by_policy.get_mut(&policy)
        {
            *count -= 1;
            if *count == 0 {
                self.by_policy.remove(&policy);
            }
        }
        Some(source)
    }

    /// Whether the operator's own ban on exactly this network is enforced.
    pub(super) fn is_detected(&self, source: Source) -> bool {
        self.networks.get(&source).is_some_and(|network| network.detected > 0)
    }

    /// The wider networks on which a ban is enforced, the narrowest first.
    pub(super) fn around(&self, source: Source) -> impl Iterator<Item = Source> {
        let network = source.network();
        let prefixes = self.prefixes[family(source)].range(..network.prefix()).rev();
        prefixes.filter_map(move |(&prefix, _)| {
            let wider = Source::new(Network::around(network.address(), prefix)).ok()?;
            self.networks.contains_key(&wider).then_some(wider)
        })
    }

    /// The networks inside `network`, itself not included, on which the operator's bans are enforced, with their hits.
    pub(super) fn detected_within(&self, network: Source) -> impl Iterator<Item = (Source, u32)> {
        let range = self.networks.range(network..);
        range
            .take_while(move |(source, _)| network.network().contains(source.network().address()))
            .filter(move |(source, on)| **source != network && on.detected > 0)
            .map(|(&source, on)| (source, on.hits))
    }

    /// The operator's bans, those that give way first at the front: hits and name.
    pub(super) fn weakest(&self) -> impl Iterator<Item = (u32, &str)> {
        self.detected.iter().map(|(hits, _, name)| (*hits, name.as_str()))
    }

    /// The next ban that ends.
    pub(super) fn next_end(&self) -> Option<(Timestamp, &str)> {
        self.ends.first().map(|(end, name)| (*end, name.as_str()))
    }
}

fn family(source: Source) -> usize {
    usize::from(!source.network().is_ipv4())
}
