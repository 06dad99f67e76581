//! Another program that holds the lock of all xtables tools, and does not let go.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ip_sentry_node_agent::args::BackendChoice;

use crate::lab::{Agent, Client, EVERY_WAY, in_namespaces, open_ways, sh, until, wire};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];
/// How long it is held: many times what the agent and its tools wait for it.
const HELD: Duration = Duration::from_mins(1);

/// A process that holds the lock; it lets go when it is dropped.
struct Holder(Child);

impl Holder {
    fn start() -> Self {
        let script = "exec 9>>/run/xtables.lock; flock 9; echo held; exec sleep 600";
        let mut child = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().unwrap();
        }
    }
}

#[test]
fn while_the_lock_is_held_for_a_minute_bans_go_in_at_once_and_rules_when_it_is_free() {
    in_namespaces(
        "lock::while_the_lock_is_held_for_a_minute_bans_go_in_at_once_and_rules_when_it_is_free",
        async || {
            wire();
            let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
            let holder = Holder::start();
            let held = Instant::now();
            // Somebody who takes another lock, or none, empties the chain: only the lock's holder could stop them.
            sh("XTABLES_LOCKFILE=/run/another iptables-legacy -F IP-BLOCKER");
            let mut slowest = Duration::ZERO;
            let mut number = 0;
            let mut was_told = false;
            while held.elapsed() < HELD {
                number += 1;
                let address = format!("198.51.100.{number}");
                let asked = Instant::now();
                agent.ban(&format!("{address}/32"), Some(600)).await;
                until("a ban goes in", async || {
                    sh(&format!("ipset test ipsentry-hosts4 {address} 2>/dev/null && echo in || true"))
                        == "in\n"
                })
                .await;
                slowest = slowest.max(asked.elapsed());
                was_told |=
                    agent.chain.borrow().problem.as_ref().is_some_and(|told| told.reason == "XtablesLocked");
                // The agent runs on this thread: it must get its turn between two bans.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            println!("{number} bans went in while the lock was held, the slowest within {slowest:?}");
            assert!(slowest < Duration::from_secs(1), "a ban took {slowest:?}");
            assert!(was_told && !agent.is_ready(), "the agent does not say that it can't write its rules");
            assert!(!agent.has_ended(), "the agent has given up");
            assert!(
                !open_ways(Client::Seven).is_empty(),
                "somebody else put the chain right: this shows nothing"
            );

            drop(holder);
            let freed = Instant::now();
            agent.until_ready().await;
            println!("the rules were put right {:?} after the lock was free", freed.elapsed());
            assert_eq!(open_ways(Client::Seven), []);
            assert_eq!(open_ways(Client::Eight), EVERY_WAY);
            agent.stop().await;
        },
    );
}
