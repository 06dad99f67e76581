//! What a policy's status says: conditions from what was found, counters from its jail.
//!
//! Pure findings first, then the one function that writes them. [`ready`] sums them up, [`due`] says when to write.

pub mod due;
mod reading;
mod ready;

use std::time::Duration;

use ip_sentry_crd::{
    FIELD_MANAGER, ProbePolicy,
    condition::{self, Finding},
    probe_policy::ProbePolicyStatus,
    targets::Resolved,
};
use jiff::{SignedDuration, Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    ban_queue::{Limit, Report},
    heartbeats::Gaps,
    policies::{Entry, PolicyKey, SeenBanned},
    recent::{ENOUGH_LINES, Tally},
    refusal::Cause,
    streams::{Reach, Skew, StreamState},
    tail::{Container, Failure},
};

pub use self::ready::unready;

/// How long a refusal that usually passes may last: an API server starts, or the manifests are applied again.
const REFUSED_FOR_LONG: SignedDuration = SignedDuration::from_mins(1);

/// Everything that a policy's status is told from.
pub struct Facts<'a> {
    /// The policy's name.
    pub key: &'a PolicyKey,
    /// The policy and its jail.
    pub entry: &'a Entry,
    /// Its targets.
    pub resolved: &'a Resolved,
    /// The streams of its containers.
    pub streams: &'a [StreamState],
    /// Since when it has seen every line of each container, where that is known.
    pub reaches: &'a [(&'a Container, Option<Reach>)],
    /// The clocks that are off of the nodes of its containers.
    pub skews: &'a [Skew],
    /// How the ban queue stands, over all policies.
    pub queue: &'a Report,
    /// Nodes that may let the banned through.
    pub gaps: Option<&'a Gaps>,
    /// Until when no node drops anything, as `ProtectedNetworks/cluster` says.
    pub paused_until: Option<Timestamp>,
}

/// The status as it should read, with the conditions that `old` had where they have not changed.
#[must_use]
pub fn status(facts: &Facts<'_>, old: &[Condition], now: Timestamp) -> ProbePolicyStatus {
    let jail = facts.entry.jail.as_ref();
    let counters = jail.map(|jail| jail.jail().counters().clone()).unwrap_or_default();
    let recent = jail.map(|jail| jail.recent()).unwrap_or_default();
    let shape = jail.and_then(|jail| jail.jail().unparsed_shape());
    let open = facts.streams.iter().filter(|state| **state == StreamState::Open).count();
    let enforces = jail.is_some_and(|jail| jail.enforces());
    let paused_until = facts.paused_until.filter(|&until| until > now);
    let mut findings = vec![
        facts.entry.accepted.clone(),
        facts.resolved.finding.clone(),
        streaming(facts.streams),
        reading::parsed(recent, shape.as_deref()),
        reading::lines_whole(recent),
        reading::clocks_agree(facts.skews),
        window_complete(facts.entry.window, facts.entry.kept_since, facts.reaches, now),
        client_ip_preserved(recent, &facts.resolved.hiding_services),
        bans_effective(paused_until, jail.and_then(|jail| jail.seen_banned(now)), facts.gaps),
        bans_stored(facts.queue),
        bans_limited(facts.queue),
    ];
    let is_refused =
        facts.queue.hold.as_ref().is_some_and(|&(cause, _, since)| is_lasting(cause, since, now));
    findings.insert(0, ready::ready(&findings, open, enforces, is_refused));
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    ProbePolicyStatus {
        conditions: condition::merge(old, &findings, facts.entry.generation, now),
        observed_at: Some(Time(whole_second(now))),
        streams: i32::try_from(facts.streams.len()).unwrap_or(i32::MAX),
        counters_since: jail.map(|jail| Time(jail.since)),
        lines: count(counters.lines),
        parsed: count(counters.parsed),
        hits: count(counters.hits),
        earned: count(counters.earned),
        bans: i64::try_from(facts.queue.enforced.get(facts.key).copied().unwrap_or(0)).unwrap_or(i64::MAX),
        last_ban: jail.and_then(|jail| jail.last_ban()),
    }
}

