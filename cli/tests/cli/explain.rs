use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use serde_json::{Value, json};

use super::run::{Folder, line};

const KEYS: &str =
    "line parsed ip path normalisedPath status method host userAgent event matched pattern reason";

fn keys(object: &str) -> String {
    // serde_json's maps may sort: the order is read from the text.
    let value: Value = serde_json::from_str(object).unwrap();
    let mut keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    keys.sort_by_key(|key| object.find(&format!("\"{key}\":")).unwrap());
    keys.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_line_leads_to_one_object_with_the_same_keys() {
    let folder = Folder::with_policy("");
    let mut log = line("203.0.113.7", 0, "/a").into_bytes();
    log.extend(b"\n\r\n\0\xff\xfe\nnot a request\n");
    log.extend(vec![b'x'; 200_000]);
    log.extend(b"\nthe last without a newline");
    let ended = folder.run(&["explain", "-p", "p.yaml", "-o", "json"], &log);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 7, "{}", ended.out);
    for line in &lines {
        assert_eq!(keys(line), KEYS, "{line}");
    }
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.iter().filter(|line| line["parsed"] == true).count(), 1);
    assert_eq!(parsed[3]["line"], "\0\u{fffd}\u{fffd}");
    assert_eq!(parsed[5]["reason"], "the line is longer than 65536 bytes");
    assert_eq!((&parsed[6]["line"], &parsed[6]["ip"]), (&json!("the last without a newline"), &Value::Null));
}

#[test]
fn it_says_what_was_read_and_what_matched_or_why_none_did() {
    let folder = Folder::with_policy(
        "match: {catalogues: [Default], patterns: ['\\?cmd='], statuses: ['404']}, except: {patterns: ['^/\\.env/ok']}",
    );
    let request = |client: &str, target: &str, status: u16| {
        format!("{client} - - [no time] \"GET {target} HTTP/1.1\" {status} 1 \"-\" \"curl/8\"\n")
    };
    #[rustfmt::skip]
    let table = [
        (request("203.0.113.7", "//x/../%2eenv?a=b", 404),
            json!({"parsed": true, "ip": "203.0.113.7", "path": "//x/../%2eenv?a=b", "normalisedPath": "/.env", "status": 404, "method": "GET",
                "matched": true, "pattern": "^/\\.env", "reason": null, "event": null, "host": null, "userAgent": "curl/8"})),
        (request("203.0.113.7", "/a%3fb?cmd=c", 404),
            json!({"normalisedPath": "/a%3Fb", "matched": true, "pattern": "\\?cmd="})),
        (request("203.0.113.7", "/.env", 200),
            json!({"matched": false, "pattern": "^/\\.env", "reason": "the status 200 is none of match.statuses"})),
        (request("203.0.113.7", "/.env/ok", 404),
            json!({"matched": false, "reason": "except.patterns exempts the request: ^/\\.env/ok"})),
        ("203.0.113.7 - - [x] \"GET /.env HTTP/1.1\" 404 1 \"-\" \"-\"\n".to_owned(), json!({"matched": true, "userAgent": null})),
        (request("203.0.113.7", "/", 404),
            json!({"matched": false, "pattern": null, "reason": "no pattern matches"})),
        (request("10.0.0.1", "/.env", 404),
            json!({"parsed": true, "ip": "10.0.0.1", "matched": false})),
        (request("nobody", "/.env", 404),
            json!({"parsed": false, "ip": null, "path": null, "normalisedPath": null, "status": null, "matched": false})),
    ];
    let log: String = table.iter().map(|(line, _)| line.as_str()).collect();
    let ended = folder.run(&["explain", "-p", "p.yaml", "-o", "json"], log.as_bytes());
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), table.len());
    for (got, (line, expect)) in lines.iter().zip(&table) {
        for (key, value) in expect.as_object().unwrap() {
            assert_eq!(&got[key], value, "{key} of {line}");
        }
    }
    let yaml: Value =
        serde_yaml_ng::from_str(&folder.run(&["explain", "-p", "p.yaml", "-o", "yaml"], log.as_bytes()).out)
            .unwrap();
    assert_eq!(yaml, json!(lines));
    let text = folder.run(&["explain", "-p", "p.yaml"], log.as_bytes()).out;
    let expect = "\
HIT  IP               STATUS PATH                         PATTERN              WHY NOT
yes  203.0.113.7      404    //x/../%2eenv?a=b = /.env    ^/\\.env\n";
    assert!(text.starts_with(expect), "{text}");
    let wide = folder.run(&["explain", "-p", "p.yaml", "-o", "wide"], b"\x1b[2Jx\n").out;
    assert!(!wide.contains('\x1b') && wide.contains("u{1b}[2Jx"), "{wide}");
}

#[test]
fn a_line_is_answered_before_the_next_is_sent() {
    let folder = Folder::with_policy("");
    let mut command = folder.command(&["explain", "-p", "p.yaml", "-o", "json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for client in ["203.0.113.7", "203.0.113.8", "203.0.113.9"] {
        stdin.write_all(line(client, 0, "/.env").as_bytes()).unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["ip"], client);
    }
    drop(stdin);
    assert!(answers.next().is_none());
    assert!(child.wait().unwrap().success());
}
