//! Logs that somebody writes to wear the operator out.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
    gateway_log::request,
    replica::Replica,
};

/// Lines that ban nobody, as most are.
fn ordinary(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| request(&format!("20.0.{}.{}", number / 250 % 250, number % 250), "/index.html"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_100_mb_and_bytes_of_any_kind_cost_a_megabyte_at_most_and_the_next_line_counts() {
    let Some(cluster) = Cluster::start().await else { return };
    let replica = Replica::leading(&cluster).await;
    cluster.policy_in_force(json!({})).await;
    let lines = async || replica.metric("ip_sentry_log_lines_total").await.unwrap_or_default();
    // What any log costs: buffers of the connection, code that is read for the first time, ...
    for _ in 0..20 {
        cluster.log.write(ordinary(5_000));
    }
    until("ordinary lines are read", SOON * 3, async || lines().await >= 100_000.0).await;
    let before = replica.forget_peak();

    let huge = [request("203.0.113.1", "/.env").into_bytes(), vec![b'x'; 100_000_000]].concat();
    let mut hostile: Vec<Vec<u8>> = vec![huge];
    for index in 0..2_000_u32 {
        let mut line = request("203.0.113.2", "/.env").into_bytes();
        let at = usize::try_from(index).unwrap() % line.len();
        // NUL, CR, the rest of a character, what is no UTF-8 at all, colours for a terminal, a tag of the runtime's.
        line.splice(
            at..at,
            [&b"\0"[..], b"\r", b"\x80", b"\xff\xfe", b"\x1b[2J", b" P "][at % 6].iter().copied(),
        );
        hostile.push(line[..line.len() - at / 2].to_vec());
    }
    hostile.extend([
        vec![],
        vec![0; 70_000],
        vec![b'\r'; 70_000],
        vec![0xff; 70_000],
        b"P".to_vec(),
        b"F".to_vec(),
    ]);
    cluster.log.write(hostile);
    // Lines that were cut off by the runtime have no stamp of their own.
    cluster.log.write_raw(b"the rest of a line that has begun before\n");
    cluster.log.write_raw(
        b"2026-11-22T08:00:00Z stdout P 203.0.113.3 - - [22/Nov/2026:08:00:00 +0000] \"GET /.env\n",
    );
    cluster.log.probe("203.0.113.4");
    cluster.until_one_banned("203.0.113.4", SOON * 3).await;
    let (now, peak) = replica.resident_kib();
    println!("{before} KiB before, {peak} KiB at most, {now} KiB after");
    assert!(peak - before <= 1024, "{before} KiB became {peak} KiB");
}

/// Sources that earn a ban, all different.
const SOURCES: u32 = 100_000;
const TIME: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_sources_in_a_minute_leave_memory_and_writes_bounded() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut replica = Replica::leading(&cluster).await;
    cluster.policy_in_force(json!({})).await;
    let begun = Instant::now();
    let mut next = 0;
    while next < SOURCES {
        // As many as are due by now.
        let due = f64::from(SOURCES) * (begun.elapsed().as_secs_f64() / TIME.as_secs_f64()).min(1.0);
        let mut lines = Vec::new();
        while f64::from(next) < due {
            let source = std::net::Ipv4Addr::from_bits(0x1400_0000 + next * 251).to_string();
            lines.extend(["/.env", "/wp-admin/"].map(|target| request(&source, target)));
            next += 1;
        }
        cluster.log.write(lines);
        assert!(replica.is_running(), "the operator has ended after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = 2.0 * f64::from(SOURCES);
    // A program that was not optimised, on a machine with other work, is far behind by now.
    until("every line is read", SOON * 18, async || {
        assert!(replica.is_running(), "the operator has ended after {:?}", begun.elapsed());
        replica.metric("ip_sentry_log_lines_total").await >= Some(all)
    })
    .await;
    let took = begun.elapsed();
    let (_, peak) = replica.resident_kib();
    let writes: Vec<_> = replica.front.seen_since(begun);
    let writes = writes.iter().filter(|seen| seen.method != "GET").count();
    let bans = cluster.banned().await.len();
    println!("{SOURCES} sources in {took:?}: {peak} KiB at most, {writes} writes, {bans} bans");
    assert!(peak <= 256 * 1024, "{peak} KiB");
    // 300 bans at once and 20 a second; as many events; the rest is statuses and the lease.
    let bound = 2.0 * (300.0 + 20.0 * took.as_secs_f64()) + 5.0 * took.as_secs_f64();
    assert!(f64::from(u32::try_from(writes).unwrap()) <= bound, "{writes} writes in {took:?}");
    assert!(bans <= 20_000, "{bans} bans");

    // Who probes more than all of these is banned before those that still wait.
    let waiting = replica.metric("ip_sentry_decisions_waiting").await;
    let canary = "203.0.113.9";
    let since = Instant::now();
    cluster.log.write((0..12).map(|number| request(canary, &format!("/.env?{number}"))));
    cluster.until_one_banned(canary, SOON).await;
    println!("{canary} was banned after {:?}, with {waiting:?} waiting", since.elapsed());
}
