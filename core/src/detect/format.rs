//! How a gateway writes its log: a line comes in, a [`Record`] or the reason why it is none goes out.
//!
//! A preset is a parser of its own, one file each; anything else is the policy's own regular expression.

mod line_regex;
mod nginx_combined;
mod steps;

use self::line_regex::LineRegex;
pub use self::line_regex::LineRegexError;
use super::record::{MAX_LINE_BYTES, Record, RecordError};

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

/// Where in a JSON object the fields are, as JSON pointers (RFC 6901) such as `/request/path`.
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

/// A format that ip-sentry knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Preset {
    /// nginx's `combined`, and what begins like it: the common log format, NGINX Gateway Fabric, ingress-nginx.
    NginxCombined,
}

/// A format, ready to read lines.
#[derive(Clone, Debug)]
pub struct Format(Parser);

#[derive(Clone, Debug)]
enum Parser {
    NginxCombined,
    Regex(Box<LineRegex>),
}

impl Format {
    /// Compiles a draft.
    pub fn compile(draft: &FormatDraft) -> Result<Self, LineRegexError> {
        Ok(Self(match draft {
            FormatDraft::Preset(Preset::NginxCombined) => Parser::NginxCombined,
            FormatDraft::Regex(text) => Parser::Regex(Box::new(LineRegex::compile(text)?)),
            FormatDraft::Json(_) => todo!("json"),
        }))
    }

    /// Reads one line, without its newline.
    pub fn parse<'line>(&mut self, line: &'line [u8]) -> Result<Record<'line>, RecordError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(RecordError::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(RecordError::Empty);
        }
        let parsed = match &mut self.0 {
            Parser::NginxCombined => nginx_combined::parse(line),
            Parser::Regex(regex) => regex.parse(line),
        };
        parsed.map_err(|error| match error {
            RecordError::Shape | RecordError::Client if is_message(line) => RecordError::Message,
            error => error,
        })
    }
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
mod tests {
    use super::*;

    #[test]
    fn the_gateways_own_messages_are_told_from_lines_of_another_format() {
        let mut format = Format::compile(&FormatDraft::Preset(Preset::NginxCombined)).unwrap();
        #[rustfmt::skip]
        let table = [
            ("2026/03/20 10:00:00 [notice] 1#1: start worker processes", RecordError::Message),
            ("2026/03/20 10:00:00 [error] 7#7: *1 open() failed, client: 203.0.113.7, server: _", RecordError::Message),
            ("2026-03-20 10:00:00 [error] something else",               RecordError::Shape),
            ("2026/03/20",                                               RecordError::Shape),
        ];
        for (line, expect) in table {
            assert_eq!(format.parse(line.as_bytes()).map(drop), Err(expect), "{line}");
        }
    }
}
