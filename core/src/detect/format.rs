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
        match &mut self.0 {
            Parser::NginxCombined => nginx_combined::parse(line),
            Parser::Regex(regex) => regex.parse(line),
        }
    }
}
