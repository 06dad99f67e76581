//! What a line of a log says about one request, borrowed from the line and from whoever read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line that is looked at, in bytes; readers cut there too.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// One request, as the gateway logged it.
///
/// Everything but `client`, `time` and `status` is chosen by the sender and must be treated as hostile. What the
/// format or the line does not have is empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'line> {
    /// The peer that the gateway saw; a policy with `clientIP` puts the client in its place. IPv4-mapped IPv6 is IPv4
    /// here.
    pub client: IpAddr,
    /// The line's own time stamp, unread.
    pub time: &'line [u8],
    /// The request method.
    pub method: &'line [u8],
    /// The request target, escaped as the gateway logs it. Empty also where what the client sent is no HTTP request.
    pub target: &'line [u8],
    /// The response's status.
    pub status: &'line [u8],
    /// The host that was asked for.
    pub host: &'line [u8],
    /// What the client says that it is.
    pub user_agent: &'line [u8],
    /// The X-Forwarded-For header as the gateway got it: the peer is not in it.
    pub forwarded_for: &'line [u8],
}

impl Record<'_> {
    /// A request of which nothing but the client is known.
    #[must_use]
    pub const fn of(client: IpAddr) -> Self {
        Self {
            client,
            time: b"",
            method: b"",
            target: b"",
            status: b"",
            host: b"",
            user_agent: b"",
            forwarded_for: b"",
        }
    }
}

/// Why a line is no [`Record`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Nothing in it.
    #[error("the line is empty")]
    Empty,
    /// Over [`MAX_LINE_BYTES`].
    #[error("the line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not of the policy's format.
    #[error("the line is not of the format that the policy names")]
    Shape,
    /// Of the format, but no address stands where the client's should.
    #[error("there is no IP address where the format has the client's")]
    Client,
    /// Of the format, but what the client sent is no HTTP request, such as a TLS handshake on a plain port. Where every
    /// path is a hit, such lines count as others do.
    #[error("what the client sent is no HTTP request")]
    Request,
    /// The caller has no time stamp and the line none that is understood.
    #[error("the line has no time stamp that is understood, such as 20/Mar/2026:10:00:00 +0000")]
    Time,
    /// The runtime cut a longer line, and this is its beginning, its middle or its end.
    #[error("the line is a piece of a longer one, which the container runtime cut")]
    Piece,
    /// It came right after a line of 16 KiB or more, and may be the rest of it, which begins with what a client wrote.
    #[error("the line came right after one of 16 KiB or more, and may be the rest of that one")]
    Rest,
    /// It came right after a message of nginx that quotes what a client sent, line breaks and all, and may be a part of it.
    #[error(
        "the line came right after a message of nginx that quotes a client, and may be a part of that message"
    )]
    Quoted,
    /// Of no format, but the gateway's own words: what nginx writes to its error log, which is in the same
    /// container's log.
    #[error("the line is a message of the gateway itself, not a request")]
    Message,
}

impl RecordError {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::TooLong,
        Self::Shape,
        Self::Client,
        Self::Request,
        Self::Time,
        Self::Piece,
        Self::Rest,
        Self::Quoted,
        Self::Message,
    ];

    /// A short fixed name, for a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Shape => "shape",
            Self::Client => "client",
            Self::Request => "request",
            Self::Time => "time",
            Self::Piece => "piece",
            Self::Rest => "rest",
            Self::Quoted => "quoted",
            Self::Message => "message",
        }
    }
}

/// Reads an address as gateways write the client's: bare, or IPv6 in brackets.
///
/// Strict where a lenient reader would name somebody else: no leading zeros (octal to some), no port, no zone.
#[must_use]
pub fn client(text: &[u8]) -> Option<IpAddr> {
    if let Some(v4) = ipv4(text) {
        return Some(IpAddr::V4(v4));
    }
    let bare = match text {
        [b'[', inner @ .., b']'] => inner,
        _ => text,
    };
    let v6 = ipv6(bare).or_else(|| std::str::from_utf8(bare).ok()?.parse().ok())?;
    Some(IpAddr::V6(v6).to_canonical())
}

fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    leading_ipv4(text).filter(|(_, rest)| rest.is_empty()).map(|(address, _)| address)
}

/// The IPv4 address that a text begins with, and what follows it, which is no digit. By hand, since each line has one: a
/// third of the time that the standard library takes.
#[inline]
pub(super) fn leading_ipv4(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut padded = [b' '; WINDOW];
    let window = text.first_chunk().unwrap_or_else(|| {
        padded[..text.len()].copy_from_slice(text);
        &padded
    });
    let behind_dot = |at: usize| (window[at % WINDOW] == b'.').then_some(at + 1);
    let (first, at) = octet(window, 0)?;
    let (second, at) = octet(window, behind_dot(at)?)?;
    let (third, at) = octet(window, behind_dot(at)?)?;
    let (fourth, at) = octet(window, behind_dot(at)?)?;
    let address = Ipv4Addr::from_bits(first << 24 | second << 16 | third << 8 | fourth);
    (!window[at % WINDOW].is_ascii_digit()).then(|| (address, &text[at..]))
}

