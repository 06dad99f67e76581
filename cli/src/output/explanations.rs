//! Explanations, a line each.

use std::io::{self, Write};

use super::{shown, to_yaml};
use crate::{args::OutputFormat, explain::Explained};

/// Prints explanations as they come.
pub struct Explanations<W> {
    out: W,
    format: OutputFormat,
    is_first: bool,
}

impl<W: Write> Explanations<W> {
    /// Nothing is printed yet.
    pub fn new(out: W, format: OutputFormat) -> Self {
        Self { out, format, is_first: true }
    }

    /// Prints one explanation.
    pub fn print(&mut self, explained: &Explained) -> io::Result<()> {
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                if std::mem::take(&mut self.is_first) {
                    self.row([
                        "HIT", "IP", "STATUS", "PATH", "PATTERN", "WHY NOT", "METHOD", "HOST", "LINE",
                    ])?;
                }
                let cells = cells(explained);
                self.row(cells.each_ref().map(String::as_str))
            }
            OutputFormat::Json => {
                serde_json::to_writer(&mut self.out, explained)?;
                self.out.write_all(b"\n")
            }
            OutputFormat::Yaml => to_yaml(&mut self.out, &[explained]),
        }
    }

    /// Hands over what is printed: the next line may be long in coming.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The columns that vary most come last: a table that is printed as it grows can't look ahead.
    fn row(&mut self, cells: [&str; 9]) -> io::Result<()> {
        let [hit, ip, status, path, pattern, why_not, method, host, line] = cells;
        let rest = match self.format {
            OutputFormat::Wide => format!("{why_not:<24} {method:<7} {host:<20} {line}"),
            _ => why_not.to_owned(),
        };
        let row = format!("{hit:<4} {ip:<16} {status:<6} {path:<28} {pattern:<20} {rest}");
        writeln!(self.out, "{}", row.trim_end())
    }
}

fn cells(explained: &Explained) -> [String; 9] {
    let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), shown);
    let path = match (&explained.path, &explained.normalised_path) {
        (Some(path), Some(normalised)) if !path.starts_with(normalised.as_str()) => {
            format!("{} = {}", shown(path), shown(normalised))
        }
        (path, _) => optional(path),
    };
    [
        if explained.matched { "yes" } else { "no" }.to_owned(),
        optional(&explained.ip),
        explained.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        path,
        optional(&explained.pattern),
        explained.reason.as_deref().map_or_else(String::new, shown),
        optional(&explained.method),
        optional(&explained.host),
        shown(&explained.line),
    ]
}
