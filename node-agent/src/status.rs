//! How things stand on this node, and what that means: the facts that the tasks publish become the conditions of
//! the NodeFirewall.
//!
//! `Ready` is the claim that every banned source is dropped here. It is made only while both lists are complete,
//! every ban and every exception is in the kernel, and the rules were read back where they must stand.

use std::time::Duration;

use ip_sentry_core::enforce::{
    chain::Counters,
    paths::Verdict,
    rules::{Exceptions, Matches, Rules},
};
use ip_sentry_crd::{condition::Finding, node_firewall::Backend};
use tokio::time::Instant;

use crate::leader::{self, Sign};

/// Something that keeps this node from protecting, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// A stable word for the condition.
    pub reason: &'static str,
    /// What it is and what to do about it.
    pub message: String,
}

/// What the chain has to hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// How the bans are enforced.
    pub backend: Backend,
    /// The IPv4 rules.
    pub v4: Rules,
    /// The IPv6 rules.
    pub v6: Rules,
    /// What banned sources still reach by these rules.
    pub exceptions: Exceptions,
}

/// How the bans stand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SetsStatus {
    /// What has to be heard first; `None` once everything was.
    pub waiting_for: Option<&'static str>,
    /// How bans are enforced, once that is known.
    pub backend: Option<Backend>,
    /// Why in that way.
    pub backend_why: String,
    /// Bans that are enforced.
    pub entries: usize,
    /// Whether the last full sync left anything out, or failed.
    pub problem: Option<Problem>,
    /// How many sets were changed by somebody else and put right.
    pub repairs: u64,
    /// The resourceVersion of the last change to the bans that is in the kernel.
    pub version: Option<String>,
    /// 99th percentile of the time from a change's arrival to the kernel's confirmation.
    pub apply_p99: Option<Duration>,
}

/// Where the jumps to the chain stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Before everything else in INPUT, FORWARD and OUTPUT.
    First,
    /// Behind other rules.
    Behind,
    /// Behind the rules of a program that insists on the first place; left to it for a while.
    Contended,
}

/// How the chain and its jumps stand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ChainStatus {
    /// The backend whose rules were read back as they must be.
    pub verified: Option<Backend>,
    /// What banned sources still reach by the rules that were last read back whole.
    pub exceptions: Exceptions,
    /// Whether packets to pods pass the rules, by what the last minutes showed.
    pub paths: Verdict,
    /// Where the jumps stand, once that was read.
    pub standing: Option<Standing>,
    /// What went wrong.
    pub problem: Option<Problem>,
    /// The kernel can't match sets.
    pub no_set_match: bool,
    /// What else it can match, as far as was seen.
    pub matches: Matches,
    /// How often chain or jumps were changed by somebody else and put right.
    pub repairs: u64,
    /// What was dropped since this agent started, and what the rules that it found had dropped before.
    pub dropped: Counters,
}

/// All that the conditions are told from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How the bans stand.
    pub sets: SetsStatus,
    /// How the chain stands.
    pub chain: ChainStatus,
    /// What keeps the list of bans away.
    pub bans_trouble: Option<Problem>,
    /// What keeps the list of protected networks away.
    pub protected_trouble: Option<Problem>,
    /// The leader's sign of life.
    pub sign: Option<Sign>,
}

/// The conditions that follow.
#[must_use]
pub fn findings(facts: &Facts, now: Instant) -> Vec<Finding> {
    let Facts { sets, chain, bans_trouble, protected_trouble, sign } = facts;
    let enforcing = enforcing(sets, chain);
    let mut ready = ready(sets, chain, bans_trouble.as_ref().or(protected_trouble.as_ref()));
    // Ready means enforced: what keeps packets from being dropped keeps the node from being ready.
    if ready.status == Some(true) && enforcing.status != Some(true) {
        ready = Finding { kind: ready.kind, ..enforcing.clone() };
    }
    let operator = leader::finding(sign.as_ref(), protected_trouble.as_ref(), now);
    vec![ready, enforcing, backend(sets, chain), first(chain), operator]
}

/// Whether every ban is in the kernel, and the rules stand where they must.
#[must_use]
pub fn is_in_step(sets: &SetsStatus, chain: &ChainStatus) -> bool {
    sets.waiting_for.is_none()
        && sets.backend.is_some()
        && sets.problem.is_none()
        && chain.problem.is_none()
        && chain.verified == sets.backend
        && chain.standing == Some(Standing::First)
}

