//! What is never banned: the cluster's own networks, found and written down by the leader, and what people
//! add to them. Every replica reads the result back before it decides anything.
//!
//! [`facts`] reads what the cluster's objects say, [`select`] decides what of it is protected, [`status`] what is
//! written, [`keeper`] when.

pub mod facts;
pub mod keeper;
pub mod select;
pub mod status;

use ip_sentry_core::{net::Network, networks::Networks};
use ip_sentry_crd::{
    FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, PROTECTED_NETWORKS, ProtectedNetworks,
    protected_networks::{ProtectedNetworksSpec, ProtectedNetworksStatus},
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
pub async fn write(client: &Client, status: &ProtectedNetworksStatus) -> Result<(), kube::Error> {
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

/// Makes the object when it is missing: without it no ban is admitted.
pub async fn create(client: &Client) -> Result<(), kube::Error> {
    let api: Api<ProtectedNetworks> = Api::all(client.clone());
    let mut object = ProtectedNetworks::new(PROTECTED_NETWORKS, ProtectedNetworksSpec::default());
    object.labels_mut().insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => created.map(drop),
    }
}
