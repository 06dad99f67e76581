//! From the log line to the ban: who earns one, and who doesn't.

use anyhow::{Result, ensure};
use ip_sentry_core::net::Network;
use ip_sentry_e2e::{
    address::{self, host_of},
    client::Reach,
    eventually,
    gateway::{Gateway, Shape},
    lab::kubectl,
    node::Node,
    policy::told,
    scenario::{LONG, SOON, Scenario, shared},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// Nobody was banned but the strangers that came after everything else.
async fn banned_nobody(scenario: &Scenario, gateway: &Gateway, path: &str) -> Result<()> {
    let strangers = gateway.judged(scenario, path).await?;
    let mut expect: Vec<String> = strangers.iter().map(|stranger| stranger.ipv4().ban_name()).collect();
    let mut found = scenario.detected().await?;
    expect.sort();
    found.sort();
    ensure!(found == expect, "{found:?} are banned, only {expect:?} earned it");
    Ok(())
}

/// Waits for an event with that reason about that source.
async fn event(scenario: &Scenario, reason: &str, about: &str) -> Result<()> {
    let space = format!("--namespace={}", scenario.namespace);
    let columns = "--output=jsonpath={range .items[*]}{.reason} {.note}{\"\\n\"}{end}";
    eventually(SOON, &format!("an event {reason} about {about}"), async || {
        let events = kubectl(&[&space, "get", "events.events.k8s.io", columns]).await?;
        let is_it = |line: &str| line.starts_with(&format!("{reason} ")) && line.contains(about);
        ensure!(events.lines().any(is_it), "events: {events}");
        Ok(())
    })
    .await
}

#[test]
fn three_hits_of_one_pattern_earn_a_ban_that_both_nodes_enforce() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let (prober, bystander) = (scenario.client().await?, scenario.client().await?);
        let front = gateway.through(Node::One, true);
        ensure!(prober.get(front, "/").await? == 200);

        let begun = Timestamp::now();
        prober.probe(front, &["/wp-admin?token=secret", "/wp-admin/", "/wp-admin/setup-config.php"]).await?;
        let ban = scenario.banned(prober.ipv4()).await?;
        scenario.dropped(&prober, prober.address_towards(front)?, &bystander, &gateway).await?;

        let spec = ban.spec;
        ensure!(
            spec.cidr == prober.ipv4().to_string() && spec.reason.as_deref() == Some("3 hits: /wp-admin")
        );
        let expires_at = spec.expires_at.map(|end| end.0).unwrap_or_default();
        let day = expires_at.duration_since(begun);
        ensure!((day - SignedDuration::from_hours(24)).abs() < SignedDuration::from_mins(1), "{day:#}");
        let evidence = spec.evidence.expect("a detected ban has evidence");
        ensure!(evidence.hits == 3 && evidence.samples.len() == 3, "{evidence:?}");
        ensure!(!format!("{evidence:?}").contains("secret"), "evidence holds a query: {evidence:?}");
        let policy = spec.policy_ref.expect("a detected ban names its policy");
        ensure!((policy.namespace, policy.name) == (scenario.namespace.clone(), "probes".to_owned()));
        Ok(())
    });
}

#[test]
fn two_patterns_earn_a_ban_with_two_hits() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        prober.probe(gateway.through(Node::Two, true), &["/.env", "/.git/config"]).await?;
        let ban = scenario.banned(prober.ipv4()).await?;
        ensure!(ban.spec.evidence.as_ref().is_some_and(|evidence| evidence.hits == 2), "{:?}", ban.spec);
        Ok(())
    });
}

#[test]
fn hits_on_pods_of_both_nodes_add_up() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        prober.probe(gateway.through(Node::One, true), &["/.env"]).await?;
        prober.probe(gateway.through(Node::Two, true), &["/.env", "/.env"]).await?;
        scenario.banned(prober.ipv4()).await.map(drop)
    });
}

#[test]
fn an_ipv6_client_is_banned_with_its_64_and_no_more() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let network = address::ipv6_network();
        let [one, other] = [host_of(&network, 1).into(), host_of(&network, 0xffff).into()];
        let prober = scenario.client_at(&[one, other]).await?;
        let neighbour = scenario.client().await?;
        let front = gateway.through(Node::Two, false);
        ensure!(prober.get_from(other, front, "/").await? == 200);

        prober.probe_from(one, front, &["/.env", "/.env"]).await?;
        prober.probe_from(other, front, &["/.env"]).await?;
        let ban = scenario.banned(prober.ipv6()).await?;
        ensure!(ban.spec.cidr == network.to_string(), "{}", ban.spec.cidr);
        for from in [one, other] {
            scenario.dropped(&prober, from, &neighbour, &gateway).await?;
        }
        Ok(())
    });
}

#[test]
fn fewer_hits_than_the_threshold_earn_nothing() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let visitor = scenario.client().await?;
        let front = gateway.through(Node::One, true);
        visitor.probe(front, &["/wp-admin", "/wp-admin", "/", "/blog/wp-admin", "/index.html?/.env"]).await?;
        banned_nobody(scenario, &gateway, "/.env").await?;
        ensure!(visitor.get(front, "/").await? == 200);
        Ok(())
    });
}

