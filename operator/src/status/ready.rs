//! `Ready`: whether a policy works, summed up for `kubectl wait`, Flux and Argo CD.
//!
//! It speaks of what somebody can put right: the policy, its targets, the right to read their logs, the format. What
//! traffic shows, such as clients behind a proxy, has conditions of its own.

use ip_sentry_crd::condition::Finding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

const KIND: &str = "Ready";

/// What keeps a log from being read until somebody changes something.
const LASTING: [&str; 3] = ["Forbidden", "ContainerMissing", "TooManyLogs"];

/// The first of `Accepted`, `ResolvedRefs`, `LogsStreaming` and `LogsParsed` that holds the policy up decides.
///
/// `open` logs are read. While some are, others may come and go, as in each rollout of a gateway; and a log without
/// lines holds nothing up.
pub(super) fn ready(of: [&Finding; 4], open: usize, enforces: bool) -> Finding {
    let holds_up = |finding: &&Finding| match (finding.kind, finding.status) {
        (_, Some(true)) | ("LogsParsed", None) => false,
        ("LogsStreaming", _) => open == 0 || LASTING.contains(&finding.reason),
        _ => true,
    };
    match of.into_iter().find(holds_up) {
        Some(&Finding { kind, status, reason, ref message }) => {
            Finding { kind: KIND, status, reason, message: format!("{kind}: {message}") }
        }
        None if enforces => {
            Finding::yes(KIND, "Enforcing", "its logs are read, and who earns a ban is banned")
        }
        None => Finding::yes(KIND, "Shadow", "its logs are read; mode Shadow: nobody is banned"),
    }
}

/// Why the policy is not ready, where `old` conditions did not say so yet.
#[must_use]
pub fn unready<'a>(old: &[Condition], new: &'a [Condition]) -> Option<&'a str> {
    let find = |conditions: &[Condition]| conditions.iter().position(|condition| condition.type_ == KIND);
    let now = &new[find(new)?];
    let is_known =
        find(old).is_some_and(|place| (&old[place].status, &old[place].reason) == (&now.status, &now.reason));
    (now.status == "False" && !is_known).then_some(&now.message)
}

#[cfg(test)]
mod tests {
    use ip_sentry_crd::condition::merge;
    use jiff::Timestamp;

    use super::*;

    const NAMES: [&str; 4] = ["Accepted", "ResolvedRefs", "LogsStreaming", "LogsParsed"];

    /// All true, but for the one at `place`.
    fn findings(place: usize, status: Option<bool>, reason: &'static str) -> [Finding; 4] {
        let mut all = NAMES.map(|name| Finding::yes(name, "Fine", "fine"));
        all[place] = Finding { status, reason, ..Finding::yes(NAMES[place], reason, "do this") };
        all
    }

    #[test]
    fn what_somebody_must_put_right_makes_a_policy_unready_and_says_so() {
        #[rustfmt::skip]
        let table = [
            // what is found                              logs read  Ready
            (0, Some(false), "Invalid",                   1,         Some(false)), // the last good version is in force
            (1, Some(false), "TargetNotFound",            0,         Some(false)),
            (1, None,        "Pending",                   0,         None),
            (2, Some(false), "Forbidden",                 0,         Some(false)),
            (2, Some(false), "ContainerWaiting",          0,         Some(false)),
            (2, None,        "Opening",                   0,         None),
            (2, Some(false), "ContainerMissing",          1,         Some(false)),
            (2, Some(false), "ContainerWaiting",          1,         Some(true)), // a rollout
            (2, None,        "Opening",                   1,         Some(true)),
            (3, Some(false), "WrongFormat",               1,         Some(false)),
            (3, None,        "NoLines",                   1,         Some(true)), // nobody came yet
        ];
        for (place, status, reason, open, expect) in table {
            let all = findings(place, status, reason);
            let ready = ready(all.each_ref(), open, true);
            assert_eq!(ready.status, expect, "{reason}, {open} read");
            if expect != Some(true) {
                assert_eq!((ready.reason, ready.message), (reason, format!("{}: do this", NAMES[place])));
            }
        }
        let mut both = findings(3, Some(false), "WrongFormat");
        both[0] = Finding::no("Accepted", "Invalid", "");
        assert_eq!(ready(both.each_ref(), 1, true).reason, "Invalid", "the first decides");
        let fine = findings(0, Some(true), "Fine");
        assert_eq!(
            [true, false].map(|enforces| ready(fine.each_ref(), 1, enforces).reason),
            ["Enforcing", "Shadow"]
        );
    }

    #[test]
    fn each_way_to_become_unready_is_news_once() {
        let ready = |status, reason| {
            let finding = Finding { status, ..Finding::yes(KIND, reason, reason) };
            merge(&[], &[Finding::yes("Accepted", "Accepted", ""), finding], None, Timestamp::UNIX_EPOCH)
        };
        let [fine, opening] = [ready(Some(true), "Enforcing"), ready(None, "Opening")];
        let [forbidden, wrong] = [ready(Some(false), "Forbidden"), ready(Some(false), "WrongFormat")];
        assert_eq!(unready(&[], &forbidden), Some("Forbidden"));
        assert_eq!(unready(&fine, &forbidden), Some("Forbidden"));
        assert_eq!(unready(&forbidden, &forbidden), None);
        assert_eq!(unready(&forbidden, &wrong), Some("WrongFormat"));
        assert_eq!(unready(&wrong, &opening), None);
        assert_eq!(unready(&wrong, &fine), None);
        assert_eq!(unready(&[], &[]), None);
    }
}
