//! Pieces of schema that several kinds share: networks, durations, timestamps, patterns, conditions.
//!
//! Each rule and its message was accepted by a real API server; a rule is guarded so that text which an
//! earlier rule refuses never ends in a type error that hides the message.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A GEP-2257 duration; the bounds are the caller's `x-kubernetes-validations`.
pub(crate) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A canonical network of any width.
pub(crate) fn network(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 4,
        "maxLength": 43,
        "x-kubernetes-validations": [
            {
                "rule": "isCIDR(self)",
                "message": "must be a CIDR such as 203.0.113.0/24 or 2001:db8::/32",
                "messageExpression": "isIP(self) ? 'write the prefix length too: ' + self + (ip(self).family() == 4 ? '/32' : '/128') : 'must be a CIDR such as 203.0.113.0/24 or 2001:db8::/32'",
            },
            {
                "rule": "!isCIDR(self) || string(cidr(self).masked()) == self",
                "message": "not canonical",
                "messageExpression": "isCIDR(self) ? 'not canonical, write %s'.format([string(cidr(self).masked())]) : 'not a CIDR'",
            },
        ],
    })
}

/// A list of canonical networks, at most `max` of them.
pub(crate) fn networks(generator: &mut SchemaGenerator, max: u32) -> Schema {
    let items = network(generator);
    json_schema!({
        "type": "array",
        "maxItems": max,
        "x-kubernetes-list-type": "atomic",
        "items": items,
    })
}

/// A list of at most 1,024 networks that are never banned, none so wide that it stands for everybody.
///
/// Of IPv6 the unique local addresses are one network that people write: `fc00::/7`.
pub(crate) fn protected(generator: &mut SchemaGenerator) -> Schema {
    let mut items = network(generator);
    let not_too_wide = json!({
        "rule": "!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 8 : 16) || self.matches('^f[cd][0-9a-f]{2}:.*/([7-9]|1[0-5])$')",
        "message": "wider than /8 (IPv4) or /16 (IPv6), which would switch most bans off: write your own networks; to let everybody in for a while set spec.pausedUntil, to ban nobody set mode: Shadow in the policies",
    });
    add_rules(&mut items, [not_too_wide]);
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "atomic",
        "items": items,
    })
}

fn add_rules<const N: usize>(schema: &mut Schema, more: [Value; N]) {
    if let Some(rules) = schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
        rules.extend(more);
    }
}

/// A network that may be banned, fixed once written.
pub(crate) fn source(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = network(generator);
    schema.insert("minLength".into(), json!(9));
    let more = [
        json!({
            "rule": "!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 16 : 32)",
            "message": "not wider than /16 (IPv4) or /32 (IPv6)",
        }),
        json!({
            "rule": "!isCIDR(self) || cidr(self).ip().isGlobalUnicast()",
            "message": "loopback, link-local, multicast, broadcast and unspecified addresses are never banned",
        }),
        json!({"rule": "self == oldSelf", "message": "cidr is immutable: delete this ban and create another"}),
    ];
    add_rules(&mut schema, more);
    schema
}

/// A duration between `min` and `max`, with the message that names both.
///
/// No `pattern`: its message would show the expression instead of what to write.
pub(crate) fn duration(field: &str, min: &str, max: &str) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{DURATION}') && duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"),
            "message": format!("{field} is a duration from {min} to {max}, such as 90s, 2m or 24h"),
        }],
    })
}

/// A point in time in UTC and whole seconds.
///
/// No `format: date-time`, which takes `…00,5Z`, `+25:00`, lower case and fractions, and no `pattern`: both would
/// refuse in words of their own. The expression knows how long each month is, so that what it takes is a time.
pub(crate) fn utc_seconds(_: &mut SchemaGenerator) -> Schema {
    const LONG_MONTHS: &str = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])";
    const SHORT_MONTHS: &str = "(0[469]|11)-(0[1-9]|[12][0-9]|30)";
    const FEBRUARY: &str = "02-(0[1-9]|1[0-9]|2[0-8])";
    const LEAP_YEARS: &str = "([0-9][0-9](0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29";
    let day = format!("([0-9]{{4}}-({LONG_MONTHS}|{SHORT_MONTHS}|{FEBRUARY})|{LEAP_YEARS})");
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('^{day}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$')"),
            "message": "must be a time in UTC and whole seconds such as 2026-11-22T10:00:00Z: no duration, no offset (Z in place of +00:00), no fraction",
        }],
    })
}

/// A list of at most 64 patterns that RE2 compiles and that don't match the empty path.
pub(crate) fn patterns(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            "x-kubernetes-validations": [{
                "rule": "!''.matches(self)",
                "message": "a pattern must compile as RE2 and must not match the empty path",
            }],
        },
    })
}

/// A list of at most 64 patterns for user agents.
pub(crate) fn user_agents(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            "x-kubernetes-validations": [{
                "rule": "!''.matches(self)",
                "message": "a pattern must compile as RE2 and must not match the empty user agent",
            }],
        },
    })
}

/// A list of at most 64 host names, or `*.` and what they end with.
pub(crate) fn hosts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 253,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^(([*][.])?([A-Za-z0-9_-]+[.])*[A-Za-z0-9_-]+|[[][0-9A-Fa-f:.]+[]])$')",
                "message": "a host is a name such as shop.example.com, or *.example.com for every name below it; without a port",
            }],
        },
    })
}

/// A network in an object that the operator alone writes: rules on each of a thousand entries would cost
/// more than the API server grants a CRD.
pub(crate) fn plain_network(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 43})
}