fn streaming(streams: &[StreamState]) -> Finding {
    const KIND: &str = "LogsStreaming";
    let open = streams.iter().filter(|state| **state == StreamState::Open).count();
    let total = streams.len();
    let left_out = streams.iter().filter(|state| **state == StreamState::LeftOut).count();
    let failed = streams.iter().find_map(|state| match state {
        StreamState::Failed(what, message) => Some((*what, message)),
        _ => None,
    });
    match failed {
        _ if streams.is_empty() => {
            Finding::no(KIND, "NoContainers", "no container's log to read: see ResolvedRefs")
        }
        Some((Failure::Forbidden, _)) => Finding::no(
            KIND,
            "Forbidden",
            "the operator may not read pods/log in this namespace: add deploy/kustomize/components/log-access for it",
        ),
        Some((what, message)) => Finding::no(
            KIND,
            reason(what),
            format!("{open} of {total} logs are read; tried again: {message}"),
        ),
        None if left_out > 0 => Finding::no(
            KIND,
            "TooManyLogs",
            format!(
                "{left_out} of {total} logs are not read: all policies together select more than the operator may read; \
                 select fewer pods, or raise the operator's memory limit"
            ),
        ),
        None if open < total => {
            Finding::unknown(KIND, "Opening", format!("{open} of {total} logs are read so far"))
        }
        None => Finding::yes(KIND, "Streaming", format!("{total} logs are read")),
    }
}

const fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::ContainerMissing => "ContainerMissing",
        Failure::Forbidden => "Forbidden",
        Failure::NotFound => "LogNotFound",
        Failure::Waiting => "ContainerWaiting",
        Failure::Throttled => "Throttled",
        Failure::Unreachable => "Unreachable",
        Failure::Server => "ServerError",
    }
}

/// Hits from before the policy saw a log are not counted: until the window has passed it, a source needs more of them.
fn window_complete(
    window: Duration,
    kept_since: Option<Timestamp>,
    reaches: &[(&Container, Option<Reach>)],
    now: Timestamp,
) -> Finding {
    const KIND: &str = "WindowComplete";
    let known: Option<Vec<_>> =
        reaches.iter().map(|(container, reach)| Some((container, (*reach)?))).collect();
    let Some((container, reach)) =
        known.and_then(|known| known.into_iter().max_by_key(|(_, reach)| reach.since))
    else {
        return Finding::unknown(KIND, "Opening", "how far back the logs go is not known yet");
    };
    let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    let complete = |since: Timestamp| since.saturating_add(window).unwrap_or(Timestamp::MAX);
    if let Some(kept_since) = kept_since.filter(|&since| since > reach.since && complete(since) > now) {
        let (since, until) = (whole_second(kept_since), whole_second(complete(kept_since)));
        let message =
            format!("the window was made longer: hits from before {since} are missing until {until}");
        return Finding::no(KIND, "WindowMadeLonger", message);
    }
    let complete = complete(reach.since);
    if complete <= now {
        return Finding::yes(KIND, "Complete", "every hit of the last window was seen");
    }
    let (since, pod) = (whole_second(reach.since), &container.pod);
    let until = format!("hits from before that are missing until {}", whole_second(complete));
    if reach.is_late_comer {
        let message =
            format!("the log of pod {pod} was read before this policy came to it at {since}: {until}");
        return Finding::no(KIND, "NewToTheLog", message);
    }
    let message = format!(
        "the node has the log of pod {pod} from {since} on only: {until}, if there were any; for longer windows raise the kubelet's \
         containerLogMaxSize"
    );
    Finding::no(KIND, "LogTooShort", message)
}

fn whole_second(time: Timestamp) -> Timestamp {
    time.round(Unit::Second).unwrap_or(time)
}

