//! The request target in the one form that patterns are written for.
//!
//! Servers and scanners know many spellings of one path. Here each becomes the plain one, so that a pattern such as
//! `^/wp-admin` needs no knowledge of them:
//!
//! | spelling | becomes |
//! |---|---|
//! | `http://host/a`, `HTTPS://host` | `/a`, `/` |
//! | `a` | `/a` |
//! | `\x41` (how nginx logs a byte) | `A` |
//! | `%41`, twice `%2541`, any depth | `A` |
//! | `%u0041` (IIS) | `A` |
//! | `%3f`, `%23`, however deep | `%3F`, `%23`: these are part of the path and begin no query, no fragment |
//! | overlong UTF-8: `%c0%af`, `%e0%80%af`, `%f0%80%80%af` | `/` |
//! | `\` | `/` |
//! | `/a;b=c/d` | `/a/d` |
//! | `//`, `/./`, `/a/../` | `/`, `/`, `/` |
//! | `#fragment` | nothing |
//!
//! The query keeps its spelling: it follows the path after a `?`.

use memchr::{memchr, memchr2, memmem, memrchr};

/// The longest target that is looked at, in bytes: nginx refuses longer request lines by itself
/// (`large_client_header_buffers`, 8 KiB).
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Brings targets into their plain form, with one buffer for all of them.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    buffer: Vec<u8>,
}

impl Normaliser {
    /// The plain form of a target, of at most [`MAX_TARGET_BYTES`] of it.
    #[inline]
    pub fn normalise<'a>(&'a mut self, target: &'a [u8]) -> &'a [u8] {
        let target = &target[..target.len().min(MAX_TARGET_BYTES)];
        if is_plain(target) {
            return target;
        }
        let (path, query) = split(target);
        self.buffer.clear();
        decode(path, &mut self.buffer);
        resolve(&mut self.buffer);
        self.buffer.extend_from_slice(query);
        // The slash that was put in front may be one too many.
        self.buffer.truncate(MAX_TARGET_BYTES);
        &self.buffer
    }

    /// The plain form without the query.
    pub fn path<'a>(&'a mut self, target: &'a [u8]) -> &'a [u8] {
        let (path, _) = split(&target[..target.len().min(MAX_TARGET_BYTES)]);
        self.normalise(path)
    }
}

/// The path of a target and its query with the `?`; the scheme, the host and the fragment are left out.
#[must_use]
pub fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let target = without_authority(target);
    match memchr2(b'?', b'#', target) {
        None => (target, b""),
        Some(at) if target[at] == b'#' => (&target[..at], b""),
        Some(at) => {
            let (path, query) = target.split_at(at);
            (path, &query[..memchr(b'#', query).unwrap_or(query.len())])
        }
    }
}

/// Takes `scheme://host:port` off an absolute URI.
fn without_authority(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let Some(at) = memmem::find(&target[..target.len().min(16)], b"://") else { return target };
    if at == 0 || !target[..at].iter().all(u8::is_ascii_alphanumeric) {
        return target;
    }
    let rest = &target[at + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    &rest[end..]
}

/// Whether a target is in its plain form already, as nearly all are. May say no to one that is.
fn is_plain(target: &[u8]) -> bool {
    let Some((b'/', after)) = target.split_first() else { return false };
    let before = &target[..after.len()];
    let is_plain = |(byte, previous): &(&u8, &u8)| special(**byte, **previous) == 0;
    let end = first_special::<16>(after, before)
        .or_else(|| first_special::<8>(after, before))
        .unwrap_or_else(|| after.iter().zip(before).take_while(is_plain).count());
    match &after[end..] {
        [] => true,
        query @ [b'?', ..] => memchr(b'#', query).is_none(),
        _ => false,
    }
}

/// How many bytes stand before the first special one, of bytes and those before each, looked at so many at a time as the
/// processor can; `None` where there are fewer.
#[inline]
fn first_special<const LANES: usize>(bytes: &[u8], before: &[u8]) -> Option<usize> {
    let (last, last_before) = (bytes.last_chunk::<LANES>()?, before.last_chunk()?);
    for (index, (bytes, before)) in bytes.as_chunks().0.iter().zip(before.as_chunks().0).enumerate() {
        if let Some(lane) = special_lane::<LANES>(bytes, before) {
            return Some(LANES * index + lane);
        }
    }
    // The last ones, some of which are looked at twice.
    let lane = special_lane(last, last_before).unwrap_or(LANES);
    Some(bytes.len() - LANES + lane)
}

#[expect(
    clippy::inline_always,
    reason = "a call for each few bytes, and their constants loaded anew, cost a third"
)]
#[inline(always)]
fn special_lane<const LANES: usize>(bytes: &[u8; LANES], before: &[u8; LANES]) -> Option<usize> {
    let mut found = [0; LANES];
    for lane in 0..LANES {
        found[lane] = special(bytes[lane], before[lane]);
    }
    if found == [0; LANES] { None } else { found.iter().position(|&lane| lane != 0) }
}

