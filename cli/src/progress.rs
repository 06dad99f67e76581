//! How far the reading is, on a terminal.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::input::BytesRead;

/// Lines between two looks at the bar: it must cost nothing.
const EVERY: u32 = 4096;

/// A bar on standard error; none where that is no terminal.
pub struct Progress {
    bar: Option<ProgressBar>,
    bytes_read: BytesRead,
    until_next: u32,
}

impl Progress {
    /// A bar for so many bytes; without a number it shows how many there were.
    #[must_use]
    pub fn new(total_bytes: Option<u64>, bytes_read: BytesRead) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(total_bytes));
        Self { bar, bytes_read, until_next: 0 }
    }

    /// One line more was read.
    pub fn line(&mut self) {
        let Some(bar) = &self.bar else { return };
        if self.until_next == 0 {
            self.until_next = EVERY;
            bar.set_position(self.bytes_read.get());
        }
        self.until_next -= 1;
    }

    /// Prints something to standard output, while the bar is out of the way where both are on the terminal.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) if io::stdout().is_terminal() => bar.suspend(print),
            _ => print(),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        ),
        None => (ProgressBar::no_length(), "{decimal_bytes} read, {decimal_bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
