//! What becomes of one decision, from what is known right now.

use std::time::{Duration, Instant};

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    net::{Network, Source},
    networks::Networks,
};
use ip_sentry_crd::ip_ban::Origin;
use jiff::{SignedDuration, Timestamp};

use super::{stored::Stored, waitlist::Waiting};
use crate::{
    bans::{Ban, Bans, DELETION_SLACK, detected_name},
    history::History,
    policies::{Policies, PolicyKey},
};

/// How long a name may be held by an object that is about to go, before the ban takes the name beside it.
pub(super) const NAME_HELD: Duration = Duration::from_secs(2);
/// By how much a decision may outlast the ban of a wider network and still be covered by it: lines of before that ban
/// come late.
const COVERS: SignedDuration = SignedDuration::from_mins(10);
/// The prefix lengths of networks whose lifting lifts their members too.
const JOINED: [u8; 4] = [24, 48, 56, 64];

/// What is known when the queue is asked.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    /// Every ban.
    pub bans: &'a Bans,
    /// What is remembered of sources.
    pub history: &'a History,
    /// What is never banned.
    pub protected: &'a Networks,
    /// Every policy.
    pub policies: &'a Policies,
    /// Whether this replica writes.
    pub is_leading: bool,
}

impl Snapshot<'_> {
    /// Whether a ban of `network` for this policy would drop what must not be dropped.
    pub(super) fn is_protected(&self, policy: &PolicyKey, network: &Network) -> bool {
        self.policies.exempts(policy, network) || self.protected.overlaps(network)
    }

    /// The ban that a decision asks for, after those that its source had.
    #[must_use]
    pub fn ban_for(&self, decision: &Decision) -> escalation::Ban {
        self.history.ban_for(decision)
    }

    /// When a ban of this source, or of a network that it may have been banned with, was last lifted by hand.
    fn lifted_at(&self, source: Source) -> Option<Timestamp> {
        let network = source.network();
        let around = JOINED
            .into_iter()
            .filter(|&prefix| prefix < network.prefix())
            .filter_map(|prefix| Source::new(Network::around(network.address(), prefix)).ok());
        around
            .chain([source])
            .filter_map(|source| {
                let going = self.bans.get(&source.ban_name()).and_then(Ban::lifted_at);
                going.max(self.history.lifted_at(source))
            })
            .max()
    }

    /// The ban that is enforced on a wider network and is enough for this decision.
    fn covering(&self, stored: &Stored, source: Source, end: Timestamp, now: Timestamp) -> Option<&Ban> {
        let enough = end.saturating_sub(COVERS).unwrap_or(end);
        stored
            .around(source)
            .filter_map(|wider| self.bans.active(wider, now))
            .find(|ban| ban.expires_at.is_none_or(|end| end >= enough))
    }

    /// Whether one of the operator's own bans of a wider network makes this ban unnecessary.
    pub(super) fn is_superseded(&self, stored: &Stored, ban: &Ban, now: Timestamp) -> bool {
        let enough = ban.expires_at.and_then(|end| end.saturating_sub(COVERS).ok());
        let wider = stored.around(ban.source).filter(|&wider| stored.is_detected(wider));
        wider
            .filter_map(|wider| self.bans.active(wider, now))
            .any(|wider| wider.is_managed && wider.expires_at >= enough)
    }
}

/// Why a decision becomes no ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Obsolete {
    /// A ban that lasts at least as long is enforced.
    Enforced,
    /// A ban of a wider network is enforced.
    Covered,
    /// The source was lifted by hand after its lines were written.
    Lifted,
    /// The network is protected, or the policy exempts it by now.
    Protected,
    /// Its ban would be over.
    Over,
    /// The policy is gone or bans nobody any more.
    PolicyGone,
}

impl Obsolete {
    /// The fixed word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Covered => "covered",
            Self::Lifted => "lifted",
            Self::Protected => "protected",
            Self::Over => "over",
            Self::PolicyGone => "policy_gone",
        }
    }
}

/// What to do about a decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Judgement {
    /// Nothing: drop it.
    Obsolete(Obsolete),
    /// Store a ban of that name.
    Create { name: String },
    /// Raise the end of the ban that exists.
    Extend { name: String, resource_version: String },
    /// Wait until whatever holds the name is gone, or has held it for too long.
    NameHeld,
}

/// Judges a decision that asks for `ban`.
pub(super) fn judge(
    waiting: &Waiting,
    ban: escalation::Ban,
    snapshot: &Snapshot<'_>,
    stored: &Stored,
    now: super::Now,
) -> Judgement {
    let (decision, policy) = (&waiting.decision, &waiting.policy.key);
    let (source, end) = (decision.source, ban.expires_at);
    // What was read after a refused write is newer than the table.
    let seen = waiting.seen.iter().find(|seen| seen.source == source && seen.is_active(now.time));
    let enforced = seen.or_else(|| snapshot.bans.active(source, now.time));
    let obsolete = if snapshot.is_protected(policy, &source.network()) {
        Some(Obsolete::Protected)
    } else if enforced.is_some_and(|ban| ban.expires_at.is_none_or(|existing| existing >= end)) {
        Some(Obsolete::Enforced)
    } else if snapshot
        .lifted_at(source)
        .is_some_and(|lifted| decision.evidence.first_seen <= lifted + DELETION_SLACK)
    {
        Some(Obsolete::Lifted)
    } else if end <= now.time {
        Some(Obsolete::Over)
    } else if !snapshot.policies.enforces(policy) {
        Some(Obsolete::PolicyGone)
    } else if snapshot.covering(stored, source, end, now.time).is_some() {
        Some(Obsolete::Covered)
    } else {
        None
    };
    match (obsolete, enforced) {
        (Some(obsolete), _) => Judgement::Obsolete(obsolete),
        (None, Some(existing)) => add_to(existing),
        (None, None) => place(waiting, snapshot.bans, now),
    }
}

/// A ban that is enforced and ends too early. One that a person made is left as the person wants it.
fn add_to(existing: &Ban) -> Judgement {
    if existing.origin == Origin::Detected {
        let (name, resource_version) = (existing.name.clone(), existing.resource_version.clone());
        Judgement::Extend { name, resource_version }
    } else {
        Judgement::Obsolete(Obsolete::Enforced)
    }
}

/// The name for a ban of a source on which none is enforced, as far as the table of bans knows.
fn place(waiting: &Waiting, bans: &Bans, now: super::Now) -> Judgement {
    let own = waiting.decision.source.ban_name();
    let names = [own.clone(), detected_name(&own)];
    let is_held_long = waiting.held_since.is_some_and(|since| is_past(now.instant, since, NAME_HELD));
    let mut is_held = false;
    for name in names {
        let seen = waiting.seen.iter().find(|seen| seen.name == name);
        let Some(existing) = seen.or_else(|| bans.get(&name)) else {
            if is_held && !is_held_long {
                return Judgement::NameHeld;
            }
            return Judgement::Create { name };
        };
        // Somebody else's that has ended stays where it is; any other is about to go.
        is_held |= existing.deleting_since.is_some() || existing.is_managed;
    }
    Judgement::NameHeld
}

fn is_past(now: Instant, since: Instant, limit: Duration) -> bool {
    now.saturating_duration_since(since) >= limit
}
