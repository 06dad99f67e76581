//! A public gateway's log: clients with their own habits, scanners in bursts, and junk.

use std::{
    fmt::Write as _,
    io::{Result, Write},
};

use clap::Args;

use crate::{
    START, clock,
    numbers::{Numbers, Zipf, address},
    paths,
    words::{HITS, HOSTS, OTHER_PROBES, PROBING_REFERERS, SCANNERS, WORDS},
};

/// How many of a hundred lines are probes.
const PROBES_PER_CENT: u64 = 3;

/// Salts, so that no client, no scanner and no source of junk is another one.
const CLIENT: u64 = 0x600d;
const SCANNER: u64 = 0xbad;
const JUNK: u64 = 0x70cc;
const SPRAYED: u64 = 0x5111;

/// How a log is made.
#[derive(Args)]
pub(crate) struct Mix {
    /// How many lines.
    #[arg(long, default_value_t = 2_000_000)]
    lines: u64,
    /// How many scanners.
    #[arg(long, default_value_t = 5_000)]
    attackers: u64,
    /// How many clients that mean no harm.
    #[arg(long, default_value_t = 200_000)]
    benign: usize,
    /// Seconds from the first line to the last.
    #[arg(long, default_value_t = 7_200)]
    span: u64,
    /// When it begins, in seconds since 1970.
    #[arg(long, default_value_t = START)]
    start: i64,
}

/// One request of a scanner, laid out before the rest so that sessions are bursts in time.
struct Probe {
    second: u64,
    scanner: u64,
    target: &'static str,
}

/// A client whose requests are answered with one status for a while.
struct Burst {
    client: u64,
    status: u64,
    left: u64,
}

impl Mix {
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut numbers = Numbers(1);
        let mut probes = self.probes(&mut numbers).into_iter().peekable();
        let clients = Zipf::new(self.benign);
        let (mut path, mut agent) = (Vec::new(), Vec::new());
        let mut burst: Option<Burst> = None;
        let (mut last, mut date) = (None, String::new());
        for line in 0..self.lines {
            let passed = line * self.span / self.lines;
            if last != Some(passed) {
                last = Some(passed);
                date = clock::common_log(self.start.saturating_add_unsigned(passed));
            }
            let must = self.lines - line <= probes.len() as u64;
            if let Some(probe) = probes.next_if(|probe| must || probe.second <= passed) {
                write_probe(&probe, &date, &mut numbers, out)?;
                continue;
            }
            if numbers.chance(0.005) {
                write_junk(&date, self.start.saturating_add_unsigned(passed), &mut numbers, out)?;
                continue;
            }
            let (client, status) = match &mut burst {
                Some(burst) if burst.left > 0 && numbers.chance(0.3) => {
                    burst.left -= 1;
                    (burst.client, Some(burst.status))
                }
                _ => {
                    if burst.as_ref().is_none_or(|burst| burst.left == 0) && numbers.chance(0.002) {
                        let client = clients.draw(&mut numbers);
                        let status = [404, 403, 429, 429][numbers.place(4)];
                        burst = Some(Burst { client, status, left: 10 + numbers.below(60) });
                    }
                    (clients.draw(&mut numbers), None)
                }
            };
            paths::benign(&mut numbers, &mut path)?;
            paths::agent(client, &mut agent)?;
            write_benign(client, status, &date, (&path, &agent), &mut numbers, out)?;
        }
        Ok(())
    }

    fn probes(&self, numbers: &mut Numbers) -> Vec<Probe> {
        let mut left = self.lines * PROBES_PER_CENT / 100;
        let mut probes = Vec::new();
        while left > 0 {
            let scanner = numbers.below(self.attackers);
            let count = (1 + numbers.below(23)).min(left);
            left -= count;
            // Slow scanners stay below the window, stubborn ones ask for one path again and again.
            let is_slow = numbers.chance(0.15);
            let mut second = numbers.below(self.span);
            let favourite = numbers.chance(0.3).then(|| numbers.pick(HITS));
            for _ in 0..count {
                let target = match favourite {
                    Some(target) => target,
                    None if numbers.chance(0.5) => numbers.pick(HITS),
                    None => numbers.pick(OTHER_PROBES),
                };
                probes.push(Probe { second: second.min(self.span - 1), scanner, target });
                second += if is_slow { 60 + numbers.below(240) } else { numbers.below(5) };
            }
        }
        probes.sort_by_key(|probe| probe.second);
        probes
    }
}

