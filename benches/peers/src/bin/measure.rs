//! The engine at work, for others to measure: `bench.py` takes times, `instructions.sh` counts instructions.
//!
//! ```text
//! measure count access.log                             every line through a policy, as in the operator
//! measure count --regex '^(\S+) …' access.log          with a format of the user's own
//! measure search --patterns patterns.txt access.log    more patterns than a policy takes: read, normalise, search
//! measure search --patterns patterns.txt               only get ready
//! measure track spray.log                              what each source that is counted takes of the memory
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use ip_sentry_bench_peers::for_each_line;
use ip_sentry_core::{
    detect::{
        format::{Format, FormatDraft, Preset},
        jail::{Jail, Limits},
        matcher::Matcher,
        policy::{Policy, PolicyDraft, PrivateClients},
        target::Normaliser,
    },
    networks::Networks,
};

#[derive(Parser)]
#[command(about, max_term_width = 120)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Let a policy count the lines of a log.
    Count {
        /// The format, instead of the preset `NginxCombined`.
        #[arg(long)]
        regex: Option<String>,
        /// The log.
        log: PathBuf,
    },
    /// Search the targets of a log for patterns.
    Search {
        /// The patterns, one a line.
        #[arg(long)]
        patterns: PathBuf,
        /// The log; without one nothing is searched.
        log: Option<PathBuf>,
    },
    /// Let a policy count every source of a log, with no limit.
    Track {
        /// The log: one hit of each address.
        log: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().what {
        What::Count { regex, log } => count(regex, &log),
        What::Search { patterns, log } => search(&patterns, log.as_deref()),
        What::Track { log } => track(&log),
    }
}

/// A policy that counts each address of the made-up logs, which are of all networks.
fn draft() -> PolicyDraft {
    PolicyDraft { private_clients: PrivateClients::Ban, ipv6_prefix: 128, ..PolicyDraft::default() }
}

fn count(regex: Option<String>, log: &Path) -> Result<()> {
    let mut draft = draft();
    if let Some(regex) = regex {
        draft.format = FormatDraft::Regex(regex);
    }
    let mut jail = Jail::new(Policy::compile(&draft)?, Limits::default());
    let none = Networks::default();
    for_each_line(log, |line| drop(jail.observe(None, line, &none)))?;
    let counters = jail.counters();
    println!("lines={} parsed={} hits={}", counters.lines, counters.parsed, counters.hits);
    Ok(())
}

fn search(patterns: &Path, log: Option<&Path>) -> Result<()> {
    let text = std::fs::read_to_string(patterns)?;
    let patterns: Vec<&str> = text.lines().collect();
    let compiled = Matcher::new(&patterns);
    let mut matcher = compiled.map_err(|(index, error)| anyhow!("line {}: {error}", index + 1))?;
    let (mut format, mut normaliser) =
        (Format::compile(&FormatDraft::Preset(Preset::NginxCombined))?, Normaliser::default());
    let (mut lines, mut parsed, mut hits) = (0_u64, 0_u64, 0_u64);
    if let Some(log) = log {
        for_each_line(log, |line| {
            lines += 1;
            let Ok(record) = format.parse(line) else { return };
            parsed += 1;
            let raw = record.target;
            let plain = normaliser.normalise(raw);
            let is_hit = matcher.find(plain).is_some() || plain != raw && matcher.find(raw).is_some();
            hits += u64::from(is_hit);
        })?;
    }
    println!("patterns={} lines={lines} parsed={parsed} hits={hits}", matcher.len());
    Ok(())
}

fn track(log: &Path) -> Result<()> {
    let mut jail =
        Jail::new(Policy::compile(&draft())?, Limits { source_bytes: usize::MAX, ..Limits::default() });
    let none = Networks::default();
    let before = resident("VmRSS:")?;
    for_each_line(log, |line| drop(jail.observe(None, line, &none)))?;
    let (now, peak) = (resident("VmRSS:")?, resident("VmHWM:")?);
    let tracked = jail.tracked();
    ensure!(tracked > 0, "nobody in {} is counted", log.display());
    let each = |bytes: usize| bytes / tracked;
    println!(
        "tracked={tracked} bytes_each={} peak_bytes_each={} own_count={}",
        each(now - before),
        each(peak - before),
        each(jail.tracked_bytes())
    );
    Ok(())
}

/// What the kernel says that the process holds, in bytes.
fn resident(what: &str) -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("the kernel does not say")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}
