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

/// Stands for a refusal.
const FORBIDDEN: &str = "";

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
        Some((_, body)) if body == FORBIDDEN => ("403 Forbidden", json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "User \"me\" cannot"}).to_string()),
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
    let expect = format!(
        "error: --since reads the policy's pods, and needs a kubeconfig for that: failed to read kubeconfig from {}: \
         No such file or directory\n",
        folder.path().join("kubeconfig").display()
    );
    assert_eq!((ended.code, ended.err), (Some(1), expect));
    let server = serve(vec![("/api/v1/namespaces/web/pods?", list("PodList", &[]))]);
    folder.write("elsewhere", kubeconfig(&server.address).as_bytes());
    let arguments = [&arguments[..], &["--kubeconfig", "elsewhere"]].concat();
    let ended = folder.run(&arguments, b"");
    let expect = "error: no pod in namespace web belongs to the targets: bans need a gateway's log\n";
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), expect));
    let ended = folder.run(&[&arguments[..], &["-n", "other"]].concat(), b"");
    assert_eq!(ended.err, "error: the pods of namespace other can't be read: not found\n");
    let pending = json!({
        "metadata": {"name": "gw-1", "namespace": "web"}, "spec": {"containers": [{"name": "nginx"}]},
    });
    let server = serve(vec![("/api/v1/namespaces/web/pods?", list("PodList", &[pending]))]);
    folder.write("elsewhere", kubeconfig(&server.address).as_bytes());
    let ended = folder.run(&arguments, b"");
    assert_eq!(ended.err, "error: no pod of the policy in namespace web has started: there is no log yet\n");
}

#[test]
fn who_reads_is_told_which_right_is_missing_and_nobody_else_is_blamed() {
    let target = |spec: &str| policy("").replace("podSelector: {}", spec);
    let on_gateway = target("targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]");
    let on_service = target("targetRefs: [{group: '', kind: Service, name: gw}]");
    let pods = || ("/api/v1/namespaces/web/pods?", list("PodList", &[pod("gw-1", "gw")]));
    let refuse = |path| (path, FORBIDDEN.to_owned());
    #[rustfmt::skip]
    let table = [
        (policy(""),  vec![refuse("/api/v1/namespaces/web/pods?")],                        "pods",         r#"{apiGroups: [""], resources: [pods], verbs: [list]}"#),
        (policy(""),  vec![pods(), refuse("/api/v1/namespaces/web/pods/gw-1/log")],        "logs of pods", r#"{apiGroups: [""], resources: [pods/log], verbs: [get]}"#),
        (on_service,  vec![pods(), refuse("/api/v1/namespaces/web/services?")],            "services",     r#"{apiGroups: [""], resources: [services], verbs: [list]}"#),
        (on_gateway,  vec![pods(), refuse("/apis/gateway.networking.k8s.io/v1/namespaces/web/gateways")], "gateways", "{apiGroups: [gateway.networking.k8s.io], resources: [gateways], verbs: [list]}"),
    ];
    let folder = Folder::new();
    for (policy, answers, what, rule) in table {
        let server = serve(answers);
        folder.write("kubeconfig", kubeconfig(&server.address).as_bytes());
        folder.write("p.yaml", policy.as_bytes());
        let ended = folder.run(&["replay", "-p", "p.yaml", "--since", "24h"], b"");
        let expect = format!(
            "error: the kubeconfig's user may not read {what} in namespace web: it is this user who reads with --since, \
             not the operator. Bind it to a Role of that namespace with the rule\n  - {rule}\n"
        );
        let said = ended.err.trim_start_matches("Reading the logs of 1 container in namespace web.\n");
        assert_eq!((ended.code, said), (Some(1), expect.as_str()));
    }
}

#[test]
fn a_server_that_does_not_answer_is_told_in_words() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let folder = Folder::with_policy("");
    folder.write("kubeconfig", kubeconfig(&nobody).as_bytes());
    let ended = folder.run(&["replay", "-p", "p.yaml", "--since", "24h"], b"");
    assert_eq!(ended.err, "error: the pods of namespace web can't be read: Connection refused\n");
}
