//! What a banned client reaches all the same: the API server, failsafe ports, and everything during a pause.

use std::time::{Duration, Instant};

use ip_sentry_core::enforce::{
    rules::{Port, Protocol},
    sets::Family,
};
use ip_sentry_node_agent::{args::BackendChoice, heard::Told};
use jiff::{SignedDuration, Timestamp, Unit};

use crate::{
    lab::{Agent, Client, EVERY_WAY, Target, in_namespaces, open_ways, passes, sh, until, wire},
    peers::{Conversation, Server},
};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];

#[test]
fn a_banned_client_reaches_api_servers_and_failsafe_ports_and_nothing_else() {
    in_namespaces(
        "exceptions::a_banned_client_reaches_api_servers_and_failsafe_ports_and_nothing_else",
        async || {
            wire();
            #[rustfmt::skip]
            let table = [
                // server, address, whether it answers a banned client by TCP
                (None,        "10.244.0.1:6443",     true),
                (None,        "[fd00:244::1]:6443",  true),
                (None,        "10.244.0.1:22",       true),
                (None,        "[fd00:244::1]:22",    true),
                (None,        "10.244.0.1:80",       false),
                (None,        "[fd00:244::1]:80",    false),
                (Some("pod"), "10.244.0.2:8443",     true),
                (Some("pod"), "10.244.0.2:22",       false),
                (Some("pod"), "10.244.0.2:6443",     false),
                (Some("pod"), "[fd00:244::2]:8443",  false),
            ];
            let _servers: Vec<Server> =
                table.iter().map(|(namespace, address, _)| Server::start(*namespace, address)).collect();
            for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
                let agent = Agent::in_step(choice, &SEVEN, &[]).await;
                assert!(
                    Conversation::open(Some("seven"), "tcp", table[0].1).is_none(),
                    "nothing is told yet"
                );
                let told = Told {
                    api_servers: ["10.244.0.1:6443", "10.244.0.2:8443"]
                        .map(|text| text.parse().unwrap())
                        .into(),
                    failsafe: [Port { protocol: Protocol::Tcp, number: 22 }].into(),
                    ..Told::default()
                };
                agent.told(told).await;
                let mut chain = agent.chain.clone();
                chain.wait_for(|chain| chain.exceptions.node_ports.len() == 2).await.unwrap();
                for (_, address, expect) in table {
                    let got = Conversation::open(Some("seven"), "tcp", address).is_some();
                    assert_eq!(got, expect, "{choice:?}: {address} by TCP");
                    let mut udp = Conversation::open(Some("seven"), "udp", address).unwrap();
                    assert!(!udp.goes_on(), "{choice:?}: {address} by UDP");
                }
                agent.stop().await;
            }
        },
    );
}

fn whole_seconds_ahead(secs: i64) -> Timestamp {
    Timestamp::now().round(Unit::Second).unwrap() + SignedDuration::from_secs(secs)
}

fn pause(until: Timestamp) -> Told {
    Told { paused_until: Some(until), ..Told::default() }
}

#[test]
fn a_pause_stops_every_drop_within_a_second_and_ends_on_time() {
    in_namespaces("exceptions::a_pause_stops_every_drop_within_a_second_and_ends_on_time", async || {
        wire();
        for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
            let agent = Agent::in_step(choice, &SEVEN, &[]).await;
            assert_eq!(open_ways(Client::Seven), []);
            let mut chain = agent.chain.clone();
            let end = whole_seconds_ahead(4);
            let told = Instant::now();
            agent.told(pause(end)).await;
            // The status says what was read back from the kernel.
            chain.wait_for(|chain| chain.exceptions.paused_until == Some(end)).await.unwrap();
            assert!(told.elapsed() < Duration::from_secs(1), "{choice:?}: {:?}", told.elapsed());
            assert_eq!(open_ways(Client::Seven), EVERY_WAY);

            let is_dropped = async || !passes(Client::Seven, Target::Node, Family::V4);
            until("it drops again", is_dropped).await;
            let late = Timestamp::now().duration_since(end);
            assert!(late >= SignedDuration::ZERO, "{choice:?}: {late:?} early");
            assert!(late < SignedDuration::from_millis(1_500), "{choice:?}: {late:?} late");
            assert_eq!(open_ways(Client::Seven), []);
            chain.wait_for(|chain| chain.exceptions.paused_until.is_none()).await.unwrap();

            agent.told(pause(whole_seconds_ahead(600))).await;
            chain.wait_for(|chain| chain.exceptions.paused_until.is_some()).await.unwrap();
            let told = Instant::now();
            agent.told(Told::default()).await;
            chain.wait_for(|chain| chain.exceptions.paused_until.is_none()).await.unwrap();
            assert!(told.elapsed() < Duration::from_secs(1), "{choice:?}: {:?}", told.elapsed());
            assert_eq!(open_ways(Client::Seven), []);
            agent.stop().await;
        }
    });
}

#[test]
fn a_pause_ends_in_the_kernel_with_no_agent_there() {
    in_namespaces("exceptions::a_pause_ends_in_the_kernel_with_no_agent_there", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        agent.told(pause(whole_seconds_ahead(8))).await;
        let mut chain = agent.chain.clone();
        chain.wait_for(|chain| chain.exceptions.paused_until.is_some()).await.unwrap();
        agent.stop().await;
        assert!(passes(Client::Seven, Target::Node, Family::V4), "paused");
        until("the kernel drops again by itself", async || open_ways(Client::Seven).is_empty()).await;
    });
}

#[test]
fn a_pause_does_not_wait_for_sets_that_cannot_be_written() {
    in_namespaces("exceptions::a_pause_does_not_wait_for_sets_that_cannot_be_written", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        // One that the agent can neither use nor remove takes a set's place, so that no sync goes through.
        sh(
            "ipset create strange list:set; ipset create ipsentry-spare hash:ip; ipset add strange ipsentry-spare; \
            ipset create other hash:ip; ipset swap other ipsentry-hosts4; ipset destroy other",
        );
        let mut sets = agent.sets.clone();
        sets.wait_for(|sets| sets.problem.is_some()).await.unwrap();
        agent.told(pause(whole_seconds_ahead(600))).await;
        let mut chain = agent.chain.clone();
        chain.wait_for(|chain| chain.exceptions.paused_until.is_some()).await.unwrap();
        assert_eq!(open_ways(Client::Seven), EVERY_WAY);
        agent.stop().await;
    });
}
