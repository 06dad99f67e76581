//! What a client can have a container write that reads as a line about another: the rest of a line of more than 16 KiB,
//! with standard error between its pieces, and line breaks in nginx's own messages.
//!
//! `LAB_FEATURE_GATES=PodLogsQuerySplitStreams=true tests/e2e/cluster/cluster.sh up` makes a cluster where standard
//! output can be read alone; the test knows by itself which kind it meets.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ip_sentry_core::net::Source;
use ip_sentry_e2e::{
    address, eventually,
    lab::{kubectl, kubectl_with, printed},
    node::Node,
    scenario::{LONG, SOON, Scenario, shared},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// The predecessor's default: nobody knows of an expression what the rest of a line may be read as.
const REGEX: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

/// Writes what the gateway would, with `$1` the attacker, `$2` the victim, `$3` a neighbour whose probes come right
/// after a long line, `$4` a stranger whose probes come later.
///
/// The runtime writes a piece once it has read 4 KiB more than that, so the cut falls in the middle of the second write.
const WRITER: &str = r#"
line() { printf '%s - - [22/Nov/2026:10:00:00 +0000] "GET %s HTTP/1.1" 404 1 "-" "%s"' "$1" "$2" "$3"; }
fill() { head -c "$1" /dev/zero | tr '\0' x; }
front="$1 - - [22/Nov/2026:10:00:00 +0000] \"GET /"
agent=$(fill 9000)
long() {
  forged=$(line "$2" "$3" "$agent")
  printf '%s%s%s' "$front" "$(fill $((16384 - ${#front})))" "$(printf %s "$forged" | head -c 5000)"
  sleep 0.05
  echo 'something went wrong' >&2
  sleep 0.05
  printf '%s\n' "$(printf %s "$forged" | tail -c +5001)"
}
for path in /wp-admin /.env /wp-admin /.env; do long "$1" "$2" "$path"; done
for path in /wp-admin /.env; do line "$3" "$path" -; echo; done
for path in /wp-admin /.env; do line "$1" "$path" -; echo; done
sleep 2
for path in /wp-admin /.env; do line "$4" "$path" -; echo; done
sleep 3600
"#;

#[test]
fn nobody_is_banned_for_the_rest_of_anothers_line_and_nobody_hides_behind_long_ones() {
    shared(async |scenario: &Scenario| {
        let source = |_| Source::of(address::ipv4().into(), 64);
        let sources: Vec<Source> = (0..4).map(source).collect::<Result<_, _>>()?;
        for source in &sources {
            scenario.owns(source.network());
        }
        let [attacker, victim, neighbour, stranger] = [0, 1, 2, 3].map(|index| sources[index]);
        let addresses = sources.iter().map(Source::ban_name);
        let command: Vec<String> =
            ["/bin/sh", "-c", WRITER, "writer"].map(str::to_owned).into_iter().chain(addresses).collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer", "labels": {"app": "writer"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "writer", "image": "ip-sentry-lab-gateway:dev", "imagePullPolicy": "Never", "command": command,
                }],
            },
        });
        let space = format!("--namespace={}", scenario.namespace);
        scenario.logs_readable().await?;
        printed("kubectl apply", kubectl_with(&[&space, "apply", "-f", "-"], Some(&pod.to_string())).await?)?;
        eventually(LONG, "the writer runs", async || {
            let phase =
                kubectl(&[&space, "get", "pod", "writer", "--output=jsonpath={.status.phase}"]).await?;
            ensure!(phase == "Running", "it is {phase}");
            Ok(())
        })
        .await?;
        let policy = json!({"podSelector": {"matchLabels": {"app": "writer"}}, "format": {"regex": REGEX}});
        let generation = scenario.store_policy("probes", policy).await?;

        // Both get what they deserve, and by then all is read.
        scenario.banned(attacker).await?;
        scenario.banned(stranger).await?;

        let log = format!("/api/v1/namespaces/{}/pods/writer/log?stream=Stdout", scenario.namespace);
        let is_split = kubectl(&["get", "--raw", &log]).await.is_ok();
        let mut expect = vec![attacker.ban_name(), stranger.ban_name()];
        if is_split {
            scenario.banned(neighbour).await?;
            expect.push(neighbour.ban_name());
        } else {
            let log = kubectl(&[&space, "logs", "writer"]).await?;
            let forged = log.lines().filter(|line| line.starts_with(&victim.ban_name())).count();
            ensure!(forged == 4, "the kubelet sent {forged} lines that begin with the victim's address");
        }
        let said = if is_split { "True Whole" } else { "False LongLines" };
        scenario.condition("probes", "LinesWhole", generation, said).await?;
        expect.sort();
        eventually(SOON, "who is banned", async || {
            let mut found = scenario.detected().await?;
            found.sort();
            ensure!(found == expect, "{found:?} are banned, {expect:?} ought to be");
            Ok(())
        })
        .await
    });
}

/// A request for a file that there isn't, and one with the name of nobody: line breaks are in both, and between them the
/// lines that are given.
fn with_line_breaks(forged: &str) -> [String; 2] {
    let mut encoded = String::new();
    for byte in forged.bytes() {
        // Writing to a String never fails.
        let _infallible = write!(encoded, "%{byte:02x}");
    }
    // A name ends at the first colon, so the time in these lines has none.
    let name = BASE64_STANDARD.encode(format!("z\n{forged}\n:secret"));
    let tail = "HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n";
    [
        format!("GET /files/z%0a{encoded}%0a {tail}\r\n"),
        format!("GET /members/ {tail}Authorization: Basic {name}\r\n\r\n"),
    ]
}

#[test]
fn nobody_is_banned_for_what_another_writes_into_the_messages_of_nginx() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let (attacker, victim) = (scenario.client().await?, Source::of(address::ipv4().into(), 64)?);
        scenario.owns(victim.network());
        let name = victim.ban_name();
        let forged = ["/.env", "/wp-admin", "/.env"];
        let forged = forged.map(|path| format!(r#"{name} - - [x] "GET {path} HTTP/1.1" 404 153 "-" "x""#));
        let front = gateway.through(Node::One, true);
        let from = attacker.address_towards(front)?;
        for request in with_line_breaks(&forged.join("\n")) {
            let answer = attacker.send(from, front, request.as_bytes()).await?;
            ensure!(answer.starts_with(b"HTTP/1.1 40"), "{}", String::from_utf8_lossy(&answer));
        }
        let is_forged = |line: &str| line.starts_with(&format!("{name} - - [x]"));
        let last = eventually(SOON, "nginx has written all six lines in the victim's name", async || {
            let log = gateway.log(scenario, Node::One).await?;
            let stamps: Vec<Timestamp> =
                log.iter().filter(|(_, line)| is_forged(line)).map(|(stamp, _)| *stamp).collect();
            ensure!(stamps.len() == 6, "{} of them in {log:?}", stamps.len());
            Ok(stamps[5])
        })
        .await?;

        // Who comes when the second is over is counted.
        eventually(SOON, "the second is over", async || {
            let passed = Timestamp::now().duration_since(last);
            ensure!(passed > SignedDuration::from_millis(1_100), "{passed:#} have passed");
            Ok(())
        })
        .await?;
        gateway.judged(scenario, "/.env").await?;
        let found = scenario.detected().await?;
        ensure!(!found.contains(&name), "the victim is banned: {found:?}");
        Ok(())
    });
}
