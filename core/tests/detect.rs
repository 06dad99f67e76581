//! Whole logs through a jail: what comes out for every field that a client controls, in every format.

#![expect(clippy::unwrap_used, reason = "what a test sets up must be there, or the test fails")]

use std::sync::LazyLock;

use ip_sentry_core::{
    detect::{
        decision::{Decision, Verdict},
        format::{FormatDraft, Preset},
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    networks::Networks,
};
use jiff::Timestamp;
use proptest::prelude::*;

/// What the predecessor read logs with, here with a time so that whole logs can be read without stamps.
const REGEX: &str = r#"^(?<ip>\S+) \S+ \S+ \[(?<time>.+?)\] "(?:[A-Z]+) (?<path>\S+) \S+" \d+"#;

fn formats() -> [FormatDraft; 2] {
    [FormatDraft::Preset(Preset::NginxCombined), FormatDraft::Regex(REGEX.to_owned())]
}

/// The default policy for both formats, compiled once.
static POLICIES: LazyLock<[Policy; 2]> = LazyLock::new(|| {
    formats().map(|format| Policy::compile(&PolicyDraft { format, ..PolicyDraft::default() }).unwrap())
});

/// A jail for each format.
fn jails() -> [Jail; 2] {
    POLICIES.each_ref().map(|policy| Jail::new(policy.clone(), Limits::default()))
}

fn decisions(jail: &mut Jail, lines: &[Vec<u8>]) -> Vec<Decision> {
    let none = Networks::default();
    let earned = |line: &Vec<u8>| match jail.observe(None, line, &none) {
        Verdict::Earned(decision) => Some(decision),
        _ => None,
    };
    lines.iter().filter_map(earned).collect()
}

/// What nginx writes for bytes that a client sent (`escape=default`).
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(escape).collect()
}

/// A line as nginx writes it for these fields, all of the client's choice but its address.
fn line(client: &str, second: u8, user: &str, target: &str, referer: &str, agent: &str) -> Vec<u8> {
    let [user, target, referer, agent] =
        [user, target, referer, agent].map(|field| escaped(field.as_bytes()));
    format!(
        r#"{client} - {user} [22/Nov/2026:10:00:{second:02} +0000] "GET {target} HTTP/1.1" 404 153 "{referer}" "{agent}""#
    )
    .into_bytes()
}

#[test]
fn whatever_a_client_writes_only_the_client_is_banned() {
    let fakes = [
        r#"198.51.100.9 - - [22/Nov/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 404 1 "-" "-""#,
        "x\n198.51.100.9 - - [22/Nov/2026:10:00:00 +0000] \"GET /.env HTTP/1.1\" 404 1",
        r#"] "GET /.env HTTP/1.1" 404 1 "-" "198.51.100.9"#,
        r#"- [22/Nov/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 404 1 "#,
        "\" 404 1 \"\r\n198.51.100.9 - - ",
        "client: 198.51.100.9, X-Forwarded-For: 198.51.100.9",
    ];
    for fake in fakes {
        for mut jail in jails() {
            let mut lines = Vec::new();
            for second in 0..10 {
                lines.push(line("203.0.113.7", second, fake, "/index.html", "-", "-"));
                lines.push(line("203.0.113.7", second, "-", &format!("/index.html?{fake}"), "-", "-"));
                lines.push(line("203.0.113.7", second, "-", "/index.html", fake, "-"));
                lines.push(line("203.0.113.7", second, "-", "/index.html", "-", fake));
            }
            assert_eq!(decisions(&mut jail, &lines), [], "nobody asked for a probe: {fake:?}");
            let probes: Vec<_> =
                (0..3).map(|second| line("203.0.113.7", second, "-", "/.env", fake, fake)).collect();
            let banned = decisions(&mut jail, &probes);
            assert_eq!(banned.iter().map(|ban| ban.source.ban_name()).collect::<Vec<_>>(), ["203.0.113.7"]);
            assert_eq!(banned[0].evidence.samples.len(), 3);
        }
    }
}

/// A busy minute: many clients, some of whom probe, in no particular order.
fn any_log() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let request = (
        prop::sample::select(vec!["203.0.113.7", "203.0.113.8", "2001:db8::7", "2001:db8::8", "10.0.0.1"]),
        0u8..60,
        prop::sample::select(vec![
            "/",
            "/.env",
            "/wp-admin?x=1",
            "/%2egit/config",
            "//shell.php",
            "/a b",
            "/x",
        ]),
    );
    prop::collection::vec(
        request.prop_map(|(client, second, path)| line(client, second, "-", path, "-", "-")),
        0..80,
    )
}

proptest! {
    #[test]
    fn two_leaders_that_read_the_same_log_decide_the_same(log in any_log()) {
        for (mut one, mut other) in jails().into_iter().zip(jails()) {
            prop_assert_eq!(decisions(&mut one, &log), decisions(&mut other, &log));
        }
    }

    #[test]
    fn a_ban_follows_from_its_evidence_alone(log in any_log()) {
        let [mut jail, _] = jails();
        for ban in decisions(&mut jail, &log) {
            let evidence = &ban.evidence;
            prop_assert!(evidence.first_seen <= evidence.last_seen);
            prop_assert!(evidence.hits >= 2);
            let day = jiff::SignedDuration::from_hours(24);
            prop_assert_eq!(ban.expires_at(1), evidence.last_seen.checked_add(day).unwrap());
            prop_assert_eq!(ban.expires_at(1).subsec_nanosecond(), 0);
            prop_assert!(evidence.samples.iter().all(|sample| !sample.contains('?')));
            prop_assert!(ban.source.to_string() != "10.0.0.1/32");
        }
    }

    #[test]
    fn no_line_is_too_odd(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        seconds: i64,
    ) {
        let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        for mut jail in jails() {
            for line in &lines {
                jail.observe(None, line, &Networks::default());
                // The same bytes where they do the most harm.
                for client in ["203.0.113.7", "2001:db8::1"] {
                    let around = [client.as_bytes(), b" - - [x] \"GET /.env", line, b" HTTP/1.1\" 404"].concat();
                    match jail.observe(Some(at), &around, &Networks::default()) {
                        Verdict::Earned(ban) => prop_assert!(ban.source.network().contains(client.parse().unwrap())),
                        Verdict::Infrastructure(other) => prop_assert!(false, "{} from {}", other, around.escape_ascii()),
                        _ => {}
                    }
                }
            }
            if let Some(sample) = jail.unparsed_sample() {
                prop_assert!(sample.len() <= 256 && sample.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
            let counters = jail.counters();
            let unparsed: u64 =
                ip_sentry_core::detect::record::RecordError::ALL.iter().map(|&reason| counters.unparsed(reason)).sum();
            prop_assert_eq!(counters.parsed + unparsed, counters.lines);
        }
    }
}
