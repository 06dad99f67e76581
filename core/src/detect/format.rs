//! How a gateway writes its log: a line comes in, a [`Record`] or the reason why it is none goes out.
//!
//! A preset is a parser of its own, one file each; anything else is the policy's own regular expression or JSON
//! pointers.

mod fields;
mod json;
mod line_regex;
mod nginx_combined;
mod prefix;
mod presets;
mod steps;

use memchr::{memchr, memmem};

pub use self::{
    fields::{Field, Fields},
    json::JsonPointerError,
    line_regex::LineRegexError,
    presets::Preset,
};
use self::{
    json::JsonLines,
    line_regex::LineRegex,
    prefix::{Bare, Prefixes},
};
use super::{
    record::{MAX_LINE_BYTES, Record, RecordError},
    trail::{Doubt, PIECE_BYTES},
};

/// A format as a policy names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FormatDraft {
    /// One that ip-sentry knows.
    Preset(Preset),
    /// A regular expression with the groups `ip` and `path`, or with the address in group 1 and the path in group 2.
    Regex(String),
    /// A JSON object a line, with the fields at these places.
    Json(JsonDraft),
}

/// Where in a JSON object the fields are, as JSON pointers (RFC 6901) such as `/request/path`, of at most 256 bytes.
///
/// The log must be JSON whatever clients send: nginx's `log_format` needs `escape=json` for that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JsonDraft {
    /// The client's address.
    pub ip: String,
    /// The request target.
    pub path: Option<String>,
    /// The response's status, a number or text.
    pub status: Option<String>,
    /// The request method.
    pub method: Option<String>,
    /// The host that was asked for.
    pub host: Option<String>,
    /// What the client says that it is.
    pub user_agent: Option<String>,
    /// When it was logged.
    pub time: Option<String>,
    /// The X-Forwarded-For header.
    pub forwarded_for: Option<String>,
}

impl JsonDraft {
    fn fields(&self) -> Fields {
        let pointers = [
            (Field::Path, &self.path),
            (Field::Status, &self.status),
            (Field::Method, &self.method),
            (Field::Host, &self.host),
            (Field::UserAgent, &self.user_agent),
            (Field::Time, &self.time),
            (Field::ForwardedFor, &self.forwarded_for),
        ];
        pointers
            .into_iter()
            .fold(Fields::default(), |all, (field, pointer)| all.with(field, pointer.is_some()))
    }
}

