//! Time of each step from a log line to a decision, over lines that all differ.
//!
//! `cargo bench -p ip-sentry-core`; `-- parse`, `-- match` or `-- window` for one of them. One line repeated is learnt by
//! the processor's branch predictor and looks two to three times as quick as it is, so every sample runs over all of
//! [`LINES`] lines.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input has nothing to measure")]

mod traffic;

use std::{hint::black_box, time::Duration};

use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use ip_sentry_core::{
    detect::{
        format::{Format, FormatDraft, JsonDraft, Preset},
        jail::{Jail, Limits},
        matcher::Matcher,
        policy::{Policy, PolicyDraft},
        target::Normaliser,
    },
    networks::Networks,
};
use jiff::{SignedDuration, Timestamp};
use traffic::{Kind, LINES, combined, hostile_cut, hostile_whole, json, patterns, targets};

/// The predecessor's, with a time: compiled to steps.
const REGEX: &str = r#"^(?<ip>\S+) \S+ \S+ \[(?<time>.+?)\] "(?:[A-Z]+) (?<path>\S+) \S+" \d+"#;

/// The same with a version that may be absent, which no steps can do.
const FALLBACK: &str = r#"^(?<ip>\S+) \S+ \S+ \[(?<time>.+?)\] "(?:[A-Z]+) (?<path>\S+)(?: HTTP/\S+)?" \d+"#;

fn group<'a, T: AsRef<[u8]>>(
    criterion: &'a mut Criterion,
    name: impl Into<String>,
    items: &[T],
) -> BenchmarkGroup<'a, WallTime> {
    let bytes = items.iter().map(|item| item.as_ref().len() as u64).sum();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::ElementsAndBytes { elements: items.len() as u64, bytes });
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group
}

fn parse(criterion: &mut Criterion) {
    let place = |pointer: &str| Some(pointer.to_owned());
    let fields = JsonDraft {
        ip: "/request/remote_ip".to_owned(),
        path: place("/request/uri"),
        method: place("/request/method"),
        status: place("/status"),
        time: place("/ts"),
        ..JsonDraft::default()
    };
    let formats = [
        ("preset", FormatDraft::Preset(Preset::NginxCombined)),
        ("regex by steps", FormatDraft::Regex(REGEX.to_owned())),
        ("regex that falls back", FormatDraft::Regex(FALLBACK.to_owned())),
        ("json", FormatDraft::Json(fields)),
    ];
    for kind in [Kind::Typical, Kind::LongQuery, Kind::V6, Kind::NearMiss, Kind::Junk] {
        for (name, draft) in &formats {
            let lines = if *name == "json" { json(kind) } else { combined(kind) };
            let mut format = Format::compile(draft).unwrap();
            group(criterion, format!("parse {kind:?}"), &lines).bench_function(*name, |bencher| {
                bencher.iter(|| lines.iter().filter(|line| black_box(format.parse(line)).is_ok()).count());
            });
        }
    }
}

fn match_targets(criterion: &mut Criterion) {
    for count in [15, 100, 1_000, 5_000] {
        let patterns = patterns(count);
        let mut matcher = Matcher::new(&patterns).unwrap();
        let mut normaliser = Normaliser::default();
        for (name, targets) in [
            ("misses", targets(Kind::V6)),
            ("near misses", targets(Kind::NearMiss)),
            ("hits", targets(Kind::Hit)),
            ("hostile, cut", hostile_cut(&patterns)),
            ("hostile, whole", hostile_whole(&patterns)),
        ] {
            if targets.is_empty() {
                continue;
            }
            group(criterion, format!("match {name}"), &targets).bench_function(
                BenchmarkId::from_parameter(count),
                |bencher| {
                    bencher.iter(|| {
                        let is_hit = |target: &&String| {
                            matcher.find(normaliser.normalise(target.as_bytes())).is_some()
                        };
                        targets.iter().filter(is_hit).count()
                    });
                },
            );
        }
        criterion.benchmark_group("match start").sample_size(10).bench_function(
            BenchmarkId::from_parameter(count),
            |bencher| {
                bencher.iter(|| Matcher::new(&patterns).unwrap());
            },
        );
    }
}

/// Hits of as many sources as there are lines: new ones, known ones, ones that have earned a ban, and their end.
fn window(criterion: &mut Criterion) {
    let none = Networks::default();
    let draft = PolicyDraft { unique_pattern_threshold: 0, ..PolicyDraft::default() };
    let policy = Policy::compile(&draft).unwrap();
    let hits: Vec<String> = (0..LINES)
        .map(|index| {
            let (high, low) = (index / 250, index % 250);
            format!(
                "203.1.{high}.{low} - - [22/Nov/2026:10:00:00 +0000] \"GET /.env?{index} HTTP/1.1\" 404 1"
            )
        })
        .collect();
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let observe = |jail: &mut Jail| {
        for hit in &hits {
            black_box(jail.observe(Some(now), hit.as_bytes(), &none));
        }
    };
    let new = Jail::new(policy, Limits::default());
    let mut known = new.clone();
    observe(&mut known);
    let mut suspicious = known.clone();
    observe(&mut suspicious);
    let mut group = group(criterion, "window", &hits);
    for (name, jail) in [("new sources", &new), ("known sources", &known), ("bans", &suspicious)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| jail.clone(), observe, BatchSize::LargeInput);
        });
    }
    let later = now + SignedDuration::from_hours(1);
    let sweep = |jail: &mut Jail| {
        jail.sweep(now);
        jail.sweep(later);
        assert_eq!(jail.tracked(), 0);
    };
    group.bench_function("sweep", |bencher| {
        bencher.iter_batched_ref(|| known.clone(), sweep, BatchSize::LargeInput);
    });
}

fn line_to_decision(criterion: &mut Criterion) {
    let protected: Networks =
        ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()].into_iter().collect();
    let policy = Policy::compile(&PolicyDraft::default()).unwrap();
    for kind in [Kind::Typical, Kind::Hit] {
        let lines = combined(kind);
        let mut jail = Jail::new(policy.clone(), Limits::default());
        group(criterion, "line to decision", &lines).bench_function(format!("{kind:?}"), |bencher| {
            bencher
                .iter(|| lines.iter().for_each(|line| drop(black_box(jail.observe(None, line, &protected)))));
        });
    }
}

criterion_group!(benches, parse, match_targets, window, line_to_decision);
criterion_main!(benches);
