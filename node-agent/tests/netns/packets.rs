//! Who gets through and who doesn't.

use std::process::{Command, Stdio};

use ip_sentry_core::enforce::sets::Family;
use ip_sentry_node_agent::{args::BackendChoice, cleanup::cleanup};

use crate::lab::{
    Agent, Client, EVERY_WAY, Target, in_namespaces, listed, listing, open_ways, passes, send, sh, tables,
    until, wire,
};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];

#[test]
fn a_banned_client_is_dropped_in_input_and_forward_while_another_passes() {
    in_namespaces(
        "packets::a_banned_client_is_dropped_in_input_and_forward_while_another_passes",
        async || {
            wire();
            assert_eq!(open_ways(Client::Seven), EVERY_WAY, "before any ban");
            let agent = Agent::in_step(BackendChoice::Ipset, &[], &[]).await;
            assert_eq!(open_ways(Client::Seven), EVERY_WAY, "with rules but no ban");

            for (cidr, secs) in SEVEN {
                agent.ban(cidr, Some(secs)).await;
            }
            until("both bans are in the kernel", async || listed().await.len() == 2).await;
            assert_eq!(open_ways(Client::Seven), []);
            assert_eq!(open_ways(Client::Eight), EVERY_WAY);
            let listing = listing().await;
            assert_eq!(
                (listing[0]["cidr"].as_str(), listing[0]["packets"].as_u64()),
                (Some("203.0.113.7/32"), Some(2))
            );
            assert_eq!(
                (listing[1]["cidr"].as_str(), listing[1]["packets"].as_u64()),
                (Some("2001:db8:7::/64"), Some(2))
            );
            let left = listing[0]["secondsLeft"].as_u64().unwrap();
            assert!((590..=600).contains(&left), "{left} s left");

            agent.ban("203.0.113.7/32", None).await;
            until("the IPv4 ban is lifted", async || passes(Client::Seven, Target::Node, Family::V4)).await;
            assert_eq!(open_ways(Client::Seven), [(Target::Node, Family::V4), (Target::Pod, Family::V4)]);
            agent.stop().await;
        },
    );
}

#[test]
fn a_protected_network_passes_whatever_the_bans_say() {
    in_namespaces("packets::a_protected_network_passes_whatever_the_bans_say", async || {
        wire();
        let wide = [("203.0.113.0/24", 600), ("2001:db8::/32", 600), ("203.0.113.7/32", 600)];
        let agent = Agent::in_step(BackendChoice::Ipset, &wide, &["203.0.113.7/32", "2001:db8:7::/64"]).await;
        assert_eq!(open_ways(Client::Seven), EVERY_WAY, "protected within a wider ban");
        assert_eq!(open_ways(Client::Eight), []);

        agent.protect(&["203.0.113.8/32", "::/0"]).await;
        until("the new one passes", async || open_ways(Client::Eight) == EVERY_WAY).await;
        assert!(!passes(Client::Seven, Target::Node, Family::V4), "no longer protected");
        agent.stop().await;
    });
}

#[test]
fn a_forged_ban_of_the_node_itself_drops_nothing() {
    in_namespaces("packets::a_forged_ban_of_the_node_itself_drops_nothing", async || {
        wire();
        let agent =
            Agent::in_step(BackendChoice::Ipset, &[("10.244.0.1/32", 600), ("10.244.0.0/24", 600)], &[])
                .await;
        // The node talks to its own address, and the pod's network is banned all the same.
        sh("bash -c 'echo -n x > /dev/udp/10.244.0.1/9'");
        assert_eq!(listed().await, ["10.244.0.0/24"], "a ban of the node's own address is left out");
        assert_eq!(tables().await[0].dropped().packets, 0);
        agent.stop().await;
    });
}

#[test]
fn nothing_is_written_before_both_lists_are_here() {
    in_namespaces("packets::nothing_is_written_before_both_lists_are_here", async || {
        wire();
        let agent = Agent::start(BackendChoice::Ipset, 1_000);
        agent.ban("203.0.113.7/32", Some(600)).await;
        agent.protect(&[]).await;
        let mut sets = agent.sets.clone();
        sets.wait_for(|sets| sets.waiting_for == Some("the list of IPBans")).await.unwrap();
        assert_eq!(sh("ipset list -n"), "");
        assert!(tables().await.iter().all(ip_sentry_core::enforce::chain::Table::is_clean));
        agent.list(&SEVEN, &[]).await;
        agent.until_ready().await;
        assert_eq!(open_ways(Client::Seven), []);
        agent.stop().await;
    });
}

