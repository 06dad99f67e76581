use std::io::{Read as _, Write as _};

use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use super::run::{Folder, line, probes};

#[test]
fn no_line_is_too_odd_for_those_around_it() {
    let folder = Folder::with_policy("");
    let probe = |second| line("203.0.113.7", second, "/.env").into_bytes();
    // The line after a long one may be its rest, so it is not counted: here it is nobody's probe.
    let endless = [&b"x".repeat(10 << 20)[..], b"\n", line("203.0.113.8", 0, "/").as_bytes()].concat();
    let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
    #[rustfmt::skip]
    let odd: [(&str, Vec<u8>); 5] = [
        ("empty lines",           b"\n\n\r\n".to_vec()),
        ("a line of 10 MB",       endless),
        ("all bytes",             [&binary[..], b"\n"].concat()),
        ("a TLS handshake",       b"203.0.113.9 - - [22/Nov/2026:10:00:00 +0000] \"\\x16\\x03\\x01\" 400 157 \"-\" \"-\"\n".to_vec()),
        ("NULs",                  b"\0\0\0\n".to_vec()),
    ];
    for (name, between) in odd {
        let mut last = probe(2);
        last.pop();
        let log = [probe(0), between.clone(), probe(1), between, last].concat();
        let banned = folder.run(&["replay", "-p", "p.yaml", "-o", "json"], &log).banned();
        assert_eq!(banned, ["203.0.113.7/32"], "{name}");
    }
    let windows = probes("203.0.113.7", 0).replace('\n', "\r\n");
    let banned = folder.run(&["replay", "-p", "p.yaml", "-o", "json"], windows.as_bytes()).banned();
    assert_eq!(banned, ["203.0.113.7/32"]);
}

#[test]
fn lines_that_come_late_count_as_when_they_were_logged() {
    let folder = Folder::with_policy("");
    let lines: Vec<String> = probes("203.0.113.7", 0).lines().map(|line| format!("{line}\n")).collect();
    let log = [&lines[2], &lines[0], &lines[1]].map(String::as_str).concat();
    let json = folder.run(&["replay", "-p", "p.yaml", "-o", "json"], log.as_bytes()).json();
    assert_eq!(json["bans"][0]["spec"]["evidence"]["firstSeen"], "2026-11-22T10:00:00Z");
    assert_eq!(json["bans"][0]["spec"]["expiresAt"], "2026-11-23T10:00:02Z");
}

#[test]
fn a_packed_log_that_is_broken_is_said_to_be() {
    let folder = Folder::with_policy("");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(probes("203.0.113.7", 0).repeat(100).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    folder.write("cut.gz", &packed[..packed.len() / 2]);
    let ended = folder.run(&["replay", "-p", "p.yaml", "cut.gz"], b"");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("error: cut.gz can't be read to its end: "), "{}", ended.err);
    let ended = folder.run(&["replay", "-p", "p.yaml", "nowhere"], b"");
    assert_eq!(ended.err, "error: nowhere can't be opened: No such file or directory\n");
}

#[test]
fn a_file_that_unpacks_to_a_thousand_times_its_size_takes_no_memory() {
    let folder = Folder::with_policy("");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..100 {
        packed.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    folder.write("bomb.gz", &packed.finish().unwrap());
    folder.write(
        "bomb.zst",
        &compress_to_vec(std::io::repeat(b'x').take(100 << 20), CompressionLevel::Fastest),
    );
    for bomb in ["bomb.gz", "bomb.zst"] {
        // Of the address space, most of which is never touched, 100 MiB less than the log unpacks to would need.
        let program = env!("CARGO_BIN_EXE_kubectl-ip_sentry");
        let script = format!("ulimit -v 120000; exec {program} replay -p p.yaml -o json {bomb}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(json["summary"]["unparsed"], json!({"too_long": 1}), "{bomb}");
    }
}