fn client_ip_preserved(recent: Tally, hiding: &[String]) -> Finding {
    const KIND: &str = "ClientIPPreserved";
    if recent.requests < ENOUGH_LINES {
        return Finding::unknown(KIND, "TooFewLines", "too few requests to judge by");
    }
    if recent.unknown * 2 >= recent.requests {
        let (share, total) = (recent.unknown, recent.requests);
        let message = format!(
            "{share} of {total} requests have no client that is known for certain, and are never counted: their \
             X-Forwarded-For is missing, unreadable, or has fewer addresses than spec.clientIP says; correct \
             trustedHops and trustedProxies, and let the gateway log the header"
        );
        return Finding::no(KIND, "ClientUnknown", message);
    }
    if recent.hidden * 2 < recent.requests {
        return Finding::yes(KIND, "Preserved", "the log shows the clients' own addresses");
    }
    let (share, total) = (recent.hidden, recent.requests);
    let seen =
        format!("{share} of {total} requests come from node or private addresses, which are never banned");
    if hiding.is_empty() {
        let advice = "the gateway must see its clients' addresses: let the proxy in front pass them on \
                      (PROXY protocol or a real-IP header), or say privateClients: Ban if these are your clients";
        return Finding::no(KIND, "ProxyInFront", format!("{seen}: {advice}"));
    }
    let services = hiding.join(", ");
    let advice = format!("set spec.externalTrafficPolicy to Local on Service {services}");
    Finding::no(KIND, "ExternalTrafficPolicyCluster", format!("{seen}: {advice}"))
}

fn bans_effective(paused_until: Option<Timestamp>, seen: Option<SeenBanned>, gaps: Option<&Gaps>) -> Finding {
    const KIND: &str = "BansEffective";
    if let Some(until) = paused_until {
        let message = format!(
            "no node drops anything until {until}, as spec.pausedUntil of ProtectedNetworks/cluster says; take it out \
             to end the pause"
        );
        return Finding::no(KIND, "Paused", message);
    }
    let Some(SeenBanned { source, since, at }) = seen else {
        return match gaps {
            Some(gaps) => nodes_with_gaps(KIND, gaps),
            None => Finding::yes(
                KIND,
                "Effective",
                "no node is known to let the banned through, and no source was seen lately that has been banned for a while",
            ),
        };
    };
    let (since, at) = (whole_second(since), whole_second(at));
    let message = format!(
        "{source} is banned since {since} and still got through at {at}: does every node have a Ready agent (kubectl \
         get nodefirewalls)? Do its packets come from a proxy? Nodes drop by the packets' own address, so that proxy \
         must pass the connections on, or refuse the client itself"
    );
    Finding::no(KIND, "BannedSourceSeen", message)
}

fn nodes_with_gaps(kind: &'static str, Gaps { nodes, of, is_known, example }: &Gaps) -> Finding {
    let look = "kubectl get nodefirewalls";
    if *of == 0 {
        return Finding::unknown(kind, "NoAgents", format!("{example}: {look}"));
    }
    if *is_known {
        let message = format!("{nodes} of {of} nodes may let banned sources through ({look}): {example}");
        return Finding::no(kind, "NodesNotEnforcing", message);
    }
    let message = format!("of {nodes} of {of} nodes nobody knows whether they drop ({look}): {example}");
    Finding::unknown(kind, "NodesUnknown", message)
}

/// Whether a refusal of every ban lasts until somebody changes something.
fn is_lasting(cause: Cause, since: Timestamp, now: Timestamp) -> bool {
    let is_of_the_cluster = match cause {
        Cause::MissingRights
        | Cause::ProtectedNetworksUnknown
        | Cause::AdmissionStarting
        | Cause::KindMissing => true,
        Cause::QuotaExceeded | Cause::AdmissionDenied | Cause::NameUnreadable | Cause::Unreachable => false,
    };
    is_of_the_cluster && now.duration_since(since) >= REFUSED_FOR_LONG
}

/// Whether the API server takes the bans that are earned.
fn bans_stored(queue: &Report) -> Finding {
    const KIND: &str = "BansStored";
    let Some((cause, message, since)) = &queue.hold else {
        return Finding::yes(KIND, "Stored", "every ban that is earned can be stored");
    };
    let (waiting, since, advice) = (queue.waiting, whole_second(*since), cause.advice());
    let message = format!(
        "since {since} no ban can be stored, {waiting} wait and are tried again: {advice}. The API server's answer: \
         {message}"
    );
    Finding::no(KIND, cause.reason(), message)
}

