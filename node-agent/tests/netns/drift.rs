//! What others change is put right.

use ip_sentry_core::enforce::{chain::Place, sets::Family};
use ip_sentry_node_agent::{args::BackendChoice, status::Standing};

use crate::lab::{
    Agent, Client, EVERY_WAY, Target, in_namespaces, listed, open_ways, passes, sh, tables, until, wire,
};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];

#[test]
fn what_others_do_to_the_chain_is_put_right_and_counted() {
    in_namespaces("drift::what_others_do_to_the_chain_is_put_right_and_counted", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        #[rustfmt::skip]
        let table = [
            ("chain flushed",       "iptables-legacy -F IP-BLOCKER"),
            ("everything flushed",  "iptables-legacy -F; ip6tables-legacy -F"),
            ("a jump removed",      "iptables-legacy -D FORWARD -j IP-BLOCKER"),
            ("OUTPUT's removed",    "iptables-legacy -D OUTPUT -j IP-BLOCKER-OUT"),
            ("a jump moved down",   "iptables-legacy -I INPUT 1 -j ACCEPT; ip6tables-legacy -I INPUT 1 -j ACCEPT"),
            ("a jump doubled",      "iptables-legacy -A INPUT -j IP-BLOCKER"),
            ("a rule put in",       "iptables-legacy -I IP-BLOCKER 1 -j RETURN"),
            ("chain removed",       "iptables-legacy -F; iptables-legacy -X"),
        ];
        for (what, command) in table {
            let before = agent.chain.borrow().repairs;
            sh(command);
            until(what, async || {
                agent.chain.borrow().repairs > before
                    && tables().await.iter().all(|table| table.place() == Place::First)
                    && agent.is_ready()
            })
            .await;
            assert_eq!(open_ways(Client::Seven), [], "after {what}");
            assert_eq!(open_ways(Client::Eight), EVERY_WAY, "after {what}");
        }
        agent.stop().await;
    });
}

#[test]
fn what_others_do_to_the_sets_is_put_right_and_counted() {
    in_namespaces("drift::what_others_do_to_the_sets_is_put_right_and_counted", async || {
        wire();
        let wide = [SEVEN[0], SEVEN[1], ("198.51.100.0/24", 600)];
        let agent = Agent::in_step(BackendChoice::Ipset, &wide, &["203.0.113.8/32"]).await;
        #[rustfmt::skip]
        let table = [
            ("a set flushed",         "ipset flush ipsentry-hosts4"),
            ("all sets flushed",      "ipset flush"),
            ("an entry taken out",    "ipset del ipsentry-nets6 2001:db8:7::/64"),
            ("rules and sets gone",   "iptables-legacy -F; ip6tables-legacy -F; ipset destroy"),
            ("a set with other options swapped in",
                "ipset create other hash:ip; ipset swap other ipsentry-hosts4; ipset destroy other"),
        ];
        for (what, command) in table {
            let before = agent.sets.borrow().repairs;
            sh(command);
            until(what, async || {
                agent.sets.borrow().repairs > before && listed().await.len() == 3 && agent.is_ready()
            })
            .await;
            until("the chain too", async || open_ways(Client::Seven).is_empty()).await;
            assert_eq!(open_ways(Client::Eight), EVERY_WAY, "after {what}");
        }
        assert!(agent.metrics.text().unwrap().contains("ip_sentry_node_repairs_total{what=\"sets\"}"));
        agent.stop().await;
    });
}

#[test]
fn a_ban_reaches_a_set_that_has_just_been_destroyed() {
    in_namespaces("drift::a_ban_reaches_a_set_that_has_just_been_destroyed", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &[], &[]).await;
        sh("iptables-legacy -F; ip6tables-legacy -F; ipset destroy");
        agent.ban("203.0.113.7/32", Some(600)).await;
        until("the ban is enforced", async || !passes(Client::Seven, Target::Node, Family::V4)).await;
        agent.until_ready().await;
        agent.stop().await;
    });
}

#[test]
fn a_fight_for_the_first_place_is_given_up_and_told() {
    in_namespaces("drift::a_fight_for_the_first_place_is_given_up_and_told", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        // Another program that insists, like Calico's Insert mode.
        until("the agent gives up", async || {
            sh("iptables-legacy -D INPUT -p icmp -j ACCEPT 2>/dev/null || true; iptables-legacy -I INPUT 1 -p icmp -j ACCEPT");
            agent.chain.borrow().standing == Some(Standing::Contended)
        })
        .await;
        assert!(!agent.is_ready(), "no claim to protect behind rules that accept");
        assert_eq!(tables().await[0].place(), Place::Behind);
        assert_eq!(open_ways(Client::Seven), [], "what nobody accepts before is dropped still");
        agent.stop().await;
    });
}
