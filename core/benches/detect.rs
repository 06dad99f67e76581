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

/// The default catalogue, and then made-up patterns of the kinds that people write.
fn patterns(count: usize) -> Vec<String> {
    let mut numbers = Numbers(3);
    let mut word = |syllables: u64| {
        (0..syllables)
            .map(|_| numbers.pick(&["ba", "ce", "di", "fo", "gu", "ha", "jo", "ke", "bre", "sto"]))
            .collect::<String>()
    };
    let pattern = |index: usize| {
        let (one, two) = (word(3), word(2));
        match index % 20 {
            0..10 => format!("^/{one}{two}\\.php"),
            10..13 => format!("^/wp-content/plugins/{one}{two}/"),
            13 => format!("(?i)^/{one}{two}admin"),
            14 => format!("^/{one}/(?:{two}|old|new)\\.env"),
            15 => format!("/{one}{two}/"),
            16 => format!("/{one}[0-9]{{1,4}}\\.{two}"),
            17 => format!("\\.{one}{two}\\.(?:bak|sql)$"),
            18 => format!("^/[a-z0-9_-]{{1,20}}/{one}{two}\\.php"),
            _ => format!("^/.*/{one}{two}\\.php$"),
        }
    };
    let own = (Catalogue::Default.patterns().len()..count).map(pattern);
    Catalogue::Default.patterns().iter().map(|&text| text.to_owned()).chain(own).collect()
}

/// What a pattern looks for first, as a path would have it.
fn literal(pattern: &str) -> String {
    let plain = pattern.trim_start_matches("(?i)").trim_start_matches('^');
    let plain = plain.trim_start_matches("/.*").trim_start_matches("/[a-z0-9_-]{1,20}");
    let plain = plain.split("[0-9]").next().unwrap_or_default();
    plain.replace("(?:bak|sql)$", "bak").replace(['\\', '$'], "")
}

/// Paths of 2 kB that make a search for 5,000 patterns work: of literals cut short, which lead a lazy DFA to a new state
/// with nearly every byte, and of whole ones that still are no match.
fn match_thousands(criterion: &mut Criterion) {
    let patterns = patterns(5_000);
    let mut numbers = Numbers(4);
    let mut path = |literals: &[String], cut: u64| {
        let mut path = "/".to_owned();
        while path.len() < 2_000 {
            let literal = &literals[usize::try_from(numbers.below(literals.len() as u64)).unwrap()];
            let left_out = 1 + usize::try_from(numbers.below(cut)).unwrap();
            path += &literal[..literal.len() - left_out.min(literal.len() - 1)];
        }
        path + "."
    };
    let all: Vec<String> = patterns.iter().map(|pattern| literal(pattern)).collect();
    let unconfirmed: Vec<String> = patterns
        .iter()
        .filter(|pattern| pattern.ends_with('$') || pattern.contains('['))
        .map(|pattern| literal(pattern) + "x")
        .collect();
    let cut: Vec<String> = (0..LINES / 10).map(|_| path(&all, 5)).collect();
    let whole: Vec<String> = (0..LINES / 10).map(|_| path(&unconfirmed, 1)).collect();
    let mut group = criterion.benchmark_group("match 5,000 patterns");
    group.sample_size(10);
    group.bench_function("start", |bencher| bencher.iter(|| Matcher::new(&patterns).unwrap()));
    let mut matcher = Matcher::new(&patterns).unwrap();
    for (name, targets) in [("misses", targets(u64::MAX)), ("hostile, cut", cut), ("hostile, whole", whole)] {
        throughput(&mut group, &targets);
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| targets.iter().filter(|target| matcher.find(target.as_bytes()).is_some()).count());
        });
    }
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

criterion_group!(benches, parse, match_targets, match_thousands, observe);
criterion_main!(benches);
