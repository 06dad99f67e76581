//! What is never banned: the cluster's own networks, found and written down by the leader, and what people
//! add to them. Every replica reads the result back before it decides anything.
//!
//! [`facts`] reads what the cluster's objects say, [`select`] decides what of it is protected, [`status`] what is
//! written, [`keeper`] when; [`lifted`] tells which bans that ended, and by whom.

pub mod facts;
pub mod keeper;
pub mod lifted;
pub mod select;
pub mod status;

use ip_sentry_core::{net::Network, networks::Networks};
use ip_sentry_crd::{
    FIELD_MANAGER, PROTECTED_NETWORKS, ProtectedNetworks, protected_networks::ProtectedNetworksStatus,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Everything that the object protects. What can't be read as a network was refused by the API server.
#[must_use]
pub fn in_force(object: &ProtectedNetworks) -> Networks {
    let found = object.status.iter().flat_map(|status| &status.cidrs);
    object.spec.cidrs.iter().chain(found).filter_map(|text| text.parse::<Network>().ok()).collect()
}

/// Whether the leader has looked for the cluster's own networks yet.
#[must_use]
pub fn is_observed(object: &ProtectedNetworks) -> bool {
    object.status.as_ref().is_some_and(|status| status.observed_at.is_some())
}

/// Writes the status; `client` lets it through only while this replica leads.
async fn write(client: &Client, status: &ProtectedNetworksStatus) -> Result<(), kube::Error> {
    let api: Api<ProtectedNetworks> = Api::all(client.clone());
    let patch = json!({
        "apiVersion": "ipsentry.dev/v1alpha1",
        "kind": "ProtectedNetworks",
        "metadata": {"name": PROTECTED_NETWORKS},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(PROTECTED_NETWORKS, &params, &Patch::Apply(patch)).await.map(drop)
}

/// Creates the object. Returns its uid, unless somebody else was quicker.
async fn create(client: &Client, object: &ProtectedNetworks) -> Result<Option<String>, kube::Error> {
    let api: Api<ProtectedNetworks> = Api::all(client.clone());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, object).await {
        Ok(created) => Ok(created.uid()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}
