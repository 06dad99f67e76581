//! Bans: in the API, in the kernels, and on the wire.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::{Network, Source};
use ip_sentry_crd::{IPBan, OffenceHistory};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    client::{Client, Reach},
    eventually,
    gateway::Gateway,
    lab::Lab,
    node::Node,
    scenario::{LONG, SOON, Scenario},
};

/// What the API server is asked about, and never stores: no test has an address of this range.
const NOBODY: &str = "192.0.2.254/32";

impl Lab {
    /// Waits until the API server admits a ban.
    ///
    /// For seconds after it has started it refuses them all: it does not know yet the kinds that the admission
    /// policies have as parameters.
    pub async fn admits_bans(&self) -> Result<()> {
        let bans: Api<IPBan> = Api::all(self.kube.clone());
        let ban = manual(NOBODY.parse()?, None)?;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        eventually(LONG, "the API server admits a ban", async || {
            bans.create(&dry_run, &ban).await?;
            Ok(())
        })
        .await
    }
}

impl Scenario {
    /// All bans.
    #[must_use]
    pub fn bans(&self) -> Api<IPBan> {
        Api::all(self.lab.kube.clone())
    }

    /// Waits for the ban of a source.
    pub async fn banned(&self, source: Source) -> Result<IPBan> {
        let name = source.ban_name();
        let get =
            async || self.bans().get_opt(&name).await?.with_context(|| format!("there is no IPBan {name}"));
        eventually(SOON, &format!("{source} is banned"), get).await
    }

    /// The names of the bans that this test's policies have earned somebody.
    pub async fn detected(&self) -> Result<Vec<String>> {
        let mine = format!("spec.policyRef.namespace={}", self.namespace);
        let bans = self.bans().list(&ListParams::default().fields(&mine)).await?;
        Ok(bans.iter().map(IPBan::name_any).collect())
    }

    /// Bans by hand.
    pub async fn ban_by_hand(&self, network: Network, expires_at: Option<Timestamp>) -> Result<IPBan> {
        self.owns(network);
        let ban = manual(network, expires_at)?;
        Ok(self.bans().create(&PostParams::default(), &ban).await?)
    }

    /// Lifts a ban as `kubectl delete` does, without waiting for the object to be gone.
    pub async fn lift(&self, name: &str) -> Result<()> {
        self.bans().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Lets an earned ban run out now: only the operator may change its end, so this speaks as the operator.
    pub async fn let_run_out(&self, name: &str) -> Result<()> {
        let operator = "system:serviceaccount:ip-sentry:ip-sentry-operator";
        let as_operator =
            Lab::client_with(|config| config.auth_info.impersonate = Some(operator.into())).await?;
        let now = Timestamp::from_second(Timestamp::now().as_second())?;
        let patch = Patch::Merge(json!({"spec": {"expiresAt": Time(now)}}));
        Api::<IPBan>::all(as_operator).patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Lifts every ban that overlaps the network.
    pub async fn lift_all(&self, network: Network) -> Result<()> {
        for ban in self.bans().list(&ListParams::default()).await? {
            let overlaps = ban.spec.cidr.parse::<Network>().is_ok_and(|banned| banned.overlaps(&network));
            if overlaps && ban.metadata.deletion_timestamp.is_none() {
                match self.bans().delete(&ban.name_any(), &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    deleted => drop(deleted?),
                }
            }
        }
        Ok(())
    }

    /// How many bans of a source have ended, as the history tells.
    pub async fn offences(&self, source: Source) -> Result<i32> {
        let shards: Api<OffenceHistory> = Api::all(self.lab.kube.clone());
        let shards = shards.list(&ListParams::default()).await?;
        let mut entries = shards.iter().flat_map(|shard| &shard.spec.entries);
        let cidr = source.to_string();
        Ok(entries.find(|entry| entry.cidr == cidr).map_or(0, |entry| entry.ends.len()).try_into()?)
    }

    /// Waits until both kernels hold the network.
    pub async fn in_both_kernels(&self, network: Network) -> Result<()> {
        for node in Node::BOTH {
            eventually(SOON, "it is in the kernel", async || node.entry_of(network).await).await?;
        }
        Ok(())
    }

    /// Waits until neither kernel holds the network.
    pub async fn in_no_kernel(&self, network: Network, deadline: Duration) -> Result<()> {
        for node in Node::BOTH {
            eventually(deadline, "it is in no kernel", async || {
                let entry = node.entry(network).await?;
                ensure!(entry.is_none(), "{node} holds {entry:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Proves that both nodes drop a client's packets, to pods and to the node itself, while the bystander's pass:
    /// nothing comes back, and the kernels have counted the packets where the ban is.
    pub async fn dropped(
        &self,
        banned: &Client,
        from: IpAddr,
        bystander: &Client,
        gateway: &Gateway,
    ) -> Result<()> {
        let source = Source::of(from, 64)?;
        self.in_both_kernels(source.network()).await?;
        for node in gateway.nodes() {
            let doors = gateway.doors(node, from.is_ipv4())?;
            let before = (node.entry_of(source.network()).await?.packets, node.dropped().await?);
            for door in &doors {
                let reach = banned.reach_from(from, door.to).await?;
                ensure!(reach == Reach::Silence, "{from} reached {door}: {reach:?}");
                self.passes(bystander, door).await?;
            }
            let sent = u64::try_from(doors.len())?;
            let matched = node.entry_of(source.network()).await?.packets - before.0;
            ensure!(matched >= sent, "{node} matched {matched} packets of {from}, {sent} were sent there");
            let dropped = node.dropped().await? - before.1;
            ensure!(dropped >= sent, "{node} dropped {dropped} packets, {from} sent {sent}");
        }
        Ok(())
    }

    /// Waits until a client gets through.
    pub async fn passes(&self, client: &Client, door: &Door) -> Result<()> {
        eventually(SOON, &format!("a client reaches {door}"), async || {
            let reach = client.glance(door.to).await?;
            ensure!(reach == door.open, "{reach:?}");
            Ok(())
        })
        .await
    }
}

/// A way to a node or to a pod on it.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Which.
    pub what: &'static str,
    /// Where.
    pub to: SocketAddr,
    /// What becomes of an attempt to connect that nothing drops.
    pub open: Reach,
}

impl std::fmt::Display for Door {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} at {}", self.what, self.to)
    }
}

/// A ban made by hand.
pub fn manual(network: Network, expires_at: Option<Timestamp>) -> Result<IPBan> {
    // Whole seconds, as the kind asks for.
    let end = expires_at.map(|end| Timestamp::from_second(end.as_second())).transpose()?;
    let source = Source::new(network)?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": source.ban_name()},
        "spec": {"cidr": source.to_string(), "origin": "Manual", "expiresAt": end.map(Time), "reason": "a test's"},
    }))?)
}
