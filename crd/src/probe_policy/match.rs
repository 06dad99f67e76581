//! `spec.match`: what a hit is.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// What a hit is: a request whose path matches one of the catalogues' patterns or of your own, or with anyPath
/// every request, narrowed by the other fields: a hit agrees with each of them that is given.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(has(self.catalogues) && self.catalogues.size() > 0) || (has(self.patterns) && self.patterns.size() > 0) || (has(self.anyPath) && self.anyPath)",
        "message": "say what a hit is: give match.catalogues or match.patterns, or match.anyPath: true to count every request that the other fields let through",
    },
    {
        "rule": "!(has(self.anyPath) && self.anyPath) || !((has(self.catalogues) && self.catalogues.size() > 0) || (has(self.patterns) && self.patterns.size() > 0))",
        "message": "match.anyPath takes every path already: leave out match.catalogues and match.patterns",
    },
]))]
pub struct Match {
    /// Every request is a hit that the other fields let through, whatever its path: with statuses 404 alone, any
    /// request that was answered so. Without another field every visitor's are: narrow it, or set thresholds
    /// that no person reaches. Not together with catalogues or patterns. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub any_path: bool,
    /// Lists of patterns that come with ip-sentry. `Default`: the 15 classic probe paths, such as /wp-admin,
    /// /.env, /.git/ and /phpmyadmin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "catalogues")]
    pub catalogues: Vec<Catalogue>,
    /// Your own patterns: regular expressions in the syntax that RE2 and Rust share, searched in the request
    /// target (the normalised path, then `?` and the query); `^` is the path's root. At most 64 of at most 512
    /// characters. The first that matches is the one reported; the catalogues' come before yours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::patterns")]
    pub patterns: Vec<String>,
    /// Statuses that a hit was answered with one of: `404`, or `4xx` for all of 400 to 499; at most 32. Default:
    /// any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "statuses")]
    pub statuses: Vec<String>,
    /// Methods that a hit has one of, in capitals, such as `POST`; at most 32. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "methods")]
    pub methods: Vec<String>,
    /// Hosts that a hit asked for one of: `shop.example.com`, or `*.example.com` for every name below it. Case,
    /// the port and a dot at the end don't count. At most 64. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Vec<String>,
    /// Regular expressions, as in patterns, of which a hit's user agent matches one; `(?i)` in front leaves case
    /// aside. At most 64. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::user_agents")]
    pub user_agents: Vec<String>,
}

/// A list of patterns that comes with ip-sentry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Catalogue {
    /// The 15 classic probe paths.
    Default,
}

impl Default for Match {
    fn default() -> Self {
        Self {
            any_path: false,
            catalogues: vec![Catalogue::Default],
            patterns: Vec::new(),
            statuses: Vec::new(),
            methods: Vec::new(),
            hosts: Vec::new(),
            user_agents: Vec::new(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn catalogues(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Catalogue>();
    json_schema!({"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": items})
}

fn statuses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 3,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[1-5]([0-9][0-9]|xx)$')",
                "message": "a status is three digits such as '404', or a class such as 4xx",
            }],
        },
    })
}

fn methods(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^[A-Z][A-Z_-]*$')",
                "message": "a method is written in capitals, such as POST",
            }],
        },
    })
}
