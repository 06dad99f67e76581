//! One policy on trial: a jail, and the bans that it would have made.

use ip_sentry_core::{
    detect::{
        decision::Verdict,
        escalation::Offences,
        jail::{Jail, Limits},
        record::RecordError,
        trail::Trail,
    },
    networks::Networks,
};
use ip_sentry_crd::{
    IPBan,
    ip_ban::{IPBanSpec, PolicyRef},
    probe_policy::LogFormat,
};
use kube::ResourceExt as _;

use super::ReplayError;
use crate::{input::Line, output::Summary, policy_file::PolicyFile};

/// After so many requests without a time and none with one a log is given up.
const MOST_WITHOUT_TIME: u64 = 1000;

/// How many lines pass between two sweeps: few beside the sources that a jail may remember.
const SWEEP_EVERY: u64 = 50_000;

/// A policy on trial.
pub(super) struct Trial {
    jail: Jail,
    offences: Offences,
    policy: PolicyRef,
    format: LogFormat,
    bans: u64,
    /// Of each log.
    trails: Vec<Trail>,
}

impl Trial {
    pub(super) fn new(file: PolicyFile) -> Self {
        let policy = PolicyRef {
            namespace: file.object.namespace().unwrap_or_else(|| "default".to_owned()),
            name: file.object.name_any(),
        };
        Self {
            jail: Jail::new(file.policy, Limits::default()),
            offences: Offences::default(),
            policy,
            format: file.object.spec.format,
            bans: 0,
            trails: Vec::new(),
        }
    }

    /// Takes in a line; what comes out is a ban that it leads to.
    pub(super) fn observe(
        &mut self,
        line: Line<'_>,
        protected: &Networks,
    ) -> Result<Option<IPBan>, ReplayError> {
        let Self { jail, offences, trails, .. } = self;
        if trails.len() <= line.log {
            let trail = if line.is_stamped { Trail::stamped() } else { Trail::default() };
            trails.resize(line.log + 1, trail);
        }
        let is_banned = |source, at| offences.is_banned(source, at);
        let verdict = jail.observe_in(&mut trails[line.log], line.at, line.text, protected, &is_banned);
        if jail.counters().lines.is_multiple_of(SWEEP_EVERY)
            && let Some((_, now)) = jail.span()
        {
            jail.sweep(now);
        }
        let decision = match verdict {
            Verdict::Earned(decision) => decision,
            Verdict::Unparsed(RecordError::Time) => {
                return self.judge_times(MOST_WITHOUT_TIME).map(|()| None);
            }
            _ => return Ok(None),
        };
        let Some(ban) = offences.begin(&decision) else { return Ok(None) };
        self.bans += 1;
        let spec = IPBanSpec::detected(self.policy.clone(), &decision, ban);
        Ok(Some(IPBan::new(&decision.source.ban_name(), spec)))
    }

    /// What was read in all.
    pub(super) fn finish(&self) -> Result<Summary, ReplayError> {
        self.judge_times(1)?;
        Ok(Summary::of(&self.jail, self.bans, self.offences.forgotten()))
    }

    /// From a log of which no line has a time, and at least `enough` ought to, no ban can follow.
    fn judge_times(&self, enough: u64) -> Result<(), ReplayError> {
        let counters = self.jail.counters();
        if counters.parsed > 0 || counters.unparsed(RecordError::Time) < enough {
            return Ok(());
        }
        let hint = if self.format.json.is_some() {
            "point format.json.time to it"
        } else if self.format.regex.is_some() {
            "add a group (?P<time>…) to format.regex"
        } else {
            "let the gateway log $time_local"
        };
        Err(ReplayError::NoTime { hint })
    }
}