/// Not 0 for a byte that some rule is about, or that ends the path. Without a branch, so that it runs on many bytes at
/// once.
fn special(byte: u8, previous: u8) -> u8 {
    let is = |wanted: u8| u8::from(byte == wanted);
    // One bit tells `;` from `?`, and one `.` from `/`.
    let is_parameter_or_query = u8::from(byte | (b';' ^ b'?') == b'?');
    let is_dot_or_slash = u8::from(previous == b'/') & u8::from(byte | (b'.' ^ b'/') == b'/');
    is(b'%') | is(b'\\') | is(b'#') | is_parameter_or_query | (byte & 0x80) | is_dot_or_slash
}

/// Undoes every encoding, however deep, in one pass: each byte that is put out may complete another sequence.
fn decode(path: &[u8], out: &mut Vec<u8>) {
    for &byte in path {
        out.push(byte);
        while let Some((length, decoded)) = decodable(out) {
            out.truncate(out.len() - length);
            if matches!(decoded, b'?' | b'#') {
                // Else it would begin what it was kept from beginning.
                out.extend_from_slice(if decoded == b'?' { b"%3F" } else { b"%23" });
                break;
            }
            out.push(decoded);
        }
    }
}

/// The encoded sequence at the end of `bytes`, if one is there: its length, and the byte that it stands for.
fn decodable(bytes: &[u8]) -> Option<(usize, u8)> {
    let last = *bytes.last()?;
    if last.is_ascii_hexdigit() {
        match bytes {
            [.., b'%', a, b] => return hex(*a, *b).map(|byte| (3, byte)),
            [.., b'\\', b'x', a, b] => return hex(*a, *b).map(|byte| (4, byte)),
            [.., b'%', b'u' | b'U', b'0', b'0', a, b] => {
                return hex(*a, *b).filter(u8::is_ascii).map(|byte| (6, byte));
            }
            _ => {}
        }
    }
    // Overlong UTF-8 of an ASCII character: only its last seven bits say anything.
    if (0x80..0xc0).contains(&last) {
        let low = last & 0x3f;
        let decoded = match bytes {
            [.., lead @ (0xc0 | 0xc1), _] => Some((2, (lead & 1) << 6 | low)),
            [.., 0xe0, middle @ (0x80 | 0x81), _] => Some((3, (middle & 1) << 6 | low)),
            [.., 0xf0, 0x80, middle @ (0x80 | 0x81), _] => Some((4, (middle & 1) << 6 | low)),
            _ => None,
        };
        // Two bytes have no room for the encoding that these two keep.
        return decoded.filter(|(_, byte)| !matches!(byte, b'?' | b'#'));
    }
    None
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Resolves `\`, `//`, `/./`, `/../` and `;parameters` in place, and makes the path begin with a slash.
fn resolve(path: &mut Vec<u8>) {
    let decoded = std::mem::take(path);
    let mut ends_with_slash = true;
    for segment in decoded.split(|&byte| matches!(byte, b'/' | b'\\')) {
        let name = &segment[..memchr(b';', segment).unwrap_or(segment.len())];
        ends_with_slash = matches!(name, b"" | b"." | b"..");
        match name {
            b"" | b"." => {}
            b".." => path.truncate(memrchr(b'/', path).unwrap_or(0)),
            name => {
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
    }
    if ends_with_slash {
        path.push(b'/');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalised(target: &[u8]) -> Vec<u8> {
        Normaliser::default().normalise(target).to_vec()
    }

    #[test]
    fn the_manual_has_the_same_table() {
        let manual = include_str!("../../../docs/detection.md");
        let rows: Vec<&str> =
            include_str!("target.rs").lines().filter_map(|line| line.strip_prefix("//! |")).collect();
        assert_eq!(rows.len(), 13);
        for row in rows {
            assert!(manual.contains(&format!("\n|{row}\n")), "docs/detection.md lacks |{row}");
        }
    }

    #[test]
    fn a_byte_is_special_where_a_rule_is_about_it() {
        for (byte, previous) in (0..=255).flat_map(|byte| (0..=255).map(move |previous| (byte, previous))) {
            let is_ruled = matches!(
                (previous, byte),
                (_, b'%' | b'\\' | b';' | b'#' | b'?' | 0x80..) | (b'/', b'/' | b'.')
            );
            assert_eq!(special(byte, previous) != 0, is_ruled, "byte {byte} behind {previous}");
        }
    }

    #[test]
    fn every_spelling_becomes_the_plain_one() {
        #[rustfmt::skip]
        let table: &[(&[u8], &[u8])] = &[
            // nothing to do
            (b"/index.html?a=%2e&b=//",        b"/index.html?a=%2e&b=//"),
            (b"/",                             b"/"),
            (b"/a/.env",                       b"/a/.env"),
            (b"/...",                          b"/..."),
            // absolute, and what is no path
            (b"http://a.example/x?y",          b"/x?y"),
            (b"HTTPS://a.example:8443",        b"/"),
            (b"http://a.example?y",            b"/?y"),
            (b"wp-admin",                      b"/wp-admin"),
            (b"*",                             b"/*"),
            (b"a.example:443",                 b"/a.example:443"),
            (b"",                              b"/"),
            (b"?x",                            b"/?x"),
            // encodings
            (b"/%77p-admin",                   b"/wp-admin"),
            (b"/%2577p-admin",                 b"/wp-admin"),
            (b"/%25252577p-admin",             b"/wp-admin"),
            (b"/%%37%37p-admin",               b"/wp-admin"),
            (b"/\\x2Eenv",                     b"/.env"),
            (b"/\\x2e\\x67it/",                b"/.git/"),
            (b"/%5Cx2eenv",                    b"/.env"),
            (b"/%u002eenv",                    b"/.env"),
            (b"/%U002Fa",                      b"/a"),
            (b"/%zz%4",                        b"/%zz%4"),
            (b"/%u00",                         b"/%u00"),
            (b"/a%00b",                        b"/a\0b"),
            (b"/%3f?%3f",                      b"/%3F?%3f"),
            (b"/a%2523b%%33Fc",                b"/a%23b%3Fc"),
            (b"/\\x3f\\x23%u003F",             b"/%3F%23%3F"),
            (b"/%c0%bf%c0%a3",                 b"/\xc0\xbf\xc0\xa3"),
            (b"/%c3%a9",                       "/é".as_bytes()),
            // overlong
            (b"/%c0%aeenv",                    b"/.env"),
            (b"/a%c0%af.env",                  b"/a/.env"),
            (b"/a%e0%80%af.env",               b"/a/.env"),
            (b"/a%f0%80%80%af.env",            b"/a/.env"),
            (b"/a/%c1%9c../b",                 b"/b"),
            (b"/%c1%b7p-admin",                b"/wp-admin"),
            (b"/%e0%81%b7p-admin",             b"/wp-admin"),
            (b"/%25c0%25ae%25c0%25ae/a",       b"/a"),
            (b"/\\xC0\\xAEenv",                b"/.env"),
            // slashes and dots
            (b"//wp-admin",                    b"/wp-admin"),
            (b"/a//b///c/",                    b"/a/b/c/"),
            (b"/./wp-admin",                   b"/wp-admin"),
            (b"/a/../wp-admin",                b"/wp-admin"),
            (b"/a/b/../../../../etc/passwd",   b"/etc/passwd"),
            (b"/a/.",                          b"/a/"),
            (b"/a/b/..",                       b"/a/"),
            (b"/..",                           b"/"),
            (b"\\..\\windows\\x5Cwin.ini",     b"/windows/win.ini"),
            (b"/%2e%2e/%2E%2E/a",              b"/a"),
            // parameters and fragments
            (b"/wp-admin;a=b/x",               b"/wp-admin/x"),
            (b"/a/..;/manager/html",           b"/manager/html"),
            (b"/;/.env",                       b"/.env"),
            (b"/a%3bb=c?d;e",                  b"/a?d;e"),
            (b"/wp-admin#x?y",                 b"/wp-admin"),
            (b"/wp-admin?y#x",                 b"/wp-admin?y"),
        ];
        for (given, expect) in table {
            let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
            assert_eq!(shown(&normalised(given)), shown(expect), "given {}", shown(given));
        }
    }

    #[test]
    fn the_path_is_the_plain_form_without_the_query() {
        let table: [(&[u8], &[u8]); 5] = [
            (b"//a/./b?c", b"/a/b"),
            (b"/a%3Fb?c", b"/a%3Fb"),
            (b"http://h/a#b?c", b"/a"),
            (b"http://h?c", b"/"),
            (b"", b"/"),
        ];
        for (given, expect) in table {
            assert_eq!(
                Normaliser::default().path(given).escape_ascii().to_string(),
                expect.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_target_at_the_limit_stays_there() {
        let once = normalised(&vec![b'a'; MAX_TARGET_BYTES]);
        assert_eq!((once.len(), &once[..2]), (MAX_TARGET_BYTES, &b"/a"[..]));
        assert_eq!(normalised(&once), once);
    }

    #[test]
    fn a_target_beyond_the_limit_is_cut_and_a_deep_encoding_costs_one_pass() {
        let hostile = [b"/%".to_vec(), b"25".repeat(MAX_TARGET_BYTES), b"41".to_vec()].concat();
        assert_eq!(normalised(&hostile), b"/%");
    }

    /// Bytes that the rules are about, and a few that they are not.
    fn any_path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"/".to_vec()),
            Just(b".".to_vec()),
            Just(b"..".to_vec()),
            Just(b";".to_vec()),
            Just(b"\\".to_vec()),
            Just(b"%".to_vec()),
            Just(b"%25".to_vec()),
            Just(b"%2e".to_vec()),
            Just(b"%2F".to_vec()),
            Just(b"\\x".to_vec()),
            Just(b"%u00".to_vec()),
            Just(b"\xc0".to_vec()),
            Just(b"\xaf".to_vec()),
            Just(b"%c0".to_vec()),
            Just(b"%ae".to_vec()),
            Just(b"41".to_vec()),
            Just(b"2".to_vec()),
            Just(b"5".to_vec()),
            Just(b"C".to_vec()),
            Just(b"http://a".to_vec()),
            Just(b"?".to_vec()),
            Just(b"#".to_vec()),
            Just(b"3f".to_vec()),
            Just(b"%23".to_vec()),
            Just(b"%bf".to_vec()),
            prop::collection::vec(any::<u8>(), 1..3),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_plain_form_of_a_plain_path_is_itself(path in any_path()) {
            let mut once = Vec::new();
            decode(&path, &mut once);
            resolve(&mut once);
            let mut twice = Vec::new();
            decode(&once, &mut twice);
            resolve(&mut twice);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn a_target_taken_for_plain_is_what_the_rules_make_of_it(
            path in r"(/[a-z.]{0,3}){0,12}[%;#\\/]?[a-z]{0,20}", query in r"(\?[a-z/.%;?]{0,30}#?)?",
        ) {
            let mut ruled = Vec::new();
            let target = path + &query;
            let (path, query) = split(target.as_bytes());
            decode(path, &mut ruled);
            resolve(&mut ruled);
            ruled.extend_from_slice(query);
            let is_plain = is_plain(target.as_bytes());
            prop_assert!(!is_plain || target.as_bytes() == ruled);
            // And whatever has nothing special is.
            let is_usual = target.starts_with('/') && !target.contains(['%', ';', '#', '\\']) && !path.windows(2).any(|pair| matches!(pair, [b'/', b'/' | b'.']));
            prop_assert!(is_plain || !is_usual);
        }

        #[test]
        fn the_plain_form_of_a_plain_form_is_itself(target in any_path()) {
            let once = normalised(&target);
            prop_assert_eq!(once.escape_ascii().to_string(), normalised(&once).escape_ascii().to_string());
        }

        #[test]
        fn a_plain_form_is_never_longer_than_its_spelling_and_a_slash(path in any_path()) {
            prop_assert!(normalised(&path).len() <= path.len() + 1);
        }
    }
}