/// Whether more bans are earned than are written.
fn bans_limited(queue: &Report) -> Finding {
    const KIND: &str = "BansLimited";
    let held_back = queue.held_back;
    let (reason, limit) = match queue.limit {
        None => return Finding::no(KIND, "WithinLimits", "no bans are delayed"),
        Some(Limit::Rate) => ("TooManyPerSecond", "20 a second are written"),
        Some(Limit::Capacity) => {
            ("TooMany", "20,000 detected bans exist, and one gives way only to a source with more hits")
        }
    };
    let message = format!(
        "{held_back} sources have earned a ban and wait, those with the most hits go first: {limit}; is a policy too \
         strict?"
    );
    Finding::yes(KIND, reason, message)
}

/// Writes the status; `client` lets it through only while this replica leads.
pub async fn write(client: &Client, key: &PolicyKey, status: &ProbePolicyStatus) -> Result<(), kube::Error> {
    let api: Api<ProbePolicy> = Api::namespaced(client.clone(), &key.namespace);
    let patch = json!({
        "apiVersion": "ipsentry.dev/v1alpha1",
        "kind": "ProbePolicy",
        "metadata": {"name": key.name},
        "status": status,
    });
    // All conditions at once: one that an apply leaves out is deleted.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&key.name, &params, &Patch::Apply(patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lately(lines: u64, parsed: u64, hidden: u64) -> Tally {
        Tally {
            lines,
            parsed,
            foreign: lines - parsed,
            requests: parsed,
            hidden,
            rests: 0,
            quoted: 0,
            unknown: 0,
        }
    }

    #[test]
    fn a_window_that_reaches_back_before_the_log_says_so_until_it_has_passed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pod = |name: &str| Container {
            namespace: "web".into(),
            pod: name.into(),
            uid: String::new(),
            container: "nginx".into(),
        };
        let (first, second) = (pod("gw-1"), pod("gw-2"));
        let reach = |second, is_late_comer| Some(Reach { since: at(second), is_late_comer });
        #[rustfmt::skip]
        let table = [
            (vec![],                                                     100, None,        "Opening",     ""),
            (vec![(&first, reach(0, false)), (&second, None)],           100, None,        "Opening",     ""),
            (vec![(&first, reach(0, false)), (&second, reach(50, false))], 109, Some(false), "LogTooShort", "pod gw-2 from 1970-01-01T00:00:50Z on only: hits from before that are missing until 1970-01-01T00:01:50Z"),
            (vec![(&first, reach(0, false)), (&second, reach(50, true))],  109, Some(false), "NewToTheLog", "pod gw-2 was read before this policy came to it"),
            (vec![(&first, reach(0, false)), (&second, reach(50, false))], 110, Some(true),  "Complete",    ""),
        ];
        for (reaches, now, status, reason, message) in table {
            let finding = window_complete(Duration::from_mins(1), None, &reaches, at(now));
            assert_eq!((finding.status, finding.reason), (status, reason), "{}", finding.message);
            assert!(finding.message.contains(message), "{}", finding.message);
        }
        let reaches = [(&first, reach(0, false))];
        for (kept_since, now, reason) in
            [(80, 139, "WindowMadeLonger"), (80, 140, "Complete"), (0, 59, "LogTooShort")]
        {
            let finding = window_complete(Duration::from_mins(1), Some(at(kept_since)), &reaches, at(now));
            assert_eq!(finding.reason, reason, "{}", finding.message);
        }
    }

    #[test]
    fn a_refusal_of_every_ban_lasts_when_its_cause_is_the_clusters_and_a_minute_has_passed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        #[rustfmt::skip]
        let table = [
            (Cause::MissingRights,            59, false),
            (Cause::MissingRights,            60, true),
            (Cause::ProtectedNetworksUnknown, 60, true),
            (Cause::AdmissionStarting,        60, true), // the kind of a parameter is missing
            (Cause::KindMissing,              60, true),
            (Cause::QuotaExceeded,            60, false),
            (Cause::Unreachable,              60, false),
            (Cause::AdmissionDenied,          60, false),
        ];
        for (cause, second, expect) in table {
            assert_eq!(is_lasting(cause, at(0), at(second)), expect, "{cause:?} for {second} s");
        }
    }

    #[test]
    fn each_condition_says_what_is_wrong_and_what_to_do() {
        let cluster = ["web/gw".to_owned()];
        let forbidden = StreamState::Failed(Failure::Forbidden, "no".into());
        let at = |second| Timestamp::from_second(second).unwrap();
        let seen = SeenBanned { source: "203.0.113.7/32".parse().unwrap(), since: at(10), at: at(100) };
        let limited = |limit| Report { held_back: 7, limit: Some(limit), ..Report::default() };
        let hold = Some((Cause::MissingRights, "cannot create".to_owned(), at(9)));
        let refused = Report { waiting: 12, hold, ..Report::default() };
        let missing = StreamState::Failed(Failure::ContainerMissing, "no container nginx".into());
        let gaps = |nodes, is_known| Gaps { nodes, of: 3, is_known, example: "n says FlowOffload".into() };
        #[rustfmt::skip]
        let table = [
            (streaming(&[]),                                           Some(false), "NoContainers",   "ResolvedRefs"),
            (streaming(&[StreamState::Open]),                          Some(true),  "Streaming",      "1 logs"),
            (streaming(&[StreamState::Open, StreamState::Opening]),    None,        "Opening",        "1 of 2"),
            (streaming(&[StreamState::Open, StreamState::LeftOut]),    Some(false), "TooManyLogs",    "1 of 2 logs are not read"),
            (streaming(&[forbidden]),                                  Some(false), "Forbidden",      "components/log-access"),
            (streaming(&[StreamState::Open, missing]),                 Some(false), "ContainerMissing", "no container nginx"),
            (client_ip_preserved(lately(9, 9, 9), &cluster),        None,        "TooFewLines",    ""),
            (client_ip_preserved(lately(20, 20, 9), &cluster),      Some(true),  "Preserved",      ""),
            (client_ip_preserved(lately(20, 20, 10), &cluster),     Some(false), "ExternalTrafficPolicyCluster", "externalTrafficPolicy to Local on Service web/gw"),
            (bans_limited(&Report::default()),                         Some(false), "WithinLimits",   "no bans are delayed"),
            (bans_limited(&limited(Limit::Rate)),                      Some(true),  "TooManyPerSecond", "7 sources"),
            (bans_limited(&limited(Limit::Capacity)),                  Some(true),  "TooMany",        "20,000 detected bans"),
            (bans_stored(&Report::default()),                          Some(true),  "Stored",         ""),
            (bans_stored(&refused),                                       Some(false), "MissingRights",  "since 1970-01-01T00:00:09Z no ban can be stored, 12 wait and are tried again: the operator may not write IPBans: apply deploy/kustomize/base/operator-rbac.yaml again. The API server's answer: cannot create"),
            (bans_effective(None, None, None),                         Some(true),  "Effective",      ""),
            (bans_effective(Some(at(60)), Some(seen), Some(&gaps(1, true))), Some(false), "Paused", "no node drops anything until 1970-01-01T00:01:00Z, as spec.pausedUntil of ProtectedNetworks/cluster says"),
            (bans_effective(None, None, Some(&gaps(1, true))),               Some(false), "NodesNotEnforcing", "1 of 3 nodes may let banned sources through (kubectl get nodefirewalls): n says FlowOffload"),
            (bans_effective(None, None, Some(&gaps(2, false))),              None,        "NodesUnknown",   "of 2 of 3 nodes nobody knows"),
            (bans_effective(None, None, Some(&Gaps { of: 0, ..gaps(0, false) })), None,   "NoAgents",       "kubectl get nodefirewalls"),
            (bans_effective(None, Some(seen), Some(&gaps(1, true))),                               Some(false), "BannedSourceSeen", "203.0.113.7/32 is banned since 1970-01-01T00:00:10Z and still got through at 1970-01-01T00:01:40Z"),
            (client_ip_preserved(lately(20, 20, 20), &[]),          Some(false), "ProxyInFront",   "PROXY protocol"),
            (client_ip_preserved(Tally { unknown: 10, ..lately(20, 20, 0) }, &[]), Some(false), "ClientUnknown", "10 of 20 requests"),
            (client_ip_preserved(Tally { unknown: 9, ..lately(20, 20, 0) }, &[]),  Some(true),  "Preserved",      ""),
        ];
        for (finding, status, reason, message) in table {
            assert_eq!((finding.status, finding.reason), (status, reason), "{}", finding.message);
            assert!(finding.message.contains(message), "{}", finding.message);
        }
    }
}
