//! nginx's `combined` format, and the common log format that it extends:
//!
//! ```text
//! $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"
//! 203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /index.html HTTP/1.1" 200 612 "-" "curl/8.5.0"
//! ```
//!
//! nginx's usual `main` has `"$http_x_forwarded_for"` behind the user agent.
//!
//! The client chooses `$remote_user`, `$request` and the headers. nginx writes each byte of them that is a quote, a
//! backslash, below 0x20 or above 0x7e as `\xHH`, so that the first quote of a line is always the one that opens the
//! request and the next the one that closes it, and so on with the headers. (A log of `escape=none` has no such
//! promise: there the headers say nothing.) They are read only where the policy asks for them.

use std::net::IpAddr;

use memchr::{memchr, memmem, memrchr};

use crate::detect::{
    record::{self, Record, RecordError},
    trail::Doubt,
};

/// The longest name of a method that is taken for one, in bytes.
const MAX_METHOD_BYTES: usize = 32;

/// Bytes of `20/Mar/2026:10:00:00 +0000`.
const LOCAL_TIME_BYTES: usize = 26;

/// Reads a line; its headers only where they are wanted.
#[inline]
pub(super) fn parse(line: &[u8], wants_headers: bool) -> Result<Record<'_>, RecordError> {
    let (client, rest) = client(line).ok_or(RecordError::Shape)?;
    let (time, rest) = time(rest).ok_or(RecordError::Shape)?;
    let (request, rest) = split_at(rest, closing_quote(rest)).ok_or(RecordError::Shape)?;
    let (status, rest) = status(rest).ok_or(RecordError::Shape)?;
    // Only now, when the line is known to be of this format, is the address blamed.
    let client = client.ok_or(RecordError::Client)?;
    // What is no request, such as a TLS handshake on a plain port, still has a client and a status.
    let (method, target) = request_line(request).unwrap_or_default();
    let (user_agent, forwarded_for) = if wants_headers { headers(rest) } else { (&b""[..], &b""[..]) };
    Ok(Record { time, method, target, status, user_agent, forwarded_for, ..Record::of(client) })
}

/// Reads a line's beginning: whose request it was and what for, and the status if the line gets so far.
pub(super) fn parse_beginning(line: &[u8]) -> Result<Record<'_>, RecordError> {
    let (client, rest) = client(line).ok_or(RecordError::Shape)?;
    let (time, rest) = time(rest).ok_or(RecordError::Shape)?;
    let client = client.ok_or(RecordError::Client)?;
    let (request, rest) = split_at(rest, closing_quote(rest)).unwrap_or((rest, b""));
    let (method, target) = request_line(request).ok_or(RecordError::Shape)?;
    let status = status(rest).map_or(&b""[..], |(status, _)| status);
    Ok(Record { time, method, target, status, ..Record::of(client) })
}

/// Whether the rest of a line with this first piece may begin in the user's name. Behind the time and its quote no
/// bracket, space and quote follow each other but a client's.
pub(super) fn doubt_after(first_piece: &[u8]) -> Doubt {
    if memmem::find(first_piece, b"] \"").is_some() { Doubt::Beginnings } else { Doubt::Next }
}

/// The address up to the first space, if it is one, and what follows the space.
fn client(line: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    if let Some((address, [b' ', rest @ ..])) = record::leading_ipv4(line) {
        return Some((Some(address.into()), rest));
    }
    let (client, rest) = split_at(line, memchr(b' ', line))?;
    Some((record::client(client), rest))
}

/// What stands left and right of the byte at `index`.
fn split_at(bytes: &[u8], index: Option<usize>) -> Option<(&[u8], &[u8])> {
    let (left, right) = bytes.split_at(index?);
    Some((left, &right[1..]))
}

