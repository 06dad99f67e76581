//! A ban that gives way to stronger evidence when there is no room for both.
//!
//! One write ends it: its `expiresAt` becomes now, so every node lifts it, and an annotation tells every replica, this
//! leader's successor too, that nobody lifted it by hand. [`crate::expire`] then deletes the object as any that is over.
//! Its source stays an offender, and what it does next counts as before.

use ip_sentry_crd::{EVICTED_ANNOTATION, FIELD_MANAGER, IPBan};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{bans::Ban, lease::Deposed};

/// What became of an eviction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evicted {
    /// The ban is over.
    Done,
    /// It is gone, or was changed since it was read, such as made longer: choose again from what is there now.
    Changed,
}

/// Why a ban was not evicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvictError {
    /// Another replica leads.
    #[error("not leading: the leader evicts")]
    Deposed,
    /// The API server refused it or could not be reached.
    #[error("ban {name} could not be evicted")]
    Write {
        /// The ban.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Ends `ban` at `now`, exactly as it was read: another one of its name, or a later version, stays.
///
/// The object goes a moment later; [`Ban::is_active`] is false from the next event of the watch on. Twice is the same
/// as once. Only for bans that the operator made.
pub async fn evict(api: &Api<IPBan>, ban: &Ban, now: Timestamp) -> Result<Evicted, EvictError> {
    // Never later than now: a node would go on dropping for the rest of the second.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let patch = json!({
        "metadata": {
            "uid": ban.uid,
            "resourceVersion": ban.resource_version,
            "annotations": {EVICTED_ANNOTATION: "true"},
        },
        "spec": {"expiresAt": Time(ban.expires_at.map_or(now, |end| end.min(now)))},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    match api.patch(&ban.name, &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(Evicted::Done),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Evicted::Changed),
        Err(error) if Deposed::is_cause_of(&error) => Err(EvictError::Deposed),
        Err(source) => Err(EvictError::Write { name: ban.name.clone(), source: Box::new(source) }),
    }
}
