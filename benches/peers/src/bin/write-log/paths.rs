//! What a shop's clients ask for, and what they say that they are.

use std::io::{Result, Write};

use crate::{
    numbers::Numbers,
    words::{EXTENSIONS, WORDS},
};

/// A request target of a client that means no harm, some of them near misses of a pattern.
pub(crate) fn benign(numbers: &mut Numbers, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    match numbers.below(100) {
        0..=37 => asset(numbers, out),
        38..=62 => page(numbers, out),
        63..=84 => {
            write!(
                out,
                "/api/v{}/{}/{}",
                1 + numbers.below(3),
                numbers.pick(WORDS),
                numbers.below(10_000_000)
            )?;
            if numbers.chance(0.7) {
                let word = numbers.pick(WORDS);
                let limit = 10 * (1 + numbers.below(10));
                write!(out, "?fields=id%2Cname%2C{word}&limit={limit}&cursor={}", numbers.token(24))?;
            }
            Ok(())
        }
        85..=92 => campaign(numbers, out),
        93..=96 => {
            let mut word = || numbers.pick(WORDS);
            write!(out, "/search?q={}+{}+{}&lang=en&filter[brand]={}", word(), word(), word(), word())
        }
        97 => {
            // As single sign-on has it: very long, and a URL inside that looks like a probe.
            let length = 600 + numbers.place(900);
            let state = numbers.hex(32);
            write!(
                out,
                "/oauth2/callback?state={state}&redirect=%2F{}&next=/wp-admin&code=",
                numbers.pick(WORDS)
            )?;
            write!(out, "{}", numbers.token(length))
        }
        98 => write!(out, "/"),
        _ => {
            let near = [
                "/robots.txt",
                "/favicon.ico",
                "/sitemap.xml",
                "/.well-known/acme-challenge/x",
                "/healthz",
                "/wp-json/wp/v2/posts?per_page=10",
                "/admin-guide/index.html",
                "/env",
                "/environment/prod",
                "/gitlab/project",
            ];
            write!(out, "{}", numbers.pick(&near))
        }
    }
}

fn asset(numbers: &mut Numbers, out: &mut Vec<u8>) -> Result<()> {
    match numbers.below(4) {
        0 => {
            let (folder, name) = (numbers.pick(WORDS), numbers.pick(WORDS));
            write!(out, "/assets/{folder}/{name}.{}.{}", numbers.hex(8), numbers.pick(EXTENSIONS))
        }
        1 => {
            let name = numbers.pick(WORDS);
            write!(out, "/static/{name}-{}.{}", numbers.hex(12), numbers.pick(EXTENSIONS))
        }
        2 => {
            let (year, month) = (numbers.below(7), 1 + numbers.below(12));
            let (one, other) = (numbers.pick(WORDS), numbers.pick(WORDS));
            let (width, height) = (100 + numbers.below(1900), 100 + numbers.below(1900));
            write!(out, "/wp-content/uploads/202{year}/{month:02}/{one}-{other}-{width}x{height}.jpg")
        }
        _ => write!(out, "/_next/static/chunks/{}-{}.js", numbers.below(9999), numbers.hex(16)),
    }
}

fn page(numbers: &mut Numbers, out: &mut Vec<u8>) -> Result<()> {
    write!(out, "/{}/{}", numbers.pick(WORDS), numbers.pick(WORDS))?;
    if numbers.chance(0.6) {
        write!(out, "/{}-{}-{}", numbers.pick(WORDS), numbers.pick(WORDS), numbers.below(100_000))?;
    }
    if numbers.chance(0.25) {
        write!(out, "/")?;
    }
    if numbers.chance(0.35) {
        write!(out, "?page={}&sort={}", numbers.below(50), numbers.pick(WORDS))?;
    }
    Ok(())
}

/// What advertisements lead to, with what they are tracked by.
fn campaign(numbers: &mut Numbers, out: &mut Vec<u8>) -> Result<()> {
    let mut word = || numbers.pick(WORDS);
    let (path, source) = (word(), word());
    write!(out, "/{path}/?utm_source={source}&utm_medium=cpc&utm_campaign={}_{}_", word(), word())?;
    write!(out, "{}&gclid=", numbers.below(1_000_000))?;
    let length = 60 + numbers.place(40);
    write!(out, "{}", numbers.token(length))?;
    if numbers.chance(0.4) {
        let length = 100 + numbers.place(120);
        write!(out, "&fbclid={}", numbers.token(length))?;
    }
    Ok(())
}

/// What the client of that number says that it is, always the same.
pub(crate) fn agent(client: u64, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    let mut numbers = Numbers(client.wrapping_mul(77) ^ 0xa5a5);
    let mut from = |least: u64, count: u64| least + numbers.below(count);
    match from(0, 20) {
        0..=6 => write!(
            out,
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
            from(110, 30)
        ),
        7..=9 => write!(
            out,
            "Mozilla/5.0 (iPhone; CPU iPhone OS {}_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{}.0 Mobile/15E148 Safari/604.1",
            from(15, 4),
            from(0, 7),
            from(15, 4)
        ),
        10..=12 => write!(
            out,
            "Mozilla/5.0 (Linux; Android {}; SM-G{}B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Mobile Safari/537.36",
            from(10, 6),
            from(900, 99),
            from(110, 30)
        ),
        13..=14 => write!(
            out,
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{}.{} Safari/605.1.15",
            from(15, 4),
            from(0, 6)
        ),
        15..=16 => write!(
            out,
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0",
            from(100, 40)
        ),
        17 => write!(out, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        18 => write!(out, "okhttp/4.{}.{}", from(0, 13), from(0, 4)),
        _ => write!(
            out,
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/{}.0.0.0 Safari/537.36",
            from(100, 40)
        ),
    }
}