/// `- user [time] "` → the time, and what follows the quote.
fn time(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    // Nearly always nobody has logged in, and the time begins right here, in its usual shape. (A user may be called
    // `- [a`, but then the shape isn't there.)
    if let Some(after) = rest.strip_prefix(b"- - [")
        && let Some((time, rest)) = after.split_at_checked(LOCAL_TIME_BYTES)
        && let [_, _, b'/', _, _, _, b'/', _, _, _, _, b':', _, _, b':', ..] = time
        && let Some(rest) = rest.strip_prefix(b"] \"")
    {
        return Some((time, rest));
    }
    unusual_time(rest)
}

/// A user's name may hold spaces and brackets, but no quote: the `] "` that is looked for is the real one, and the
/// time is what stands between it and the nearest bracket on its left.
#[cold]
fn unusual_time(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memmem::find(rest, b"] \"")?;
    let start = memrchr(b'[', &rest[..end])?;
    // `ident user ` stands before it; each has at least one byte.
    let idents = rest[..start].strip_suffix(b" ")?;
    let (ident, user) = split_at(idents, memchr(b' ', idents))?;
    (!ident.is_empty() && !user.is_empty()).then(|| (&rest[start + 1..end], &rest[end + 3..]))
}

/// The quote that ends the request. Apache escapes one inside as `\"`, nginx never leaves one.
#[inline]
fn closing_quote(rest: &[u8]) -> Option<usize> {
    let mut at = memchr(b'"', rest)?;
    while rest[..at].ends_with(b"\\") && is_escaped(&rest[..at]) {
        at += 1 + memchr(b'"', &rest[at + 1..])?;
    }
    Some(at)
}

/// Whether what comes after `before` has a backslash in front that isn't itself escaped.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// ` 404` and then nothing more, or a space: the status, and what follows.
fn status(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    match rest {
        [b' ', a, b, c, tail @ ..]
            if [a, b, c].iter().all(|byte| byte.is_ascii_digit()) && matches!(tail, [] | [b' ', ..]) =>
        {
            Some((&rest[1..4], tail))
        }
        _ => None,
    }
}

/// `GET /a b HTTP/1.1` → `GET` and `/a b`: what HTTP/1 clients send may hold spaces, so the last ` HTTP/` counts.
/// Without one it is HTTP/0.9, or a request that nginx answered with 400.
#[inline]
fn request_line(request: &[u8]) -> Option<(&[u8], &[u8])> {
    let (method, rest) = match request {
        [b'G', b'E', b'T', b' ', rest @ ..] => (&request[..3], rest),
        _ => method(request)?,
    };
    // The usual ` HTTP/1.1`, without a search.
    let target = match rest.split_last_chunk() {
        Some((target, [b' ', b'H', b'T', b'T', b'P', b'/', _, b'.', _])) => target,
        _ => &rest[..unusual_end(rest)],
    };
    (!target.is_empty()).then_some((method, target))
}

/// `POST /a` → `POST` and `/a`
fn method(request: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_of_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let (method, rest) = split_at(request, memchr(b' ', request))?;
    let is_method = (1..=MAX_METHOD_BYTES).contains(&method.len()) && method.iter().all(is_of_method);
    is_method.then_some((method, rest))
}

#[cold]
fn unusual_end(rest: &[u8]) -> usize {
    memmem::rfind(rest, b" HTTP/").unwrap_or(rest.len())
}

/// ` 612 "referer" "user agent" "forwarded for"` → the last two, each empty where it is absent.
fn headers(rest: &[u8]) -> (&[u8], &[u8]) {
    let user_agent = || {
        let size = rest.get(1..)?;
        let (size, rest) = size.split_at(memchr(b' ', size)?);
        let is_size = size == b"-" || size.iter().all(u8::is_ascii_digit);
        let (_referer, rest) = quoted(rest).filter(|_| is_size)?;
        quoted(rest)
    };
    let Some((user_agent, rest)) = user_agent() else { return (b"", b"") };
    (user_agent, quoted(rest).map_or(b"", |(forwarded_for, _)| forwarded_for))
}

/// ` "text"` → the text, and what follows the quote.
fn quoted(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = rest.strip_prefix(b" \"")?;
    split_at(text, closing_quote(text))
}

#[cfg(test)]
mod tests;