/// Why a draft can't be a [`Format`]. Fields are named as in a ProbePolicy's spec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The regular expression.
    #[error("format.regex {0}")]
    Regex(#[from] LineRegexError),
    /// A JSON pointer.
    #[error("format.json.{0}")]
    Json(#[from] JsonPointerError),
    /// No path, though the policy looks at it.
    #[error("format.json.path is needed, unless match.anyPath is true")]
    NoPath,
}

/// A format, ready to read lines.
#[derive(Clone, Debug)]
pub struct Format {
    parser: Parser,
    fields: Fields,
    prefixes: Prefixes,
    wants_headers: bool,
}

#[derive(Clone, Debug)]
enum Parser {
    Preset(Preset),
    Regex(Box<LineRegex>),
    Json(Box<JsonLines>),
}

impl Format {
    /// Compiles a draft.
    pub fn compile(draft: &FormatDraft) -> Result<Self, FormatError> {
        let (parser, fields) = match draft {
            FormatDraft::Preset(preset) => (Parser::Preset(*preset), preset.fields()),
            FormatDraft::Regex(text) => {
                let regex = LineRegex::compile(text)?;
                let fields = regex.fields();
                (Parser::Regex(Box::new(regex)), fields)
            }
            FormatDraft::Json(draft) => (Parser::Json(Box::new(JsonLines::compile(draft)?)), draft.fields()),
        };
        Ok(Self { parser, fields, prefixes: Prefixes::default(), wants_headers: true })
    }

    /// Whether records must say the user agent and X-Forwarded-For: with a preset it is quicker when they need not.
    pub(super) fn want_headers(&mut self, wants_headers: bool) {
        self.wants_headers = wants_headers;
    }

    /// What it takes compiled, with what searches may cache, in bytes.
    pub(super) fn memory_usage(&self) -> usize {
        match &self.parser {
            Parser::Regex(regex) => regex.memory_usage(),
            Parser::Preset(_) | Parser::Json(_) => 0,
        }
    }

    /// Which parts of a request its records may have.
    pub(super) fn fields(&self) -> Fields {
        self.fields
    }

    /// Reads one line, without its newline. What others wrote in front of it is left out.
    #[expect(clippy::inline_always, reason = "lines of a usual length come by one of its two callers")]
    #[inline(always)]
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Record<'a>, RecordError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(RecordError::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(RecordError::Empty);
        }
        let prefixes = &mut self.prefixes;
        match &mut self.parser {
            Parser::Preset(preset) => {
                let (preset, wants_headers) = (*preset, self.wants_headers);
                bare_or_whole(prefixes, line, |line| preset.parse(line, wants_headers))
            }
            Parser::Regex(regex) if regex.is_known_by_its_beginning() => {
                bare_or_whole(prefixes, line, |line| regex.parse(line))
            }
            // What a line begins with may be a client's, and look like any prefix.
            Parser::Regex(regex) => regex.parse(line).map_err(|error| blame(error, line)),
            // No prefix begins as an object does.
            Parser::Json(json) => {
                let bare = prefixes.strip(line)?.unwrap_or(Bare { line, stamp: b"" });
                let read = json.parse(bare.line).map_err(|error| blame(error, bare.line));
                read.map(|record| dated(record, bare.stamp))
            }
        }
    }
}

/// Long lines: what is certain about them, and about the lines that follow them.
impl Format {
    /// Reads a line that may be long; the flag says that only its beginning was read.
    ///
    /// From [`PIECE_BYTES`] on a long line may be another's text, which the kubelet has joined with it. So a long line
    /// counts for the client that its first piece names, and for no other.
    pub(super) fn read<'a>(&'a mut self, line: &'a [u8]) -> (Result<Record<'a>, RecordError>, bool) {
        if line.len() < PIECE_BYTES {
            return (self.parse(line), false);
        }
        let is_too_long = line.len() > MAX_LINE_BYTES;
        let line = &line[..line.len().min(MAX_LINE_BYTES)];
        let is_whole = match self.parse(line) {
            Ok(_) => true,
            Err(RecordError::Shape) => false,
            Err(error) => return (Err(error), false),
        };
        let read = if is_whole { self.parse(line) } else { self.parse_beginning(line) };
        match read {
            Err(RecordError::Shape) if is_too_long => (Err(RecordError::TooLong), false),
            read => (read, !is_whole),
        }
    }

    fn parse_beginning<'a>(&'a mut self, line: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let prefixes = &mut self.prefixes;
        match &mut self.parser {
            Parser::Preset(preset) => {
                let preset = *preset;
                bare_or_whole(prefixes, line, |line| preset.parse_beginning(line))
            }
            Parser::Regex(regex) => {
                bare_or_whole(prefixes, line, |line| regex.parse_beginning(up_to_piece(line)))
            }
            Parser::Json(json) => {
                let bare = prefixes.strip(line)?.unwrap_or(Bare { line, stamp: b"" });
                json.parse_beginning(up_to_piece(bare.line)).map(|record| dated(record, bare.stamp))
            }
        }
    }

    /// Which of the lines after this one may be its rest and read as a line; `None` after one that is not long.
    ///
    /// A rest begins at byte [`PIECE_BYTES`] or later, with whatever a client wrote there. For each format it is stated
    /// whether that can read as a line of another client, and `fuzz/targets/rest.rs` tries:
    ///
    /// | format | the rest reads as a line |
    /// |---|---|
    /// | a preset | see [`Preset`] |
    /// | JSON | never: the rest of a string leaves a quote over, the rest of an object a brace |
    /// | a regular expression | perhaps: nobody knows which of its groups hold what |
    ///
    /// Of a rest that is long again only the beginning may be read, which leaves nothing over: that is in doubt always.
    pub(super) fn doubt_after(&self, line: &[u8]) -> Option<Doubt> {
        let first_piece = line.get(..PIECE_BYTES)?;
        Some(match &self.parser {
            Parser::Preset(preset) => preset.doubt_after(first_piece),
            Parser::Regex(_) => Doubt::All,
            Parser::Json(_) => Doubt::Beginnings,
        })
    }
}

