//! What goes on when parts of ip-sentry, the API server, or the nodes' rules go away.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use ip_sentry_e2e::{
    bans::Door,
    client::{Client, Reach},
    eventually, install,
    lab::{cluster, kubectl},
    node::Node,
    operator,
    process::Process,
    scenario::{LONG, SOON, Scenario, alone},
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

/// How many attempts to connect are under way at a time.
const FLOOD: usize = 64;

/// Tries to connect again and again until told to stop; fails when anything ever comes back. Returns how many
/// attempts there were.
async fn flood(client: &Client, doors: &[Door], is_over: &AtomicBool) -> Result<u64> {
    let attempts = AtomicU64::new(0);
    let line = async |number: usize| {
        let door = doors[number % doors.len()];
        while !is_over.load(Ordering::Relaxed) {
            let reach = client.reach(door.to).await?;
            ensure!(reach == Reach::Silence, "a banned client reached {door}: {reach:?}");
            attempts.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    try_join_all((0..FLOOD).map(line)).await?;
    Ok(attempts.into_inner())
}

#[test]
fn no_packet_of_a_banned_client_passes_while_the_agents_are_killed_and_start_again() {
    alone(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        let (banned, later) = (scenario.client().await?, scenario.client().await?);
        scenario.ban_by_hand(banned.ipv4().network(), None).await?;
        scenario.in_both_kernels(banned.ipv4().network()).await?;
        let mut doors = gateway.doors(Node::One, true)?;
        doors.extend(gateway.doors(Node::Two, true)?);

        let is_over = AtomicBool::new(false);
        let disturb = async {
            for node in Node::BOTH {
                let before = Process::of_agent(node).context("no agent runs")?;
                before.kill()?;
                eventually(LONG, "the agent runs again", async || {
                    let now = Process::of_agent(node).context("it does not run")?;
                    ensure!(now != before, "it still runs");
                    Ok(())
                })
                .await?;
            }
            // An agent that has heard everything again enforces new bans.
            scenario.ban_by_hand(later.ipv4().network(), None).await?;
            eventually(LONG, "the agents enforce again", async || {
                for node in Node::BOTH {
                    node.entry_of(later.ipv4().network()).await?;
                }
                Ok(())
            })
            .await
        };
        let disturb = async {
            let disturbed = disturb.await;
            is_over.store(true, Ordering::Relaxed);
            disturbed
        };
        let (disturbed, flooded) = futures::join!(disturb, flood(&banned, &doors, &is_over));
        disturbed?;
        let attempts = flooded?;
        ensure!(attempts > 100, "only {attempts} attempts show nothing");
        install::works(&scenario.lab).await
    });
}

#[test]
fn a_leader_killed_in_the_middle_of_an_attack_bans_once() {
    alone(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let (prober, front) = (scenario.client().await?, gateway.through(Node::One, true));
        let source = prober.ipv4();
        let before = scenario.offences(source).await?;
        let leader = operator::leads(&scenario.lab).await?;

        prober.probe(front, &["/.env", "/.env"]).await?;
        operator::crash(&leader)?;
        let since = Instant::now();
        prober.probe(front, &["/.env"]).await?;
        let ban = scenario.banned(source).await?;
        let took = since.elapsed();
        ensure!(took < Duration::from_secs(15), "it was banned only after {took:?}");
        ensure!(ban.spec.offence == Some(before + 1), "offence {:?} after {before}", ban.spec.offence);
        ensure!(
            ban.spec.evidence.as_ref().is_some_and(|evidence| evidence.hits == 3),
            "{:?}",
            ban.spec.evidence
        );

        // The replica that was killed reads the same lines again.
        operator::leads(&scenario.lab).await?;
        let strangers = gateway.judged(scenario, "/.env").await?;
        let mut expect = vec![source.ban_name(), strangers[0].ipv4().ban_name()];
        let mut found = scenario.detected().await?;
        expect.sort();
        found.sort();
        ensure!(found == expect, "{found:?}, not {expect:?}");
        let after = scenario.bans().get(&source.ban_name()).await?;
        ensure!(
            (after.uid(), &after.spec) == (ban.uid(), &ban.spec),
            "{:?} became {:?}",
            ban.spec,
            after.spec
        );
        Ok(())
    });
}

