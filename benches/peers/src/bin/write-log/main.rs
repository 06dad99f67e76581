//! Writes access logs whose every byte is fixed by the arguments, on every machine: own numbers, no clock.
//!
//! ```text
//! write-log mix --lines 2000000 > access.log          what a shop's gateway writes, with 3 % of probes
//! write-log spray --lines 1000000 > spray.log         one probe from each address
//! write-log patterns --count 5000 > patterns.txt      the 15 of the default catalogue, and made-up ones
//! write-log hostile --count 5000 > hostile.log        paths of 2 kB that are made of those patterns, cut short
//! write-log hostile --whole > whole.log               of all that a pattern looks for first, where it does not match
//! ```

mod clock;
mod hostile;
mod mix;
mod numbers;
mod paths;
mod words;

use std::io::{self, BufWriter, Write as _};

use clap::{Parser, Subcommand};

/// 2026-03-20 10:00:00 UTC.
const START: i64 = 1_774_000_800;

#[derive(Parser)]
#[command(about, max_term_width = 120)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Clients, scanners, and junk, as a public gateway sees them.
    Mix(mix::Mix),
    /// One probe from each address.
    Spray {
        /// How many lines.
        #[arg(long, default_value_t = 1_000_000)]
        lines: u64,
        /// Seconds from the first line to the last.
        #[arg(long, default_value_t = 100)]
        span: u64,
        /// When it begins, in seconds since 1970.
        #[arg(long, default_value_t = START)]
        start: i64,
    },
    /// Patterns of the kinds that people write, one a line.
    Patterns {
        /// How many.
        #[arg(long, default_value_t = 5_000)]
        count: usize,
    },
    /// Requests that make a search for those patterns work as hard as it can.
    Hostile {
        /// How many patterns are searched for.
        #[arg(long, default_value_t = 5_000)]
        count: usize,
        /// How many lines.
        #[arg(long, default_value_t = 20_000)]
        lines: u64,
        /// Whole literals, where their pattern does not match after all, instead of ones that are cut short.
        #[arg(long)]
        whole: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    match Args::parse().what {
        What::Mix(mix) => mix.write(&mut out)?,
        What::Spray { lines, span, start } => mix::spray(lines, span, start, &mut out)?,
        What::Patterns { count } => {
            hostile::patterns(count).iter().try_for_each(|pattern| writeln!(out, "{pattern}"))?;
        }
        What::Hostile { count, lines, whole } => {
            hostile::write(&hostile::patterns(count), lines, whole, &mut out)?;
        }
    }
    Ok(out.flush()?)
}
