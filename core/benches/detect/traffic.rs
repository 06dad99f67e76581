//! Lines and paths that all differ, the same on every machine.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ip_sentry_core::detect::catalogue::Catalogue;

/// How many different lines or paths a sample runs over.
pub(crate) const LINES: usize = 10_000;

/// A stream of numbers (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.place(from.len())]
    }
}

/// What a log's lines are like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A shop's, with a probe in 30.
    Typical,
    /// With a query of some 1,000 bytes.
    LongQuery,
    /// Of clients with IPv6 addresses.
    V6,
    /// What resembles a probe: other words, and probes in the query and the referer.
    NearMiss,
    /// A probe each.
    Hit,
    /// No request at all.
    Junk,
}

const PROBES: [&str; 5] =
    ["/.env", "/wp-admin/install.php", "//xmlrpc.php", "/%2egit/config", "/a/../.aws/x"];
const NEAR_MISSES: [&str; 6] =
    ["/env", "/wp-content/", "/admin-guide", "/environment/prod", "/a?next=/wp-admin", "/gitlab?x=/.env"];

/// Paths with their queries.
pub(crate) fn targets(kind: Kind) -> Vec<String> {
    let mut numbers = Numbers(1);
    (0..LINES)
        .map(|_| match kind {
            Kind::Hit => numbers.pick(&PROBES).to_owned() + "?" + &numbers.below(1 << 40).to_string(),
            Kind::Typical if numbers.below(30) == 0 => numbers.pick(&PROBES).to_owned(),
            Kind::NearMiss => format!("{}{}", numbers.pick(&NEAR_MISSES), numbers.below(1 << 40)),
            Kind::LongQuery => {
                let length = 800 + numbers.place(400);
                format!("{}?state={}", page(&mut numbers), token(&mut numbers, length))
            }
            _ => page(&mut numbers),
        })
        .collect()
}

fn page(numbers: &mut Numbers) -> String {
    let mut path = String::new();
    for _ in 0..=numbers.below(4) {
        let word = numbers.pick(&["shop", "api", "static", "wp-content", "v", "img", "env"]);
        write!(path, "/{word}{}", numbers.below(999)).unwrap();
    }
    if numbers.below(3) == 0 {
        let length = numbers.place(100);
        write!(path, "?id={}&q={}", numbers.below(100_000), token(numbers, length)).unwrap();
    }
    path
}

fn token(numbers: &mut Numbers, length: usize) -> String {
    const BYTES: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_%.";
    (0..length).map(|_| char::from(BYTES[numbers.place(BYTES.len())])).collect()
}

/// One request, as a log in any format has it.
struct Request {
    client: IpAddr,
    /// Seconds after ten o'clock.
    second: usize,
    target: String,
    referer: &'static str,
    agent: &'static str,
}

fn requests(kind: Kind) -> impl Iterator<Item = Request> {
    let mut numbers = Numbers(2);
    targets(kind).into_iter().enumerate().map(move |(index, target)| {
        let low = u32::try_from(numbers.below(2_000)).unwrap() * 7;
        let client = match kind {
            Kind::V6 => Ipv6Addr::from_bits((0x2a00_1450 << 96) + (u128::from(low) << 40) + 0x42).into(),
            _ => Ipv4Addr::from_bits(0xcb00_0000 + low).into(),
        };
        let referer = if kind == Kind::NearMiss { "https://a.example/.env" } else { "-" };
        let agent = numbers.pick(&[
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Safari/537.36",
            "curl/8.5.0",
            "-",
        ]);
        Request { client, second: index / 100, target, referer, agent }
    })
}

/// Lines of nginx's combined format.
pub(crate) fn combined(kind: Kind) -> Vec<Vec<u8>> {
    if kind == Kind::Junk {
        return junk();
    }
    let line = |Request { client, second, target, referer, agent }: Request| {
        let (minute, second) = (second / 60, second % 60);
        format!(
            r#"{client} - - [22/Nov/2026:10:{minute:02}:{second:02} +0000] "GET {target} HTTP/1.1" 200 612 "{referer}" "{agent}""#
        )
        .into_bytes()
    };
    requests(kind).map(line).collect()
}

/// The same as JSON.
pub(crate) fn json(kind: Kind) -> Vec<Vec<u8>> {
    if kind == Kind::Junk {
        return junk();
    }
    let line = |Request { client, second, target, referer, agent }: Request| {
        let (minute, second) = (second / 60, second % 60);
        format!(
            r#"{{"ts":"2026-11-22T10:{minute:02}:{second:02}Z","request":{{"remote_ip":"{client}","method":"GET","uri":"{target}"}},"referer":"{referer}","agent":"{agent}","status":200,"size":612}}"#
        )
        .into_bytes()
    };
    requests(kind).map(line).collect()
}

/// TLS on a plain port as it is and as nginx escapes it, lines that are cut, and what nginx says itself.
fn junk() -> Vec<Vec<u8>> {
    let mut numbers = Numbers(5);
    let line = |index: usize| {
        let random = token(&mut numbers, 24);
        let head = format!("198.51.100.{} - - [22/Nov/2026:10:00:00 +0000] \"", index % 250);
        let text = match index % 5 {
            0 => format!("{head}\\x16\\x03\\x01\\x02{random}\" 400 157 \"-\" \"-\""),
            1 => format!("{head}\u{16}\u{3}\u{1}{random}\" 400 157 \"-\" \"-\""),
            2 => format!("{head}GET /{random}"),
            3 => format!("2026/11/22 10:00:00 [error] 7#7: *{index} open() \"/{random}\" failed"),
            _ => random,
        };
        text.into_bytes()
    };
    (0..LINES).map(line).collect()
}

/// The default catalogue, and then made-up patterns of the kinds that people write.
pub(crate) fn patterns(count: usize) -> Vec<String> {
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

/// Paths of 2 kB that make a search for these patterns work: of literals cut short, which lead a lazy DFA to a new state
/// with nearly every byte.
pub(crate) fn hostile_cut(patterns: &[String]) -> Vec<String> {
    let literals: Vec<String> = patterns.iter().map(|pattern| literal(pattern)).collect();
    hostile(&literals, 5)
}

/// The same of whole literals that still are no match.
pub(crate) fn hostile_whole(patterns: &[String]) -> Vec<String> {
    let unconfirmed = |pattern: &&String| pattern.ends_with('$') || pattern.contains('[');
    let literals: Vec<String> =
        patterns.iter().filter(unconfirmed).map(|pattern| literal(pattern) + "x").collect();
    if literals.is_empty() { Vec::new() } else { hostile(&literals, 1) }
}

fn hostile(literals: &[String], cut: usize) -> Vec<String> {
    let mut numbers = Numbers(4);
    let mut path = || {
        let mut path = "/".to_owned();
        while path.len() < 2_000 {
            let literal = &literals[numbers.place(literals.len())];
            let left_out = 1 + numbers.place(cut);
            path += &literal[..literal.len() - left_out.min(literal.len() - 1)];
        }
        path + "."
    };
    (0..LINES).map(|_| path()).collect()
}

/// What a pattern looks for first, as a path would have it.
fn literal(pattern: &str) -> String {
    let plain = pattern.trim_start_matches("(?i)").trim_start_matches('^');
    let plain = plain.trim_start_matches("/.*").trim_start_matches("/[a-z0-9_-]{1,20}");
    let plain = plain.split("[0-9]").next().unwrap_or_default();
    plain.replace("(?:bak|sql)$", "bak").replace(['\\', '$'], "")
}
