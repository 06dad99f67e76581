//! Time per line of each step from a log line to a decision, over lines that all differ.
//!
//! `cargo bench -p ip-sentry-core`. One line repeated is learnt by the processor's branch predictor and looks two to
//! three times as quick as it is, so every sample runs over all of [`LINES`] lines.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input has nothing to measure")]

use std::{fmt::Write, hint::black_box, net::Ipv4Addr};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use ip_sentry_core::{
    detect::{
        catalogue::Catalogue,
        format::{Format, FormatDraft, Preset},
        jail::{Jail, Limits},
        matcher::Matcher,
        policy::{Policy, PolicyDraft},
        target::Normaliser,
    },
    networks::Networks,
};

/// How many different lines a sample runs over.
const LINES: usize = 10_000;

const REGEX: &str = r#"^(?<ip>\S+) \S+ \S+ \[(?<time>.+?)\] "(?:[A-Z]+) (?<path>\S+) \S+" \d+"#;

/// A stream of numbers that is the same on every machine (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Paths of a shop and, with a share of one in `one_in`, of a scanner.
fn targets(one_in: u64) -> Vec<String> {
    let mut numbers = Numbers(1);
    let mut target = || {
        if numbers.below(one_in) == 0 {
            return numbers
                .pick(&["/.env", "/wp-admin/install.php", "//xmlrpc.php", "/%2egit/config", "/a/../.aws/x"])
                .to_owned();
        }
        let mut path = String::new();
        for _ in 0..=numbers.below(4) {
            write!(
                path,
                "/{}{}",
                numbers.pick(&["shop", "api", "static", "wp-content", "v", "img", "env"]),
                numbers.below(999)
            )
            .unwrap();
        }
        if numbers.below(3) == 0 {
            write!(
                path,
                "?id={}&q={}",
                numbers.below(100_000),
                "x%20y".repeat(usize::try_from(numbers.below(20)).unwrap())
            )
            .unwrap();
        }
        path
    };
    (0..LINES).map(|_| target()).collect()
}

/// Lines of nginx's combined format for these targets, from 2,000 clients.
fn lines(targets: &[String]) -> Vec<Vec<u8>> {
    let mut numbers = Numbers(2);
    let line = |(index, target): (usize, &String)| {
        let low = u32::try_from(numbers.below(2_000)).unwrap();
        let client = Ipv4Addr::from_bits(0xcb00_0000 + low * 7);
        let agent = numbers.pick(&[
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Safari/537.36",
            "curl/8.5.0",
            "-",
        ]);
        format!(
            r#"{client} - - [22/Nov/2026:10:{:02}:{:02} +0000] "GET {target} HTTP/1.1" 200 {index} "-" "{agent}""#,
            index / 600 % 60,
            index / 10 % 60
        )
        .into_bytes()
    };
    targets.iter().enumerate().map(line).collect()
}

fn throughput<T: AsRef<[u8]>>(group: &mut BenchmarkGroup<'_, WallTime>, items: &[T]) {
    let bytes = items.iter().map(|item| item.as_ref().len() as u64).sum();
    group.throughput(Throughput::ElementsAndBytes { elements: items.len() as u64, bytes });
}

fn parse(criterion: &mut Criterion) {
    let lines = lines(&targets(30));
    let mut group = criterion.benchmark_group("parse");
    throughput(&mut group, &lines);
    let formats = [
        ("preset", FormatDraft::Preset(Preset::NginxCombined)),
        ("regex", FormatDraft::Regex(REGEX.to_owned())),
    ];
    for (name, draft) in formats {
        let mut format = Format::compile(&draft).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| lines.iter().filter(|line| black_box(format.parse(line)).is_ok()).count());
        });
    }
}

fn match_targets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("match");
    let mut normaliser = Normaliser::default();
    for (name, one_in) in [("misses", u64::MAX), ("one hit in 30", 30), ("hits", 1)] {
        let targets = targets(one_in);
        throughput(&mut group, &targets);
        let mut matcher = Matcher::new(Catalogue::Default.patterns()).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let is_hit =
                    |target: &&String| matcher.find(normaliser.normalise(target.as_bytes())).is_some();
                targets.iter().filter(is_hit).count()
            });
        });
    }
}

/// Paths made of what 5,000 patterns begin with, cut short: a lazy DFA is driven to a new state by nearly every byte.
fn match_hostile(criterion: &mut Criterion) {
    let mut numbers = Numbers(3);
    let mut word = || {
        (0..4).map(|_| numbers.pick(&["ba", "ce", "di", "fo", "gu", "ha", "jo", "ke"])).collect::<String>()
    };
    let words: Vec<String> = (0..5_000).map(|_| word()).collect();
    let pattern = |(index, word): (usize, &String)| match index % 3 {
        0 => format!("^/{word}\\.php"),
        1 => format!("/{word}/"),
        _ => format!("\\.{word}\\.(?:bak|sql)$"),
    };
    let patterns: Vec<String> = words.iter().enumerate().map(pattern).collect();
    let target = |chunk: &[String]| {
        chunk.iter().fold("/".to_owned(), |path, word| path + "/" + &word[..word.len() - 1])
    };
    let targets: Vec<String> = words.chunks(250).map(target).collect();
    let mut matcher = Matcher::new(&patterns).unwrap();
    let mut group = criterion.benchmark_group("match 5,000 patterns");
    throughput(&mut group, &targets);
    group.bench_function("hostile", |bencher| {
        bencher.iter(|| targets.iter().filter(|target| matcher.find(target.as_bytes()).is_some()).count());
    });
}

fn observe(criterion: &mut Criterion) {
    let protected: Networks =
        ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()].into_iter().collect();
    let policy = Policy::compile(&PolicyDraft::default()).unwrap();
    let mut group = criterion.benchmark_group("line to decision");
    for (name, one_in) in [("one hit in 30", 30), ("hits", 1)] {
        let lines = lines(&targets(one_in));
        throughput(&mut group, &lines);
        let mut jail = Jail::new(policy.clone(), Limits::default());
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| lines.iter().for_each(|line| drop(black_box(jail.observe(None, line, &protected)))));
        });
    }
}

criterion_group!(benches, parse, match_targets, match_hostile, observe);
criterion_main!(benches);
