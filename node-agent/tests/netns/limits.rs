//! Bounds, refusals, and options that change.

use ip_sentry_core::{
    enforce::{
        desired::{MAX_TIMEOUT_SECS, Timeout},
        sets::Set,
        view::Until,
    },
    net::Network,
};
use ip_sentry_crd::node_firewall::Backend;
use ip_sentry_node_agent::{
    args::BackendChoice,
    kernel::{
        addresses,
        ipset::{Ipset, IpsetError},
        proxy_mode::{self, ProxyMode},
    },
};
use jiff::Timestamp;

use crate::lab::{Agent, Client, EVERY_WAY, in_namespaces, listed, open_ways, sh, until, wire};

#[test]
fn a_full_set_is_counted_and_the_rest_enforced() {
    in_namespaces("limits::a_full_set_is_counted_and_the_rest_enforced", async || {
        wire();
        let agent = Agent::start(BackendChoice::Ipset, 64);
        let cidrs: Vec<String> = (0..100).map(|n| format!("198.51.100.{n}/32")).collect();
        let mut bans: Vec<(&str, i64)> = cidrs.iter().map(|cidr| (cidr.as_str(), 600)).collect();
        bans.push(("2001:db8:7::/64", 600));
        agent.list(&bans, &[]).await;
        let mut sets = agent.sets.clone();
        let status = sets.wait_for(|sets| sets.problem.is_some()).await.unwrap().clone();
        let problem = status.problem.unwrap();
        assert_eq!(problem.reason, "SetFull");
        let refused = 101 - status.entries;
        assert!(problem.message.starts_with(&format!("{refused} bans had no room")), "{}", problem.message);
        until("the rest is enforced", async || listed().await.len() == status.entries).await;
        assert!(!agent.is_ready());
        assert_eq!(open_ways(Client::Seven).len(), 2, "the IPv6 ban is in force");
        let text = agent.metrics.text().unwrap();
        assert!(text.contains(&format!("ip_sentry_node_bans{{what=\"refused\"}} {refused}")), "{text}");

        for cidr in &cidrs[..50] {
            agent.ban(cidr, None).await;
        }
        until("there is room for all", async || agent.is_ready() && agent.sets.borrow().entries == 51).await;
        assert_eq!(listed().await.len(), 51, "there is room again");
        agent.stop().await;
    });
}

#[test]
fn other_options_are_swapped_in_without_letting_a_packet_through() {
    in_namespaces("limits::other_options_are_swapped_in_without_letting_a_packet_through", async || {
        wire();
        let bans = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];
        let agent = Agent::in_step(BackendChoice::Ipset, &bans, &[]).await;
        agent.stop().await;
        let agent = Agent::start(BackendChoice::Ipset, 2_000);
        agent.list(&bans, &[]).await;
        agent.until_ready().await;
        assert!(sh("ipset list -t ipsentry-hosts4").contains("maxelem 2000"));
        assert!(!sh("ipset list -n").contains("spare"));
        assert_eq!(open_ways(Client::Seven), []);
        assert_eq!(open_ways(Client::Eight), EVERY_WAY);
        agent.stop().await;
    });
}

#[test]
fn one_entry_that_the_kernel_refuses_keeps_no_other_out() {
    in_namespaces("limits::one_entry_that_the_kernel_refuses_keeps_no_other_out", async || {
        let mut ipset = Ipset::open().unwrap();
        let name = Set::Nets4.name();
        ipset.create(name, Set::Nets4, 100_000, 10).unwrap();
        let timeout = Timeout::between(Timestamp::now(), Until::DELETED);
        let mut entries: Vec<(Network, Option<Timeout>)> = (0..2_500u32)
            .map(|n| {
                (Network::around(std::net::Ipv4Addr::from_bits(0x1400_0000 | n << 8).into(), 24), timeout)
            })
            .collect();
        let refused: Network = "0.0.0.0/0".parse().unwrap();
        for at in [0, 1_234, 2_502] {
            entries.insert(at, (refused, timeout));
        }
        let loaded = ipset.load(name, &entries).unwrap();
        assert_eq!(loaded.refused.iter().map(|(network, _)| *network).collect::<Vec<_>>(), [refused; 3]);
        assert_eq!((loaded.full, ipset.observe(name).unwrap().len()), (0, 2_500));
        let observed = ipset.observe(name).unwrap();
        assert!(observed.values().all(|left| left.is_some_and(|left| left >= MAX_TIMEOUT_SECS - 60)));

        assert!(matches!(ipset.add("ipsentry-none", entries[1]), Err(IpsetError::NoSet(_))));
        assert!(matches!(ipset.load("ipsentry-none", &entries), Err(IpsetError::NoSet(_))));
        ipset.remove(name, "20.0.0.0/24".parse().unwrap()).unwrap();
        ipset.remove(name, "20.0.0.0/24".parse().unwrap()).unwrap();
        assert_eq!(ipset.observe(name).unwrap().len(), 2_499);
    });
}

