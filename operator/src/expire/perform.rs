//! The requests that end bans. Each holds for exactly the version of a ban that was judged: one that was extended or
//! made again meanwhile stays as it is.

use ip_sentry_crd::{
    EVICTED_ANNOTATION, FIELD_MANAGER, IPBan, MANAGED_BY_LABEL,
    condition::{self, Finding},
};
use jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::author;
use crate::{
    bans::Ban,
    endings::due::{Due, Unenforced},
    lease::Deposed,
};

/// Why nothing became of what was due.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActError {
    /// Another replica leads.
    #[error("not leading: the leader ends bans")]
    Deposed,
    /// The ban is gone or was changed: the watch shows what is due now.
    #[error("the ban has changed")]
    Changed,
    /// The API server refused it or could not be reached.
    #[error("the ban could not be {what}")]
    Write {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<kube::Error>,
    },
}

impl ActError {
    /// What the API server says, to be shown.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Write { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                error => error.to_string(),
            },
            error => error.to_string(),
        }
    }

    fn from_api(what: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Changed,
            error if Deposed::is_cause_of(&error) => Self::Deposed,
            source => Self::Write { what, source: Box::new(source) },
        }
    }
}

/// Does what is due about `ban`; `failure` is why the last deletion or release of it failed.
pub async fn perform(
    api: &Api<IPBan>,
    ban: &Ban,
    due: Due,
    failure: Option<&str>,
    now: Timestamp,
) -> Result<(), ActError> {
    match due {
        Due::Delete(_) => delete(api, ban).await,
        Due::Release(_) => release(api, ban).await,
        Due::LetGo => let_go(api, ban).await,
        Due::Tell(why) => tell(api, ban, why, failure, now).await,
    }
}

async fn delete(api: &Api<IPBan>, ban: &Ban) -> Result<(), ActError> {
    let preconditions =
        Preconditions { uid: Some(ban.uid.clone()), resource_version: Some(ban.resource_version.clone()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.delete(&ban.name, &params).await.map_err(|error| ActError::from_api("deleted", error))?;
    Ok(())
}

async fn release(api: &Api<IPBan>, ban: &Ban) -> Result<(), ActError> {
    let patch = json!({"metadata": {
        "uid": ban.uid,
        "resourceVersion": ban.resource_version,
        "finalizers": ban.other_finalizers,
    }});
    merge(api, "released", ban, patch).await
}

/// Takes off what the operator put on when the ban was its own. An end that may be somebody's stays.
async fn let_go(api: &Api<IPBan>, ban: &Ban) -> Result<(), ActError> {
    const WHAT: &str = "left to its author";
    let object = api.get(&ban.name).await.map_err(|error| ActError::from_api(WHAT, error))?;
    let mut spec = json!({"policyRef": null, "offence": null, "evidence": null});
    if !author::may_have_stated_end(&object) {
        spec["expiresAt"] = Value::Null;
    }
    let patch = json!({
        "metadata": {
            "uid": ban.uid,
            "resourceVersion": ban.resource_version,
            "finalizers": ban.other_finalizers,
            "labels": {MANAGED_BY_LABEL: null},
            "annotations": {EVICTED_ANNOTATION: null},
        },
        "spec": spec,
    });
    merge(api, WHAT, ban, patch).await
}

async fn merge(api: &Api<IPBan>, what: &'static str, ban: &Ban, patch: Value) -> Result<(), ActError> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch_metadata(&ban.name, &params, &Patch::Merge(patch)).await;
    patched.map(drop).map_err(|error| ActError::from_api(what, error))
}

/// Writes the status of a ban that is not enforced, or takes it back.
async fn tell(
    api: &Api<IPBan>,
    ban: &Ban,
    why: Option<Unenforced>,
    failure: Option<&str>,
    now: Timestamp,
) -> Result<(), ActError> {
    let status = match why {
        Some(why) => {
            let finding = Finding::no("Enforced", why.reason(), message(why, ban, failure));
            json!({"enforced": "False", "conditions": condition::merge(&[], &[finding], None, now)})
        }
        None => json!({}),
    };
    let patch = json!({
        "apiVersion": "ipsentry.dev/v1alpha1",
        "kind": "IPBan",
        "metadata": {"name": ban.name, "uid": ban.uid},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patched = api.patch_status(&ban.name, &params, &Patch::Apply(patch)).await;
    patched.map(drop).map_err(|error| ActError::from_api("marked", error))
}

/// Why a ban is not enforced, and what to do about it.
#[must_use]
pub fn message(why: Unenforced, ban: &Ban, failure: Option<&str>) -> String {
    let failure =
        failure.map(|failure| format!("; the operator can't end it: {failure}")).unwrap_or_default();
    match why {
        Unenforced::Expired if ban.is_managed => format!("spec.expiresAt has passed{failure}"),
        Unenforced::Expired => "spec.expiresAt has passed: delete this ban, or set a later end".into(),
        Unenforced::Protected => {
            format!("the network is protected: see ProtectedNetworks/cluster; delete this ban{failure}")
        }
        Unenforced::Deleting if ban.other_finalizers.is_empty() => {
            format!("it was deleted; its object waits for the operator{failure}")
        }
        Unenforced::Deleting => format!(
            "it was deleted; its object waits for whoever set these finalizers: {}{failure}",
            ban.other_finalizers.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_failure_and_only_a_change_is_none() {
        let api = |code: u16| {
            let status = kube::core::Status { code, message: "no".into(), ..kube::core::Status::default() };
            ActError::from_api("released", kube::Error::Api(Box::new(status)))
        };
        for code in [404, 409] {
            assert!(matches!(api(code), ActError::Changed), "{code}");
        }
        for code in [400, 403, 422, 429, 500, 503] {
            assert!(matches!(api(code), ActError::Write { .. }), "{code}");
            assert_eq!(api(code).cause(), "no");
        }
    }
}
