//! Connection tracking forgets a client's connection, and takes the next segment of our side for a beginning: the
//! client's segments look like replies then.

use ip_sentry_node_agent::{
    args::BackendChoice,
    status::{Facts, findings},
};

use crate::{
    lab::{Agent, Client, EVERY_WAY, in_namespaces, listed, open_ways, sh, until, wire},
    peers::{Server, Trickster},
};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];
/// As many hops as a segment needs anywhere.
const FAR: u8 = 64;

const OF_POD: [&str; 2] = ["10.244.0.2:80", "[fd00:244::2]:80"];
const OF_NODE: [&str; 2] = ["10.244.0.1:80", "[fd00:244::1]:80"];

fn serve() -> Vec<Server> {
    let pod = OF_POD.map(|address| Server::start(Some("pod"), address));
    let node = OF_NODE.map(|address| Server::start(None, address));
    pod.into_iter().chain(node).collect()
}

/// What the client's kernel gets, and what it sends by itself; [`Trickster::reset`] passes.
const HEARD: &str = "INPUT -p tcp -j DROP";
const SAID: &str = "OUTPUT -p tcp -m tcp --tcp-flags SYN,RST NONE -j DROP";

fn of_client(change: &str) {
    for tables in ["iptables-legacy", "ip6tables-legacy"] {
        sh(&format!("ip netns exec seven {tables} {change}"));
    }
}

/// The clients ask, and from then on confirm nothing: the servers send their answers again and again, and speak next.
fn ask_and_fall_silent(clients: &mut [(&str, Trickster)]) {
    of_client(&format!("-A {HEARD}"));
    for (_, client) in clients {
        client.send();
    }
    of_client(&format!("-A {SAID}"));
}

fn speak_again() {
    of_client(&format!("-D {HEARD}"));
    of_client(&format!("-D {SAID}"));
}

/// Which of the servers answer.
fn answered(clients: &mut [(&'static str, Trickster)]) -> Vec<&'static str> {
    clients.iter_mut().filter_map(|(server, client)| client.goes_on().then_some(*server)).collect()
}

fn open(servers: &[&'static str]) -> Vec<(&'static str, Trickster)> {
    servers.iter().map(|server| (*server, Trickster::open("seven", server))).collect()
}

/// Waits until tracking takes the servers for the side that opened these connections.
async fn picked_up(clients: &[(&str, Trickster)]) {
    for (server, client) in clients {
        begins(server, client.port).await;
    }
}

async fn begins(server: &str, port: u16) {
    let address = server.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
    let family = if address.contains(':') { "ipv6" } else { "ipv4" };
    let list = format!(
        "conntrack -L -f {family} -p tcp --orig-src {address} --orig-port-src 80 --orig-port-dst {port} 2>/dev/null"
    );
    until(&format!("a segment of {server} counts as a beginning"), async || !sh(&list).is_empty()).await;
}

async fn ban(agent: &Agent) {
    for (cidr, secs) in SEVEN {
        agent.ban(cidr, Some(secs)).await;
    }
    until("both bans are in the kernel", async || listed().await.len() == 2).await;
}

async fn lift(agent: &Agent) {
    for (cidr, _) in SEVEN {
        agent.ban(cidr, None).await;
    }
    until("both bans are lifted", async || listed().await.is_empty()).await;
}

#[test]
fn a_banned_client_stays_cut_off_when_tracking_forgets_its_connection() {
    in_namespaces(
        "pickups::a_banned_client_stays_cut_off_when_tracking_forgets_its_connection",
        async || {
            wire();
            let _servers = serve();
            let servers = [OF_POD, OF_NODE].concat();
            for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
                let agent = Agent::in_step(choice, &[], &[]).await;
                for by_client in [true, false] {
                    let mut clients = open(&servers);
                    assert_eq!(answered(&mut clients), servers, "before the ban");
                    ask_and_fall_silent(&mut clients);
                    ban(&agent).await;
                    if by_client {
                        for (_, client) in &mut clients {
                            client.reset(FAR);
                        }
                    } else {
                        // As after a time-out.
                        sh("conntrack -F 2>/dev/null");
                    }
                    picked_up(&clients).await;
                    speak_again();
                    assert_eq!(answered(&mut clients), [""; 0], "{choice:?}, by the client: {by_client}");
                    lift(&agent).await;
                }
                agent.stop().await;
            }
        },
    );
}

#[test]
fn a_client_that_had_its_connection_forgotten_before_its_ban_is_cut_off_by_it() {
    in_namespaces(
        "pickups::a_client_that_had_its_connection_forgotten_before_its_ban_is_cut_off_by_it",
        async || {
            wire();
            let _servers = serve();
            let agent = Agent::in_step(BackendChoice::Ipset, &[], &[]).await;
            let mut clients = open(&OF_POD);
            assert_eq!(answered(&mut clients), OF_POD, "at first");
            ask_and_fall_silent(&mut clients);
            for (_, client) in &mut clients {
                // The node tracks it and sends it no further, so the pod's kernel keeps the connection.
                client.reset(1);
            }
            picked_up(&clients).await;
            speak_again();
            // The clients' kernels wait for some time before they send again what was not confirmed.
            for (server, client) in &mut clients {
                until(&format!("who is not banned goes on with {server}"), async || client.goes_on()).await;
            }
            ban(&agent).await;
            assert_eq!(answered(&mut clients), [""; 0]);
            agent.stop().await;
        },
    );
}

#[test]
fn without_labels_a_ban_is_enforced_all_the_same_and_what_is_lacking_is_told() {
    in_namespaces(
        "pickups::without_labels_a_ban_is_enforced_all_the_same_and_what_is_lacking_is_told",
        async || {
            wire();
            sh("mount --bind /dev/null \"$(find /usr/lib -name libxt_connlabel.so)\"");
            for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
                let agent = Agent::in_step(choice, &SEVEN, &[]).await;
                assert_eq!(open_ways(Client::Seven), []);
                assert_eq!(open_ways(Client::Eight), EVERY_WAY);
                let facts = Facts {
                    sets: agent.sets.borrow().clone(),
                    chain: agent.chain.borrow().clone(),
                    ..Facts::default()
                };
                let told = findings(&facts, tokio::time::Instant::now());
                let backend = told.iter().find(|finding| finding.kind == "BackendDetected").unwrap();
                assert_eq!(backend.status, Some(true));
                assert!(backend.message.contains("xt_connlabel"), "{}", backend.message);
                agent.stop().await;
            }
        },
    );
}
