//! Writes bans: one request stores one, complete; one request raises the end of one that exists.
//!
//! What to write is the [`ban_queue`](crate::ban_queue)'s decision. Writing the same twice changes nothing: the
//! name, the end and all else follow from the decision alone.

use ip_sentry_crd::{
    FIELD_MANAGER, IPBan, MANAGED_BY, MANAGED_BY_LABEL, TTL_FINALIZER,
    ip_ban::{IPBanSpec, PolicyRef},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    ban_queue::{Outcome, Write},
    bans::Ban,
    lease::Deposed,
    refusal::{Cause, Refusal},
};

/// Writes bans.
#[derive(Clone)]
pub struct Publisher {
    api: Api<IPBan>,
}

impl Publisher {
    /// `client` lets writes through only while this replica leads.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Stores a new ban.
    pub async fn create(&self, write: &Write) -> Outcome {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match self.api.create(&params, &ban(write)).await {
            Ok(_) => Outcome::Stored,
            Err(error) => self.outcome(&write.name, error).await,
        }
    }

    /// Raises the end of the ban that exists, if it is still at `version`.
    pub async fn extend(&self, write: &Write, version: &str) -> Outcome {
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"expiresAt": Time(write.ban.expires_at)},
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.api.patch(&write.name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Outcome::Stored,
            Err(error) => self.outcome(&write.name, error).await,
        }
    }

    async fn outcome(&self, name: &str, error: kube::Error) -> Outcome {
        if Deposed::is_cause_of(&error) {
            return Outcome::Deposed;
        }
        match error {
            // The ban to extend has gone. Where the kind itself is missing, the answer names no object.
            kube::Error::Api(status)
                if status.code == 404
                    && status.details.as_ref().is_some_and(|details| details.name == name) =>
            {
                Outcome::Vanished
            }
            // The name is taken, or the version is not the one that was read.
            kube::Error::Api(status) if status.code == 409 => match self.api.get_opt(name).await {
                Ok(Some(object)) => match Ban::read(&object) {
                    Ok(ban) => Outcome::Taken(Box::new(ban)),
                    Err(error) => {
                        Outcome::Refused(Refusal::Passing(Cause::NameUnreadable, error.to_string()))
                    }
                },
                Ok(None) => Outcome::Vanished,
                Err(error) => Outcome::Refused(Refusal::of(&error)),
            },
            error => Outcome::Refused(Refusal::of(&error)),
        }
    }
}

/// The object, complete: this one write enforces it.
fn ban(write: &Write) -> IPBan {
    let key = &write.policy.key;
    let policy = PolicyRef { namespace: key.namespace.clone(), name: key.name.clone() };
    let mut ban = IPBan::new(&write.name, IPBanSpec::detected(policy, &write.decision, write.ban));
    ban.metadata.labels = Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into());
    ban.metadata.finalizers = Some(vec![TTL_FINALIZER.to_owned()]);
    ban
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ip_sentry_core::detect::{
        decision::{Decision, Evidence, Threshold},
        escalation::{self, BanTime},
    };
    use jiff::Timestamp;

    use super::*;
    use crate::policies::PolicyJail;

    #[test]
    fn the_object_is_complete_and_the_same_whoever_writes_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let decision = Decision {
            source: "203.0.113.7/32".parse().unwrap(),
            reason: "^/wp-admin".into(),
            evidence: Evidence {
                hits: 3,
                threshold: Threshold::Hits,
                first_seen: at(90),
                last_seen: at(100),
                samples: vec!["GET /wp-admin/ 404".into()],
            },
            ban_time: BanTime { first: Duration::from_secs(100), escalation: None },
        };
        let write = Write {
            name: "203.0.113.7".into(),
            policy: PolicyJail::example("web", "gw"),
            decision,
            ban: escalation::Ban { offence: 2, length: Duration::from_secs(100), expires_at: at(200) },
        };
        assert_eq!(
            serde_json::to_value(ban(&write)).unwrap(),
            json!({
                "apiVersion": "ipsentry.dev/v1alpha1",
                "kind": "IPBan",
                "metadata": {
                    "name": "203.0.113.7",
                    "labels": {"app.kubernetes.io/managed-by": "ip-sentry"},
                    "finalizers": ["ipsentry.dev/ttl"],
                },
                "spec": {
                    "cidr": "203.0.113.7/32",
                    "origin": "Detected",
                    "expiresAt": "1970-01-01T00:03:20Z",
                    "reason": "^/wp-admin",
                    "policyRef": {"namespace": "web", "name": "gw"},
                    "offence": 2,
                    "evidence": {
                        "hits": 3,
                        "threshold": "Hits",
                        "firstSeen": "1970-01-01T00:01:30Z",
                        "lastSeen": "1970-01-01T00:01:40Z",
                        "samples": ["GET /wp-admin/ 404"],
                    },
                },
            })
        );
    }
}
