//! Kinds that are watched, read into no more than is needed; the bans are one.

use std::time::Instant;

use ip_sentry_core::{
    enforce::view::{BanKey, Bans, ForeignName, Until},
    net::{Source, SourceError},
};
use jiff::Timestamp;
use serde::Deserialize;

use super::items::Overlong;
use crate::heard::Heard;

/// A kind as the watch needs it.
pub trait Kind {
    /// Its plural, as in paths.
    const PLURAL: &'static str;
    /// What a list is gathered into.
    type Listing: Listing;
    /// One object.
    type Item;

    /// What a whole list tells.
    fn listed(&mut self, listing: Self::Listing, version: String) -> Vec<Heard>;
    /// Reads an object; `gone` says that it was deleted.
    fn read(object: &[u8], gone: bool) -> Result<Self::Item, ItemError>;
    /// What a changed object tells.
    fn changed(&mut self, item: Self::Item, version: String, at: Instant) -> Option<Heard>;
}

/// What a list is gathered into.
pub trait Listing: Default + Send {
    /// Takes in one object.
    fn take(&mut self, item: &[u8]) -> Result<(), ItemError>;
}

/// Why an object was left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Not the object it should be.
    #[error("not readable")]
    Json(#[from] serde_json::Error),
    /// What it bans can't be banned.
    #[error("{name}: spec.cidr {cidr:?}")]
    Source {
        /// The object.
        name: String,
        /// What it says.
        cidr: String,
        /// What is wrong with that.
        source: SourceError,
    },
    /// It isn't named after its network.
    #[error(transparent)]
    Name(#[from] ForeignName),
    /// Its end is no time.
    #[error("{name}: spec.expiresAt is not a time such as 2026-11-22T10:00:00Z")]
    Time {
        /// The object.
        name: String,
        /// Why not.
        source: jiff::Error,
    },
    /// It has no end within reason.
    #[error(transparent)]
    Overlong(#[from] Overlong),
}

/// The bans.
#[derive(Debug, Default)]
pub struct IpBans;

/// What is needed of an IPBan.
#[derive(Deserialize)]
struct LeanBan {
    metadata: LeanMetadata,
    spec: LeanBanSpec,
}

/// What is needed of any object's metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeanMetadata {
    pub(super) name: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeanBanSpec {
    cidr: String,
    #[serde(default)]
    expires_at: Option<String>,
}

/// Which ban, and until when; `None` once it was deleted, or is being.
fn read_ban(object: &[u8], gone: bool) -> Result<(BanKey, Option<Until>), ItemError> {
    let ban: LeanBan = serde_json::from_slice(object)?;
    let name = ban.metadata.name;
    let source: Source = match ban.spec.cidr.parse() {
        Ok(source) => source,
        Err(source) => {
            return Err(ItemError::Source { name, cidr: ban.spec.cidr.chars().take(64).collect(), source });
        }
    };
    let key = BanKey::of(&name, source)?;
    if gone || ban.metadata.deletion_timestamp.is_some() {
        return Ok((key, None));
    }
    let until = match ban.spec.expires_at {
        None => Until::DELETED,
        Some(text) => {
            let time: Timestamp = text.parse().map_err(|source| ItemError::Time { name, source })?;
            Until::at(time)
        }
    };
    Ok((key, Some(until)))
}

impl Listing for Bans {
    fn take(&mut self, item: &[u8]) -> Result<(), ItemError> {
        if let (key, Some(until)) = read_ban(item, false)? {
            self.insert(key, until);
        }
        Ok(())
    }
}

impl Kind for IpBans {
    const PLURAL: &'static str = "ipbans";
    type Listing = Bans;
    type Item = (BanKey, Option<Until>);

    fn listed(&mut self, bans: Bans, version: String) -> Vec<Heard> {
        vec![Heard::Bans { bans, version }]
    }

    fn read(object: &[u8], gone: bool) -> Result<Self::Item, ItemError> {
        read_ban(object, gone)
    }

    fn changed(&mut self, (key, until): Self::Item, version: String, at: Instant) -> Option<Heard> {
        Some(Heard::Ban { key, until, version, at })
    }
}

/// An event of a watch.
pub struct Event<T> {
    /// The object, unless this is a bookmark.
    pub item: Option<T>,
    /// Where the watch stands now.
    pub version: Option<String>,
}

/// Why a line of a watch is no event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The server no longer remembers the version.
    #[error("gone")]
    Gone,
    /// The server ends the watch.
    #[error("{status}: {message}")]
    Status {
        /// Its code.
        status: u16,
        /// What it says.
        message: String,
    },
    /// The object can't be understood.
    #[error("an object can't be understood")]
    Item {
        /// Why.
        error: ItemError,
        /// Where the watch stands all the same.
        version: Option<String>,
    },
}

/// An event without its object's own fields.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: HeadObject,
}

#[derive(Default, Deserialize)]
struct HeadObject {
    #[serde(default)]
    metadata: HeadMetadata,
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    #[serde(default)]
    resource_version: Option<String>,
}

/// Where in an event the object lies.
#[derive(Deserialize)]
struct WithObject<'a> {
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

impl<T> Event<T> {
    /// Reads a line of a watch.
    pub fn read<K: Kind<Item = T>>(line: &[u8]) -> Result<Self, EventError> {
        let head: Head = serde_json::from_slice(line)
            .map_err(|error| EventError::Item { error: error.into(), version: None })?;
        let version = head.object.metadata.resource_version;
        match head.kind.as_str() {
            "BOOKMARK" => Ok(Self { item: None, version }),
            "ERROR" if head.object.code == Some(410) => Err(EventError::Gone),
            "ERROR" => Err(EventError::Status {
                status: head.object.code.unwrap_or_default(),
                message: head.object.message.unwrap_or_default(),
            }),
            kind => {
                let item = serde_json::from_slice::<WithObject>(line)
                    .map_err(ItemError::from)
                    .and_then(|with| K::read(with.object.get().as_bytes(), kind == "DELETED"));
                match item {
                    Ok(item) => Ok(Self { item: Some(item), version }),
                    Err(error) => Err(EventError::Item { error, version }),
                }
            }
        }
    }
}

/// What a `Status` says, or the beginning of whatever was sent in its place.
#[must_use]
pub fn status_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}