fn up_to_piece(line: &[u8]) -> &[u8] {
    &line[..line.len().min(PIECE_BYTES)]
}

/// Reads a line as it stands, or else without its prefixes.
#[inline]
fn bare_or_whole<'line>(
    prefixes: &mut Prefixes,
    line: &'line [u8],
    mut parse: impl FnMut(&'line [u8]) -> Result<Record<'line>, RecordError>,
) -> Result<Record<'line>, RecordError> {
    match parse(line) {
        Err(error @ (RecordError::Shape | RecordError::Client)) => bare(prefixes, line, error, parse),
        read => read,
    }
}

/// Reads a line without its prefixes, since as it stands there is an error in it. Apart, so that the usual lines don't
/// carry it along.
#[inline(never)]
fn bare<'line>(
    prefixes: &mut Prefixes,
    line: &'line [u8],
    error: RecordError,
    mut parse: impl FnMut(&'line [u8]) -> Result<Record<'line>, RecordError>,
) -> Result<Record<'line>, RecordError> {
    match prefixes.strip(line)? {
        None => Err(blame(error, line)),
        Some(bare) => match parse(bare.line) {
            Ok(record) => Ok(dated(record, bare.stamp)),
            Err(error) => Err(blame(error, bare.line)),
        },
    }
}

/// A prefix's time is better than none.
fn dated<'line>(record: Record<'line>, stamp: &'line [u8]) -> Record<'line> {
    if record.time.is_empty() { Record { time: stamp, ..record } } else { record }
}

/// Tells the gateway's own messages from lines of another format.
fn blame(error: RecordError, line: &[u8]) -> RecordError {
    match error {
        RecordError::Shape | RecordError::Client if is_message(line) => RecordError::Message,
        error => error,
    }
}

/// How messages begin in which nginx quotes a name from its own configuration and nothing else.
const QUOTES_ITS_CONFIGURATION: [&[u8]; 4] =
    [b"limiting requests", b"limiting connections", b"delaying request", b"using uninitialized"];

/// Which of the lines after a message of nginx may be a part of it: it may hold line breaks that a client sent.
///
/// nginx writes the paths of files, user names and what programs tell it as they are, decoded and between quotes, before
/// it says whose request it was (`ngx_log_error_core`, 1.28). What it quotes behind that (`request`, `host`, `referrer`)
/// is what came over the wire, where a line break ends the field. A message that looks complete proves nothing: a client
/// can write its end, too. One that names no connection (`7#7: *1 `) has nothing from a client.
pub(super) fn doubt_after_message(message: &[u8]) -> Option<Doubt> {
    let (_, after) = split_once(message, b": *")?;
    let (_, said) = split_once(after, b" ")?;
    let before = memmem::find(said, b", client: ").map_or(said, |end| &said[..end]);
    memchr(b'"', before)?;
    if QUOTES_ITS_CONFIGURATION.iter().any(|begin| said.starts_with(begin)) {
        return None;
    }
    Some(if said.starts_with(b"user \"") { Doubt::WithoutColon } else { Doubt::All })
}

fn split_once<'a>(text: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(text, by)?;
    Some((&text[..at], &text[at + by.len()..]))
}

/// Whether it begins as the lines of nginx's error log do: `2026/03/20 10:00:00 [notice] `.
fn is_message(line: &[u8]) -> bool {
    const DATE: &[u8] = b"0000/00/00 00:00:00 [";
    line.len() > DATE.len()
        && line.iter().zip(DATE).all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            _ => byte == like,
        })
}

#[cfg(test)]
mod forged;
#[cfg(test)]
mod tests;
