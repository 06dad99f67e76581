use proptest::prelude::*;

use super::*;
use crate::detect::{
    decision::Verdict,
    format::FormatDraft,
    jail::{Jail, Limits},
    policy::{PolicyDraft, PrivateClients},
};

/// A format that has all that a policy can ask for.
const FORMAT: &str =
    r#"^(?<ip>\S+) (?<host>\S*) "(?<method>[A-Z]*) (?<path>\S*)" (?<status>\S*) "(?<userAgent>[^"]*)""#;

fn draft() -> PolicyDraft {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    PolicyDraft {
        format: FormatDraft::Regex(FORMAT.to_owned()),
        statuses: texts(&["404"]),
        methods: texts(&["GET"]),
        hosts: texts(&["*.example"]),
        user_agents: texts(&["(?i)curl|sqlmap"]),
        except_cidrs: vec!["198.51.100.0/24".parse().unwrap()],
        except_patterns: texts(&["^/wp-admin/ok"]),
        except_hosts: texts(&["test.example"]),
        except_user_agents: texts(&["^curl/7"]),
        ..PolicyDraft::default()
    }
}

fn protected() -> Networks {
    ["203.0.113.1/32".parse().unwrap()].into_iter().collect()
}

#[test]
fn every_line_is_told_apart_and_why() {
    let mut policy = Policy::compile(&draft()).unwrap();
    #[rustfmt::skip]
    let table = [
        (r#"203.0.113.7 a.example "GET /x/../wp-admin?a" 404 "curl/8""#, Some("^/wp-admin"), None),
        ("junk", None, Some("the line is not of the format that the policy names")),
        (r#"203.0.113.1 a.example "GET /wp-admin" 404 "curl/8""#,  Some("^/wp-admin"), Some("the client is protected and never counted")),
        (r#"10.0.0.1 a.example "GET /wp-admin" 404 "curl/8""#,     Some("^/wp-admin"), Some("the client has a private address, which counts only with privateClients: Ban")),
        (r#"127.0.0.1 a.example "GET /wp-admin" 404 "curl/8""#,    Some("^/wp-admin"), Some("the client's address is no host's, or the machine's own")),
        (r#"203.0.113.7 a.example "GET /" 404 "curl/8""#,          None,               Some("no pattern matches")),
        (r#"203.0.113.7 a.example "GET /.env" 200 "curl/8""#,      Some(r"^/\.env"),   Some("the status 200 is none of match.statuses")),
        (r#"203.0.113.7 a.example "GET /.env"  "curl/8""#,         Some(r"^/\.env"),   Some("the line has no status, and match.statuses asks for one")),
        (r#"203.0.113.7 a.example "PUT /.env" 404 "curl/8""#,      Some(r"^/\.env"),   Some("the method PUT is none of match.methods")),
        (r#"203.0.113.7 a.org "GET /.env" 404 "curl/8""#,          Some(r"^/\.env"),   Some("the host a.org is none of match.hosts")),
        ("203.0.113.7 a.example \"GET /.env\" 404 \"\x1b[31m\"",   Some(r"^/\.env"),   Some(r"the user agent \x1B[31m is none of match.userAgents")),
        (r#"198.51.100.7 a.example "GET /.env" 404 "curl/8""#,     Some(r"^/\.env"),   Some("except.cidrs exempts the client")),
        (r#"203.0.113.7 a.example "GET /wp-admin/ok" 404 "curl/8""#, Some("^/wp-admin"), Some("except.patterns exempts the request: ^/wp-admin/ok")),
        (r#"203.0.113.7 test.example "GET /.env" 404 "curl/8""#,   Some(r"^/\.env"),   Some("except.hosts exempts the host: test.example")),
        (r#"203.0.113.7 a.example "GET /.env" 404 "curl/7.88""#,   Some(r"^/\.env"),   Some("except.userAgents exempts the user agent: ^curl/7")),
    ];
    for (line, pattern, reason) in table {
        let explanation = policy.explain(line.as_bytes(), &protected());
        assert_eq!(explanation.pattern.as_deref(), pattern, "line {line}");
        assert_eq!(explanation.reason.as_ref().map(ToString::to_string).as_deref(), reason, "line {line}");
        assert_eq!(explanation.is_hit(), reason.is_none());
    }
    let explanation = policy.explain(table[0].0.as_bytes(), &protected());
    assert_eq!(explanation.normalised.as_deref(), Some(&b"/wp-admin?a"[..]));
    assert_eq!(explanation.record.unwrap().target, b"/x/../wp-admin?a");
}

#[test]
fn where_every_path_is_a_hit_there_is_no_pattern_to_name() {
    let any = PolicyDraft { any_path: true, catalogues: vec![], ..draft() };
    let mut policy = Policy::compile(&any).unwrap();
    let explanation = policy.explain(br#"203.0.113.7 a.example "GET /x" 404 "curl/8""#, &protected());
    assert_eq!((explanation.is_hit(), explanation.pattern), (true, None));
    let format = FormatDraft::Regex(r"Failed password for \S+ from (?<ip>\S+)".replace("Failed", "^Failed"));
    let none = Vec::new;
    let any = PolicyDraft { format, any_path: true, catalogues: vec![], ..PolicyDraft::default() };
    let mut policy = Policy::compile(&PolicyDraft { except_cidrs: vec![], statuses: none(), ..any }).unwrap();
    let explanation = policy.explain(b"Failed password for root from 203.0.113.7", &protected());
    assert_eq!((explanation.is_hit(), explanation.pattern, explanation.normalised), (true, None, None));
}

#[test]
fn what_is_no_request_has_a_client_and_a_status_all_the_same() {
    let mut policy = Policy::compile(&PolicyDraft::default()).unwrap();
    let line = br#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "\x16\x03" 400 157 "-" "-""#;
    let explanation = policy.explain(line, &Networks::default());
    assert_eq!(explanation.reason, Some(Reason::Unparsed(RecordError::Request)));
    assert_eq!(explanation.client.map(|client| client.to_string()).as_deref(), Some("203.0.113.7"));
    assert_eq!(explanation.record.unwrap().status, b"400");
}

proptest! {
    /// Whatever the line and the policy, the jail counts what is explained as a hit and nothing else.
    #[test]
    fn what_is_explained_is_what_is_counted(
        client in prop::sample::select(vec!["203.0.113.7", "203.0.113.1", "198.51.100.7", "10.0.0.1", "::1", "x"]),
        host in prop::sample::select(vec!["a.example", "TEST.example:80", "a.org", ""]),
        method in prop::sample::select(vec!["GET", "PUT", ""]),
        path in prop::sample::select(vec!["/wp-admin", "//.env?x", "/wp-admin/ok", "/", ""]),
        status in prop::sample::select(vec!["404", "200", "-", ""]),
        user_agent in prop::sample::select(vec!["curl/8", "curl/7", "x", ""]),
        lists in prop::array::uniform9(any::<bool>()),
    ) {
        let mut draft = draft();
        let [statuses, methods, hosts, agents, cidrs, patterns, except_hosts, except_agents, private] = lists;
        if statuses { draft.statuses.clear(); }
        if methods { draft.methods.clear(); }
        if hosts { draft.hosts.clear(); }
        if agents { draft.user_agents.clear(); }
        if cidrs { draft.except_cidrs.clear(); }
        if patterns { draft.except_patterns.clear(); }
        if except_hosts { draft.except_hosts.clear(); }
        if except_agents { draft.except_user_agents.clear(); }
        if private { draft.private_clients = PrivateClients::Ban; }
        let mut policy = Policy::compile(&draft).unwrap();
        let mut jail = Jail::new(policy.clone(), Limits::default());
        let line = format!(r#"{client} {host} "{method} {path}" {status} "{user_agent}""#);
        let explanation = policy.explain(line.as_bytes(), &protected());
        let verdict = jail.observe(Some(jiff::Timestamp::UNIX_EPOCH), line.as_bytes(), &protected());
        let expect = match explanation.reason {
            None => Verdict::Counted,
            Some(Reason::Unparsed(error)) => Verdict::Unparsed(error),
            Some(Reason::Protected | Reason::Private | Reason::Special) => {
                Verdict::Infrastructure(client.parse().unwrap())
            }
            Some(
                Reason::ExceptedNetwork | Reason::ExceptedPattern(_) | Reason::ExceptedHost(_)
                | Reason::ExceptedUserAgent(_),
            ) => Verdict::Excepted,
            Some(_) => Verdict::Miss,
        };
        prop_assert_eq!(verdict, expect, "{}", line);
    }
}
