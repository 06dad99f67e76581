//! What the fields of a policy must be to each other, as CEL rules with messages that say what to write.

use serde_json::{Value, json};

use crate::schema::DURATION;

/// Whether every path is a hit.
const ANY_PATH: &str = "(has(self.match.anyPath) && self.match.anyPath)";

/// Whether the format shows the request target.
const SHOWS_PATH: &str = "(has(self.format.regex) ? (self.format.regex.matches('[(][?]P?<') ? self.format.regex.contains('<path>') : self.format.regex.replace('(?:', '').matches('[(][^(]*[(]')) : !has(self.format.json) || has(self.format.json.path))";

/// More requests than a visitor makes who loads a page or two: half of the web's pages ask for 70 or fewer.
const A_PAGE: u32 = 100;

/// The rules of `spec`.
pub(super) fn of_spec() -> Value {
    let narrowed = ["statuses", "methods", "userAgents"].map(|list| given(&format!("match.{list}")));
    let narrowed = narrowed.map(|given| format!("({given})")).join(" || ");
    let hosts = format!("{} || {}", given("match.hosts"), given_in_except("hosts"));
    let user_agents = format!("{} || {}", given("match.userAgents"), given_in_except("userAgents"));
    json!([
        {
            "rule": "has(self.targetRefs) != has(self.podSelector)",
            "message": "give exactly one of targetRefs and podSelector",
        },
        {
            "rule": "self.threshold > 0 || self.uniquePatternThreshold > 0 || self.uniquePathThreshold > 0",
            "message": "threshold, uniquePatternThreshold and uniquePathThreshold are all 0: nothing would ever be banned",
        },
        {
            "rule": format!("!{ANY_PATH} || self.threshold > 0 || self.uniquePathThreshold > 0"),
            "message": "with match.anyPath there are no patterns to tell apart: set threshold or uniquePathThreshold",
        },
        {
            "rule": format!("!{ANY_PATH} || !{SHOWS_PATH} || {narrowed} || ((self.threshold == 0 || self.threshold >= {A_PAGE}) && (self.uniquePathThreshold == 0 || self.uniquePathThreshold >= {A_PAGE}))"),
            "message": format!("match.anyPath alone counts every request, and a page asks for dozens of pictures: narrow it by match.statuses, match.methods or match.userAgents, or set threshold and uniquePathThreshold to {A_PAGE} or more (0 is off)"),
        },
        {
            "rule": format!("!has(self.escalation) || !self.escalation.maxDuration.matches('{DURATION}') || !self.banDuration.matches('{DURATION}') || duration(self.escalation.maxDuration) >= duration(self.banDuration)"),
            "message": "escalation.maxDuration (default 672h) is shorter than banDuration: make it as long or longer",
        },
        {
            "rule": format!("{SHOWS_PATH} || ({ANY_PATH} && self.uniquePathThreshold == 0 && !({}))", given_in_except("patterns")),
            "message": "the format needs the request target: the group (?P<path>…) in format.regex, or without names the second, or format.json.path; only match.anyPath goes without, and then neither uniquePathThreshold nor except.patterns",
        },
        shown(&given("match.statuses"), "match.statuses", "status", true),
        shown(&given("match.methods"), "match.methods", "method", true),
        shown(&hosts, "hosts in match or except", "host", false),
        shown(&user_agents, "userAgents in match or except", "userAgent", true),
        shown("has(self.clientIP)", "clientIP", "forwardedFor", true),
    ])
}

/// Whether a list has entries.
fn given(list: &str) -> String {
    format!("has(self.{list}) && self.{list}.size() > 0")
}

/// Whether a list in `except` has entries.
fn given_in_except(list: &str) -> String {
    format!("has(self.except) && {}", given(&format!("except.{list}")))
}

/// What asks for a field needs a format that shows it: else nothing would be a hit, or nothing exempt.
fn shown(asked: &str, by: &str, field: &str, preset_shows: bool) -> Value {
    let preset = if preset_shows { "" } else { "; NginxCombined shows none" };
    json!({
        "rule": format!("!({asked}) || (has(self.format.regex) ? self.format.regex.contains('<{field}>') : has(self.format.json) ? has(self.format.json.{field}) : {preset_shows})"),
        "message": format!("{by}: the format has no {field}: write the group (?P<{field}>…) in format.regex, or format.json.{field}{preset}"),
    })
}