/// An address of 15 bytes and the byte behind it. (The remainders by it never matter, but spare a check of each place.)
const WINDOW: usize = 16;

/// A number to 255 of at most three digits, without the leading zeros that are octal to some, and its end.
fn octet(window: &[u8; WINDOW], at: usize) -> Option<(u32, usize)> {
    let digit = |place: usize| u32::from(window[place % WINDOW].wrapping_sub(b'0'));
    let first = digit(at);
    if first > 9 {
        return None;
    }
    let second = digit(at + 1);
    if second > 9 {
        return Some((first, at + 1));
    }
    if first == 0 {
        return None;
    }
    let third = digit(at + 2);
    if third > 9 {
        return Some((first * 10 + second, at + 2));
    }
    let value = first * 100 + second * 10 + third;
    (value <= 255).then_some((value, at + 3))
}

/// What each byte is as a hexadecimal digit; 16 where it is none.
const HEX_DIGITS: [u8; 256] = {
    let mut digits = [16; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// An IPv6 address in groups alone, by hand for the same reason.
fn ipv6(text: &[u8]) -> Option<Ipv6Addr> {
    let mut groups = [0_u16; 8];
    let (mut count, mut gap, mut rest) = (0, None, text);
    if let Some(after) = rest.strip_prefix(b"::") {
        (gap, rest) = (Some(0), after);
    }
    while !rest.is_empty() {
        let (mut group, mut digits) = (0_u16, 0);
        while let [byte, after @ ..] = rest
            && let digit @ 0..16 = HEX_DIGITS[usize::from(*byte)]
        {
            group = group << 4 | u16::from(digit);
            (digits, rest) = (digits + 1, after);
        }
        if !(1..=4).contains(&digits) {
            return None;
        }
        *groups.get_mut(count)? = group;
        count += 1;
        rest = match rest {
            [] => rest,
            [b':', b':', after @ ..] if gap.is_none() => {
                gap = Some(count);
                after
            }
            [b':', after @ ..] if !after.is_empty() => after,
            _ => return None,
        };
    }
    let absent = groups.len() - count;
    match gap {
        Some(gap) if absent > 0 => groups[gap..].rotate_right(absent),
        None if absent == 0 => {}
        _ => return None,
    }
    Some(groups.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_be_read_as_two_addresses_is_none() {
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7",        Some("203.0.113.7")), ("0.0.0.0",         Some("0.0.0.0")),
            ("2001:db8::1",        Some("2001:db8::1")), ("[2001:db8::1]",   Some("2001:db8::1")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")), ("2001:DB8::1",     Some("2001:db8::1")),
            ("203.0.113.07",       None),                ("203.0.113",       None),
            ("203.0.113.7.",       None),                ("203.0.113.7:80",  None),
            ("203.0.113.256",      None),                ("203.0..7",        None),
            ("[203.0.113.7]",      None),                ("fe80::1%eth0",    None),
            ("unix:",              None),                ("",                None),
            ("-",                  None),                ("00.1.2.3",        None),
        ];
        for (given, expect) in table {
            let got = client(given.as_bytes()).map(|address| address.to_string());
            assert_eq!(got.as_deref(), expect, "given {given:?}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_reads_as_the_standard_library_reads_it(text in "[0-9.]{1,16}") {
            prop_assert_eq!(ipv4(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn an_ipv6_address_reads_as_the_standard_library_reads_it(text in "(::)?([0-9a-fA-F]{0,5}::?){0,8}[0-9a-g]{0,4}(::)?") {
            let own = ipv6(text.as_bytes());
            let by_library = text.parse::<Ipv6Addr>().ok();
            prop_assert_eq!(own, by_library);
        }

        #[test]
        fn every_ipv6_address_is_read(bits: u128, mask: u128) {
            for bits in [bits, bits & mask, bits >> 64, bits << 64, bits & 0xffff_0000_0000_0000_0000_ffff_0000] {
                let address = Ipv6Addr::from_bits(bits);
                prop_assert_eq!(client(address.to_string().as_bytes()), Some(IpAddr::V6(address).to_canonical()));
            }
        }

        #[test]
        fn every_ipv4_address_is_read(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(ipv4(address.to_string().as_bytes()), Some(address));
        }
    }
}