#[test]
fn hits_further_apart_than_the_window_earn_nothing() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({"window": "2s"})).await?;
        let visitor = scenario.client().await?;
        let front = gateway.through(Node::Two, true);
        for round in 0..3 {
            let mark = format!("/.env?round={round}");
            visitor.probe(front, &[&mark]).await?;
            let hit = gateway.logged(scenario, Node::Two, |line| line.contains(&mark)).await?;
            // The log's own clock says when the window has passed.
            eventually(SOON, "the window has passed in the log", async || {
                ensure!(visitor.get(front, "/").await? == 200);
                let log = gateway.log(scenario, Node::Two).await?;
                let passed = log.last().map(|(stamp, _)| stamp.duration_since(hit)).unwrap_or_default();
                ensure!(passed > SignedDuration::from_secs(2), "only {passed:#} have");
                Ok(())
            })
            .await?;
        }
        banned_nobody(scenario, &gateway, "/.env").await
    });
}

#[test]
fn an_excepted_client_earns_nothing() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let visitor = scenario.client().await?;
        let except = json!({"cidrs": [visitor.ipv4().to_string()]});
        scenario.policy_in_force("probes", json!({"except": except})).await?;
        visitor.probe(gateway.through(Node::One, true), &["/.env"; 5]).await?;
        banned_nobody(scenario, &gateway, "/.env").await
    });
}

#[test]
fn a_policy_in_shadow_bans_nobody_and_says_whom_it_would_ban() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let shadow = json!({"mode": "Shadow", "match": {"patterns": ["^/only-shadow"]}});
        scenario.policy_in_force("shadow", shadow).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        prober.probe(gateway.through(Node::One, true), &["/only-shadow"; 3]).await?;
        banned_nobody(scenario, &gateway, "/.env").await?;
        event(scenario, "WouldBan", &prober.ipv4().to_string()).await
    });
}

#[test]
fn clients_whose_addresses_are_hidden_ban_nobody_and_the_service_is_named() {
    shared(async |scenario: &Scenario| {
        let shape = Shape { only: Some(Node::One), hides_clients: true, ..Shape::default() };
        let gateway = scenario.gateway_of(shape).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        // Through the node without a pod, which puts its own address in the client's place.
        let front = gateway.through(Node::Two, true);
        prober.probe(front, &["/.env"; 12]).await?;
        let seen = gateway.log(scenario, Node::One).await?;
        let is_hidden = |(_, line): &&(_, String)| {
            line.contains("/.env") && !line.starts_with(&prober.ipv4().network().address().to_string())
        };
        ensure!(seen.iter().filter(is_hidden).count() == 12, "the log shows the client: {seen:?}");
        let service = format!("{}/nginx-public-nginx", scenario.namespace);
        eventually(SOON * 2, "ClientIPPreserved names the Service", async || {
            let status = scenario.policies().get("probes").await?.status.unwrap_or_default();
            let told = told(&status.conditions, "ClientIPPreserved");
            ensure!(
                told.starts_with("False ExternalTrafficPolicyCluster ") && told.contains(&service),
                "{told}"
            );
            Ok(())
        })
        .await?;
        ensure!(scenario.detected().await?.is_empty(), "{:?}", scenario.detected().await?);
        // Nodes are not banned either way, and this one still lets the client in.
        ensure!(prober.reach(front).await? == Reach::Connected);
        Ok(())
    });
}

/// Where containerd cuts a log line in two: `max_container_log_line_size`.
const CUT: usize = 16_384;

/// Each request tells a lie about another address: as an access log's line in the path, the User-Agent, the
/// Referer and the user's name, and behind what ends a line.
#[test]
fn lies_inside_a_log_line_ban_nobody_else() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({"match": {"patterns": ["^/probe"]}})).await?;
        let (liar, victim) = (scenario.client().await?, scenario.client().await?);
        let front = gateway.through(Node::Two, true);
        let from = liar.address_towards(front)?;
        let lie = format!(
            "{} - - [22/Nov/2026:10:00:00 +0000] \"GET /probe HTTP/1.1\" 404 153 \"-\" \"-\"",
            victim.ipv4().network().address()
        );
        let user = base64(&format!("x\n{lie}"));
        // One lie begins exactly where the line is cut.
        let path = "a".repeat(7_000);
        let head =
            format!("{from} - - [22/Nov/2026:10:00:00 +0000] \"GET /{path} HTTP/1.1\" 404 153 \"").len();
        let referer = "b".repeat(CUT - head - 4_000);
        let agent = format!("{}{lie}", "c".repeat(4_000 - "\" \"".len()));
        let requests = [
            format!("GET /{lie} HTTP/1.1\r\nHost: a\r\n"),
            format!("GET /x%0a{} HTTP/1.1\r\nHost: a\r\n", lie.replace(' ', "%20")),
            format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x\" \"\n{lie}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {lie}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nReferer: -\"\\x0a{lie}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {user}\r\n"),
            format!("GET /{path} HTTP/1.1\r\nHost: a\r\nReferer: {referer}\r\nUser-Agent: {agent}\r\n"),
            format!("{lie}\r\nHost: a\r\n"),
        ];
        for request in &requests {
            for _ in 0..3 {
                let answer =
                    liar.send(from, front, format!("{request}Connection: close\r\n\r\n").as_bytes()).await?;
                ensure!(!answer.is_empty(), "no answer to {request:?}");
            }
        }
        // Bytes that are no text.
        liar.send(from, front, b"GET /\xff\xfe\x00\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        banned_nobody(scenario, &gateway, "/probe").await?;
        ensure!(victim.get(front, "/").await? == 200);

        let log = gateway.log(scenario, Node::Two).await?;
        let name = victim.ipv4().network().address().to_string();
        let told = log.iter().filter(|(_, line)| line.contains(&name)).count();
        // Of the one with a newline nginx logs the beginning only.
        ensure!(told >= 3 * (requests.len() - 1), "only {told} lies are in the log: {log:?}");
        let at_the_cut = log.iter().filter(|(_, line)| line.find(&name) == Some(CUT)).count();
        ensure!(at_the_cut == 3, "{at_the_cut} lies begin where the container runtime cuts: {log:?}");
        Ok(())
    });
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0, |bits, index| bits << 8 | usize::from(*bytes.get(index).unwrap_or(&0)));
        let digit = |place: usize| {
            if place > bytes.len() { '=' } else { char::from(DIGITS[bits >> (18 - 6 * place) & 63]) }
        };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}

