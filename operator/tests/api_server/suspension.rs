//! A leader whose process is suspended, as by a debugger, a full cgroup freezer or a paused machine.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use ip_sentry_operator::client;
use ip_sentry_operator::clock::Clock;
use ip_sentry_operator::lease::{Deposed, Timing};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::candidates::{Candidate, lease_client};
use crate::control_plane::{ControlPlane, config, until};

/// The variable that tells the leader's process where the API server is.
const KUBECONFIG: &str = "IP_SENTRY_TEST_KUBECONFIG";
const LEASE: &str = "suspended-lease";
const WRITTEN: &str = "suspended-writes";
const SUSPENDED: Duration = Duration::from_secs(30);

/// A leader's whole process: it writes the same thing over and over, from four tasks, through the gate.
///
/// Started by the test below; alone it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of a_leader_suspended_for_30_s_sends_no_more_than_what_was_past_the_gate"]
async fn leader_process() {
    let Some(kubeconfig) = std::env::var_os(KUBECONFIG) else { return };
    let config = config(Path::new(&kubeconfig)).await;
    let leader = Candidate::enter(
        client::connect_lease(&config, &Clock::default()).unwrap(),
        LEASE,
        "suspended",
        Timing::default(),
    );
    let reader = client::connect(&config, &Clock::default()).unwrap();
    let writer = client::connect_writer(&config, &Clock::default(), reader, &leader.leadership).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(writer, "default");
    until("leading", Duration::from_secs(15), async || leader.leadership.is_leading()).await;
    let patch = Patch::Merge(json!({"data": {"ban": "203.0.113.7"}}));
    let write = async |_| {
        // Many attempts after the end, so that one that gets through has every chance to.
        let mut refused = 0;
        while refused < 100 {
            match maps.patch(WRITTEN, &PatchParams::default(), &patch).await {
                Err(error) if Deposed::is_cause_of(&error) => refused += 1,
                _ => {}
            }
        }
    };
    join_all((0..4).map(write)).await;
    println!("deposed");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name}");
}

/// The process is killed with the test, in whatever way that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_suspended_for_30_s_sends_no_more_than_what_was_past_the_gate() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let mut map = ConfigMap::default();
    map.metadata.name = Some(WRITTEN.into());
    Api::<ConfigMap>::namespaced(client.clone(), "default")
        .create(&PostParams::default(), &map)
        .await
        .unwrap();

    let mut leader = Process(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "suspension::leader_process", "--ignored", "--nocapture"])
            .env(KUBECONFIG, control_plane.kubeconfig())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let writes = || control_plane.audit(WRITTEN).into_iter().filter(|request| request.verb == "patch");
    until("the leader writes", Duration::from_secs(30), async || writes().count() > 100).await;

    signal(&leader.0, "-STOP");
    let stopped = Instant::now();
    let successor = Candidate::enter(client, LEASE, "successor", Timing::default());
    until("a successor", Duration::from_secs(15), async || successor.leadership.is_leading()).await;
    until("30 s", SUSPENDED * 2, async || stopped.elapsed() >= SUSPENDED).await;
    let before = writes().count();
    let woken = Timestamp::now();
    signal(&leader.0, "-CONT");

    let output = BufReader::new(leader.0.stdout.take().unwrap());
    // It says so when it has noticed and tried on in vain; or it has aborted itself, which closes its output.
    let last_words = tokio::task::spawn_blocking(move || {
        output.lines().map_while(Result::ok).filter(|line| line.contains("deposed")).last()
    });
    let last_words =
        tokio::time::timeout(Duration::from_mins(1), last_words).await.expect("it ends").unwrap();
    let late = writes().filter(|request| request.received >= woken).count();
    println!("{before} writes before, {late} after it woke, then {last_words:?}");
    assert!(late <= 1, "{late} writes were sent after the lease was lost");
    assert!(successor.leadership.is_leading(), "the successor was not disturbed");
}
