use super::*;
use crate::detect::{client_ip::ClientIpHeader, format::JsonDraft};

#[test]
fn what_is_refused_names_the_field_and_what_it_may_be() {
    let draft = PolicyDraft::default;
    let hops = |trusted_hops| ClientIpDraft {
        header: ClientIpHeader::XForwardedFor,
        trusted_hops,
        trusted_proxies: Vec::new(),
    };
    #[rustfmt::skip]
    let table = [
        (PolicyDraft { catalogues: vec![], ..draft() },
            "match says of no request that it is a hit: name a catalogue, write a pattern or set anyPath"),
        (PolicyDraft { threshold: 0, unique_pattern_threshold: 0, ..draft() },
            "threshold, uniquePatternThreshold and uniquePathThreshold are all 0, so that nothing earns a ban: set one of them"),
        (PolicyDraft { threshold: 10_001, ..draft() },                "threshold is 10001; it goes from 0 to 10000"),
        (PolicyDraft { unique_pattern_threshold: 1_001, ..draft() },  "uniquePatternThreshold is 1001; it goes from 0 to 1000"),
        (PolicyDraft { ipv6_prefix: 24, ..draft() },                  "ipv6PrefixLength is 24; it goes from 32 to 128"),
        (PolicyDraft { ipv6_prefix: 129, ..draft() },                 "ipv6PrefixLength is 129; it goes from 32 to 128"),
        (PolicyDraft { window: Duration::ZERO, ..draft() },           "window is 0s; it goes from 1s to 86400s"),
        (PolicyDraft { window: Duration::MAX, ..draft() },            "window is 18446744073709552000s; it goes from 1s to 86400s"),
        (PolicyDraft { ban_duration: Duration::from_millis(1500), ..draft() }, "banDuration is 1.5s; it goes from 60s to 31536000s"),
        (PolicyDraft { patterns: vec!["^/a".into(), "(".into()], ..draft() },
            "match.patterns[1] does not compile: unclosed group, at character 1"),
        (PolicyDraft { except_patterns: vec!["a*".into()], ..draft() },
            "except.patterns[0] matches the empty text, and so everything: say what must be there"),
        (PolicyDraft { patterns: vec!["^/a".into(); 65], ..draft() }, "match.patterns has 65 entries; 64 are allowed"),
        (PolicyDraft { format: FormatDraft::Regex(r"^(\S+) \S+".into()), ..draft() },
                "format.regex has no group for the path: name one (?<path>…), or without names make group 1 the address and group 2 the path"),
            (PolicyDraft { format: FormatDraft::Json(JsonDraft { ip: "/ip".into(), ..JsonDraft::default() }), ..draft() },
                "format.json.path is needed, unless match.anyPath is true"),
            (PolicyDraft { format: FormatDraft::Json(JsonDraft::default()), ..draft() },
                "format.json.ip is no JSON pointer: write /, with ~1 for a slash in a key and ~0 for a tilde"),
            (PolicyDraft { client_ip: Some(hops(0)), ..draft() },
                "clientIP needs trustedHops or trustedProxies: all else in the header is what clients write"),
            (PolicyDraft { client_ip: Some(hops(33)), ..draft() },
                "clientIP.trustedHops is 33; it goes from 1 to 32"),
            (PolicyDraft { client_ip: Some(hops(1)), format: FormatDraft::Regex(r"^(\S+) (\S+)".into()), ..draft() },
                "clientIP needs the X-Forwarded-For header, which the format does not have: add forwardedFor to it"),
            (PolicyDraft { format: FormatDraft::Regex("x".into()), ..draft() },
            "format.regex must begin with ^, or a client could write a line of its own into its user agent"),
    ];
    let any_path = || PolicyDraft { any_path: true, catalogues: vec![], ..draft() };
    let escalation = |factor, hours, memory| {
        let [max_duration, memory] = [hours, memory].map(Duration::from_hours);
        PolicyDraft { escalation: Some(Escalation { factor, max_duration, memory }), ..draft() }
    };
    let pathless = || FormatDraft::Regex(r"^(?<ip>\S+)$".into());
    #[rustfmt::skip]
    let more = [
        (PolicyDraft { any_path: true, ..draft() },
            "match.anyPath makes every path a hit: leave out catalogues and patterns, or anyPath"),
        (PolicyDraft { threshold: 0, ..any_path() },
            "uniquePatternThreshold is 2, and match has only 1 to be different: lower it or set another threshold"),
        (PolicyDraft { unique_path_threshold: 1_001, ..draft() },     "uniquePathThreshold is 1001; it goes from 0 to 1000"),
        (PolicyDraft { unique_path_threshold: 2, format: pathless(), ..any_path() },
            "uniquePathThreshold asks for the path of a request, which the format does not have: add it there or leave uniquePathThreshold out"),
        (PolicyDraft { except_patterns: vec!["a".into()], format: pathless(), ..any_path() },
            "except.patterns asks for the path of a request, which the format does not have: add it there or leave except.patterns out"),
        (PolicyDraft { hosts: vec!["a".into()], ..draft() },
            "match.hosts asks for the host of a request, which the format does not have: add it there or leave match.hosts out"),
        (PolicyDraft { except_hosts: vec!["a".into()], ..draft() },
            "except.hosts asks for the host of a request, which the format does not have: add it there or leave except.hosts out"),
        (PolicyDraft { statuses: vec!["404".into(); 65], ..draft() }, "match.statuses has 65 entries; 64 are allowed"),
        (PolicyDraft { user_agents: vec!["a".into(); 65], ..draft() }, "match.userAgents has 65 entries; 64 are allowed"),
        (PolicyDraft { user_agents: vec!["a".repeat(513)], ..draft() }, "match.userAgents[0] has 513 bytes; 512 are allowed"),
        (PolicyDraft { except_user_agents: vec![r"(\w{200}){200}x".into()], ..draft() },
            "except.userAgents[0] takes more than 262144 bytes when compiled: use smaller repetitions"),
        (PolicyDraft { except_patterns: vec!["a".into(), r"(\w{200}){200}x".into()], ..draft() },
            "except.patterns[1] takes more than 262144 bytes when compiled: use smaller repetitions"),
        (escalation(0, 48, 1),    "escalation.factor is 0; it goes from 1 to 64"),
        (escalation(65, 48, 1),   "escalation.factor is 65; it goes from 1 to 64"),
        (escalation(2, 9000, 1),  "escalation.maxDuration is 32400000s; it goes from 60s to 31536000s"),
        (escalation(2, 48, 0),    "escalation.memory is 0s; it goes from 60s to 31536000s"),
        (escalation(2, 23, 1),    "escalation.maxDuration is 82800s, shorter than banDuration, 86400s"),
    ];
    for (draft, expect) in table.into_iter().chain(more) {
        assert_eq!(Policy::compile(&draft).unwrap_err().to_string(), expect);
    }
}

