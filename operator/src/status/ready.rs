//! `Ready`: whether a policy works, summed up for `kubectl wait`, Flux and Argo CD.
//!
//! It is False only for what somebody must put right: the policy, its targets, the rights, the format. What traffic
//! shows, such as clients behind a proxy, and what happens to nodes have conditions of their own; they change its reason.

use ip_sentry_crd::condition::Finding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

const KIND: &str = "Ready";

/// What keeps a log from being read until somebody changes something.
const LASTING: [&str; 3] = ["Forbidden", "ContainerMissing", "TooManyLogs"];

/// Sums up the other conditions. `open` logs are read; `is_refused`: the API server refuses every ban, and not for a
/// moment.
///
/// The first finding that holds the policy up decides. Where there is none, `Ready` is True, and its reason `Degraded`
/// if another condition says that something is wrong.
pub(super) fn ready(findings: &[Finding], open: usize, enforces: bool, is_refused: bool) -> Finding {
    let holds_up = |finding: &&Finding| holds_up(finding, open, enforces && is_refused);
    if let Some(&Finding { kind, status, reason, ref message }) = findings.iter().find(holds_up) {
        return Finding { kind: KIND, status, reason, message: format!("{kind}: {message}") };
    }
    let wrong: Vec<String> =
        findings.iter().filter(|finding| is_wrong(finding, enforces)).map(named).collect();
    let [shadow, fine] = if enforces {
        ["", "its logs are read, and who earns a ban is banned"]
    } else {
        ["; mode Shadow: nobody is banned", "its logs are read"]
    };
    if wrong.is_empty() {
        let reason = if enforces { "Enforcing" } else { "Shadow" };
        return Finding::yes(KIND, reason, format!("{fine}{shadow}"));
    }
    let message = format!("its logs are read, but {}: see these conditions{shadow}", wrong.join(", "));
    Finding::yes(KIND, "Degraded", message)
}

/// Whether the policy doesn't work until somebody has put this right.
///
/// While logs are read, others may come and go, as in each rollout of a gateway; and a log without lines holds nothing
/// up. A refusal of every ban does if it lasts.
fn holds_up(finding: &Finding, open: usize, is_refused: bool) -> bool {
    match (finding.kind, finding.status) {
        (_, Some(true)) | ("LogsParsed", None) => false,
        ("Accepted" | "ResolvedRefs" | "LogsParsed", _) => true,
        ("LogsStreaming", _) => open == 0 || LASTING.contains(&finding.reason),
        ("BansStored", _) => is_refused,
        _ => false,
    }
}

/// Whether a condition that doesn't hold the policy up says that something is wrong. What is said of bans concerns only
/// policies that ban; `WindowComplete` passes by itself.
fn is_wrong(finding: &Finding, enforces: bool) -> bool {
    match finding.kind {
        "LogsStreaming" | "LinesWhole" | "ClocksAgree" | "ClientIPPreserved" => finding.status == Some(false),
        "BansStored" => enforces && finding.status == Some(false),
        "BansEffective" => enforces && finding.status != Some(true),
        "BansLimited" => enforces && finding.status == Some(true),
        _ => false,
    }
}

fn named(finding: &Finding) -> String {
    let status = match finding.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    format!("{} is {status} ({})", finding.kind, finding.reason)
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
            let ready = ready(&all, open, true, false);
            assert_eq!(ready.status, expect, "{reason}, {open} read");
            if expect != Some(true) {
                assert_eq!((ready.reason, ready.message), (reason, format!("{}: do this", NAMES[place])));
            }
        }
        let mut both = findings(3, Some(false), "WrongFormat");
        both[0] = Finding::no("Accepted", "Invalid", "");
        assert_eq!(ready(&both, 1, true, false).reason, "Invalid", "the first decides");
        let fine = findings(0, Some(true), "Fine");
        assert_eq!(
            [true, false].map(|enforces| ready(&fine, 1, enforces, false).reason),
            ["Enforcing", "Shadow"]
        );
    }

    #[test]
    fn what_keeps_bans_from_working_is_named_by_a_policy_that_is_ready_and_is_its_reason() {
        let stored = ("BansStored", Some(false), "QuotaExceeded");
        let paused = ("BansEffective", Some(false), "Paused");
        let silent = ("BansEffective", None, "NodesUnknown");
        let hidden = ("ClientIPPreserved", Some(false), "ProxyInFront");
        #[rustfmt::skip]
        let table = [
            // what is found                                    enforces refused  Ready
            (vec![],                                            true,  false, "true Enforcing its logs are read, and who earns a ban is banned"),
            (vec![],                                            false, false, "true Shadow its logs are read; mode Shadow: nobody is banned"),
            (vec![stored, paused],                              true,  false, "true Degraded its logs are read, but BansStored is False (QuotaExceeded), BansEffective is False (Paused): see these conditions"),
            (vec![stored, paused],                              true,  true,  "false QuotaExceeded BansStored: "),
            (vec![stored, paused],                              false, true,  "true Shadow "),
            (vec![hidden, paused],                              false, false, "true Degraded its logs are read, but ClientIPPreserved is False (ProxyInFront): see these conditions; mode Shadow: nobody is banned"),
            (vec![silent],                                      true,  false, "true Degraded its logs are read, but BansEffective is Unknown (NodesUnknown): "),
            (vec![("ClientIPPreserved", None, "TooFewLines")],  true,  false, "true Enforcing "),
            (vec![("LogsStreaming", Some(false), "Unreachable")], true, false, "true Degraded "),
            (vec![("LogsStreaming", None, "Opening")],          true,  false, "true Enforcing "),
            (vec![("LinesWhole", Some(false), "LongLines")],    true,  false, "true Degraded "),
            (vec![("ClocksAgree", Some(false), "ClockAhead")],  true,  false, "true Degraded "),
            (vec![("WindowComplete", Some(false), "NewToTheLog")], true, false, "true Enforcing "),
            (vec![("BansLimited", Some(false), "WithinLimits")], true, false, "true Enforcing "),
            (vec![("BansLimited", Some(true), "TooMany")],      true,  false, "true Degraded its logs are read, but BansLimited is True (TooMany): "),
        ];
        for (found, enforces, is_refused, expect) in table {
            let found: Vec<Finding> = found
                .into_iter()
                .map(|(kind, status, reason)| Finding { status, ..Finding::yes(kind, reason, "") })
                .collect();
            let ready = ready(&found, 1, enforces, is_refused);
            let told = format!("{} {} {}", ready.status == Some(true), ready.reason, ready.message);
            assert!(told.starts_with(expect), "{told}");
        }
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
