//! Whose the end of a ban is that somebody has made Manual. The operator takes out its own, and only where it is known
//! to be that: a ban that ends too early is seen and made again, one that lasts for ever by mistake is not.

use ip_sentry_crd::{FIELD_MANAGER, IPBan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt as _;
use serde_json::Value;

/// Where a client-side apply keeps the manifest. A field that it finds as it should be isn't in its request, and so not
/// in the managed fields.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What sends single fields, by the names that kubectl gives itself. All else may have sent the whole object, as
/// `kubectl replace` does: the managed fields then name its sender only for the fields that it changed.
const SENDS_FIELDS: [&str; 2] = ["kubectl-edit", "kubectl-patch"];

/// Whether `expiresAt` may be what somebody wants who is not the operator.
pub(super) fn may_have_stated_end(object: &IPBan) -> bool {
    let others =
        || object.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
    let mut authors = others().filter(|entry| has(entry, "f:origin")).peekable();
    let is_known = authors.peek().is_some() && authors.all(states_what_it_wants);
    !is_known || others().any(|entry| has(entry, "f:expiresAt")) || is_applied(object)
}

/// Whether a field in `spec` has its value from this sender.
fn has(entry: &ManagedFieldsEntry, field: &str) -> bool {
    entry.fields_v1.as_ref().is_some_and(|fields| !fields.0["f:spec"][field].is_null())
}

/// Whether it is known what this sender wants beside the fields that it changed: nothing, or what a manifest says.
fn states_what_it_wants(entry: &ManagedFieldsEntry) -> bool {
    let annotations = entry.fields_v1.as_ref().map(|fields| &fields.0["f:metadata"]["f:annotations"]);
    entry.operation.as_deref() == Some("Apply")
        || entry.manager.as_deref().is_some_and(|manager| SENDS_FIELDS.contains(&manager))
        || annotations.is_some_and(|owned| !owned[format!("f:{LAST_APPLIED}")].is_null())
}

/// Whether the manifest of a client-side apply has an end; so has what can't be read, for all that is known.
fn is_applied(object: &IPBan) -> bool {
    let Some(text) = object.annotations().get(LAST_APPLIED) else { return false };
    serde_json::from_str(text).map_or(true, |manifest: Value| !manifest["spec"]["expiresAt"].is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_the_operators_only_where_whoever_made_the_ban_manual_is_known_to_have_stated_none() {
        let deep = "[".repeat(10_000);
        #[rustfmt::skip]
        let table = [
            // manager                   operation  owns                     last applied                               somebody's
            ("kubectl-edit",              "Update", &["origin"][..],          None,                                      false),
            ("kubectl-edit",              "Update", &["origin", "expiresAt"], None,                                      true),
            ("kubectl-patch",             "Update", &["origin"],              None,                                      false),
            ("git",                       "Apply",  &["origin", "cidr"],      None,                                      false),
            ("git",                       "Apply",  &["origin", "expiresAt"], None,                                      true),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some(r#"{"spec":{"origin":"Manual"}}"#),   false),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some(r#"{"spec":{"expiresAt":null}}"#),    false),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some(r#"{"spec":{"expiresAt":"2099"}}"#),  true),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some(r#"{"spec":[]}"#),                    false),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some("7"),                                 false),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some("{"),                                 true),
            ("kubectl-client-side-apply", "Update", &["origin"],              Some(deep.as_str()),                       true),
            ("kubectl-client-side-apply", "Update", &["origin"],              None,                                      true),
            ("argocd-controller",         "Update", &["origin"],              Some(r#"{"spec":{"origin":"Manual"}}"#),   false),
            ("kubectl-replace",           "Update", &["origin"],              None,                                      true),
            ("dashboard",                 "Update", &["origin"],              None,                                      true),
            ("kubectl-edit",              "Update", &["reason"],              None,                                      true),
            ("ip-sentry",                 "Update", &["origin"],              None,                                      true),
        ];
        for (manager, operation, owns, applied, expect) in table {
            let owned: serde_json::Map<String, Value> =
                owns.iter().map(|field| (format!("f:{field}"), json!({}))).collect();
            let annotations = applied.map(|text| json!({LAST_APPLIED: text}));
            let mut fields = json!({"f:spec": owned});
            if applied.is_some() {
                let annotation = format!("f:{LAST_APPLIED}");
                fields["f:metadata"] = json!({"f:annotations": {".": {}, annotation: {}}});
            }
            let object: IPBan = serde_json::from_value(json!({
                "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan",
                "metadata": {"name": "203.0.113.7", "annotations": annotations, "managedFields": [
                    {"manager": "ip-sentry", "operation": "Update", "fieldsV1": {"f:spec": {"f:expiresAt": {}}}},
                    {"manager": manager, "operation": operation, "fieldsV1": fields},
                    {"manager": "nobody", "operation": "Update", "fieldsV1": []}, {},
                ]},
                "spec": {"cidr": "203.0.113.7/32", "origin": "Manual"},
            }))
            .unwrap();
            let case = format!("{manager} {operation} {owns:?} {:.40}", applied.unwrap_or_default());
            assert_eq!(may_have_stated_end(&object), expect, "{case}");
        }
    }
}
