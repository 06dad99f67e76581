//! Conditions about a policy's lines: whether they have its format, and when they were written.

use ip_sentry_crd::condition::Finding;
use jiff::SignedDuration;

use crate::{
    recent::{ENOUGH_LINES, Tally},
    streams::Skew,
};

/// The most nodes that are named.
const MAX_NAMED: usize = 3;

/// `shape` is that of the last line that was not read: its text may hold secrets.
pub(super) fn parsed(recent: Tally, shape: Option<&str>) -> Finding {
    const KIND: &str = "LogsParsed";
    if recent.lines == 0 {
        return Finding::unknown(
            KIND,
            "NoLines",
            "no line has been read yet: does the gateway log its requests?",
        );
    }
    let judged = recent.parsed + recent.foreign;
    if judged >= ENOUGH_LINES && recent.parsed * 2 < judged {
        let (parsed, lines) = (recent.parsed, judged);
        let shape =
            shape.map(|shape| format!(", the last one that does not looks like {shape}")).unwrap_or_default();
        let message = format!("only {parsed} of {lines} lines have the format{shape}: correct spec.format");
        return Finding::no(KIND, "WrongFormat", message);
    }
    if recent.parsed == 0 {
        return Finding::unknown(KIND, "TooFewLines", "too few lines to judge by");
    }
    Finding::yes(KIND, "Parsed", "the lines have the policy's format")
}

/// Says that lines were not counted because they came right after long ones, or after messages that quote a client.
pub(super) fn lines_whole(recent: Tally) -> Finding {
    const KIND: &str = "LinesWhole";
    match recent.rests {
        _ if recent.quoted > 0 => Finding::no(
            KIND,
            "QuotedClients",
            format!(
                "{} lines were lately not counted: they came within a second of messages of nginx that quote what a \
                 client sent, line breaks and all, so a client may have written them. Keep nginx's error log out of \
                 this log, or such messages out of it (log_not_found off), or turn on the feature gate \
                 PodLogsQuerySplitStreams",
                recent.quoted
            ),
        ),
        0 => Finding::yes(KIND, "Whole", "no line was left out as the possible rest of a longer one"),
        rests => Finding::no(
            KIND,
            "LongLines",
            format!(
                "{rests} lines were lately not counted: they came right after lines of 16 KiB or more, and may be the \
                 rest of those, which begins with what a client wrote. Let the gateway refuse requests with such long \
                 headers or log JSON, or turn on the feature gate PodLogsQuerySplitStreams"
            ),
        ),
    }
}

/// Says which nodes' clocks are off. Their lines count all the same, dated by the operator's clock.
pub(super) fn clocks_agree(skews: &[Skew]) -> Finding {
    const KIND: &str = "ClocksAgree";
    let mut skews: Vec<&Skew> = skews.iter().collect();
    skews.sort_by(|a, b| a.node.cmp(&b.node));
    skews.dedup_by(|a, b| a.node == b.node);
    let Some(first) = skews.first() else {
        return Finding::yes(KIND, "Agree", "no node's clock is known to be off");
    };
    let reason = if first.behind.is_negative() { "ClockAhead" } else { "ClockBehind" };
    let mut nodes: Vec<String> = skews.iter().take(MAX_NAMED).map(|skew| named(skew)).collect();
    if skews.len() > MAX_NAMED {
        nodes.push(format!("{} more", skews.len() - MAX_NAMED));
    }
    let message = format!(
        "clocks differ from the operator's: {}; lines from there are dated by the operator's clock. Let the nodes keep \
         their time (NTP); if every node is off alike, it is the operator's own node",
        nodes.join(", ")
    );
    Finding::no(KIND, reason, message)
}

fn named(Skew { node, behind }: &Skew) -> String {
    let by = SignedDuration::from_secs(behind.as_secs().abs());
    format!("node {node} is {by:#} {}", if behind.is_negative() { "ahead" } else { "behind" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lately(lines: u64, parsed: u64) -> Tally {
        Tally { lines, parsed, foreign: lines - parsed, requests: parsed, ..Tally::default() }
    }

    #[test]
    fn each_condition_says_what_is_wrong_and_what_to_do() {
        let skew =
            |node: &str, seconds| Skew { node: node.into(), behind: SignedDuration::from_secs(seconds) };
        let many = ["d", "b", "c", "a", "a"].map(|node| skew(node, 90));
        #[rustfmt::skip]
        let table = [
            (parsed(lately(0, 0), None),                         None,        "NoLines",        "log its requests"),
            (parsed(lately(9, 0), None),                         None,        "TooFewLines",    "too few"),
            (parsed(lately(100, 49), Some("w n")),               Some(false), "WrongFormat",    "looks like w n: correct spec.format"),
            (parsed(Tally { foreign: 0, ..lately(100, 20) }, None), Some(true),  "Parsed",         ""),
            (parsed(lately(100, 50), None),                      Some(true),  "Parsed",         ""),
            (lines_whole(lately(100, 50)),                          Some(true),  "Whole",         ""),
            (lines_whole(Tally { quoted: 5, rests: 7, ..lately(100, 50) }), Some(false), "QuotedClients", "5 lines were lately not counted"),
            (lines_whole(Tally { rests: 7, ..lately(100, 50) }),    Some(false), "LongLines",     "7 lines were lately not counted"),
            (clocks_agree(&[]),                                     Some(true),  "Agree",         ""),
            (clocks_agree(&[skew("a", -330)]),                      Some(false), "ClockAhead",    "node a is 5m 30s ahead;"),
            (clocks_agree(&many),                                   Some(false), "ClockBehind",   "node a is 1m 30s behind, node b is 1m 30s behind, node c is 1m 30s behind, 1 more;"),
        ];
        for (finding, status, reason, message) in table {
            assert_eq!((finding.status, finding.reason), (status, reason), "{}", finding.message);
            assert!(finding.message.contains(message), "{}", finding.message);
        }
    }
}
