//! Whom and what a policy exempts: `except`. Any entry that agrees is enough.

use super::{
    format::{Field, Fields},
    hosts::Hosts,
    matcher::Matcher,
    narrowing::find_user_agent,
    policy::{self, PolicyDraft, PolicyError},
    record::Record,
    target::Normaliser,
};
use crate::{net::Source, networks::Networks};

/// What exempts a request, with its place in its list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exemption {
    Network,
    Pattern(u16),
    Host(usize),
    UserAgent(u16),
}

/// The lists, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Exceptions {
    pub(super) networks: Networks,
    pub(super) patterns: Matcher,
    pub(super) hosts: Hosts,
    pub(super) user_agents: Matcher,
}

impl Exceptions {
    /// Checks and compiles a draft's lists; `fields` is what the format has.
    pub(super) fn compile(draft: &PolicyDraft, fields: Fields) -> Result<Self, PolicyError> {
        #[rustfmt::skip]
        let lists = [
            ("except.patterns",   draft.except_patterns.len(),    Field::Path),
            ("except.hosts",      draft.except_hosts.len(),       Field::Host),
            ("except.userAgents", draft.except_user_agents.len(), Field::UserAgent),
        ];
        for (field, length, needs) in lists {
            policy::list(field, length, needs, fields)?;
        }
        Ok(Self {
            networks: draft.except_cidrs.iter().copied().collect(),
            patterns: policy::matcher("except.patterns", &[], &draft.except_patterns)?,
            hosts: policy::hosts("except.hosts", &draft.except_hosts)?,
            user_agents: policy::matcher("except.userAgents", &[], &draft.except_user_agents)?,
        })
    }

    /// What its patterns take compiled, in bytes.
    pub(super) fn memory_usage(&self) -> usize {
        self.patterns.memory_usage() + self.user_agents.memory_usage()
    }

    /// What exempts a request of `source`, if anything does.
    pub(super) fn find(
        &mut self,
        source: Source,
        record: &Record<'_>,
        normaliser: &mut Normaliser,
    ) -> Option<Exemption> {
        if self.networks.overlaps(&source.network()) {
            return Some(Exemption::Network);
        }
        if let Some(index) = self.hosts.find(record.host) {
            return Some(Exemption::Host(index));
        }
        if !self.patterns.is_empty() {
            // Only the plain form: what is exempt must be exempt however it is spelled, and a spelling must not exempt.
            let plain = normaliser.normalise(record.target);
            if let Some(number) = self.patterns.find(plain) {
                return Some(Exemption::Pattern(number));
            }
        }
        if self.user_agents.is_empty() {
            return None;
        }
        find_user_agent(&mut self.user_agents, record).map(Exemption::UserAgent)
    }

    /// Whether requests are exempt now that were not under `old`, apart from their clients: nobody knows any more
    /// which hits these were.
    pub(super) fn exempt_more_than(&self, old: &Self) -> bool {
        !old.patterns.covers(&self.patterns)
            || !old.hosts.covers(&self.hosts)
            || !old.user_agents.covers(&self.user_agents)
    }
}
