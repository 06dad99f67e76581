//! Whether packets to pods pass our rules, judged by what can be seen without asking the dataplane.
//!
//! A dataplane in eBPF or Open vSwitch can hand packets to pods past FORWARD, and a flowtable does so with
//! established connections. Nothing of that shows in the rules. What shows are the dataplane's links, the
//! flowtables, and packets that pods' links are sent while our jump in FORWARD counts none.

use std::collections::{BTreeMap, VecDeque};

/// How many looks are kept, ten seconds or more apart.
const LOOKS: usize = 12;
/// As many packets to pods are enough to judge a dataplane by that is known to go around FORWARD.
const ENOUGH_OF_KNOWN: u64 = 100;
/// As many are enough where none is known. The node's own packets, such as the kubelet's probes, are among them and
/// pass no FORWARD: those of a hundred pods, six a probe, are fewer in the time of all looks.
const ENOUGH: u64 = 10_000;

/// A dataplane that can go around FORWARD.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dataplane {
    /// Cilium, with eBPF host routing.
    Cilium,
    /// Calico's eBPF dataplane.
    CalicoEbpf,
    /// OVN-Kubernetes.
    OvnKubernetes,
    /// Antrea.
    Antrea,
}

impl Dataplane {
    /// The dataplane that makes a link of that name on every node.
    #[must_use]
    pub fn of_link(name: &str) -> Option<Self> {
        match name {
            "cilium_host" => Some(Self::Cilium),
            "bpfin.cali" | "bpfout.cali" => Some(Self::CalicoEbpf),
            "ovn-k8s-mp0" => Some(Self::OvnKubernetes),
            "antrea-gw0" => Some(Self::Antrea),
            _ => None,
        }
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cilium => "Cilium",
            Self::CalicoEbpf => "Calico's eBPF dataplane",
            Self::OvnKubernetes => "OVN-Kubernetes",
            Self::Antrea => "Antrea",
        }
    }
}

/// What a look at the kernel shows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look {
    /// The known dataplane whose links are there.
    pub dataplane: Option<Dataplane>,
    /// A flowtable that rules use.
    pub flowtable: Option<String>,
    /// The pods' links by number, and how many packets each was sent since it was made.
    pub pods: BTreeMap<u32, u64>,
    /// How many packets went from FORWARD through our chain, a number that only grows.
    pub forwarded: u64,
}

/// What that means for packets to pods.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing speaks against their passing the rules.
    #[default]
    Passing,
    /// This flowtable takes those of established connections past the rules.
    Offloaded(String),
    /// This dataplane takes them past the rules: FORWARD saw none of many.
    Bypassed(Dataplane),
    /// This dataplane may: FORWARD saw less than half of them, or there were none to judge by.
    MayBeBypassed(Dataplane),
    /// FORWARD saw none of very many, and no such dataplane is known.
    NoneForwarded,
}

/// The looks of the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    last: Option<Look>,
    /// Packets to pods, and through FORWARD, from look to look.
    steps: VecDeque<(u64, u64)>,
}

impl Paths {
    /// Takes in a look and judges.
    pub fn judge(&mut self, look: Look) -> Verdict {
        if let Some(last) = &self.last {
            // A link that is new since the last look counts from zero.
            let sent = look
                .pods
                .iter()
                .map(|(link, &sent)| sent.saturating_sub(last.pods.get(link).copied().unwrap_or_default()));
            let step = (sent.sum(), look.forwarded.saturating_sub(last.forwarded));
            self.steps.push_back(step);
            if self.steps.len() > LOOKS {
                self.steps.pop_front();
            }
        }
        let to_pods: u64 = self.steps.iter().map(|(to_pods, _)| to_pods).sum();
        let forwarded: u64 = self.steps.iter().map(|(_, forwarded)| forwarded).sum();
        let verdict = match (&look.flowtable, look.dataplane) {
            (Some(flowtable), _) => Verdict::Offloaded(flowtable.clone()),
            (None, Some(dataplane)) if to_pods < ENOUGH_OF_KNOWN => Verdict::MayBeBypassed(dataplane),
            (None, Some(dataplane)) if forwarded == 0 => Verdict::Bypassed(dataplane),
            (None, Some(dataplane)) if forwarded < to_pods / 2 => Verdict::MayBeBypassed(dataplane),
            (None, None) if forwarded == 0 && to_pods >= ENOUGH => Verdict::NoneForwarded,
            (None, _) => Verdict::Passing,
        };
        self.last = Some(look);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(dataplane: Option<Dataplane>, sent: u64, forwarded: u64) -> Look {
        Look { dataplane, flowtable: None, pods: [(7, sent)].into(), forwarded }
    }

    #[test]
    fn a_dataplane_is_judged_by_what_forward_sees_of_the_packets_to_pods() {
        use Dataplane::{Antrea, Cilium};
        #[rustfmt::skip]
        let table = [
            // dataplane, to pods, forwarded, expect
            (Some(Cilium), 99,      0,      Verdict::MayBeBypassed(Cilium)),
            (Some(Cilium), 100,     0,      Verdict::Bypassed(Cilium)),
            (Some(Cilium), 1_000,   499,    Verdict::MayBeBypassed(Cilium)),
            (Some(Antrea), 1_000,   500,    Verdict::Passing),
            (None,         9_999,   0,      Verdict::Passing),
            (None,         10_000,  0,      Verdict::NoneForwarded),
            (None,         10_000,  1,      Verdict::Passing),
        ];
        for (dataplane, to_pods, forwarded, expect) in table {
            let mut paths = Paths::default();
            // What was counted before the first look says nothing of now.
            paths.judge(look(dataplane, 1_000_000, 5));
            let got = paths.judge(look(dataplane, 1_000_000 + to_pods, 5 + forwarded));
            assert_eq!(got, expect, "{dataplane:?}: {forwarded} of {to_pods}");
        }
    }

    #[test]
    fn a_flowtable_that_is_used_offloads_whatever_forward_sees() {
        let offloading = Look { flowtable: Some("inet fast".to_owned()), ..look(None, 5, 5) };
        assert_eq!(Paths::default().judge(offloading), Verdict::Offloaded("inet fast".to_owned()));
    }

    #[test]
    fn only_the_last_minutes_count_and_links_that_go_take_nothing_along() {
        let mut paths = Paths::default();
        paths.judge(look(None, 0, 0));
        assert_eq!(paths.judge(look(None, 20_000, 0)), Verdict::NoneForwarded);
        // The link goes, and another comes with its own count.
        let other = |sent| Look { pods: [(8, sent)].into(), ..Look::default() };
        assert_eq!(paths.judge(other(50)), Verdict::NoneForwarded);
        for _ in 0..LOOKS {
            paths.judge(other(60));
        }
        assert_eq!(paths.judge(other(60)), Verdict::Passing);
    }

    #[test]
    fn links_tell_their_dataplane() {
        #[rustfmt::skip]
        let table = [
            ("cilium_host", Some("Cilium")), ("bpfin.cali", Some("Calico's eBPF dataplane")),
            ("ovn-k8s-mp0", Some("OVN-Kubernetes")), ("antrea-gw0", Some("Antrea")),
            ("cali1234", None), ("eth0", None),
        ];
        for (name, expect) in table {
            assert_eq!(Dataplane::of_link(name).map(Dataplane::name), expect, "{name}");
        }
    }
}