#[test]
fn a_lifted_ban_stays_lifted_when_every_replica_reads_the_log_anew() {
    alone(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({"window": "1h"})).await?;
        let (prober, front) = (scenario.client().await?, gateway.through(Node::Two, true));
        // As many as earn the ban: one more might find the door closed already.
        prober.probe(front, &["/.env"; 3]).await?;
        scenario.banned(prober.ipv4()).await?;
        scenario.lift(&prober.ipv4().ban_name()).await?;
        scenario.in_no_kernel(prober.ipv4().network(), SOON).await?;
        // Killed at once: what it did not write down before is not known afterwards.
        for pod in operator::pods(&scenario.lab).await? {
            operator::crash(&pod)?;
        }
        operator::leads(&scenario.lab).await?;
        let strangers = gateway.judged(scenario, "/.env").await?;
        let found = scenario.detected().await?;
        ensure!(found == [strangers[0].ipv4().ban_name()], "{found:?}");
        ensure!(prober.get(front, "/").await? == 200);
        Ok(())
    });
}

/// Waits until a client gets through all doors, and returns the time between `end` and then.
async fn passed_after(client: &Client, doors: &[Door], end: Timestamp) -> Result<f64> {
    let mut last = end;
    for door in doors {
        last = eventually(SOON, "the ban has ended", async || {
            let reach = client.glance(door.to).await?;
            ensure!(reach == door.open, "{door}: {reach:?}");
            Ok(Timestamp::now())
        })
        .await?;
        ensure!(last >= end, "{door} let it in at {last}, before its end {end}");
    }
    Ok(last.duration_since(end).as_secs_f64())
}

fn nodes_doors() -> [Door; 2] {
    Node::BOTH.map(|node| Door { what: "a node", to: node.address(true, 9), open: Reach::Refused })
}

fn in_seconds(seconds: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_second(Timestamp::now().as_second() + seconds)?)
}

/// Waits until `kubectl get nodefirewalls` shows that in the column `OPERATOR`.
async fn says_operator_is(scenario: &Scenario, node: Node, expect: &str, limit: Duration) -> Result<()> {
    let name = scenario.lab.firewall(node).await?.name_any();
    eventually(limit, &format!("OPERATOR of {name} is {expect}"), async || {
        let table = kubectl(&["get", "nodefirewall", &name]).await?;
        let (titles, values) = table.split_once('\n').context("no node")?;
        let column = titles.find("OPERATOR").context("there is no such column")?;
        let value = values.get(column..).and_then(|rest| rest.split_whitespace().next());
        ensure!(value == Some(expect), "{table}");
        Ok(())
    })
    .await
}

#[test]
fn without_an_operator_bans_are_enforced_and_lifted_and_end_on_time() {
    alone(async |scenario: &Scenario| {
        let (short, long) = (scenario.client().await?, scenario.client().await?);
        operator::scale(&scenario.lab, 0).await?;
        let stopped = Instant::now();
        let checked = async {
            let end = in_seconds(6)?;
            scenario.ban_by_hand(short.ipv4().network(), Some(end)).await?;
            scenario.ban_by_hand(long.ipv4().network(), None).await?;
            for client in [&short, &long] {
                scenario.in_both_kernels(client.ipv4().network()).await?;
                for door in nodes_doors() {
                    ensure!(client.reach(door.to).await? == Reach::Silence, "{door} let a banned client in");
                }
            }
            let error = passed_after(&short, &nodes_doors(), end).await?;
            ensure!(error < 1.5, "it was let in {error} s after its end");

            let lifted = Timestamp::now();
            kubectl(&["delete", "ipban", &long.ipv4().ban_name(), "--timeout=5s"]).await?;
            let took = passed_after(&long, &nodes_doors(), lifted).await?;
            ensure!(took < 2.0, "it was let in {took} s after kubectl began to delete the ban");

            // Nor does anybody believe that attackers are still detected.
            for node in Node::BOTH {
                let limit = Duration::from_mins(1).saturating_sub(stopped.elapsed());
                says_operator_is(scenario, node, "False", limit).await?;
            }
            println!("both nodes said after {:?} that no operator is at work", stopped.elapsed());
            Ok(())
        }
        .await;
        operator::scale(&scenario.lab, 2).await?;
        checked?;
        for node in Node::BOTH {
            says_operator_is(scenario, node, "True", SOON).await?;
        }
        Ok(())
    });
}