fn write_probe(probe: &Probe, date: &str, numbers: &mut Numbers, out: &mut impl Write) -> Result<()> {
    let Probe { scanner, target, .. } = *probe;
    let client = address(scanner, scanner % 10 == 9, SCANNER);
    let method = if target.contains("form") || target.contains("xmlrpc") || numbers.chance(0.1) {
        "POST"
    } else if numbers.chance(0.05) {
        "HEAD"
    } else {
        "GET"
    };
    let status = match numbers.below(20) {
        0..=13 => 404,
        14..=15 => 403,
        16 => 301,
        17 => 429,
        18 => 400,
        _ => 200,
    };
    let agent = usize::try_from(scanner + u64::from(numbers.below(8) == 0)).unwrap_or_default();
    let agent = SCANNERS[agent % SCANNERS.len()];
    let size = 100 + numbers.below(600);
    writeln!(out, r#"{client} - - [{date}] "{method} {target} HTTP/1.1" {status} {size} "-" "{agent}""#)
}

fn write_benign(
    client: u64,
    status: Option<u64>,
    date: &str,
    (path, agent): (&[u8], &[u8]),
    numbers: &mut Numbers,
    out: &mut impl Write,
) -> Result<()> {
    let address = address(client, client % 10 == 9, CLIENT);
    let status = status.unwrap_or_else(|| match numbers.below(1000) {
        0..=819 => 200,
        820..=879 => 304,
        880..=919 => 301,
        920..=939 => 302,
        940..=969 => 404,
        970..=974 => 403,
        975..=984 => 206,
        985..=990 => 499,
        991..=994 => 500,
        995..=996 => 502,
        997 => 503,
        _ => 429,
    });
    let method = match numbers.below(100) {
        0..=86 => "GET",
        87..=95 => "POST",
        96 => "HEAD",
        97 => "PUT",
        98 => "OPTIONS",
        _ => "DELETE",
    };
    let version = if numbers.chance(0.7) { "HTTP/2.0" } else { "HTTP/1.1" };
    let user = if numbers.chance(0.009) { numbers.pick(&["alice", "bob", "svc-ci", "maria"]) } else { "-" };
    write!(out, r#"{address} - {user} [{date}] "{method} "#)?;
    out.write_all(path)?;
    let size = if status == 304 { 0 } else { 100 + numbers.below(90_000) };
    write!(out, r#" {version}" {status} {size} ""#)?;
    match numbers.below(100) {
        0..=39 => write!(out, "-"),
        40..=89 => {
            let host = numbers.pick(HOSTS);
            write!(out, "https://{host}/{}/{}", numbers.pick(WORDS), numbers.pick(WORDS))
        }
        90..=97 => write!(out, "https://www.google.com/"),
        98 => write!(out, "{}", numbers.pick(PROBING_REFERERS)),
        _ => {
            let (host, path, source) = (numbers.pick(HOSTS), numbers.pick(WORDS), numbers.pick(WORDS));
            write!(out, "https://{host}/{path}?utm_source={source}&utm_content={}", numbers.token(40))
        }
    }?;
    out.write_all(b"\" \"")?;
    out.write_all(agent)?;
    out.write_all(b"\"\n")
}

/// What reaches a gateway and is no request, and what it says itself.
fn write_junk(date: &str, second: i64, numbers: &mut Numbers, out: &mut impl Write) -> Result<()> {
    let client = address(numbers.below(3000), false, JUNK);
    write_junk_of(numbers.below(12), &client, date, second, numbers, out)
}

fn write_junk_of(
    kind: u64,
    client: &str,
    date: &str,
    second: i64,
    numbers: &mut Numbers,
    out: &mut impl Write,
) -> Result<()> {
    let mut refused = |request: &str| writeln!(out, r#"{client} - - [{date}] "{request}" 400 157 "-" "-""#);
    match kind {
        // A TLS handshake on a plain port, as nginx escapes it, and as it is.
        0..=2 => {
            let mut bytes = String::new();
            for _ in 0..24 {
                // Writing to a string can't fail.
                let _ = write!(bytes, "\\x{:02X}", 128 + numbers.below(128));
            }
            refused(&format!(r"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03{bytes}"))
        }
        3 => {
            write!(out, "{client} - - [{date}] \"")?;
            out.write_all(b"\x16\x03\x01\x00\xee\x01\x00\x00\xea\x03\x03")?;
            for _ in 0..32 {
                let byte = u8::try_from(numbers.below(256)).unwrap_or_default();
                out.write_all(&[if byte == b'\n' { b'.' } else { byte }])?;
            }
            writeln!(out, r#"" 400 157 "-" "-""#)
        }
        4 => writeln!(out, r#"{client} - - [{date}] "-" 408 0 "-" "-""#),
        5 => writeln!(out, r#"{client} - - [{date}] "" 400 0 "-" "-""#),
        6 => writeln!(out, r#"{client} - - [{date}] "GET /"#),
        7 => refused("CONNECT example.com:443 HTTP/1.1"),
        8 => refused("GET http://example.com/ HTTP/1.1"),
        9 => {
            let date = clock::error_log(second);
            let number = numbers.below(100_000);
            let file = numbers.pick(WORDS);
            writeln!(
                out,
                r#"{date} [error] 29#29: *{number} open() "/usr/share/nginx/html/{file}" failed (2: No such file or directory), client: {client}, server: example.com, request: "GET /.env HTTP/1.1", host: "example.com""#
            )
        }
        10 => refused("GET /a b c HTTP/1.1"),
        _ => refused(&format!(r"MGLNDD_{client}_80\x0A")),
    }
}

/// One probe from each address, every tenth of them IPv6.
pub(crate) fn spray(lines: u64, span: u64, start: i64, out: &mut impl Write) -> Result<()> {
    let mut numbers = Numbers(1);
    for line in 0..lines {
        let client = address(line, line % 10 == 9, SPRAYED);
        let date = clock::common_log(start.saturating_add_unsigned(line * span / lines));
        let (target, agent) = (numbers.pick(HITS), numbers.pick(SCANNERS));
        writeln!(out, r#"{client} - - [{date}] "GET {target} HTTP/1.1" 404 146 "-" "{agent}""#)?;
    }
    Ok(())
}
