//! Whether an operator is at work, by the sign of life that its leader writes into `ProtectedNetworks`.
//!
//! The operator can't report that it is gone; an agent outlives it and can. The time in the sign is
//! only compared with the one before: what counts is the agent's own monotonic clock.

use std::time::Duration;

use ip_sentry_crd::condition::Finding;
use tokio::time::Instant;

use crate::status::Problem;

/// How long the sign may stay the same: the leader renews it every 20 s, so two may be late or lost.
const PATIENCE: Duration = Duration::from_secs(50);
/// The condition that tells.
const KIND: &str = "OperatorActive";

/// The sign as it was last heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sign {
    observed_at: Option<String>,
    /// When that was first heard.
    since: Instant,
    /// It has changed while this agent ran.
    moved: bool,
}

impl Sign {
    /// Takes in a sign; says whether it is another one than before.
    pub fn hear(sign: &mut Option<Self>, observed_at: Option<String>, now: Instant) -> bool {
        match sign {
            Some(known) if known.observed_at == observed_at => false,
            known => {
                let moved = known.is_some() && observed_at.is_some();
                *known = Some(Self { observed_at, since: now, moved });
                true
            }
        }
    }

    /// When the finding changes if nothing more is heard.
    #[must_use]
    pub fn patience_ends(&self) -> Instant {
        self.since + PATIENCE
    }
}

/// Whether somebody detects. `trouble` is what keeps the agent from hearing of it.
#[must_use]
pub fn finding(sign: Option<&Sign>, trouble: Option<&Problem>, now: Instant) -> Finding {
    if let Some(problem) = trouble {
        return Finding::unknown(KIND, problem.reason, problem.message.clone());
    }
    let Some(sign) = sign else {
        return Finding::unknown(KIND, "NotHeard", "ProtectedNetworks/cluster was not read yet");
    };
    if now < sign.patience_ends() {
        return if sign.moved {
            Finding::yes(KIND, "Observing", "an operator leads and renews its sign of life")
        } else {
            Finding::unknown(KIND, "Starting", "this agent has just started to look for a sign of life")
        };
    }
    let since = sign.observed_at.as_deref().unwrap_or("the beginning");
    let message = format!(
        "nobody is detected and banned: no operator has renewed ProtectedNetworks/cluster since {since}; look at \
         its pods in namespace ip-sentry; bans that there are stay in force and end on time"
    );
    Finding::no(KIND, "NobodyDetects", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When which sign was heard.
    type Heard = &'static [(u64, Option<&'static str>)];

    #[test]
    fn an_operator_is_active_while_its_sign_moves() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let told = |text: &str| Some(text.to_owned());
        #[rustfmt::skip]
        let table: [(Heard, u64, Option<bool>, &str); 8] = [
            // heard, asked at, expect
            (&[],                                  99, None,        "NotHeard"),
            (&[(0, Some("a"))],                    49, None,        "Starting"),
            (&[(0, Some("a"))],                    50, Some(false), "NobodyDetects"),
            (&[(0, Some("a")), (40, Some("a"))],   50, Some(false), "NobodyDetects"),
            (&[(0, Some("a")), (20, Some("b"))],   69, Some(true),  "Observing"),
            (&[(0, Some("a")), (20, Some("b"))],   70, Some(false), "NobodyDetects"),
            (&[(0, None)],                         50, Some(false), "NobodyDetects"),
            (&[(0, None), (60, Some("a"))],        61, Some(true),  "Observing"),
        ];
        for (heard, asked, status, reason) in table {
            let mut sign = None;
            for &(secs, observed_at) in heard {
                Sign::hear(&mut sign, observed_at.map(str::to_owned), at(secs));
            }
            let finding = finding(sign.as_ref(), None, at(asked));
            assert_eq!((finding.status, finding.reason), (status, reason), "{heard:?} at {asked}");
        }
        let mut sign = None;
        Sign::hear(&mut sign, told("a"), at(0));
        assert!(!Sign::hear(&mut sign, told("a"), at(9)));
        let trouble = Problem { reason: "ApiUnreachable", message: "gone".to_owned() };
        assert_eq!(
            finding(sign.as_ref(), Some(&trouble), at(99)).status,
            None,
            "who hears nothing can't tell"
        );
    }
}
