//! Two policies on the same lines: whom only one of them bans.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter},
};

use ip_sentry_core::networks::Networks;
use ip_sentry_crd::IPBan;
use serde::Serialize;

use super::{ReplayError, trial::Trial};
use crate::{
    args::OutputFormat,
    input::Merged,
    output::{Bans, Summary, counted},
    policy_file::PolicyFile,
    progress::Progress,
};

/// The most sources whose first bans are compared.
const MOST_SOURCES: usize = 65_536;

/// What is said at the end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    /// Sources that both ban.
    both: usize,
    /// Sources that only the policy bans.
    only_policy: usize,
    /// Sources that only the other one bans.
    only_against: usize,
    /// Bans of sources that were not compared, because there were too many.
    not_compared: u64,
    policy: Summary,
    against: Summary,
}

/// Each source's first ban by one of the two, or by both.
#[derive(Default)]
struct FirstBans {
    by_source: BTreeMap<String, [Option<IPBan>; 2]>,
    not_compared: u64,
}

impl FirstBans {
    fn add(&mut self, side: usize, ban: IPBan) {
        if self.by_source.len() >= MOST_SOURCES && !self.by_source.contains_key(&ban.spec.cidr) {
            self.not_compared += 1;
            return;
        }
        self.by_source.entry(ban.spec.cidr.clone()).or_default()[side].get_or_insert(ban);
    }
}

/// Replays the lines through both, and prints the first ban of each source that only one of them bans.
pub(super) fn run(
    files: [PolicyFile; 2],
    names: &[String; 2],
    lines: &mut Merged,
    protected: &Networks,
    format: OutputFormat,
    mut progress: Progress,
) -> Result<(), ReplayError> {
    let mut trials = files.map(Trial::new);
    let mut bans = FirstBans::default();
    while let Some(line) = lines.next_line()? {
        progress.line();
        for (side, trial) in trials.iter_mut().enumerate() {
            if let Some(ban) = trial.observe(line, protected)? {
                bans.add(side, ban);
            }
        }
    }
    progress.finish();
    let [policy, against] = [trials[0].finish()?, trials[1].finish()?];
    let mut only: Vec<(usize, IPBan)> = Vec::new();
    let mut both = 0;
    for bans in bans.by_source.into_values() {
        match bans {
            [Some(_), Some(_)] => both += 1,
            [Some(ban), None] => only.push((0, ban)),
            [None, Some(ban)] => only.push((1, ban)),
            [None, None] => {}
        }
    }
    only.sort_by_key(|(_, ban)| ban.spec.evidence.as_ref().map(|seen| seen.last_seen.0));
    let mut out = Bans::new(BufWriter::new(io::stdout().lock()), format, Some("ONLY IN"));
    for (side, ban) in &only {
        out.print(ban, Some(&names[*side]))?;
    }
    let only_policy = only.iter().filter(|(side, _)| *side == 0).count();
    let comparison = Comparison {
        both,
        only_policy,
        only_against: only.len() - only_policy,
        not_compared: bans.not_compared,
        policy,
        against,
    };
    Ok(out.finish(&comparison, &comparison.text(names))?)
}

impl Comparison {
    fn text(&self, [policy, against]: &[String; 2]) -> String {
        let Self { both, only_policy, only_against, not_compared, .. } = self;
        let more = match not_compared {
            0 => String::new(),
            count => format!("; {} of more sources not compared", counted(*count, "ban", "bans")),
        };
        format!(
            "{} banned by both, {only_policy} only by {policy}, {only_against} only by {against}{more}\n\
             {policy}: {}{against}: {}",
            counted(*both as u64, "source is", "sources are"),
            self.policy,
            self.against
        )
    }
}