fn ready(sets: &SetsStatus, chain: &ChainStatus, lists: Option<&Problem>) -> Finding {
    let no = |problem: &Problem| Finding::no("Ready", problem.reason, problem.message.clone());
    if is_in_step(sets, chain) {
        return Finding::yes("Ready", "Enforcing", "every banned network is in the kernel and dropped");
    }
    if let Some(missing) = sets.waiting_for {
        let why = lists.map_or_else(String::new, |problem| format!(": {}", problem.message));
        return Finding::no(
            "Ready",
            "WaitingForLists",
            format!("waiting for {missing}{why}; until then nothing in the kernel is changed"),
        );
    }
    match (&sets.problem, &chain.problem) {
        (Some(problem), _) | (None, Some(problem)) => no(problem),
        (None, None) if chain.verified == sets.backend && chain.verified.is_some() => Finding::no(
            "Ready",
            "ChainNotFirst",
            "rules of another program stand before the chain IP-BLOCKER and may accept a banned source",
        ),
        (None, None) => Finding::no("Ready", "Starting", "the rules were not read back yet"),
    }
}

/// Whether the packets of banned sources are dropped, once all is in the kernel as it must be.
fn enforcing(sets: &SetsStatus, chain: &ChainStatus) -> Finding {
    const KIND: &str = "Enforcing";
    if let Some(until) = chain.exceptions.paused_until {
        let message = format!(
            "nothing is dropped until {until}, as spec.pausedUntil of ProtectedNetworks/cluster says; take it out \
             there to end the pause now"
        );
        return Finding::no(KIND, "Paused", message);
    }
    if !is_in_step(sets, chain) {
        return Finding::unknown(KIND, "NotInStep", "not all is in the kernel as it must be: see Ready");
    }
    match &chain.paths {
        Verdict::Passing => Finding::yes(KIND, "Dropping", "packets of banned sources are dropped"),
        Verdict::Offloaded(flowtable) => Finding::no(
            KIND,
            "FlowtableOffload",
            format!(
                "the flowtable {flowtable} takes packets of established connections past FORWARD: a banned source \
                 opens no new one to a pod, but goes on with those that it has; leave connections to pods out of it"
            ),
        ),
        Verdict::Bypassed(dataplane) => Finding::no(
            KIND,
            "BypassedByCNI",
            format!(
                "{} hands packets to pods past the kernel's packet filter: pods were sent packets and FORWARD saw \
                 none; banned sources are dropped at the node's own ports only. Have it route through the kernel \
                 (Cilium: bpf.hostLegacyRouting), or ban elsewhere",
                dataplane.name()
            ),
        ),
        Verdict::MayBeBypassed(dataplane) => Finding::unknown(
            KIND,
            "MayBeBypassedByCNI",
            format!(
                "{} is here, which can hand packets to pods past the kernel's packet filter; of those that pods were \
                 sent, FORWARD saw too few to say that it does not",
                dataplane.name()
            ),
        ),
        Verdict::NoneForwarded => Finding::unknown(
            KIND,
            "NonePassedForward",
            "pods were sent thousands of packets within minutes and FORWARD saw none: unless all of them came from \
             this node itself, the network hands packets to pods past the kernel's packet filter",
        ),
    }
}

fn backend(sets: &SetsStatus, chain: &ChainStatus) -> Finding {
    let why = || {
        let lacking = if chain.matches.labels {
            ""
        } else {
            "; it can't match labels of connections, so a banned client that prepared for it goes on with a \
             connection: load the module xt_connlabel and restart the agent"
        };
        format!("{}{lacking}", sets.backend_why)
    };
    match sets.backend {
        Some(Backend::Ipset) => Finding::yes("BackendDetected", "Ipset", why()),
        Some(Backend::Rules) => Finding::yes("BackendDetected", "Rules", why()),
        None => match &sets.problem {
            Some(problem) => Finding::no("BackendDetected", problem.reason, problem.message.clone()),
            None => Finding::unknown("BackendDetected", "NotTried", "the kernel was not asked yet"),
        },
    }
}

