mod changed;
mod long_lines;
mod messages;

use std::time::Duration;

use super::*;
use crate::detect::{
    client_ip::{ClientIpDraft, ClientIpHeader, NoClient},
    decision::{Decision, Evidence, Threshold},
    escalation::{BanTime, Escalation},
    format::FormatDraft,
    policy::{PolicyDraft, PrivateClients},
    record::RecordError,
    trail::Trail,
};

fn at(text: &str) -> Timestamp {
    format!("2026-11-22T{text}Z").parse().unwrap()
}

fn jail(draft: &PolicyDraft) -> Jail {
    Jail::new(Policy::compile(draft).unwrap(), Limits::default())
}

fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn line(client: &str, path: &str) -> Vec<u8> {
    format!(r#"{client} - - [22/Nov/2026:10:00:00 +0000] "GET {path} HTTP/1.1" 404 153 "-" "curl/8""#)
        .into_bytes()
}

/// What became of requests for these paths at these times, with nothing protected.
fn watch(jail: &mut Jail, client: &str, requests: &[(&str, &str)]) -> Vec<Verdict> {
    requests
        .iter()
        .map(|(time, path)| jail.observe(Some(at(time)), &line(client, path), &Networks::default()))
        .collect()
}

fn earned(verdict: &Verdict) -> &Decision {
    match verdict {
        Verdict::Earned(decision) => decision,
        other => panic!("expected a ban, got {other:?}"),
    }
}

#[test]
fn three_hits_earn_a_ban_that_says_why() {
    let mut jail = jail(&PolicyDraft::default());
    let requests = [
        ("10:00:00", "/wp-admin/?a=b"),
        ("10:00:30", "/index.html"),
        ("10:01:00", "/wp-admin/x"),
        // Half a second too late: the first has left the window.
        ("10:02:00.5", "/wp-admin/"),
        ("10:02:00.25", "/wp-admin/y?token=1"),
    ];
    let verdicts = watch(&mut jail, "203.0.113.7", &requests);
    assert_eq!(verdicts[..4], [Verdict::Counted, Verdict::Miss, Verdict::Counted, Verdict::Counted]);
    let expect = Decision {
        source: "203.0.113.7/32".parse().unwrap(),
        reason: "3 hits: /wp-admin".to_owned(),
        evidence: Evidence {
            hits: 3,
            threshold: Threshold::Hits,
            first_seen: at("10:01:00"),
            last_seen: at("10:02:00.5"),
            samples: ["/wp-admin/x", "/wp-admin/y", "/wp-admin/"]
                .map(|path| format!("GET {path} 404"))
                .into(),
        },
        ban_time: BanTime { first: Duration::from_hours(24), escalation: None },
    };
    assert_eq!(*earned(&verdicts[4]), expect);
    assert_eq!(expect.expires_at(1), "2026-11-23T10:02:01Z".parse().unwrap());
}

#[test]
fn two_different_patterns_earn_a_ban_and_the_reason_names_the_lowest_that_each_line_matches() {
    let patterns = vec!["admin".to_owned()];
    let mut jail = jail(&PolicyDraft { patterns, ..PolicyDraft::default() });
    let verdicts = watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env"), ("10:02:00", "/phpmyadmin")]);
    assert_eq!(verdicts[0], Verdict::Counted);
    assert_eq!(earned(&verdicts[1]).reason, "2 different patterns: /.env, /phpmyadmin");
}

#[test]
fn the_reason_is_the_same_whichever_of_one_instant_s_hits_was_read_first() {
    let hits = [("10:00:00", "/.env"), ("10:00:00", "/wp-admin")];
    let reasons = [hits, [hits[1], hits[0]]].map(|hits| {
        let verdicts = watch(&mut jail(&PolicyDraft::default()), "203.0.113.7", &hits);
        earned(&verdicts[1]).reason.clone()
    });
    assert_eq!(reasons, ["2 different patterns: /wp-admin, /.env"; 2]);
}

#[test]
fn a_threshold_of_zero_is_off() {
    let only_hits = PolicyDraft { unique_pattern_threshold: 0, ..PolicyDraft::default() };
    let requests = [("10:00:00", "/.env"), ("10:00:01", "/wp-admin"), ("10:00:02", "/shell.php")];
    let verdicts = watch(&mut jail(&only_hits), "203.0.113.7", &requests);
    assert_eq!(verdicts[..2], [Verdict::Counted, Verdict::Counted]);
    earned(&verdicts[2]);
    let only_patterns = PolicyDraft { threshold: 0, ..PolicyDraft::default() };
    let mut jail = jail(&only_patterns);
    let many = [("10:00:00", "/.env"); 100];
    assert!(watch(&mut jail, "203.0.113.7", &many).iter().all(|verdict| *verdict == Verdict::Counted));
    earned(&watch(&mut jail, "203.0.113.7", &[("10:00:01", "/wp-admin")])[0]);
}

#[test]
fn after_a_ban_the_counts_start_anew() {
    let mut jail = jail(&PolicyDraft::default());
    let verdicts = watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env"); 7]);
    let bans: Vec<usize> = verdicts
        .iter()
        .enumerate()
        .filter(|(_, v)| matches!(v, Verdict::Earned(_)))
        .map(|(index, _)| index)
        .collect();
    assert_eq!(bans, [2, 5]);
    assert_eq!((jail.counters().hits, jail.counters().earned, jail.tracked()), (7, 2, 1));
}

#[test]
fn ipv6_clients_count_by_their_network_and_ipv4_ones_by_their_address() {
    let mut jail = jail(&PolicyDraft::default());
    for client in ["2001:db8:0:1::1", "2001:db8:0:2::1", "203.0.113.1", "203.0.113.2"] {
        assert_eq!(watch(&mut jail, client, &[("10:00:00", "/.env")]), [Verdict::Counted], "client {client}");
    }
    let verdicts = watch(&mut jail, "2001:db8:0:1:ffff::2", &[("10:00:01", "/wp-admin")]);
    assert_eq!(earned(&verdicts[0]).source.to_string(), "2001:db8:0:1::/64");
}

#[test]
fn infrastructure_is_never_counted() {
    let protected = networks(&["203.0.113.1/32", "10.0.0.0/8"]);
    #[rustfmt::skip]
    let table = [
        // client         ignore   ban
        ("203.0.113.1",   false,   false), // protected
        ("10.1.2.3",      false,   false), // private, protected
        ("192.168.1.1",   false,   true),  // private
        ("fd00::1",       false,   true),
        ("100.64.0.1",    false,   true),
        ("127.0.0.1",     false,   false), // special
        ("169.254.1.1",   false,   false),
        ("::1",           false,   false),
        ("203.0.113.9",   true,    true),
    ];
    for (client, ignore, ban) in table {
        for (private_clients, counts) in [(PrivateClients::Ignore, ignore), (PrivateClients::Ban, ban)] {
            let mut jail = jail(&PolicyDraft { private_clients, ..PolicyDraft::default() });
            let verdict = jail.observe(Some(at("10:00:00")), &line(client, "/.env"), &protected);
            let expect =
                if counts { Verdict::Counted } else { Verdict::Infrastructure(client.parse().unwrap()) };
            assert_eq!(verdict, expect, "{client}, {private_clients:?}");
        }
    }
}

#[test]
fn clients_behind_a_proxy_are_noticed_before_anybody_probes() {
    let mut jail = jail(&PolicyDraft::default());
    for client in ["10.0.0.1", "10.0.0.2", "203.0.113.7", "172.16.0.1"] {
        jail.observe(Some(at("10:00:00")), &line(client, "/"), &networks(&["10.0.0.2/32"]));
    }
    let counters = jail.counters();
    assert_eq!(
        (counters.parsed, counters.private_clients, counters.protected_clients, counters.hits),
        (4, 2, 1, 0)
    );
}

#[test]
fn a_ban_that_would_also_hit_a_protected_neighbour_is_not_earned() {
    let mut jail = jail(&PolicyDraft::default());
    let protected = networks(&["2001:db8::1/128"]);
    let mut probe = |path| jail.observe(Some(at("10:00:00")), &line("2001:db8::2", path), &protected);
    assert_eq!(probe("/.env"), Verdict::Counted);
    assert!(
        matches!(probe("/wp-admin"), Verdict::Shielded(decision) if decision.source.to_string() == "2001:db8::/64")
    );
    assert_eq!((jail.counters().earned, jail.counters().shielded), (0, 1));
}

#[test]
fn exempt_networks_and_patterns_do_not_count_however_they_are_spelled() {
    let mut jail = jail(&PolicyDraft {
        except_cidrs: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
        except_patterns: vec!["^/wp-admin/admin-ajax".to_owned()],
        ..PolicyDraft::default()
    });
    #[rustfmt::skip]
    let table = [
        ("198.51.100.9",  "/.env",                            Verdict::Excepted),
        ("2001:db8::2",   "/.env",                            Verdict::Excepted), // the ban would hit 2001:db8::1 too
        ("203.0.113.7",   "/wp-admin/admin-ajax.php",         Verdict::Excepted),
        ("203.0.113.7",   "/wp-admin/%61dmin-ajax.php",       Verdict::Excepted),
        ("203.0.113.7",   "/wp-admin/admin-ajax/../x",        Verdict::Counted),
    ];
    for (client, path, expect) in table {
        assert_eq!(watch(&mut jail, client, &[("10:00:00", path)]), [expect], "{client} {path}");
    }
    assert_eq!(jail.counters().excepted, 4);
}

#[test]
fn a_path_is_a_hit_in_its_plain_form_and_as_it_was_logged() {
    let patterns = vec![r"^/\.\./".to_owned(), r"\?.*cmd=".to_owned()];
    let mut jail = jail(&PolicyDraft { patterns, ..PolicyDraft::default() });
    for path in [
        "//wp-admin",
        "/%2577p-admin",
        r"/\x2Eenv",
        "/../x",
        "/x?a&cmd=ls",
        "/wp-admin/../x",
        "http://h/.env",
    ] {
        assert!(
            matches!(
                watch(&mut jail, "203.0.113.7", &[("10:00:00", path)])[0],
                Verdict::Counted | Verdict::Earned(_)
            ),
            "{path}"
        );
    }
}

#[test]
fn what_was_done_before_a_pardon_never_counts_again() {
    let mut jail = jail(&PolicyDraft::default());
    let client = "203.0.113.7";
    watch(&mut jail, client, &[("10:00:00", "/.env"), ("10:00:59", "/.env")]);
    jail.forgive("203.0.113.7/32".parse().unwrap(), at("10:01:00"));
    assert_eq!(jail.tracked(), 0);
    // The log is read again from its beginning.
    let verdicts =
        watch(&mut jail, client, &[("10:00:00", "/.env"), ("10:00:59", "/.env"), ("10:01:00", "/.env")]);
    assert_eq!(verdicts, [Verdict::Stale, Verdict::Stale, Verdict::Stale]);
    let verdicts =
        watch(&mut jail, client, &[("10:01:01", "/.env"), ("10:01:02", "/.env"), ("10:01:03", "/.env")]);
    assert_eq!(earned(&verdicts[2]).evidence.first_seen, at("10:01:01"));
}

#[test]
fn a_pardon_for_a_network_holds_for_all_in_it() {
    let mut jail = jail(&PolicyDraft::default());
    watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env")]);
    watch(&mut jail, "198.51.100.7", &[("10:00:00", "/.env")]);
    jail.forgive("203.0.113.0/24".parse().unwrap(), at("10:01:00"));
    assert_eq!(watch(&mut jail, "203.0.113.9", &[("10:00:30", "/.env")]), [Verdict::Stale]);
    // The third hit of each within two minutes; only that of the one who was not pardoned counts as such.
    let more = [("10:01:10", "/.env"), ("10:01:20", "/.env")];
    assert_eq!(watch(&mut jail, "203.0.113.7", &more), [Verdict::Counted, Verdict::Counted]);
    assert_eq!(earned(&watch(&mut jail, "198.51.100.7", &more)[1]).evidence.hits, 3);
}

#[test]
fn behind_proxies_the_client_counts_and_never_the_proxy_or_a_guess() {
    let client_ip = ClientIpDraft {
        header: ClientIpHeader::XForwardedFor,
        trusted_hops: 0,
        trusted_proxies: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let mut jail = jail(&PolicyDraft { client_ip: Some(client_ip), ..PolicyDraft::default() });
    #[rustfmt::skip]
    let table = [
        ("192.0.2.1",   "203.0.113.7",               Verdict::Counted),
        ("192.0.2.1",   "198.51.100.9, 192.0.2.2",   Verdict::Counted),
        ("192.0.2.1",   "192.0.2.2",                 Verdict::NoClient(NoClient::TooShort)),
        ("192.0.2.1",   "198.51.100.9, unknown",     Verdict::NoClient(NoClient::Unreadable)),
        ("192.0.2.1",   "10.0.0.1",                  Verdict::Infrastructure("10.0.0.1".parse().unwrap())),
        ("203.0.113.8", "198.51.100.9",              Verdict::Counted), // the peer: it is no proxy
    ];
    for (peer, header, expect) in table {
        let mut line = line(peer, "/.env");
        line.extend_from_slice(format!(r#" "{header}""#).as_bytes());
        assert_eq!(
            jail.observe(Some(at("10:00:00")), &line, &Networks::default()),
            expect,
            "{peer} {header}"
        );
    }
    let counters = jail.counters();
    assert_eq!((counters.parsed, counters.unknown_clients, counters.private_clients), (6, 2, 1));
    assert_eq!(jail.tracked(), 3);
}

#[test]
fn the_kubelets_probes_past_the_proxies_do_not_look_like_clients_that_nobody_knows() {
    let client_ip =
        ClientIpDraft { header: ClientIpHeader::XForwardedFor, trusted_hops: 1, trusted_proxies: Vec::new() };
    let mut jail = jail(&PolicyDraft { client_ip: Some(client_ip), ..PolicyDraft::default() });
    for peer in ["10.0.0.1", "203.0.113.7"] {
        let line = format!(
            r#"{peer} - - [20/Mar/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 200 1 "-" "kube-probe/1.37" "-""#
        );
        let verdict = jail.observe(Some(at("10:00:00")), line.as_bytes(), &Networks::default());
        assert_eq!(verdict, Verdict::NoClient(NoClient::TooShort), "peer {peer}");
    }
    assert_eq!((jail.counters().probes, jail.counters().unknown_clients), (1, 1));
}

#[test]
fn without_a_stamp_the_line_s_own_time_counts() {
    let mut jail = jail(&PolicyDraft::default());
    let none = Networks::default();
    assert_eq!(jail.observe(None, &line("203.0.113.7", "/.env"), &none), Verdict::Counted);
    let verdict = jail.observe(None, &line("203.0.113.7", "/wp-admin"), &none);
    assert_eq!(earned(&verdict).evidence.last_seen, at("10:00:00"));
    let regex = FormatDraft::Regex(r"^(\S+) (\S+)".to_owned());
    let mut timeless = self::jail(&PolicyDraft { format: regex, ..PolicyDraft::default() });
    let verdict = timeless.observe(None, b"203.0.113.7 /.env", &none);
    assert_eq!(
        (verdict, timeless.counters().unparsed(RecordError::Time)),
        (Verdict::Unparsed(RecordError::Time), 1)
    );
}

#[test]
fn what_is_no_request_is_junk_to_patterns_and_a_hit_where_every_path_is() {
    let handshakes =
        [br#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "\x16\x03\x01" 400 157 "-" "-""#.as_slice(); 3];
    let mut of_patterns = jail(&PolicyDraft::default());
    let mut of_status = jail(&PolicyDraft {
        catalogues: vec![],
        any_path: true,
        statuses: vec!["400".to_owned()],
        ..PolicyDraft::default()
    });
    let none = Networks::default();
    for line in handshakes {
        assert_eq!(of_patterns.observe(None, line, &none), Verdict::Unparsed(RecordError::Request));
    }
    let verdicts = handshakes.map(|line| of_status.observe(None, line, &none));
    assert_eq!(verdicts[..2], [Verdict::Counted, Verdict::Counted]);
    assert_eq!(earned(&verdicts[2]).evidence.samples, ["400", "400", "400"]);
}

#[test]
fn junk_is_counted_by_reason_and_shown_without_secrets() {
    let mut jail = jail(&PolicyDraft::default());
    assert_eq!(jail.unparsed_sample(), None);
    let long = vec![b'x'; crate::detect::record::MAX_LINE_BYTES + 1];
    let lines: [&[u8]; 4] =
        [b"", &long, b"\0\x16\x03", b"time=\"x\" GET /a?token=secret&b \x1b[31m \"/c?key=1\" end"];
    for line in lines {
        jail.observe(Some(at("10:00:00")), line, &Networks::default());
    }
    let unparsed = RecordError::ALL.map(|reason| jail.counters().unparsed(reason));
    assert_eq!(unparsed, [1, 1, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jail.counters().parsed, 0);
    let sample = jail.unparsed_sample().unwrap();
    assert_eq!(sample, r"time=\x22x\x22 GET /a?... \x1B[31m \x22/c?...\x22 end");
}

#[test]
fn any_path_is_a_hit_and_the_reason_says_what_is_looked_for() {
    let mut jail = jail(&PolicyDraft {
        catalogues: vec![],
        any_path: true,
        statuses: vec!["404".to_owned()],
        ..PolicyDraft::default()
    });
    let requests = [("10:00:00", "/a"), ("10:00:01", "/b?x"), ("10:00:02", "//c")];
    let verdicts = watch(&mut jail, "203.0.113.7", &requests);
    assert_eq!(verdicts[..2], [Verdict::Counted, Verdict::Counted]);
    assert_eq!(earned(&verdicts[2]).reason, "3 hits: any path, status 404");
    assert_eq!(earned(&verdicts[2]).evidence.samples, ["GET /a 404", "GET /b 404", "GET //c 404"]);
}

#[test]
fn a_source_that_went_quiet_is_forgotten_and_no_other() {
    let mut jail = jail(&PolicyDraft::default());
    watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env")]);
    jail.sweep(at("11:00:00"));
    assert_eq!(jail.tracked(), 1, "it had a hit since the last sweep");
    watch(&mut jail, "203.0.113.8", &[("10:00:00", "/.env")]);
    jail.sweep(at("11:00:30"));
    assert_eq!(jail.tracked(), 2, "two windows have not passed");
    watch(&mut jail, "203.0.113.8", &[("10:00:00", "/.env")]);
    jail.sweep(at("11:04:30"));
    assert_eq!(jail.tracked(), 1);
    let verdicts = watch(&mut jail, "203.0.113.8", &[("10:00:00", "/.env")]);
    earned(&verdicts[0]);
}

#[test]
fn a_spray_of_addresses_takes_no_more_than_its_limit_and_hides_nobody() {
    let limits = Limits { source_bytes: 1 << 20, ..Limits::default() };
    let mut jail = Jail::new(Policy::compile(&PolicyDraft::default()).unwrap(), limits);
    watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env"), ("10:00:00", "/.env")]);
    for bits in 0..100_000u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0b00_0000 + bits * 7).to_string();
        assert_eq!(watch(&mut jail, &client, &[("10:00:30", "/.env")]), [Verdict::Counted]);
        assert!(jail.tracked_bytes() <= limits.source_bytes);
    }
    assert!(jail.tracked() > 10_000);
    assert_eq!(jail.counters().evicted + jail.tracked() as u64, 100_001);
    earned(&watch(&mut jail, "203.0.113.7", &[("10:01:00", "/.env")])[0]);
}

#[test]
fn the_kubelets_probes_do_not_look_like_hidden_clients_and_nobody_hides_behind_their_name() {
    let mut jail = jail(&PolicyDraft::default());
    let probe = |client: &str| {
        format!(
            r#"{client} - - [20/Mar/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 200 1 "-" "kube-probe/1.37""#
        )
    };
    jail.observe(Some(at("10:00:00")), probe("10.0.0.1").as_bytes(), &networks(&["10.0.0.1/32"]));
    jail.observe(Some(at("10:00:00")), probe("10.0.0.2").as_bytes(), &networks(&[]));
    let verdict = jail.observe(Some(at("10:00:00")), probe("203.0.113.9").as_bytes(), &networks(&[]));
    let counters = jail.counters();
    assert_eq!((counters.probes, counters.protected_clients, counters.private_clients), (2, 0, 0));
    assert_eq!(verdict, Verdict::Counted);
}

#[test]
fn hits_of_a_banned_source_would_not_have_come() {
    let mut jail = jail(&PolicyDraft::default());
    let end = at("10:00:03");
    let mut watch = |time| {
        let is_banned = |_: Source, at: Timestamp| at < end;
        jail.observe_in(
            &mut Trail::default(),
            Some(at(time)),
            &line("203.0.113.7", "/.env"),
            &Networks::default(),
            &is_banned,
        )
    };
    let verdicts = ["10:00:01", "10:00:02", "10:00:03", "10:00:04", "10:00:05"].map(&mut watch);
    assert_eq!(verdicts[..4], [Verdict::Dropped, Verdict::Dropped, Verdict::Counted, Verdict::Counted]);
    assert_eq!(earned(&verdicts[4]).evidence.first_seen, end);
    assert_eq!((jail.counters().hits, jail.counters().dropped), (5, 2));
}

#[test]
fn the_span_is_from_the_earliest_to_the_latest_request() {
    let mut jail = jail(&PolicyDraft::default());
    assert_eq!(jail.span(), None);
    watch(&mut jail, "203.0.113.7", &[("10:00:05", "/"), ("10:00:01", "/"), ("10:00:03", "/")]);
    jail.observe(Some(at("11:00:00")), b"no request", &Networks::default());
    assert_eq!(jail.span(), Some((at("10:00:01"), at("10:00:05"))));
}
