//! `--since` against a server that answers as the API server does.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::run::{Folder, line, policy};

/// Answers requests by the first path that they begin with, and writes down what was asked.
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    address: String,
}

fn serve(answers: Vec<(&'static str, String)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(answers);
    let known = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answers, asked) = (answers.clone(), known.clone());
            std::thread::spawn(move || answer(&stream.unwrap(), &answers, &asked));
        }
    });
    Server { asked, address }
}

fn answer(mut stream: &TcpStream, answers: &[(&str, String)], asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap().unwrap();
    while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    let path = request.split(' ').nth(1).unwrap();
    asked.lock().unwrap().push(path.to_owned());
    let found = answers.iter().find(|(prefix, _)| path.starts_with(prefix));
    let (status, body) = match found {
        Some((_, body)) => ("200 OK", body.clone()),
        None => ("404 Not Found", json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}).to_string()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
}

fn list(kind: &str, items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items}).to_string()
}

fn pod(name: &str, app: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "web", "uid": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "nginx"}, {"name": "sidecar"}]},
        "status": {"containerStatuses": [{
            "name": "nginx", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}},
        }]},
    })
}

fn kubeconfig(address: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
    })
    .to_string()
}

/// Lines as the kubelet stamps them; the gateway's own time is another and does not count.
fn stamped(client: &str, seconds: &[u32]) -> String {
    let stamped = |second: &u32| format!("2026-11-25T12:00:{second:02}.5Z {}", line(client, 0, "/.env"));
    seconds.iter().map(stamped).collect::<Vec<_>>().concat()
}

#[test]
fn since_reads_the_pods_that_the_operator_would_and_counts_by_the_runtimes_stamp() {
    let protected = json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProtectedNetworks", "metadata": {"name": "cluster"},
        "spec": {"cidrs": []}, "status": {"cidrs": ["198.51.100.9/32"]},
    });
    let logs = [
        stamped("203.0.113.7", &[1, 5]) + &stamped("198.51.100.9", &[6, 7, 8]),
        stamped("203.0.113.7", &[3]) + &stamped("203.0.113.8", &[4]),
    ];
    let server = serve(vec![
        ("/api/v1/namespaces/web/pods/gw-1/log", logs[0].clone()),
        ("/api/v1/namespaces/web/pods/gw-2/log", logs[1].clone()),
        (
            "/api/v1/namespaces/web/pods?",
            list("PodList", &[pod("gw-1", "gw"), pod("gw-2", "gw"), pod("db", "db")]),
        ),
        ("/api/v1/namespaces/web/services?", list("ServiceList", &[])),
        ("/apis/ipsentry.dev/v1alpha1/protectednetworks/cluster", protected.to_string()),
    ]);
    let folder = Folder::new();
    folder.write("kubeconfig", kubeconfig(&server.address).as_bytes());
    folder.write(
        "p.yaml",
        policy("").replace("podSelector: {}", "podSelector: {matchLabels: {app: gw}}").as_bytes(),
    );
    let ended = folder.run(&["replay", "-p", "p.yaml", "--since", "24h", "-o", "json"], b"");
    assert_eq!(ended.banned(), ["203.0.113.7/32"], "{}", ended.err);
    let json = ended.json();
    let evidence = &json["bans"][0]["spec"]["evidence"];
    assert_eq!(
        (&evidence["firstSeen"], &evidence["lastSeen"]),
        (&json!("2026-11-25T12:00:01Z"), &json!("2026-11-25T12:00:05Z"))
    );
    assert_eq!((&json["summary"]["lines"], &json["summary"]["protectedClients"]), (&json!(7), &json!(3)));
    assert!(ended.err.starts_with("Reading the logs of 2 containers in namespace web.\n"), "{}", ended.err);
    let asked = server.asked.lock().unwrap();
    let log = asked.iter().find(|path| path.contains("/gw-1/log")).unwrap();
    for parameter in ["container=nginx", "sinceSeconds=86400", "timestamps=true"] {
        assert!(log.contains(parameter), "{log}");
    }
    assert!(!asked.iter().any(|path| path.contains("/db/log")), "{asked:?}");
}

#[test]
fn since_says_what_is_missing() {
    let folder = Folder::with_policy("");
    let arguments = ["replay", "-p", "p.yaml", "--since", "24h"];
    let ended = folder.run(&arguments, b"");
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.starts_with("error: --since reads the policy's pods, and needs a kubeconfig"),
        "{}",
        ended.err
    );
    let server = serve(vec![
        ("/api/v1/namespaces/web/pods?", list("PodList", &[])),
        ("/api/v1/namespaces/web/services?", list("ServiceList", &[])),
    ]);
    folder.write("kubeconfig", kubeconfig(&server.address).as_bytes());
    let ended = folder.run(&arguments, b"");
    let expect = "error: no pod in namespace web belongs to the targets: bans need a gateway's log\n";
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), expect));
    let ended = folder.run(&[&arguments[..], &["-n", "other"]].concat(), b"");
    assert!(ended.err.starts_with("error: the pods of namespace other can't be listed: "), "{}", ended.err);
}
