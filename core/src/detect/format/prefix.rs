//! What others write in front of a gateway's line, and what can be taken off again:
//!
//! | in front of the line | by |
//! |---|---|
//! | `2026-11-22T10:00:00.123456789Z stdout F ` | the container runtime, in the node's files |
//! | `2026-11-22T10:00:00.123456789Z ` | `kubectl logs --timestamps` |
//! | `[pod/gateway-x/nginx] ` | `kubectl logs --prefix` |
//! | `<134>Nov 22 10:00:00 host nginx[7]: ` | syslog, RFC 3164; also without `<134>` or the host |
//! | `2026-11-22T10:00:00.123+01:00 host nginx[7]: ` | rsyslog's own files |
//! | `<134>1 2026-11-22T10:00:00.123Z host nginx 7 - - ` | syslog, RFC 5424 |
//! | `ESC[32m` | whoever likes colours |
//!
//! A line that its format reads as it stands is never touched. And nothing here is or passes over an address: a line
//! that begins with its client's has no prefix, whatever follows, so that no text of a client can come to its front.

use memchr::memchr;

use crate::detect::{date, record::RecordError};

/// How many may stand in front of each other.
const MAX_LAYERS: usize = 6;

/// Takes prefixes off the lines of one log.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    /// Whether the runtime's last line was cut, and so begins in the next: of standard output, of standard error.
    is_cut: [bool; 2],
}

/// A line without what stood in front of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bare<'line> {
    /// The line as the gateway wrote it.
    pub(super) line: &'line [u8],
    /// When the one who wrote the prefix saw it, unread; empty when it doesn't say.
    pub(super) stamp: &'line [u8],
}

impl Prefixes {
    /// What stands behind all prefixes; `None` when there is none.
    pub(super) fn strip<'line>(&mut self, line: &'line [u8]) -> Result<Option<Bare<'line>>, RecordError> {
        let mut bare = Bare { line, stamp: b"" };
        for _ in 0..MAX_LAYERS {
            let Some(layer) = layer(bare.line) else { break };
            bare.line = layer.rest;
            if !layer.stamp.is_empty() {
                bare.stamp = layer.stamp;
            }
            if let Some(piece) = layer.piece {
                self.whole(piece)?;
            }
        }
        Ok((bare.line.len() < line.len()).then_some(bare))
    }

    /// The runtime cuts lines at 16 KiB. The end of one could begin with anything that a client wrote, so neither
    /// piece is a line.
    fn whole(&mut self, piece: Piece) -> Result<(), RecordError> {
        let was_cut = std::mem::replace(&mut self.is_cut[usize::from(piece.is_error)], piece.is_cut);
        if was_cut || piece.is_cut { Err(RecordError::Piece) } else { Ok(()) }
    }
}

#[derive(Clone, Copy)]
struct Layer<'line> {
    rest: &'line [u8],
    stamp: &'line [u8],
    piece: Option<Piece>,
}

/// What the runtime says of its line.
#[derive(Clone, Copy)]
struct Piece {
    is_error: bool,
    is_cut: bool,
}

/// The foremost prefix. What it is shows in its own first words; what follows has no say in it.
fn layer(line: &[u8]) -> Option<Layer<'_>> {
    let plain = |rest| Some(Layer { rest, stamp: b"", piece: None });
    match line {
        [b'\x1b', b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';'))?;
            plain(rest[end..].strip_prefix(b"m")?)
        }
        [b'[', b'p', b'o', b'd', b'/', ..] => {
            let (source, rest) = word(line)?;
            source.ends_with(b"]").then_some(rest).and_then(plain)
        }
        [b'<', rest @ ..] => {
            let (priority, rest) = split_at(rest, memchr(b'>', &rest[..rest.len().min(4)]))?;
            if priority.is_empty() || !priority.iter().all(u8::is_ascii_digit) {
                return None;
            }
            match rest {
                [b'1', b' ', rest @ ..] => rfc5424(rest),
                _ => {
                    dateless(rest).map(|rest| Layer { rest, stamp: b"", piece: None }).or_else(|| dated(rest))
                }
            }
        }
        [b'0'..=b'9', ..] => dated(line),
        [b'A'..=b'Z', ..] => dateless(line).and_then(plain),
        _ => None,
    }
}

