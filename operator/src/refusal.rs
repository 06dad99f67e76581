//! Why the API server did not store a ban, told by what it answered.
//!
//! Only a refusal of the object itself is final: the same object is refused again. Everything else is the
//! cluster's state, which changes, so the decision is kept and tried again.

use kube::core::Status;

/// Why a ban was not stored, where another try can succeed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// `ProtectedNetworks/cluster` is missing, or nobody has written down this cluster's own networks yet.
    ProtectedNetworksUnknown,
    /// The API server has just started and does not know the kinds that its admission policies refer to.
    AdmissionStarting,
    /// The API server does not know the kind `IPBan`.
    KindMissing,
    /// The operator's account may not write bans.
    MissingRights,
    /// A `ResourceQuota` is used up.
    QuotaExceeded,
    /// An admission policy or a webhook refuses this ban.
    AdmissionDenied,
    /// The object that holds the ban's name can't be read.
    NameUnreadable,
    /// The API server can't be reached, is overloaded, or did not answer in time.
    Unreachable,
}

impl Cause {
    /// Whether every other ban would be refused for it too.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::AdmissionDenied | Self::NameUnreadable)
    }

    /// The word for metrics and for a condition's reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ProtectedNetworksUnknown => "ProtectedNetworksUnknown",
            Self::AdmissionStarting => "AdmissionStarting",
            Self::KindMissing => "KindMissing",
            Self::MissingRights => "MissingRights",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::AdmissionDenied => "AdmissionDenied",
            Self::NameUnreadable => "NameUnreadable",
            Self::Unreachable => "Unreachable",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ProtectedNetworksUnknown => {
                "the cluster's own networks are not known yet: see ProtectedNetworks/cluster"
            }
            Self::AdmissionStarting => "the API server has just started: this passes within seconds",
            Self::KindMissing => {
                "the API server does not know the kind IPBan: apply deploy/kustomize/crds, unless it has just started"
            }
            Self::MissingRights => {
                "the operator may not write IPBans: apply deploy/kustomize/base/operator-rbac.yaml again"
            }
            Self::QuotaExceeded => "a ResourceQuota is used up: raise it",
            Self::AdmissionDenied => "an admission policy or webhook refuses the ban: see its message",
            Self::NameUnreadable => "delete the IPBan that holds the name",
            Self::Unreachable => "the API server can't be reached or is overloaded",
        }
    }
}

/// Why a ban was not stored.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The object breaks the CRD's own rules: it would be refused for ever.
    #[error("the API server refuses the ban as invalid: {0}")]
    Invalid(String),
    /// Another try can succeed.
    #[error("{advice}: {1}", advice = .0.advice())]
    Passing(Cause, String),
}

impl Refusal {
    /// What an error says.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            error => Self::Passing(Cause::Unreachable, error_chain(error)),
        }
    }

    fn of_status(status: &Status) -> Self {
        let message = status.message.clone();
        let says = |text: &str| message.contains(text);
        let cause = match status.code {
            // The policy's parameters: that admission binds to them is written in deploy/kustomize/base/admission.
            400..=499 if says("paramKind") => Cause::AdmissionStarting,
            400..=499
                if says("parameterNotFoundAction") || says("not listed this cluster's own networks yet") =>
            {
                Cause::ProtectedNetworksUnknown
            }
            // A ban that has gone is not an answer that comes here.
            404 => Cause::KindMissing,
            403 if says("exceeded quota") => Cause::QuotaExceeded,
            401 => Cause::MissingRights,
            403 if says("cannot create resource") || says("cannot patch resource") => Cause::MissingRights,
            422 if names_a_field(status) => return Self::Invalid(message),
            // 403, 422 and whatever code a policy or a webhook chose.
            400 | 403 | 405..=407 | 411..=428 => Cause::AdmissionDenied,
            // 409 is not an answer that comes here.
            _ => Cause::Unreachable,
        };
        Self::Passing(cause, message)
    }

    /// The word for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Passing(cause, _) => cause.reason(),
        }
    }
}

/// The schema and the CRD's rules name the field that they refuse; admission names none.
fn names_a_field(status: &Status) -> bool {
    let causes = status.details.as_ref().map(|details| &details.causes);
    causes.is_some_and(|causes| causes.iter().any(|cause| !cause.field.is_empty()))
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What API servers 1.33 and 1.37 answer, shortened.
    #[test]
    fn only_a_refusal_by_the_schema_is_final() {
        let policy = "ipbans.ipsentry.dev \"203.0.113.7\" is forbidden: ValidatingAdmissionPolicy \
                      'ipban-protected-networks' with binding 'ipban-protected-networks' denied request:";
        #[rustfmt::skip]
        let table = [
            (422, Some("spec.cidr"), "IPBan.ipsentry.dev \"x\" is invalid: spec.cidr: Invalid value".to_owned(), None),
            (422, None, format!("{policy} failed to configure binding: failed to find resource referenced by paramKind: 'ipsentry.dev/v1alpha1, Kind=ProtectedNetworks'"), Some(Cause::AdmissionStarting)),
            (403, None, format!("{policy} failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), Some(Cause::ProtectedNetworksUnknown)),
            (403, None, format!("{policy} the operator has not listed this cluster's own networks yet: no ban is admitted before"), Some(Cause::ProtectedNetworksUnknown)),
            (403, None, format!("{policy} 203.0.113.7/32 overlaps 203.0.113.0/24"), Some(Cause::AdmissionDenied)),
            (422, None, "ipbans.ipsentry.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'theirs' denied request".to_owned(), Some(Cause::AdmissionDenied)),
            (403, None, "ipbans.ipsentry.dev is forbidden: User \"u\" cannot create resource \"ipbans\" in API group".to_owned(), Some(Cause::MissingRights)),
            (401, None, "Unauthorized".to_owned(), Some(Cause::MissingRights)),
            (403, None, "ipbans.ipsentry.dev \"x\" is forbidden: exceeded quota: small".to_owned(), Some(Cause::QuotaExceeded)),
            (404, None, "the server could not find the requested resource".to_owned(), Some(Cause::KindMissing)),
            (404, None, "404 page not found\n".to_owned(), Some(Cause::KindMissing)),
            (429, None, "too many requests".to_owned(), Some(Cause::Unreachable)),
            (500, None, "failed calling webhook \"w\": context deadline exceeded".to_owned(), Some(Cause::Unreachable)),
            (504, None, "request did not complete within the allowed duration".to_owned(), Some(Cause::Unreachable)),
        ];
        for (code, field, message, expect) in table {
            let causes: Vec<_> = field.map(|field| json!({"field": field})).into_iter().collect();
            let status = json!({"code": code, "message": message, "details": {"causes": causes}});
            let status: Status = serde_json::from_value(status).unwrap();
            let found = match Refusal::of_status(&status) {
                Refusal::Invalid(_) => None,
                Refusal::Passing(cause, _) => Some(cause),
            };
            assert_eq!(found, expect, "{code} {message}");
        }
    }
}