#[test]
fn a_source_that_comes_back_after_its_ban_has_its_second_offence() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        let (front, source) = (gateway.through(Node::One, true), prober.ipv4());
        let before = scenario.offences(source).await?;
        for offence in [before + 1, before + 2] {
            eventually(SOON, "the source is banned", async || {
                if scenario.bans().get_opt(&source.ban_name()).await?.is_none() {
                    prober.probe(front, &["/.env"]).await?;
                }
                let ban = scenario.bans().get(&source.ban_name()).await?;
                ensure!(ban.metadata.deletion_timestamp.is_none(), "the last one is still going");
                ensure!(ban.spec.offence == Some(offence), "offence {:?}, not {offence}", ban.spec.offence);
                Ok(())
            })
            .await?;
            scenario.let_run_out(&source.ban_name()).await?;
            let network: Network = source.network();
            scenario.in_no_kernel(network, SOON).await?;
            eventually(SOON, "the ban is gone", async || {
                ensure!(scenario.bans().get_opt(&source.ban_name()).await?.is_none());
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_ban_that_was_lifted_by_hand_is_no_offence() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        let (front, source) = (gateway.through(Node::One, true), prober.ipv4());
        let before = scenario.offences(source).await?;
        for _ in 0..2 {
            // What was logged up to 2 s after the last one was lifted is forgiven.
            eventually(SOON, "the source is banned", async || {
                if scenario.bans().get_opt(&source.ban_name()).await?.is_none() {
                    prober.probe(front, &["/.env"]).await?;
                }
                let ban = scenario.bans().get(&source.ban_name()).await?;
                ensure!(ban.metadata.deletion_timestamp.is_none(), "the last one is still going");
                ensure!(
                    ban.spec.offence == Some(before + 1),
                    "offence {:?} after {before}",
                    ban.spec.offence
                );
                Ok(())
            })
            .await?;
            scenario.lift(&source.ban_name()).await?;
            eventually(SOON, "the ban is gone", async || {
                ensure!(scenario.bans().get_opt(&source.ban_name()).await?.is_none());
                Ok(())
            })
            .await?;
            scenario.in_no_kernel(source.network(), SOON).await?;
        }
        let after = scenario.offences(source).await?;
        ensure!(after == before, "{after} offences after {before}");
        Ok(())
    });
}

#[test]
fn a_ban_that_was_earned_runs_out_on_time_and_is_remembered() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({"banDuration": "1m"})).await?;
        let prober = scenario.client().await?;
        let (front, source) = (gateway.front(Node::Two, true), prober.ipv4());
        let before = scenario.offences(source).await?;
        prober.probe(front.to, &["/.env"; 3]).await?;
        let ban = scenario.banned(source).await?;
        event(scenario, "IPBanned", &source.to_string()).await?;
        scenario.in_both_kernels(source.network()).await?;
        let end = ban.spec.expires_at.expect("an earned ban has an end").0;
        let let_in = eventually(LONG, "the ban has ended", async || {
            let reach = prober.reach(front.to).await?;
            ensure!(reach == Reach::Connected, "{reach:?}");
            Ok(Timestamp::now())
        })
        .await?;
        let error = let_in.duration_since(end).as_secs_f64();
        ensure!((0.0..1.5).contains(&error), "it was let in {error} s after its end");
        eventually(SOON, "the object is gone", async || {
            ensure!(scenario.bans().get_opt(&source.ban_name()).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
        event(scenario, "BanExpired", &source.to_string()).await?;
        let after = scenario.offences(source).await?;
        ensure!(after == before + 1, "{after} bans are remembered, {before} before");
        Ok(())
    });
}