/// Not a test of its own: the agent that the next test kills.
#[test]
fn agent_to_be_killed() {
    if std::env::var_os("IP_SENTRY_TEST_VICTIM").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        println!("in step");
        std::future::pending::<()>().await;
    });
}

#[test]
fn no_packet_passes_while_the_agent_is_dead_or_starts_anew() {
    in_namespaces("packets::no_packet_passes_while_the_agent_is_dead_or_starts_anew", async || {
        wire();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "packets::agent_to_be_killed", "--nocapture"])
            .env("IP_SENTRY_TEST_VICTIM", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the victim has banned", async || {
            !tables().await[1].rules().is_empty() && open_ways(Client::Seven).is_empty()
        })
        .await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(open_ways(Client::Seven), [], "dead");

        // A storm of packets while another agent starts and takes over.
        let before = tables().await[0].dropped().packets;
        let storm = std::thread::spawn(|| {
            for _ in 0..50 {
                send(Client::Seven, Target::Node, Family::V4);
                send(Client::Seven, Target::Pod, Family::V4);
            }
        });
        let agent = Agent::start(BackendChoice::Ipset, 1_000);
        agent.list(&SEVEN, &[]).await;
        agent.until_ready().await;
        tokio::task::spawn_blocking(|| storm.join().unwrap()).await.unwrap();
        assert_eq!(
            tables().await[0].dropped().packets - before,
            100,
            "every packet of the storm was dropped"
        );
        assert_eq!(
            agent.sets.borrow().repairs + agent.chain.borrow().repairs,
            0,
            "nothing had to be changed"
        );
        agent.stop().await;
        assert_eq!(open_ways(Client::Seven), [], "stopped");
    });
}

#[test]
fn a_ban_ends_in_the_kernel_with_no_agent_there() {
    in_namespaces("packets::a_ban_ends_in_the_kernel_with_no_agent_there", async || {
        wire();
        let agent =
            Agent::in_step(BackendChoice::Ipset, &[("203.0.113.7/32", 3), ("203.0.113.8/32", 600)], &[])
                .await;
        assert!(!passes(Client::Seven, Target::Node, Family::V4));
        agent.stop().await;
        until("the ban has ended", async || passes(Client::Seven, Target::Node, Family::V4)).await;
        assert!(!passes(Client::Eight, Target::Node, Family::V4), "the other goes on");
    });
}

#[test]
fn without_sets_plain_rules_drop_and_end() {
    in_namespaces("packets::without_sets_plain_rules_drop_and_end", async || {
        wire();
        let bans = [("203.0.113.7/32", 12), ("2001:db8:7::/64", 600), ("203.0.113.0/24", 600)];
        let agent = Agent::in_step(BackendChoice::Rules, &bans, &["203.0.113.8/32"]).await;
        assert_eq!(sh("ipset list -n"), "", "no sets");
        assert_eq!(open_ways(Client::Seven), []);
        assert_eq!(open_ways(Client::Eight), EVERY_WAY, "protected within a wider ban");
        assert_eq!(listed().await.len(), 3);
        agent.ban("203.0.113.0/24", None).await;
        until("the wider ban is lifted", async || listed().await.len() == 2).await;
        agent.stop().await;
        until("the kernel ends a rule by itself", async || passes(Client::Seven, Target::Node, Family::V4))
            .await;
        assert!(!passes(Client::Seven, Target::Node, Family::V6));
    });
}

#[test]
fn cleanup_leaves_nothing_and_touches_nothing_else() {
    in_namespaces("packets::cleanup_leaves_nothing_and_touches_nothing_else", async || {
        wire();
        cleanup().await.unwrap();
        assert_eq!(
            sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names"),
            "",
            "reads make no tables"
        );
        sh("ipset create others hash:ip; iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT");
        let before = sh("iptables-legacy-save -t filter | grep -v '^#'");
        for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
            let agent = Agent::in_step(choice, &SEVEN, &["10.0.0.0/8"]).await;
            agent.stop().await;
            sh("ip6tables-legacy -A FORWARD -s 2001:db8::1 -j IP-BLOCKER");
            for _ in 0..2 {
                cleanup().await.unwrap();
                assert_eq!(sh("ipset list -n"), "others\n");
                assert_eq!(sh("iptables-legacy-save -t filter | grep -v '^#'"), before);
                assert!(tables().await.iter().all(ip_sentry_core::enforce::chain::Table::is_clean));
            }
        }
        assert_eq!(open_ways(Client::Seven), EVERY_WAY);
    });
}
