//! The kinds of `ipsentry.dev`: what people write, what they read with `kubectl explain`, and the rules that
//! the API server holds objects to.
//!
//! A kind's file holds its fields, whose doc comments are the manual, and its validation. [`convert`] turns
//! what was accepted into the types of `ip-sentry-core`; [`manifest`] prints the CRDs.

#![expect(
    clippy::duplicated_attributes,
    reason = "kube's printcolumn and selectable attributes repeat by design"
)]

pub mod condition;
pub mod convert;
pub mod ip_ban;
pub mod manifest;
pub mod node_firewall;
pub mod offence_history;
pub mod policy_limits;
pub mod probe_policy;
pub mod protected_networks;
mod schema;
pub mod targets;

pub use ip_ban::IPBan;
pub use node_firewall::NodeFirewall;
pub use offence_history::OffenceHistory;
pub use policy_limits::PolicyLimits;
pub use probe_policy::ProbePolicy;
pub use protected_networks::ProtectedNetworks;

/// The API group of every kind.
pub const GROUP: &str = "ipsentry.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// The field manager of everything that ip-sentry writes.
pub const FIELD_MANAGER: &str = "ip-sentry";
/// The label that marks what ip-sentry made, with [`MANAGED_BY`] as its value.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`]: the operator deletes only what carries it.
pub const MANAGED_BY: &str = "ip-sentry";
/// The finalizer of bans that the operator makes: how a ban ended is written down before it goes.
pub const TTL_FINALIZER: &str = "ipsentry.dev/ttl";
/// The annotation of a ban that the operator ended before its time, in favour of stronger evidence.
pub const EVICTED_ANNOTATION: &str = "ipsentry.dev/evicted";
/// The name of the one `ProtectedNetworks` object.
pub const PROTECTED_NETWORKS: &str = "cluster";
/// The name of the one `PolicyLimits` object.
pub const POLICY_LIMITS: &str = "cluster";
