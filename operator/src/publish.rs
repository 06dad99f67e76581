//! From a decision to an `IPBan`.
//!
//! Every replica keeps the decisions that are not yet seen as bans; only the leader writes them, so a new
//! leader goes on where the old one stopped. Writing one twice changes nothing: the name, the end and all
//! else follow from the decision alone.

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    net::Source,
};
use ip_sentry_crd::{
    FIELD_MANAGER, IPBan, MANAGED_BY, MANAGED_BY_LABEL, TTL_FINALIZER,
    ip_ban::{IPBanSpec, Origin, PolicyRef},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    bans::{Ban, UnusableBan, detected_name},
    events::PolicyKey,
    lease::Deposed,
};

/// What became of a decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Published {
    /// The ban is stored.
    Created,
    /// It was there and ends later now.
    Extended,
    /// It was there.
    AlreadyEnforced,
    /// The name is taken by a ban that is about to go: to be tried again.
    NameTaken,
}

/// Why a decision did not become a ban.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Another replica leads.
    #[error("not leading: the leader publishes this decision")]
    Deposed,
    /// Admission refused the object, which no repetition changes.
    #[error("the API server refused the ban of {network}: {message}")]
    Refused {
        /// The network.
        network: Source,
        /// The API server's words.
        message: String,
    },
    /// The API server could not be reached, or asks to be tried again.
    #[error("the ban of {network} could not be stored")]
    Unreachable {
        /// The network.
        network: Source,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The object that holds the name can't be read.
    #[error("the ban that holds the name can't be read")]
    Unusable(#[from] UnusableBan),
}

impl PublishError {
    fn from_api(network: Source, error: kube::Error) -> Self {
        if Deposed::is_cause_of(&error) {
            return Self::Deposed;
        }
        match error {
            // 403 and 422 are admission's. Until the leader has listed the cluster's networks, nothing is admitted.
            kube::Error::Api(status)
                if matches!(status.code, 403 | 422) && !status.message.contains("not yet listed") =>
            {
                Self::Refused { network, message: status.message }
            }
            error => Self::Unreachable { network, source: Box::new(error) },
        }
    }

    /// The fixed word for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Deposed => "deposed",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Unusable(_) => "unusable",
        }
    }

    /// Whether to try again.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// What to do when the name of a ban is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Taken {
    /// It is enforced at least as long: done.
    Done,
    /// It is ours and would end earlier.
    Extend,
    /// It is about to go.
    Wait,
    /// It is somebody's who has expired: a name beside it.
    Beside,
}

