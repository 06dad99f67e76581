//! The formats that ip-sentry knows, one row each.

use super::{Field, Fields, nginx_combined};
use crate::detect::{
    record::{Record, RecordError},
    trail::Doubt,
};

/// A format that ip-sentry knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Preset {
    /// nginx's `combined`, and what begins like it: the common log format, NGINX Gateway Fabric, ingress-nginx.
    ///
    /// The rest of a line reads as another client's only where it begins in the user's name, which may hold spaces and
    /// brackets and stands bare. nginx's header buffers of 8 KiB hold a name of 6 KiB, and escaping makes four bytes of
    /// one: enough to reach byte 16,384. From the request's opening quote on, a client's text has no quote of its own.
    NginxCombined,
}

impl Preset {
    /// Reads a line, and the user agent and X-Forwarded-For only if asked to where that takes longer.
    #[inline]
    pub(super) fn parse(self, line: &[u8], wants_headers: bool) -> Result<Record<'_>, RecordError> {
        match self {
            Self::NginxCombined => nginx_combined::parse(line, wants_headers),
        }
    }

    /// Reads a line's beginning.
    pub(super) fn parse_beginning(self, line: &[u8]) -> Result<Record<'_>, RecordError> {
        match self {
            Self::NginxCombined => nginx_combined::parse_beginning(line),
        }
    }

    /// Which lines after one with this first piece may be its rest and read as a line.
    pub(super) fn doubt_after(self, first_piece: &[u8]) -> Doubt {
        match self {
            Self::NginxCombined => nginx_combined::doubt_after(first_piece),
        }
    }

    /// What its records have.
    pub(super) const fn fields(self) -> Fields {
        match self {
            Self::NginxCombined => Fields::of(&[
                Field::Path,
                Field::Status,
                Field::Method,
                Field::UserAgent,
                Field::Time,
                Field::ForwardedFor,
            ]),
        }
    }
}
