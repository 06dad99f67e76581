//! What goes into the ban queue besides decisions, and what comes out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    net::Source,
};
use jiff::Timestamp;

use super::judge::Obsolete;
use crate::{
    bans::Ban,
    policies::{PolicyJail, PolicyKey},
    refusal::{Cause, Refusal},
};

/// The two clocks: one for waiting, one for what is stored.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Never goes back.
    pub instant: Instant,
    /// The time of day.
    pub time: Timestamp,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Store a ban.
    Create(Write),
    /// Raise the end of a ban that exists, at the version that was read.
    Extend(Write, String),
    /// Delete a ban of the operator's before its end. That is not a lift.
    Evict(String, Eviction),
    /// Tell that a decision becomes no ban.
    Drop(Arc<PolicyJail>, Decision, Dropped),
    /// Tell that a decision waits because of a refusal of its own.
    Refused(Arc<PolicyJail>, Source, String),
}

/// A ban to write.
#[derive(Clone)]
pub struct Write {
    /// The object's name.
    pub name: String,
    /// The policy whose decision it is.
    pub policy: Arc<PolicyJail>,
    /// The decision.
    pub decision: Decision,
    /// Its ordinal for its source, length and end.
    pub ban: escalation::Ban,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {}", self.name, self.ban.expires_at)
    }
}

/// Why a ban is deleted before its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// A ban of the network around it is enforced, and ends no earlier than minutes before.
    Superseded,
    /// The table of bans is full, and another source has more hits.
    Weakest,
}

/// Why a decision becomes no ban.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dropped {
    /// It is no longer needed, or would do harm.
    Obsolete(Obsolete),
    /// As many as can wait do, and all have more hits.
    QueueFull,
    /// The API server refuses the object itself.
    Invalid(String),
}

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// It is stored.
    Stored,
    /// The name is taken by this object, or the version has changed to this one.
    Taken(Box<Ban>),
    /// The name was taken and is free again, or the object to extend is gone.
    Vanished,
    /// The API server refused it.
    Refused(Refusal),
    /// Another replica leads.
    Deposed,
}

/// What the queue wants: actions now, and to be asked again at a time at the latest.
#[derive(Debug, Default)]
pub struct Step {
    /// To be done in this order.
    pub actions: Vec<Action>,
    /// When to ask again if nothing comes in before.
    pub wait_until: Option<Instant>,
}

/// Why earned bans wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// More are earned than are written in a second.
    Rate,
    /// As many as may be enforced are, and none has fewer hits.
    Capacity,
}

/// What conditions and metrics tell of the queue.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Decisions in the queue.
    pub waiting: usize,
    /// Those that could be written if it were not for a limit.
    pub held_back: usize,
    /// That limit.
    pub limit: Option<Limit>,
    /// The cause for which nothing can be stored, the API server's words, and since when.
    pub hold: Option<(Cause, String, Timestamp)>,
    /// The bans of each policy that are enforced.
    pub enforced: BTreeMap<PolicyKey, usize>,
}