#[test]
fn the_default_compiles() {
    assert_eq!(Policy::compile(&PolicyDraft::default()).unwrap().rules.paths.len(), 15);
}

#[test]
fn patterns_that_are_each_small_enough_may_be_too_many_together() {
    let big = |list: char| (0..64).map(|number| format!(r"{list}{number}[^/]{{1,900}}x")).collect::<Vec<_>>();
    let one = PolicyDraft { patterns: big('a'), ..PolicyDraft::default() };
    Policy::compile(&one).unwrap();
    let all =
        PolicyDraft { except_patterns: big('b'), user_agents: big('c'), except_user_agents: big('d'), ..one };
    let Err(PolicyError::TooBig { given }) = Policy::compile(&all) else { panic!("not refused") };
    assert!(given > MAX_COMPILED_BYTES);
}

#[test]
fn a_line_says_when_it_was_logged_or_nothing() {
    let mut policy = Policy::compile(&PolicyDraft::default()).unwrap();
    #[rustfmt::skip]
    let table = [
        (r#"203.0.113.7 - - [22/Nov/2026:10:00:00 +0100] "GET / HTTP/1.1" 404 1 "-" "-""#, Some("2026-11-22T09:00:00Z")),
        (r#"203.0.113.7 - - [then] "GET / HTTP/1.1" 404 1 "-" "-""#,                       None),
        ("2026/11/22 10:00:00 [notice] 1#1: start worker processes",                      None),
    ];
    for (line, expect) in table {
        let got = policy.time(line.as_bytes()).map(|at| at.to_string());
        assert_eq!(got.as_deref(), expect, "{line}");
    }
}
