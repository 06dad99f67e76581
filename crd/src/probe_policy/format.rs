//! `spec.format`: how a line of the log reads.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How a line of the log reads: exactly one of the three.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.preset), has(self.regex), has(self.json)].filter(given, given).size() == 1",
    "message": "give exactly one of format.preset, format.regex and format.json",
}]))]
pub struct LogFormat {
    /// A well-known format. `NginxCombined`: what nginx and NGINX Gateway Fabric write by default, and the
    /// common log format of Apache. It shows path, status, method, user agent and time, never the host; a
    /// quoted field right after the user agent, as in nginx's usual `main`, is X-Forwarded-For.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// A regular expression for one line, in the syntax that RE2 and Rust share, anchored with `^`; at most
    /// 1,024 characters. The group `(?P<ip>…)` is the client and `(?P<path>…)` the request target, which may
    /// be left out with match.anyPath; `status`, `method`, `host`, `userAgent`, `time` and `forwardedFor` may
    /// be there. No group may have another name. Without names the first group is the client and the second
    /// the target.
    /// Put the client left of everything that a client writes itself, or it can forge another's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "regex")]
    pub regex: Option<String>,
    /// One JSON object a line: where in it the fields are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonFields>,
}

/// A well-known log format.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Preset {
    /// `203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET /wp-admin/ HTTP/1.1" 404 153 "-" "curl/8"`
    NginxCombined,
}

/// Where in a JSON object the fields are, each as a JSON pointer (RFC 6901) of at most 256 characters such as
/// `/request/path`; `~1` stands for a slash in a name, `~0` for a tilde.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JsonFields {
    /// The client's address, as the gateway saw its peer.
    #[schemars(schema_with = "pointer")]
    pub ip: String,
    /// The request target: path and query. May be left out with match.anyPath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub path: Option<String>,
    /// The response's status, a number or text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub status: Option<String>,
    /// The request method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub method: Option<String>,
    /// The host that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub host: Option<String>,
    /// The user agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub user_agent: Option<String>,
    /// When it was logged. In a cluster the container runtime's time stamp counts; a file read by
    /// `kubectl ip-sentry replay` has only this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub time: Option<String>,
    /// The X-Forwarded-For header, for clientIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pointer")]
    pub forwarded_for: Option<String>,
}

impl Default for LogFormat {
    fn default() -> Self {
        Self { preset: Some(Preset::NginxCombined), regex: None, json: None }
    }
}

fn regex(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "x-kubernetes-validations": [
            {
                "rule": "self.startsWith('^')",
                "message": "format.regex must start with ^: unanchored, a client could place a forged line inside its own",
            },
            {
                "rule": "!''.matches(self)",
                "message": "format.regex must compile as RE2 and must not match an empty line",
            },
            {
                "rule": "self.matches('[(][?]P?<') ? self.contains('<ip>') : self.replace('(?:', '').matches('[(]')",
                "message": "format.regex needs a group for the client: name it (?P<ip>…), or without names make it the first",
            },
            {
                "rule": "self.matches('^([^(]|[(]+([^?(]|[?]([^P<]|P?<(ip|path|status|method|host|userAgent|time|forwardedFor)>)))*$')",
                "message": "the groups of format.regex may be named ip, path, status, method, host, userAgent, time and forwardedFor",
            },
        ],
    })
}

fn pointer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^(/([^/~]|~[01])*)+$')",
            "message": "must be a JSON pointer (RFC 6901) such as /request/path: each name after a slash",
        }],
    })
}
