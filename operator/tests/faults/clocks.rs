//! Leaders on nodes whose clocks are wrong.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
    replica::{INSTALLATION, Replica},
};

/// Debian's package faketime.
fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists()).expect("faketime is installed: make packages")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_wrong_bans_for_as_long_as_it_should_and_ends_no_ban_early_or_late() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.policy(json!({"banDuration": "1h"})).await;
    for (round, off) in (1..).zip(["+3s", "+1d", "-1d"]) {
        let replica = Replica::start_with(&cluster, "wrong", INSTALLATION, |program| {
            let fake = [("FAKETIME", off), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
            program.env("LD_PRELOAD", libfaketime()).envs(fake);
        })
        .await;
        replica.leads(SOON).await;
        let (short, long, probe) =
            (format!("198.51.100.{round}"), format!("203.0.113.{round}"), format!("192.0.2.{round}"));
        cluster.detected(&short, Duration::from_secs(5)).await;
        cluster.detected(&long, Duration::from_hours(1)).await;

        cluster.log.probe(&probe);
        cluster.until_one_banned(&probe, SOON).await;
        let end = cluster.bans().get(&probe).await.unwrap().spec.expires_at.unwrap().0;
        let length = end.duration_since(Timestamp::now());
        let is_right = (length - SignedDuration::from_hours(1)).abs() < SignedDuration::from_secs(30);
        assert!(is_right, "{off}: an hour's ban lasts {length:#}");

        let began = Instant::now();
        let is_gone = async || cluster.bans().get_opt(&short).await.unwrap().is_none();
        until(&format!("{off}: the short ban has ended"), SOON, is_gone).await;
        println!("{off}: the ban of 5 s was gone after {:?}", began.elapsed());
        let past = cluster.ended().await.into_iter().find(|(cidr, _)| *cidr == format!("{short}/32"));
        assert_eq!(past.map(|(_, ends)| ends), Some(1), "{off}: a ban that ran out is an offence");
        let left: Vec<String> = cluster.banned().await.iter().map(ResourceExt::name_any).collect();
        assert!(
            left.contains(&long) && left.contains(&probe),
            "{off}: of bans that are not over are left {left:?}"
        );
    }
}