/// `2026-11-22T10:00:00Z `, and then what the runtime or a syslog says, or nothing.
fn dated(line: &[u8]) -> Option<Layer<'_>> {
    let (stamp, rest) = word(line)?;
    if !matches!(stamp, [_, _, _, _, b'-', _, _, b'-', _, _, b'T', ..]) {
        return None;
    }
    date::timestamp(stamp)?;
    let (rest, piece) = match rest {
        [b's', b't', b'd', b'o', b'u', b't', b' ', flag @ (b'F' | b'P'), b' ', rest @ ..] => {
            (rest, Some(Piece { is_error: false, is_cut: *flag == b'P' }))
        }
        [b's', b't', b'd', b'e', b'r', b'r', b' ', flag @ (b'F' | b'P'), b' ', rest @ ..] => {
            (rest, Some(Piece { is_error: true, is_cut: *flag == b'P' }))
        }
        _ => (program(rest).unwrap_or(rest), None),
    };
    Some(Layer { rest, stamp, piece })
}

/// `Nov 22 10:00:00 host nginx[7]: `: a date without a year.
fn dateless(line: &[u8]) -> Option<&[u8]> {
    const LIKE: &[u8; 16] = b"Aaa 00 00:00:00 ";
    let (date, rest) = line.split_at_checked(LIKE.len())?;
    let is_date = date.iter().zip(LIKE).all(|(byte, like)| match like {
        b'0' => byte.is_ascii_digit() || *byte == b' ',
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        _ => byte == like,
    });
    if is_date { program(rest) } else { None }
}

/// `host nginx[7]: ` or `nginx: `
fn program(line: &[u8]) -> Option<&[u8]> {
    let tag = |word: &[u8]| {
        let word = word.strip_suffix(b":")?;
        let end = memchr(b'[', word).unwrap_or(word.len());
        let (name, id) = word.split_at(end);
        let is_id = matches!(id, [] | [b'[', .., b']'])
            && id.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'[' | b']'));
        (is_id && is_name(name)).then_some(())
    };
    let (first, rest) = word(line)?;
    if tag(first).is_some() {
        return Some(rest);
    }
    let (second, rest) = word(rest)?;
    (is_name(first) && tag(second).is_some()).then_some(rest)
}

/// `2026-11-22T10:00:00Z host nginx 7 - - `; the structured data may be `[a b="c"][d]`.
fn rfc5424(line: &[u8]) -> Option<Layer<'_>> {
    let (stamp, mut rest) = word(line)?;
    date::timestamp(stamp).filter(|_| stamp.contains(&b'T'))?;
    for place in 0..4 {
        let (field, after) = word(rest)?;
        let is_number = place == 2 && field.iter().all(u8::is_ascii_digit);
        if field != b"-" && !is_number && !is_name(field) {
            return None;
        }
        rest = after;
    }
    if let Some(rest) = rest.strip_prefix(b"- ") {
        return Some(Layer { rest, stamp, piece: None });
    }
    let end = structured_data_end(rest)?;
    Some(Layer { rest: rest[end..].strip_prefix(b" ")?, stamp, piece: None })
}

/// The end of `[a b="c\"]"][d]`.
fn structured_data_end(data: &[u8]) -> Option<usize> {
    let (mut is_open, mut is_quoted, mut is_escaped) = (false, false, false);
    for (index, &byte) in data.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' if is_open => is_quoted = !is_quoted,
            _ if is_quoted => {}
            b'[' if !is_open => is_open = true,
            b']' if is_open => is_open = false,
            _ if is_open => {}
            _ => return (index > 0).then_some(index),
        }
    }
    None
}

/// Whether it is a host's or a program's name: no colon, and at least one letter, so that no address is one.
fn is_name(word: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
    word.iter().all(is_part) && word.iter().any(u8::is_ascii_alphabetic)
}

/// The bytes up to the first space, and those after it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    split_at(line, memchr(b' ', line))
}

fn split_at(bytes: &[u8], index: Option<usize>) -> Option<(&[u8], &[u8])> {
    let (left, right) = bytes.split_at(index?);
    Some((left, &right[1..]))
}

#[cfg(test)]
pub(super) mod tests;