#[test]
fn a_missing_capability_is_told_and_nothing_is_claimed() {
    in_namespaces("limits::a_missing_capability_is_told_and_nothing_is_claimed", async || {
        let exe = std::env::current_exe().unwrap();
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(exe)
            .args(["--exact", "limits::agent_without_capabilities", "--nocapture"])
            .env("IP_SENTRY_TEST_POWERLESS", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("CapabilityMissing: not permitted"), "{text}");
        assert_eq!(sh("ipset list -n"), "");
    });
}

/// Not a test of its own: the agent that the one above starts.
#[test]
fn agent_without_capabilities() {
    if std::env::var_os("IP_SENTRY_TEST_POWERLESS").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let agent = Agent::start(BackendChoice::Auto, 1_000);
        agent.list(&[("203.0.113.7/32", 600)], &[]).await;
        let mut sets = agent.sets.clone();
        let problem = sets.wait_for(|sets| sets.problem.is_some()).await.unwrap().problem.clone().unwrap();
        println!("{}: {}", problem.reason, problem.message);
        assert!(!agent.is_ready());
    });
}

#[test]
fn the_chain_comes_when_iptables_can_work_again() {
    in_namespaces("limits::the_chain_comes_when_iptables_can_work_again", async || {
        wire();
        // A directory in the lock file's place: no tool can take the lock.
        sh("mkdir /run/xtables.lock");
        let agent = Agent::start(BackendChoice::Ipset, 1_000);
        agent.list(&[("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)], &[]).await;
        let mut chain = agent.chain.clone();
        let problem = chain.wait_for(|chain| chain.problem.is_some()).await.unwrap().problem.clone().unwrap();
        assert_eq!(problem.reason, "XtablesLocked", "{}", problem.message);
        assert!(!agent.is_ready());
        // The sets don't need the lock.
        agent.ban("203.0.113.8/32", Some(600)).await;
        until("a ban goes in meanwhile", async || sh("ipset save").contains("203.0.113.8")).await;
        sh("rmdir /run/xtables.lock");
        agent.until_ready().await;
        assert_eq!(open_ways(Client::Seven), []);
        agent.stop().await;
    });
}

/// Puts a script in a tool's place, until the namespace ends or the mount is undone.
fn replace_tool(tool: &str, script: &str) {
    std::fs::write(format!("/run/{tool}"), format!("#!/bin/bash\n{script}\n")).unwrap();
    // The tools are links to one program: what is mounted over must be the link, not what it leads to.
    sh(&format!(
        "cp -a /usr/sbin /run/sbin-$$ && mount --bind /run/sbin-$$ /usr/sbin && rm /usr/sbin/{tool} && \
         install -m 755 /run/{tool} /usr/sbin/{tool}"
    ));
}

#[test]
fn a_missing_tool_is_told_and_the_agent_goes_on_when_it_is_there() {
    in_namespaces("limits::a_missing_tool_is_told_and_the_agent_goes_on_when_it_is_there", async || {
        wire();
        sh(
            "cp -a /usr/sbin /run/sbin && mount --bind /run/sbin /usr/sbin && rm /usr/sbin/iptables-legacy-save",
        );
        let agent = Agent::start(BackendChoice::Auto, 1_000);
        agent.list(&[("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)], &[]).await;
        let mut chain = agent.chain.clone();
        let problem = chain.wait_for(|chain| chain.problem.is_some()).await.unwrap().problem.clone().unwrap();
        assert_eq!(problem.reason, "IptablesLegacyMissing", "{}", problem.message);
        assert!(!agent.is_ready());
        sh("umount /usr/sbin");
        agent.until_ready().await;
        assert_eq!(open_ways(Client::Seven), []);
        agent.stop().await;
    });
}

#[test]
fn a_kernel_that_matches_neither_sets_nor_time_gets_plain_rules_that_are_swept() {
    in_namespaces(
        "limits::a_kernel_that_matches_neither_sets_nor_time_gets_plain_rules_that_are_swept",
        async || {
            wire();
            // This kernel has both; the tool says otherwise, in the words that it has for it.
            for (tool, real) in [
                ("iptables-legacy-restore", "iptables-restore"),
                ("ip6tables-legacy-restore", "ip6tables-restore"),
            ] {
                replace_tool(
                    tool,
                    &format!(
                        "text=$(cat); case $text in \
                     *match-set*) echo 'Kernel module xt_set is not loaded in.' >&2; exit 1;; \
                     *datestop*) echo \"Couldn't load match \\`time'\" >&2; exit 2;; esac; \
                     exec xtables-legacy-multi {real} \"$@\" <<<$text"
                    ),
                );
            }
            let agent = Agent::start(BackendChoice::Auto, 1_000);
            agent.list(&[("203.0.113.7/32", 6), ("203.0.113.8/32", 600)], &[]).await;
            agent.until_ready().await;
            assert_eq!(agent.sets.borrow().backend, Some(Backend::Rules));
            assert!(
                agent.sets.borrow().backend_why.contains("xt_set"),
                "{}",
                agent.sets.borrow().backend_why
            );
            assert_eq!(sh("iptables-legacy-save -t filter | grep -c -- '^-A IP-BLOCKER -s'"), "2\n");
            assert!(!sh("iptables-legacy-save -t filter").contains("datestop"));
            until("the ended ban's rule is swept", async || {
                sh("iptables-legacy-save -t filter | grep -c -- '^-A IP-BLOCKER -s'") == "1\n"
            })
            .await;
            agent.stop().await;
        },
    );
}

#[test]
fn the_server_behind_a_service_address_is_found() {
    in_namespaces("limits::the_server_behind_a_service_address_is_found", async || {
        wire();
        let listener = std::net::TcpListener::bind("10.244.0.1:8443").unwrap();
        sh("ip route add 10.96.0.1 dev lo; \
            iptables-legacy -t nat -A OUTPUT -p tcp -d 10.96.0.1 --dport 443 -j DNAT --to 10.244.0.1:8443");
        let service = std::net::TcpStream::connect("10.96.0.1:443").unwrap();
        let found = addresses::of_peer(service.local_addr().unwrap(), service.peer_addr().unwrap());
        let expect = ["10.96.0.1:443", "10.244.0.1:8443"].map(|text| text.parse().unwrap());
        assert_eq!(found, expect.into());

        let direct = std::net::TcpStream::connect("10.244.0.1:8443").unwrap();
        let found = addresses::of_peer(direct.local_addr().unwrap(), direct.peer_addr().unwrap());
        assert_eq!(found, [expect[1]].into());
        drop(listener);

        let own = addresses::of_node().unwrap();
        assert!(own.contains(&expect[1].ip()) && own.contains(&"fd00:244::1".parse().unwrap()), "{own:?}");
        assert!(own.iter().all(|address| !address.is_loopback()), "{own:?}");
    });
}

#[test]
fn kube_proxys_mode_is_told_by_its_traces() {
    in_namespaces("limits::kube_proxys_mode_is_told_by_its_traces", async || {
        assert_eq!(proxy_mode::detect().await.unwrap(), ProxyMode::Unknown);
        sh("iptables-legacy -t mangle -N KUBE-KUBELET-CANARY");
        assert_eq!(proxy_mode::detect().await.unwrap(), ProxyMode::Legacy);
        sh("iptables-nft -t mangle -N KUBE-IPTABLES-HINT");
        assert_eq!(proxy_mode::detect().await.unwrap(), ProxyMode::Nft);
        sh("nft add table ip6 kube-proxy");
        assert_eq!(proxy_mode::detect().await.unwrap(), ProxyMode::Nftables);
    });
}