#[test]
fn while_the_api_server_is_away_bans_stay_and_end_on_time() {
    alone(async |scenario: &Scenario| {
        let (short, long) = (scenario.client().await?, scenario.client().await?);
        let end = in_seconds(8)?;
        scenario.ban_by_hand(short.ipv4().network(), Some(end)).await?;
        scenario.ban_by_hand(long.ipv4().network(), None).await?;
        for client in [&short, &long] {
            scenario.in_both_kernels(client.ipv4().network()).await?;
        }
        cluster("cluster.sh", &["stop", "apiserver"]).await?;
        let checked = async {
            ensure!(
                short.reach(nodes_doors()[0].to).await? == Reach::Silence,
                "a ban went with the API server"
            );
            let error = passed_after(&short, &nodes_doors(), end).await?;
            ensure!(error < 1.5, "it was let in {error} s after its end");
            for door in nodes_doors() {
                ensure!(
                    long.reach(door.to).await? == Reach::Silence,
                    "{door}: a ban went with the API server"
                );
            }
            Ok(())
        }
        .await;
        cluster("cluster.sh", &["start"]).await?;
        checked?;
        install::works(&scenario.lab).await?;
        // What happens from now on is heard of.
        let later = scenario.client().await?;
        scenario.ban_by_hand(later.ipv4().network(), None).await?;
        scenario.in_both_kernels(later.ipv4().network()).await?;
        scenario.lift(&long.ipv4().ban_name()).await?;
        scenario.in_no_kernel(long.ipv4().network(), SOON).await
    });
}

#[test]
fn what_somebody_does_to_the_rules_is_put_right_and_counted() {
    alone(async |scenario: &Scenario| {
        let (banned, node) = (scenario.client().await?, Node::One);
        let network = banned.ipv4().network();
        scenario.ban_by_hand(network, None).await?;
        scenario.in_both_kernels(network).await?;
        let disturbances: [&[&str]; 6] = [
            &["iptables-legacy", "--wait", "--flush", "IP-BLOCKER"],
            &["iptables-legacy", "--wait", "--delete", "INPUT", "--jump", "IP-BLOCKER"],
            &["ip6tables-legacy", "--wait", "--delete", "FORWARD", "--jump", "IP-BLOCKER"],
            &[
                "iptables-legacy",
                "--wait",
                "--insert",
                "FORWARD",
                "--source",
                "192.0.2.1",
                "--jump",
                "ACCEPT",
            ],
            &["ipset", "flush", "ipsentry-hosts4"],
            &["ipset", "add", "ipsentry-allow4", "128.0.0.0/1"],
        ];
        let before = scenario.lab.firewall(node).await?.status.unwrap_or_default().repairs;
        for disturbance in disturbances {
            // As a person on the node would: with its lock file.
            node.run_inside(disturbance).await?;
            let (what, since) = (disturbance.join(" "), Instant::now());
            eventually(LONG, &format!("put right after {what}"), async || {
                node.check_chain().await?;
                node.entry_of(network).await?;
                let reach = banned.reach(node.address(true, 9)).await?;
                ensure!(reach == Reach::Silence, "the banned client got {reach:?}");
                Ok(())
            })
            .await?;
            println!("{what}: put right within {:?}", since.elapsed());
        }
        eventually(LONG, "the repairs are counted", async || {
            let now = scenario.lab.firewall(node).await?.status.unwrap_or_default().repairs;
            ensure!(now >= before + i64::try_from(disturbances.len())?, "{now} repairs, {before} before");
            Ok(())
        })
        .await?;
        node.run_inside(&[
            "iptables-legacy",
            "--wait",
            "--delete",
            "FORWARD",
            "--source",
            "192.0.2.1",
            "--jump",
            "ACCEPT",
        ])
        .await?;
        eventually(LONG, "the node is ready", async || scenario.lab.check_ready(node).await).await
    });
}