fn first(chain: &ChainStatus) -> Finding {
    match chain.standing {
        None => Finding::unknown("ChainFirst", "NotVerified", "the rules were not read back yet"),
        Some(Standing::First) => Finding::yes(
            "ChainFirst",
            "First",
            "the jumps to our chains stand first in INPUT, FORWARD and OUTPUT",
        ),
        Some(Standing::Behind) => {
            Finding::no("ChainFirst", "Behind", "a jump to a chain of ours stands behind other rules")
        }
        Some(Standing::Contended) => Finding::no(
            "ChainFirst",
            "Contended",
            "another program keeps putting its rules before our jump in INPUT, FORWARD or OUTPUT: configure it to \
             append its rules (Calico: chainInsertMode Append); the agent tries again in some minutes",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> (SetsStatus, ChainStatus) {
        (
            SetsStatus { backend: Some(Backend::Ipset), entries: 3, ..SetsStatus::default() },
            ChainStatus {
                verified: Some(Backend::Ipset),
                standing: Some(Standing::First),
                ..ChainStatus::default()
            },
        )
    }

    fn reason(sets: &SetsStatus, chain: &ChainStatus) -> (Option<bool>, &'static str) {
        let facts = Facts { sets: sets.clone(), chain: chain.clone(), ..Facts::default() };
        let ready = findings(&facts, Instant::now()).remove(0);
        (ready.status, ready.reason)
    }

    type Spoil = fn(&mut SetsStatus, &mut ChainStatus);

    #[test]
    fn ready_is_claimed_only_when_nothing_is_missing() {
        let problem = |reason| Some(Problem { reason, message: "do this".to_owned() });
        let (sets, chain) = good();
        assert_eq!(reason(&sets, &chain), (Some(true), "Enforcing"));

        let table: [(Spoil, &str); 7] = [
            (|sets, _| sets.waiting_for = Some("the list of IPBans"), "WaitingForLists"),
            (|_, chain| chain.standing = Some(Standing::Behind), "ChainNotFirst"),
            (|_, chain| chain.standing = Some(Standing::Contended), "ChainNotFirst"),
            (|_, chain| chain.verified = None, "Starting"),
            (|_, chain| chain.verified = Some(Backend::Rules), "Starting"),
            (|sets, chain| (sets.backend, chain.verified) = (None, None), "Starting"),
            (|sets, _| *sets = SetsStatus::default(), "Starting"),
        ];
        for (spoil, expect) in table {
            let (mut sets, mut chain) = good();
            spoil(&mut sets, &mut chain);
            assert_eq!(reason(&sets, &chain), (Some(false), expect));
        }
        let (mut sets, mut chain) = good();
        chain.problem = problem("Locked");
        assert_eq!(reason(&sets, &chain), (Some(false), "Locked"));
        sets.problem = problem("SetFull");
        assert_eq!(reason(&sets, &chain), (Some(false), "SetFull"));
    }

    #[test]
    fn a_paused_node_is_in_step_but_neither_enforcing_nor_ready() {
        let (sets, mut chain) = good();
        chain.exceptions.paused_until = Some("2026-11-22T10:00:00Z".parse().unwrap());
        assert!(is_in_step(&sets, &chain));
        let facts = Facts { sets, chain, ..Facts::default() };
        let told = findings(&facts, Instant::now());
        for (finding, kind) in told.iter().zip(["Ready", "Enforcing"]) {
            assert_eq!((finding.kind, finding.status, finding.reason), (kind, Some(false), "Paused"));
        }
        assert!(told[0].message.contains("until 2026-11-22T10:00:00Z"), "{}", told[0].message);
    }

    #[test]
    fn a_node_whose_packets_may_pass_by_is_not_ready() {
        use ip_sentry_core::enforce::paths::Dataplane;
        #[rustfmt::skip]
        let table = [
            (Verdict::Passing,                                Some(true),  "Dropping"),
            (Verdict::Offloaded("inet fast".to_owned()),      Some(false), "FlowtableOffload"),
            (Verdict::Bypassed(Dataplane::Cilium),            Some(false), "BypassedByCNI"),
            (Verdict::MayBeBypassed(Dataplane::Antrea),       None,        "MayBeBypassedByCNI"),
            (Verdict::NoneForwarded,                          None,        "NonePassedForward"),
        ];
        for (paths, status, reason) in table {
            let (sets, mut chain) = good();
            chain.paths = paths;
            let told = findings(&Facts { sets, chain, ..Facts::default() }, Instant::now());
            assert_eq!((told[1].kind, told[1].status, told[1].reason), ("Enforcing", status, reason));
            assert_eq!(told[0].status, status, "Ready means enforced: {reason}");
        }
    }

    #[test]
    fn what_keeps_a_list_away_is_told() {
        let sets = SetsStatus { waiting_for: Some("the list of IPBans"), ..SetsStatus::default() };
        let lists = Problem { reason: "Forbidden", message: "403: may not list ipbans".to_owned() };
        let facts = Facts { sets, bans_trouble: Some(lists), ..Facts::default() };
        let ready = findings(&facts, Instant::now()).remove(0);
        assert_eq!(
            ready.message,
            "waiting for the list of IPBans: 403: may not list ipbans; until then nothing in the kernel is changed"
        );
    }
}