fn taken(existing: &Ban, expires_at: Timestamp, now: Timestamp) -> Taken {
    if existing.deleting_since.is_some() {
        Taken::Wait
    } else if existing.is_active(now) {
        match existing.expires_at {
            Some(end) if existing.origin == Origin::Detected && end < expires_at => Taken::Extend,
            _ => Taken::Done,
        }
    } else if existing.is_managed {
        Taken::Wait // the leader is about to delete it
    } else {
        Taken::Beside
    }
}

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

    /// Stores the ban that `decision` of `policy` asks for: `sentence` says the how-manieth and until when.
    pub async fn publish(
        &self,
        policy: &PolicyKey,
        decision: &Decision,
        sentence: escalation::Ban,
        now: Timestamp,
    ) -> Result<Published, PublishError> {
        let name = decision.source.ban_name();
        let expires_at = sentence.expires_at;
        let Some(existing) = self.create(&ban(&name, policy, decision, sentence), decision.source).await?
        else {
            return Ok(Published::Created);
        };
        match taken(&existing, expires_at, now) {
            Taken::Done => Ok(Published::AlreadyEnforced),
            Taken::Wait => Ok(Published::NameTaken),
            Taken::Extend => self.extend(&existing, decision.source, expires_at).await,
            Taken::Beside => {
                let beside = ban(&detected_name(&name), policy, decision, sentence);
                match self.create(&beside, decision.source).await? {
                    None => Ok(Published::Created),
                    Some(existing) => match taken(&existing, expires_at, now) {
                        Taken::Done => Ok(Published::AlreadyEnforced),
                        Taken::Extend => self.extend(&existing, decision.source, expires_at).await,
                        Taken::Wait | Taken::Beside => Ok(Published::NameTaken),
                    },
                }
            }
        }
    }

    /// Creates the object, or returns the one that holds its name.
    async fn create(&self, ban: &IPBan, source: Source) -> Result<Option<Ban>, PublishError> {
        let name = ban.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let conflict = match self.api.create(&params, ban).await {
            Ok(_) => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => kube::Error::Api(status),
            Err(error) => return Err(PublishError::from_api(source, error)),
        };
        match self.api.get_opt(name).await {
            Ok(Some(existing)) => Ok(Some(Ban::read(&existing)?)),
            // It went between the two requests: the next try finds the name free.
            Ok(None) => Err(PublishError::Unreachable { network: source, source: Box::new(conflict) }),
            Err(error) => Err(PublishError::from_api(source, error)),
        }
    }

    /// Raises the end, never lowers it: the version that was read is a precondition.
    async fn extend(
        &self,
        existing: &Ban,
        source: Source,
        expires_at: Timestamp,
    ) -> Result<Published, PublishError> {
        let patch = json!({
            "metadata": {"resourceVersion": existing.resource_version},
            "spec": {"expiresAt": Time(expires_at)},
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.api.patch(&existing.name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(Published::Extended),
            Err(error) => Err(PublishError::from_api(source, error)),
        }
    }
}

/// The object, complete: this one write enforces it.
fn ban(name: &str, policy: &PolicyKey, decision: &Decision, sentence: escalation::Ban) -> IPBan {
    let policy = PolicyRef { namespace: policy.namespace.clone(), name: policy.name.clone() };
    let mut ban = IPBan::new(name, IPBanSpec::detected(policy, decision, sentence));
    ban.metadata.labels = Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into());
    ban.metadata.finalizers = Some(vec![TTL_FINALIZER.to_owned()]);
    ban
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ip_sentry_core::detect::{decision, escalation::BanTime};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn decision() -> Decision {
        Decision {
            source: "203.0.113.7/32".parse().unwrap(),
            reason: "^/wp-admin".into(),
            evidence: decision::Evidence {
                hits: 3,
                threshold: decision::Threshold::Hits,
                first_seen: at(90),
                last_seen: at(100),
                samples: vec!["GET /wp-admin/ 404".into()],
            },
            ban_time: BanTime { first: Duration::from_secs(100), escalation: None },
        }
    }

    fn existing() -> Ban {
        Ban { expires_at: Some(at(150)), ..Ban::example() }
    }

    #[test]
    fn a_taken_name_never_lets_a_source_go_free() {
        let manual = Ban { origin: Origin::Manual, is_managed: false, is_held: false, ..existing() };
        #[rustfmt::skip]
        let table = [
            // what holds the name                                        now  then
            (existing(),                                                  110, Taken::Extend),
            (Ban { expires_at: Some(at(200)), ..existing() },             110, Taken::Done),
            (Ban { deleting_since: Some(at(105)), ..existing() },         110, Taken::Wait),
            (existing(),                                                  160, Taken::Wait),
            (manual.clone(),                                              110, Taken::Done),
            (Ban { expires_at: None, ..manual.clone() },                  110, Taken::Done),
            (manual,                                                      160, Taken::Beside),
        ];
        for (existing, now, then) in table {
            assert_eq!(taken(&existing, at(200), at(now)), then, "{existing:?}");
        }
    }

    #[test]
    fn the_object_is_complete_and_the_same_whoever_writes_it() {
        let policy = PolicyKey { namespace: "web".into(), name: "gw".into() };
        let sentence = escalation::Ban { offence: 2, length: Duration::from_secs(100), expires_at: at(200) };
        let ban = ban("203.0.113.7", &policy, &decision(), sentence);
        assert_eq!(
            serde_json::to_value(&ban).unwrap(),
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
