//! The formats that ip-sentry knows, one row each.

use super::{Field, Fields, nginx_combined};
use crate::detect::record::{Record, RecordError};

/// A format that ip-sentry knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Preset {
    /// nginx's `combined`, and what begins like it: the common log format, NGINX Gateway Fabric, ingress-nginx.
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
