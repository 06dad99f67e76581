//! A JSON object a line, with the fields where the policy says.
//!
//! Whoever writes the log escapes what clients send, so a JSON reader can't be led out of a field. What could be read
//! in two ways is not read at all: a key that stands twice on the way to a field, or text behind the object.

mod pointers;

use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;

pub use self::pointers::JsonPointerError;
use self::pointers::{FIELDS, Field, Node};
use super::JsonDraft;
use crate::detect::record::{self, Record, RecordError};

/// Reads the lines of one log.
#[derive(Clone, Debug)]
pub(super) struct JsonLines {
    root: Node,
    has_path: bool,
    /// What the present line has in another spelling: escaped texts, and numbers.
    decoded: Vec<u8>,
}

impl JsonLines {
    pub(super) fn compile(draft: &JsonDraft) -> Result<Self, JsonPointerError> {
        Ok(Self { root: Node::compile(draft)?, has_path: draft.path.is_some(), decoded: Vec::new() })
    }

    pub(super) fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Record<'a>, RecordError> {
        self.read(line, false)
    }

    /// Reads what fields there are in the beginning of a line.
    pub(super) fn parse_beginning<'a>(&'a mut self, line: &'a [u8]) -> Result<Record<'a>, RecordError> {
        self.read(line, true)
    }

    fn read<'a>(&'a mut self, line: &'a [u8], may_be_cut: bool) -> Result<Record<'a>, RecordError> {
        self.decoded.clear();
        let mut found = Found { texts: [const { Text::Absent }; FIELDS], decoded: &mut self.decoded };
        let mut reader = Deserializer::from_slice(line);
        reader
            .deserialize_map(Place { node: &self.root, found: &mut found })
            .and_then(|()| reader.end())
            .or_else(|error| if may_be_cut && error.is_eof() { Ok(()) } else { Err(RecordError::Shape) })?;
        let texts = found.texts;
        let text = |field: Field| match &texts[field as usize] {
            Text::Absent => b"",
            Text::InLine(text) => *text,
            Text::Decoded(range) => &self.decoded[range.clone()],
        };
        let client = record::client(text(Field::Ip)).ok_or(RecordError::Client)?;
        let target = text(Field::Path);
        if self.has_path && target.is_empty() {
            return Err(RecordError::Request);
        }
        Ok(Record {
            client,
            time: text(Field::Time),
            method: text(Field::Method),
            target,
            status: text(Field::Status),
            host: text(Field::Host),
            user_agent: text(Field::UserAgent),
            forwarded_for: text(Field::ForwardedFor),
        })
    }
}

/// What one line says.
struct Found<'line, 'a> {
    texts: [Text<'line>; FIELDS],
    decoded: &'a mut Vec<u8>,
}

enum Text<'line> {
    Absent,
    InLine(&'line [u8]),
    Decoded(Range<usize>),
}

/// The value at one place of the pointers' tree: a field, or an object or a list on the way to some.
struct Place<'a, 'b, 'line> {
    node: &'a Node,
    found: &'a mut Found<'line, 'b>,
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.node.field() {
            None => reader.deserialize_any(self),
            Some(field) => reader.deserialize_option(Value { field, found: self.found }),
        }
    }
}

impl<'de> Visitor<'de> for Place<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("an object with the policy's fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = 0_u32;
        while let Some(index) = map.next_key_seed(Key(self.node))? {
            let Some(index) = index else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let bit = 1 << index;
            if seen & bit != 0 {
                return Err(A::Error::custom("a key stands twice"));
            }
            seen |= bit;
            let node = self.node.child(index);
            map.next_value_seed(Place { node, found: &mut *self.found })?;
        }
        Ok(())
    }

    /// Items of a list are named by their places.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for place in 0_usize.. {
            let next = match self.node.find(place.to_string().as_bytes()) {
                Some(index) => {
                    let node = self.node.child(index);
                    seq.next_element_seed(Place { node, found: &mut *self.found })?
                }
                None => seq.next_element::<IgnoredAny>()?.map(drop),
            };
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    // Where some lines have an object, others have none.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Which child of a node a key names. Keys may have bytes that are no text, where clients choose some.
struct Key<'a>(&'a Node);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.find(key))
    }
}

/// The value of a field: text, a number, or null for nothing.
struct Value<'a, 'b, 'line> {
    field: Field,
    found: &'a mut Found<'line, 'b>,
}

impl<'de> Visitor<'de> for Value<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("text or a number")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.field {
            Field::Status | Field::Time => reader.deserialize_any(self),
            // As bytes: a request for `/.env?\xff` must count.
            _ => reader.deserialize_bytes(self),
        }
    }

    fn visit_borrowed_bytes<E>(self, text: &'de [u8]) -> Result<(), E> {
        self.found.texts[self.field as usize] = Text::InLine(text);
        Ok(())
    }

    fn visit_bytes<E>(self, text: &[u8]) -> Result<(), E> {
        let start = self.found.decoded.len();
        self.found.decoded.extend_from_slice(text);
        self.found.texts[self.field as usize] = Text::Decoded(start..self.found.decoded.len());
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.visit_borrowed_bytes(text.as_bytes())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_bytes(number.to_string().as_bytes())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_bytes(number.to_string().as_bytes())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.visit_bytes(number.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests;
