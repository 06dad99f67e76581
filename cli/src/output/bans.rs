//! Bans, printed as they come, so that they take no memory however many there are.
//!
//! Tables are for people: bans on standard output, the summary on standard error. JSON and YAML are one object with
//! `bans`, a list of IPBans as the operator would write them, and `summary`.

use std::io::{self, Write};

use ip_sentry_crd::IPBan;

use super::Summary;
use crate::args::OutputFormat;

/// Prints bans and then the summary.
pub struct Bans<W> {
    out: W,
    format: OutputFormat,
    printed: u64,
}

impl<W: Write> Bans<W> {
    /// Nothing is printed yet.
    pub fn new(out: W, format: OutputFormat) -> Self {
        Self { out, format, printed: 0 }
    }

    /// Prints one ban.
    pub fn print(&mut self, ban: &IPBan) -> io::Result<()> {
        let is_first = self.printed == 0;
        self.printed += 1;
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                if is_first {
                    let header =
                        ["CIDR", "BANNED AT", "UNTIL", "HITS", "OFFENCE", "REASON"].map(String::from);
                    self.row(header, ["FIRST SEEN", "SAMPLES"].map(String::from))?;
                }
                let (row, more) = cells(ban);
                self.row(row, more)
            }
            OutputFormat::Json => {
                self.out.write_all(if is_first { b"{\"bans\":[\n" } else { b",\n" })?;
                Ok(serde_json::to_writer(&mut self.out, ban)?)
            }
            OutputFormat::Yaml => {
                if is_first {
                    self.out.write_all(b"bans:\n")?;
                }
                serde_yaml_ng::to_writer(&mut self.out, &[ban]).map_err(io::Error::other)
            }
        }
    }

    /// Prints the summary and ends.
    pub fn finish(mut self, summary: &Summary) -> io::Result<()> {
        let is_empty = self.printed == 0;
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                self.out.flush()?;
                if is_empty {
                    eprintln!("No bans.");
                }
                eprint!("{summary}");
            }
            OutputFormat::Json => {
                self.out.write_all(if is_empty { b"{\"bans\":[" } else { b"\n" })?;
                self.out.write_all(b"],\"summary\":")?;
                serde_json::to_writer(&mut self.out, summary)?;
                self.out.write_all(b"}\n")?;
            }
            OutputFormat::Yaml => {
                if is_empty {
                    self.out.write_all(b"bans: []\n")?;
                }
                serde_yaml_ng::to_writer(&mut self.out, &serde_json::json!({ "summary": summary }))
                    .map_err(io::Error::other)?;
            }
        }
        self.out.flush()
    }

    fn row(&mut self, cells: [String; 6], more: [String; 2]) -> io::Result<()> {
        let [cidr, at, until, hits, offence, reason] = cells;
        // Widths that hold what nearly always comes: a table that is printed as it grows can't look ahead.
        write!(self.out, "{cidr:<22} {at:<21} {until:<21} {hits:<5} {offence:<8} ")?;
        if self.format == OutputFormat::Wide {
            let [first, samples] = more;
            writeln!(self.out, "{reason:<24} {first:<21} {samples}")
        } else {
            writeln!(self.out, "{reason}")
        }
    }
}

fn cells(ban: &IPBan) -> ([String; 6], [String; 2]) {
    let spec = &ban.spec;
    let seen = spec.evidence.as_ref();
    let second = |at: Option<jiff::Timestamp>| {
        at.and_then(|at| jiff::Timestamp::from_second(at.as_second()).ok())
            .map_or_else(String::new, |at| at.to_string())
    };
    (
        [
            spec.cidr.clone(),
            second(seen.map(|seen| seen.last_seen.0)),
            second(spec.expires_at.as_ref().map(|at| at.0)),
            seen.map_or_else(String::new, |seen| seen.hits.to_string()),
            spec.offence.map_or_else(String::new, |offence| offence.to_string()),
            spec.reason.clone().unwrap_or_default(),
        ],
        [
            second(seen.map(|seen| seen.first_seen.0)),
            seen.map_or_else(String::new, |seen| seen.samples.join(", ")),
        ],
    )
}
