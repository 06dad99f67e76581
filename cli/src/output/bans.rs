//! Bans, printed as they come, so that they take no memory however many there are. They are written out together; who
//! is about to wait for more lines calls [`Bans::flush`] before.
//!
//! Tables are for people: bans on standard output, the summary on standard error. JSON and YAML are one object with
//! `bans`, a list of IPBans as the operator would write them, and `summary`.

use std::io::{self, Write};

use ip_sentry_crd::IPBan;
use jiff::Timestamp;
use serde::Serialize;

use super::{tell, to_yaml};
use crate::args::OutputFormat;

/// Prints bans and then a summary.
pub struct Bans<W> {
    out: W,
    format: OutputFormat,
    /// What the first column says, for a list of several policies' bans.
    label: Option<&'static str>,
    printed: u64,
    is_flushed: bool,
}

/// A ban, and whose it is where that has to be said.
#[derive(Serialize)]
struct Labelled<'a> {
    #[serde(rename = "onlyIn", skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(flatten)]
    ban: &'a IPBan,
}

impl<W: Write> Bans<W> {
    /// Nothing is printed yet. `label` is the head of one more column.
    pub fn new(out: W, format: OutputFormat, label: Option<&'static str>) -> Self {
        Self { out, format, label, printed: 0, is_flushed: true }
    }

    /// Whether all that was printed is written out.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Writes out what was printed.
    pub fn flush(&mut self) -> io::Result<()> {
        self.is_flushed = true;
        self.out.flush()
    }

    /// Prints one ban.
    pub fn print(&mut self, ban: &IPBan, label: Option<&str>) -> io::Result<()> {
        let is_first = self.printed == 0;
        self.printed += 1;
        self.is_flushed = false;
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                if is_first {
                    self.row(
                        ["CIDR", "BANNED AT", "UNTIL", "HITS", "OFFENCE", "REASON", "FIRST SEEN", "SAMPLES"],
                        self.label,
                    )?;
                }
                let cells = cells(ban);
                self.row(cells.each_ref().map(String::as_str), label)?;
            }
            OutputFormat::Json => {
                self.out.write_all(if is_first { b"{\"bans\":[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, &Labelled { label, ban })?;
            }
            OutputFormat::Yaml => {
                self.out.write_all(if is_first { b"bans:\n" } else { b"" })?;
                to_yaml(&mut self.out, &[Labelled { label, ban }])?;
            }
        }
        Ok(())
    }

    /// Prints the summary and ends; `text` is what is said of it beside a table.
    pub fn finish(mut self, summary: &impl Serialize, text: &str) -> io::Result<()> {
        let is_empty = self.printed == 0;
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                self.out.flush()?;
                tell(text);
            }
            OutputFormat::Json => {
                self.out.write_all(if is_empty { b"{\"bans\":[" } else { b"\n" })?;
                self.out.write_all(b"],\"summary\":")?;
                serde_json::to_writer(&mut self.out, summary)?;
                self.out.write_all(b"}\n")?;
            }
            OutputFormat::Yaml => {
                self.out.write_all(if is_empty { b"bans: []\nsummary:\n" } else { b"summary:\n" })?;
                let mut yaml = Vec::new();
                to_yaml(&mut yaml, summary)?;
                for line in yaml.split_inclusive(|&byte| byte == b'\n') {
                    self.out.write_all(b"  ")?;
                    self.out.write_all(line)?;
                }
            }
        }
        self.out.flush()
    }

    /// Widths hold what nearly always comes: a table that is printed as it grows can't look ahead.
    fn row(&mut self, cells: [&str; 8], label: Option<&str>) -> io::Result<()> {
        let [cidr, at, until, hits, offence, reason, first, samples] = cells;
        if let Some(label) = label {
            write!(self.out, "{label:<14} ")?;
        }
        write!(self.out, "{cidr:<22} {at:<21} {until:<21} {hits:<5} {offence:<8} ")?;
        match self.format {
            OutputFormat::Wide => writeln!(self.out, "{reason:<40} {first:<21} {samples}"),
            _ => writeln!(self.out, "{reason}"),
        }
    }
}

fn cells(ban: &IPBan) -> [String; 8] {
    let spec = &ban.spec;
    let seen = spec.evidence.as_ref();
    let second = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    [
        Some(spec.cidr.clone()),
        seen.map(|seen| second(seen.last_seen.0)),
        spec.expires_at.as_ref().map(|at| second(at.0)),
        seen.map(|seen| seen.hits.to_string()),
        spec.offence.map(|offence| offence.to_string()),
        spec.reason.clone(),
        seen.map(|seen| second(seen.first_seen.0)),
        seen.map(|seen| seen.samples.join(", ")),
    ]
    .map(Option::unwrap_or_default)
}
