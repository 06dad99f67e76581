//! The policy's JSON pointers as a tree of keys, so that one pass over a line finds all fields.

use crate::detect::format::JsonDraft;

/// The longest pointer, in bytes.
const MAX_POINTER_BYTES: usize = 256;

/// A field of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    Ip,
    Path,
    Status,
    Method,
    Host,
    UserAgent,
    Time,
    ForwardedFor,
}

/// How many there are.
pub(super) const FIELDS: usize = Field::ForwardedFor as usize + 1;

/// Why a pointer can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonPointerError {
    /// Not a pointer.
    #[error("{field} is no JSON pointer: write /{pointer}, with ~1 for a slash in a key and ~0 for a tilde")]
    Syntax {
        /// Which field.
        field: &'static str,
        /// What stands there, without the slashes that it begins with.
        pointer: String,
    },
    /// Longer than the limit.
    #[error("{field} has {bytes} bytes; {MAX_POINTER_BYTES} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How many it has.
        bytes: usize,
    },
    /// Two fields at one place, or one inside the other.
    #[error("{field} names what another field names already, or something inside it or around it")]
    Overlap {
        /// The later of the two.
        field: &'static str,
    },
}

/// A key on the way to a field, or the field itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    field: Option<Field>,
    children: Vec<(Box<[u8]>, Node)>,
}

impl Node {
    pub(super) fn compile(draft: &JsonDraft) -> Result<Self, JsonPointerError> {
        let fields = [
            ("ip", Field::Ip, Some(&draft.ip)),
            ("path", Field::Path, draft.path.as_ref()),
            ("status", Field::Status, draft.status.as_ref()),
            ("method", Field::Method, draft.method.as_ref()),
            ("host", Field::Host, draft.host.as_ref()),
            ("userAgent", Field::UserAgent, draft.user_agent.as_ref()),
            ("time", Field::Time, draft.time.as_ref()),
            ("forwardedFor", Field::ForwardedFor, draft.forwarded_for.as_ref()),
        ];
        let mut root = Self::default();
        for (name, field, pointer) in fields {
            if let Some(pointer) = pointer {
                root.add(name, field, pointer)?;
            }
        }
        Ok(root)
    }

    fn add(&mut self, name: &'static str, field: Field, pointer: &str) -> Result<(), JsonPointerError> {
        if pointer.len() > MAX_POINTER_BYTES {
            return Err(JsonPointerError::TooLong { field: name, bytes: pointer.len() });
        }
        let syntax = || JsonPointerError::Syntax {
            field: name,
            pointer: pointer.trim_start_matches('/').chars().take(MAX_POINTER_BYTES).collect(),
        };
        let mut node = self;
        for key in pointer.strip_prefix('/').filter(|keys| !keys.is_empty()).ok_or_else(syntax)?.split('/') {
            if key.replace("~0", "").replace("~1", "").contains('~') {
                return Err(syntax());
            }
            if node.field.is_some() {
                return Err(JsonPointerError::Overlap { field: name });
            }
            let key = key.replace("~1", "/").replace("~0", "~");
            let index = node.find(key.as_bytes()).unwrap_or_else(|| {
                node.children.push((key.into_bytes().into(), Self::default()));
                node.children.len() - 1
            });
            node = &mut node.children[index].1;
        }
        if node.field.is_some() || !node.children.is_empty() {
            return Err(JsonPointerError::Overlap { field: name });
        }
        node.field = Some(field);
        Ok(())
    }

    /// The field that is here; without one there are children.
    pub(super) fn field(&self) -> Option<Field> {
        self.field
    }

    /// Which child has that key.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        self.children.iter().position(|(own, _)| **own == *key)
    }

    pub(super) fn child(&self, index: usize) -> &Self {
        &self.children[index].1
    }
}
