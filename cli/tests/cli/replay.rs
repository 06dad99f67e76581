use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use flate2::{Compression, write::GzEncoder};
use ip_sentry_core::{
    detect::{
        decision::Verdict,
        escalation::Offences,
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    networks::Networks,
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use super::run::{Folder, line, policy, probes};

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

/// Clients that probe, some early and late again, among others that don't.
fn busy_log() -> String {
    let mut lines: Vec<(u32, String)> = Vec::new();
    for client in 0..200 {
        let address = format!("203.0.113.{client}");
        for round in 0..(client % 5) {
            let second = client * 37 % 3000 + round * (30 + client % 60);
            let path = ["/.env", "/wp-login.php", "/", "/index.html?/.env"][(client + round) as usize % 4];
            lines.push((second, line(&address, second, path)));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

#[test]
fn the_bans_are_those_of_a_jail_that_is_fed_by_hand() {
    let log = busy_log();
    let policy = Policy::compile(&PolicyDraft::default()).unwrap();
    let (mut jail, mut offences) = (Jail::new(policy, Limits::default()), Offences::default());
    let mut expect = Vec::new();
    for line in log.lines() {
        if let Verdict::Earned(decision) = jail.observe(None, line.as_bytes(), &Networks::default())
            && let Some(ban) = offences.begin(&decision)
        {
            expect.push(json!([decision.source.to_string(), ban.expires_at, ban.offence, decision.reason]));
        }
    }
    let folder = Folder::with_policy("");
    let replayed = folder.run(&["replay", "-p", "p.yaml", "-o", "json"], log.as_bytes()).json();
    let got: Vec<_> = replayed["bans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| &ban["spec"])
        .map(|spec| json!([spec["cidr"], spec["expiresAt"], spec["offence"], spec["reason"]]))
        .collect();
    assert!(expect.len() > 10, "only {} bans", expect.len());
    assert_eq!(got, expect);
    assert_eq!(replayed["summary"]["lines"], log.lines().count());
    assert_eq!(replayed["summary"]["bans"], expect.len());
}

#[test]
fn a_log_reads_the_same_however_it_is_packed_and_comes_in() {
    let folder = Folder::with_policy("");
    let log = busy_log();
    let (first, second) = log.split_at(log.len() / 2 + log[log.len() / 2..].find('\n').unwrap() + 1);
    folder.write("log", log.as_bytes());
    folder.write("log.gz", &gzip(&log));
    folder.write("two-members.gz", &[gzip(first), gzip(second)].concat());
    folder.write("log.zst", &compress_to_vec(log.as_bytes(), CompressionLevel::Fastest));
    let expect = folder.run(&["replay", "-p", "p.yaml", "-o", "json", "log"], b"");
    assert!(expect.banned().len() > 10);
    for name in ["log.gz", "two-members.gz", "log.zst"] {
        assert_eq!(folder.run(&["replay", "-p", "p.yaml", "-o", "json", name], b""), expect, "{name}");
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        for stdin in
            [&["replay", "-p", "p.yaml", "-o", "json"][..], &["replay", "-p", "p.yaml", "-o", "json", "-"]]
        {
            assert_eq!(folder.run(stdin, &bytes), expect, "{name} by {stdin:?}");
        }
    }
    folder.write("log.1", first.as_bytes());
    folder.write("log.0", second.as_bytes());
    let (even, odd): (Vec<_>, Vec<_>) = log.lines().enumerate().partition(|(index, _)| index % 2 == 0);
    for (name, lines) in [("pod-a", even), ("pod-b", odd)] {
        let text: Vec<&str> = lines.into_iter().map(|(_, line)| line).collect();
        folder.write(name, text.join("\n").as_bytes());
    }
    for logs in [["log.1", "log.0"], ["log.0", "log.1"], ["pod-a", "pod-b"], ["pod-b", "pod-a"]] {
        let got = folder.run(&[&["replay", "-p", "p.yaml", "-o", "json"], &logs[..]].concat(), b"");
        let [got_banned, expect_banned]: [BTreeSet<String>; 2] =
            [&got, &expect].map(|ended| ended.banned().into_iter().collect());
        assert_eq!(got_banned, expect_banned, "{logs:?}");
        assert_eq!(got.json()["summary"], expect.json()["summary"], "{logs:?}");
    }
}

#[test]
fn every_output_says_who_when_until_and_why() {
    let folder = Folder::with_policy("");
    let log = probes("203.0.113.7", 0) + &line("10.0.0.1", 3, "/.env") + "junk\n";
    let run = |output| folder.run(&["replay", "-p", "p.yaml", "-o", output], log.as_bytes());
    let table = run("table");
    let expect = "\
CIDR                   BANNED AT             UNTIL                 HITS  OFFENCE  REASON
203.0.113.7/32         2026-11-22T10:00:02Z  2026-11-23T10:00:02Z  3     1        3 hits: /.env
";
    assert_eq!((table.code, table.out.as_str()), (Some(0), expect));
    let summary =
        "5 lines from 2026-11-22T10:00:00Z to 2026-11-22T10:00:03Z: 4 requests, 1 not read; 3 hits, 1 ban\n";
    assert!(table.err.starts_with(summary), "{}", table.err);
    assert!(
        table.err.contains("1 not read: the line is not of the format that the policy names"),
        "{}",
        table.err
    );
    assert!(table.err.contains("  1 request of a private address, which counts only"), "{}", table.err);
    let wide = run("wide").out;
    assert!(wide.contains("2026-11-22T10:00:00Z  GET /.env 404, GET /.env 404, GET /.env 404"), "{wide}");
    let json = run("json").json();
    let ban = json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan", "metadata": {"name": "203.0.113.7"},
        "spec": {
            "cidr": "203.0.113.7/32", "origin": "Detected", "reason": "3 hits: /.env", "offence": 1,
            "expiresAt": "2026-11-23T10:00:02Z", "policyRef": {"namespace": "web", "name": "gw"},
            "evidence": {
                "hits": 3, "threshold": "Hits", "firstSeen": "2026-11-22T10:00:00Z", "lastSeen": "2026-11-22T10:00:02Z",
                "samples": ["GET /.env 404", "GET /.env 404", "GET /.env 404"],
            },
        },
    });
    assert_eq!(json["bans"], json!([ban]));
    assert_eq!(json["summary"]["unparsed"], json!({"shape": 1}));
    assert_eq!(json["summary"]["parsedShare"], 0.8);
    let yaml: serde_json::Value = serde_yaml_ng::from_str(&run("yaml").out).unwrap();
    assert_eq!(yaml, json);
    for output in ["json", "yaml"] {
        let nobody: serde_json::Value =
            serde_yaml_ng::from_str(&folder.run(&["replay", "-p", "p.yaml", "-o", output], b"").out).unwrap();
        assert_eq!((&nobody["bans"], &nobody["summary"]["lines"]), (&json!([]), &json!(0)), "{output}");
    }
}

#[test]
fn a_source_comes_again_after_its_ban_and_then_for_longer() {
    let folder = Folder::with_policy("banDuration: 1m, escalation: {factor: 60, maxDuration: 2h}");
    // The hits of the second minute would not have come: the ban after it needs three more.
    let log: String =
        [0, 20, 40, 57].map(|second| probes("203.0.113.7", second)).concat() + &probes("203.0.113.7", 100);
    let json = folder.run(&["replay", "-p", "p.yaml", "-o", "json"], log.as_bytes()).json();
    let bans: Vec<_> = json["bans"].as_array().unwrap().iter().map(|ban| &ban["spec"]).collect();
    assert_eq!(bans.len(), 2, "{json}");
    assert_eq!(bans[0]["expiresAt"], "2026-11-22T10:01:02Z");
    assert_eq!(
        (&bans[1]["offence"], &bans[1]["evidence"]["firstSeen"]),
        (&json!(2), &json!("2026-11-22T10:01:40Z"))
    );
    assert!(bans[1]["expiresAt"].as_str().unwrap() >= "2026-11-22T11:01:42Z");
    assert_eq!(json["summary"]["dropped"], 9);
}

#[test]
fn a_log_whose_lines_have_no_time_is_refused_with_what_to_do() {
    #[rustfmt::skip]
    let table = [
        (r#"format: {regex: '^(\S+) "GET (\S+)"'}"#, "203.0.113.7 \"GET /.env\"\n", "add a group (?P<time>…) to format.regex"),
        (r"format: {json: {ip: /ip, path: /path}}", "{\"ip\":\"203.0.113.7\",\"path\":\"/.env\"}\n", "point format.json.time to it"),
        ("", "203.0.113.7 - - [then] \"GET /.env HTTP/1.1\" 404 1 \"-\" \"-\"\n", "let the gateway log $time_local"),
    ];
    for (spec, line, expect) in table {
        let folder = Folder::with_policy(spec);
        for count in [1, 2000] {
            let ended = folder.run(&["replay", "-p", "p.yaml"], line.repeat(count).as_bytes());
            assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
            assert!(
                ended.err.contains(expect) && ended.err.contains("kubectl logs --timestamps"),
                "{}",
                ended.err
            );
        }
    }
    // With the runtime's stamp in front the same lines do.
    let folder = Folder::with_policy(table[0].0);
    let stamped = |second: u32| format!("2026-11-22T10:00:0{second}.5Z {}", table[0].1);
    let log: String = (0..3).map(stamped).collect();
    assert_eq!(
        folder.run(&["replay", "-p", "p.yaml", "-o", "json"], log.as_bytes()).banned(),
        ["203.0.113.7/32"]
    );
}

#[test]
fn against_another_policy_only_the_difference_is_shown() {
    let folder = Folder::with_policy("threshold: 3, match: {patterns: ['^/\\.env']}");
    folder.write("other.yaml", policy("threshold: 2, match: {patterns: ['^/\\.env$', '^/x']}").as_bytes());
    let both: String = (0..3).map(|second| line("203.0.113.1", second, "/.env")).collect();
    let only_other: String = (3..5).map(|second| line("203.0.113.3", second, "/x")).collect();
    let log = both + &probes("203.0.113.2", 6) + &only_other;
    let arguments = ["replay", "-p", "p.yaml", "--against", "other.yaml"];
    let table = folder.run(&arguments, log.as_bytes());
    let rows: Vec<Vec<&str>> =
        table.out.lines().map(|row| row.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["ONLY", "IN"], ["other.yaml", "203.0.113.3/32"], ["p.yaml", "203.0.113.2/32"]]);
    assert!(
        table.err.starts_with("1 source is banned by both, 1 only by p.yaml, 1 only by other.yaml\n"),
        "{}",
        table.err
    );
    let json = folder.run(&[&arguments[..], &["-o", "json"]].concat(), log.as_bytes()).json();
    assert_eq!((&json["bans"][0]["onlyIn"], &json["summary"]["both"]), (&json!("other.yaml"), &json!(1)));
    assert_eq!(json["summary"]["against"]["bans"], 2);
}

#[test]
fn what_is_protected_is_never_banned() {
    let folder = Folder::with_policy("");
    folder.write(
        "protected.yaml",
        b"apiVersion: ipsentry.dev/v1alpha1\nkind: ProtectedNetworks\nmetadata: {name: cluster}\n\
          spec: {cidrs: [203.0.113.7/32]}\nstatus: {cidrs: ['2001:db8:0:1::1/128'], conditions: []}\n",
    );
    let log = ["203.0.113.7", "203.0.113.8", "2001:db8:0:1::1", "2001:db8:0:1::2"]
        .map(|client| probes(client, 0))
        .concat();
    let arguments = ["replay", "-p", "p.yaml", "--protected", "protected.yaml", "-o", "json"];
    let ended = folder.run(&arguments, log.as_bytes());
    assert_eq!(ended.banned(), ["203.0.113.8/32"]);
    assert_eq!(
        (&ended.json()["summary"]["protectedClients"], &ended.json()["summary"]["shielded"]),
        (&json!(6), &json!(1))
    );
    folder.write("protected.yaml", b"apiVersion: ipsentry.dev/v1alpha1\nkind: ProtectedNetworks\nmetadata: {name: cluster}\nspec:\n  cidrs: [203.0.113.7]\n");
    let ended = folder.run(&arguments, b"");
    let expect = "error: protected.yaml:5:11: The ProtectedNetworks \"cluster\" is invalid: spec.cidrs[0]: \
                  Invalid value: \"203.0.113.7\": write the prefix length too: 203.0.113.7/32\n";
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), expect));
}

#[test]
fn whoever_stops_reading_ends_it_quietly() {
    let folder = Folder::with_policy("");
    let log: String =
        (0..20_000).map(|host| probes(&format!("2001:db8:{:x}::1", host + 1), host / 10)).collect();
    folder.write("log", log.as_bytes());
    for arguments in [["replay", "-p", "p.yaml", "log"], ["explain", "-p", "p.yaml", "log"]] {
        let mut command = folder.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}

#[test]
fn a_ban_is_told_before_more_lines_are_waited_for() {
    let folder = Folder::with_policy("");
    let mut command = folder.command(&["replay", "-p", "p.yaml"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(probes("203.0.113.7", 0).as_bytes()).unwrap();
    assert!(rows.next().unwrap().unwrap().starts_with("CIDR"));
    assert!(rows.next().unwrap().unwrap().starts_with("203.0.113.7/32"));
    drop(stdin);
    assert!(rows.next().is_none());
    assert!(child.wait().unwrap().success());
}
