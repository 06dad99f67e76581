//! Which parts of a request a format can tell.

use std::fmt;

/// A part of a request that not every format has. The client's address is in all of them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Field {
    /// The request target.
    Path,
    /// The response's status.
    Status,
    /// The request method.
    Method,
    /// The host that was asked for.
    Host,
    /// What the client says that it is.
    UserAgent,
    /// When it was logged.
    Time,
    /// The X-Forwarded-For header.
    ForwardedFor,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "path",
            Self::Status => "status",
            Self::Method => "method",
            Self::Host => "host",
            Self::UserAgent => "user agent",
            Self::Time => "time",
            Self::ForwardedFor => "X-Forwarded-For header",
        })
    }
}

/// The parts that a format has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fields(u8);

impl Fields {
    /// These, and no others.
    #[must_use]
    pub const fn of(fields: &[Field]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < fields.len() {
            bits |= 1 << fields[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// These and one more, if it is there.
    #[must_use]
    pub const fn with(self, field: Field, is_there: bool) -> Self {
        Self(self.0 | (is_there as u8) << field as u8)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}
