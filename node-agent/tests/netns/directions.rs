//! Which side opened a connection decides.

use ip_sentry_node_agent::args::BackendChoice;

use crate::{
    lab::{Agent, in_namespaces, listed, sh, until, wire},
    peers::{Conversation, Server},
};

const SEVEN: [(&str, i64); 2] = [("203.0.113.7/32", 600), ("2001:db8:7::/64", 600)];

/// Everybody's servers.
fn serve() -> Vec<Server> {
    [
        (Some("seven"), "203.0.113.7:80"),
        (Some("seven"), "[2001:db8:7::7]:80"),
        (Some("pod"), "10.244.0.2:80"),
        (Some("pod"), "[fd00:244::2]:80"),
        (None, "10.244.0.1:80"),
        (None, "[fd00:244::1]:80"),
    ]
    .map(|(namespace, address)| Server::start(namespace, address))
    .into()
}

/// Who asks whom, by which protocol.
type Way = (Option<&'static str>, &'static str, &'static str);

fn open(ways: &[(Option<&'static str>, &'static str)]) -> Vec<(Way, Option<Conversation>)> {
    let ways = ways.iter().flat_map(|&(from, to)| ["tcp", "udp"].map(|protocol| (from, protocol, to)));
    ways.map(|way| (way, Conversation::open(way.0, way.1, way.2))).collect()
}

/// Pods and the node ask the client.
fn ours() -> Vec<(Way, Option<Conversation>)> {
    open(&[
        (Some("pod"), "203.0.113.7:80"),
        (Some("pod"), "[2001:db8:7::7]:80"),
        (None, "203.0.113.7:80"),
        (None, "[2001:db8:7::7]:80"),
    ])
}

/// The client asks pods and the node.
fn theirs() -> Vec<(Way, Option<Conversation>)> {
    open(&[
        (Some("seven"), "10.244.0.2:80"),
        (Some("seven"), "[fd00:244::2]:80"),
        (Some("seven"), "10.244.0.1:80"),
        (Some("seven"), "[fd00:244::1]:80"),
    ])
}

fn answered(conversations: &mut [(Way, Option<Conversation>)]) -> Vec<Way> {
    let answered =
        |conversation: &mut Option<Conversation>| conversation.as_mut().is_some_and(Conversation::goes_on);
    conversations.iter_mut().filter_map(|(way, one)| answered(one).then_some(*way)).collect()
}

#[test]
fn connections_that_our_side_opened_go_on_and_those_of_a_banned_client_are_cut() {
    in_namespaces(
        "directions::connections_that_our_side_opened_go_on_and_those_of_a_banned_client_are_cut",
        async || {
            wire();
            let _servers = serve();
            for choice in [BackendChoice::Ipset, BackendChoice::Rules] {
                let agent = Agent::in_step(choice, &[], &[]).await;
                let (mut our_old, mut their_old) = (ours(), theirs());
                assert_eq!((answered(&mut our_old).len(), answered(&mut their_old).len()), (8, 8));

                for (cidr, secs) in SEVEN {
                    agent.ban(cidr, Some(secs)).await;
                }
                until("both bans are in the kernel", async || listed().await.len() == 2).await;
                assert_eq!(answered(&mut our_old).len(), 8, "established, opened by us");
                assert_eq!(answered(&mut ours()).len(), 8, "new, opened by us");
                assert_eq!(answered(&mut their_old), [], "established, opened by the banned client");
                assert_eq!(answered(&mut theirs()), [], "new, opened by the banned client");
                for (cidr, _) in SEVEN {
                    agent.ban(cidr, None).await;
                }
                until("both bans are lifted", async || listed().await.is_empty()).await;
                agent.stop().await;
            }
        },
    );
}

#[test]
fn what_connection_tracking_does_not_know_is_dropped() {
    in_namespaces("directions::what_connection_tracking_does_not_know_is_dropped", async || {
        wire();
        let _servers = serve();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN[..1], &[]).await;
        let mut our_old = open(&[(Some("pod"), "203.0.113.7:80")]);
        assert_eq!(answered(&mut our_old).len(), 2);

        // Invalid: a segment in the middle of a connection that nobody has seen begin.
        sh("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0; conntrack -F 2>/dev/null");
        assert_eq!(answered(&mut our_old[..1]), [], "invalid");
        // Untracked, in both directions.
        sh("for chain in PREROUTING OUTPUT; do iptables-legacy -t raw -A $chain -j NOTRACK; done");
        assert_eq!(answered(&mut theirs()).len(), 4, "IPv6 is not banned here");
        assert_eq!(
            answered(&mut open(&[(Some("seven"), "10.244.0.2:80"), (Some("seven"), "10.244.0.1:80")])),
            []
        );
        agent.stop().await;
    });
}

/// Sends an echo request and says whether it was answered.
fn pings(namespace: &str, address: &str) -> bool {
    let script = r#"
        use Socket;
        socket(my $s, PF_INET, SOCK_RAW, 1) or die "socket: $!";
        my $sum = 0; $sum += $_ for unpack("n*", pack("C2 n3", 8, 0, 0, 1, 1));
        my $echo = pack("C2 n3", 8, 0, 0xffff & ~$sum, 1, 1);
        send($s, $echo, 0, pack_sockaddr_in(0, inet_aton($ARGV[0]))) or die "send: $!";
        my $ready = ""; vec($ready, fileno($s), 1) = 1;
        while (select(my $got = $ready, undef, undef, 0.3)) {
            recv($s, my $packet, 1500, 0);
            if (ord(substr($packet, 20, 1)) == 0) { print "answer"; last }
        }"#;
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", namespace, "perl", "-e", script, address])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout == b"answer"
}

#[test]
fn icmp_passes_where_our_side_asked() {
    in_namespaces("directions::icmp_passes_where_our_side_asked", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        assert!(pings("pod", "203.0.113.7"), "our echo request is answered");
        assert!(!pings("seven", "10.244.0.2") && !pings("seven", "10.244.0.1"), "a banned client's is not");
        assert!(pings("eight", "10.244.0.2") && pings("eight", "10.244.0.1"));
        for closed in ["203.0.113.7:9", "[2001:db8:7::7]:9"] {
            let mut asked = Conversation::open(Some("pod"), "udp", closed).unwrap();
            assert_eq!(asked.ask(), "refused", "an error about our own packet is heard: {closed}");
        }
        agent.stop().await;
    });
}
