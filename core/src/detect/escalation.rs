//! How the bans of one source become longer.

use std::time::Duration;

/// The n-th ban lasts the policy's ban duration × `factor`^(n−1), at most `max_duration`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Escalation {
    /// By what each ban is longer than the one before; 1 to 64.
    pub factor: u32,
    /// The longest ban.
    pub max_duration: Duration,
    /// How long after its end a ban still counts as one before.
    pub memory: Duration,
}
