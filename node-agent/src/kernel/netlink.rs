//! Netlink: requests and dumps as bytes, for the few messages that no crate has.
//!
//! Owns one socket and its buffers. A [`Message`] is written attribute by attribute, [`attributes`] reads one
//! back. Replies come from the kernel, yet nothing here trusts a length in them.

use std::io;

use netlink_sys::Socket;

/// The kernel's own protocols.
pub use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

/// Length of a netlink header, in bytes.
const HEADER: usize = 16;
/// Room for a reply: an error quotes the request, which is at most 64 KiB, and dumps come in 32 KiB.
const RECEIVE_BYTES: usize = 128 * 1024;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// Fail where the object exists (create) or where nothing would change.
pub const NLM_F_EXCL: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The attribute holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;
/// The attribute's number is big-endian.
const NLA_F_NET_BYTEORDER: u16 = 1 << 14;

/// What became of a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel said no, with an errno or a number of the subsystem's own (4096 and up).
    #[error("the kernel refused with error {code}")]
    Refused {
        /// The positive error number.
        code: i32,
        /// The request's attributes as the kernel quotes them, some of them filled in.
        quoted: Vec<u8>,
    },
    /// The socket failed.
    #[error("the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The reply makes no sense.
    #[error("the kernel's reply is malformed")]
    Malformed,
}

impl NetlinkError {
    /// The error number of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A netlink socket with its buffers.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of that protocol.
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0, sent: Vec::new(), received: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Sends a message and waits for the kernel's word on it.
    pub fn request(&mut self, message: Message) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_ACK)?;
        self.receive(|_, _| {})
    }

    /// Sends a message and hands every reply's type and payload to `each` until the kernel says that it is done.
    pub fn dump(&mut self, message: Message, each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_ACK | NLM_F_DUMP)?;
        self.receive(each)
    }

    /// Sends a message that is answered by one reply and an acknowledgement.
    pub fn get(&mut self, message: Message, each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_ACK)?;
        self.receive(each)
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.sent = message.bytes;
        let length = u32::try_from(self.sent.len()).map_err(|_| NetlinkError::Malformed)?;
        let flags = message.flags | flags | NLM_F_REQUEST;
        self.sent[0..4].copy_from_slice(&length.to_ne_bytes());
        self.sent[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.sent[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&self.sent, 0)?;
        Ok(())
    }

    fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        loop {
            self.received.clear();
            let length = self.socket.recv(&mut self.received, 0)?;
            if length == 0 || length > self.received.len() {
                return Err(NetlinkError::Malformed);
            }
            let mut rest = &self.received[..];
            while rest.len() >= HEADER {
                let length = u32_at(rest, 0) as usize;
                if length < HEADER || length > rest.len() {
                    return Err(NetlinkError::Malformed);
                }
                let (message, tail) = rest.split_at(length);
                rest = tail.get(padding(length)..).unwrap_or_default();
                // An answer to a request that was given up on.
                if u32_at(message, 8) != self.sequence {
                    continue;
                }
                let payload = &message[HEADER..];
                match u16_at(message, 4) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR if payload.len() < 4 => return Err(NetlinkError::Malformed),
                    NLMSG_ERROR => return verdict(payload),
                    kind => each(kind, payload),
                }
            }
        }
    }
}

/// What an error message says: zero is an acknowledgement.
fn verdict(payload: &[u8]) -> Result<(), NetlinkError> {
    let code = u32_at(payload, 0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    let quoted = payload.get(4 + HEADER..).unwrap_or_default().to_vec();
    Err(NetlinkError::Refused { code: code.saturating_neg(), quoted })
}

/// A request that is being written.
pub struct Message {
    bytes: Vec<u8>,
    flags: u16,
}

/// A nested attribute that is open.
#[derive(Clone, Copy)]
#[must_use]
pub struct Nest(usize);

impl Message {
    /// A message of that type; `header` is the protocol's own fixed part.
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(header);
        Self { bytes, flags }
    }

    /// What follows the header, as a receiver is handed it.
    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len() + padding(value.len()), 0);
    }

    /// Appends a text, ended by a zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends a big-endian number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
    }

    /// Appends bytes in network order, such as an address.
    pub fn network_order(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind | NLA_F_NET_BYTEORDER, value);
    }

    /// Opens an attribute that holds what follows.
    pub fn open(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        Nest(at)
    }

    /// Closes it.
    pub fn close(&mut self, nest: Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).unwrap_or(u16::MAX);
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The attributes in `bytes`, type and value; it ends at the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0));
        let kind = u16_at(rest, 2) & !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
        let value = rest.get(4..length)?;
        rest = rest.get(length + padding(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that type.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A big-endian number of four bytes.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A big-endian number of eight bytes.
#[must_use]
pub fn long_number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A text up to its zero.
#[must_use]
pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut number = [0; 2];
    number.copy_from_slice(&bytes[at..at + 2]);
    u16::from_ne_bytes(number)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(0x0602, 0, &[2, 0, 0, 0]);
        message.text(2, "ipsentry-hosts4");
        let nest = message.open(7);
        message.number(6, 600);
        message.attribute(3, &[24]);
        message.close(nest);
        let payload = &message.bytes[HEADER + 4..];
        assert_eq!(attribute(payload, 2).and_then(text), Some("ipsentry-hosts4"));
        let data = attribute(payload, 7).unwrap();
        assert_eq!(attribute(data, 6).and_then(number), Some(600));
        assert_eq!(attribute(data, 3), Some(&[24][..]));
        assert_eq!(attribute(data, 9), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= 50);
        }
    }
}
