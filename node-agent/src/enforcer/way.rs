//! How bans get into the kernel, and what is to be said where they don't.

use std::error::Error;

use ip_sentry_core::enforce::plain::MOST_RULES;

use crate::{
    args::BackendChoice,
    kernel::ipset::{Ipset, IpsetError},
    status::{ChainStatus, Problem},
    sync::Outcome,
};

/// How bans get into the kernel.
pub(super) enum Way {
    /// Into sets.
    Ipset(Ipset),
    /// As rules, which the chain's task writes.
    Rules,
}

/// Opens the way to go and says why that one.
pub(super) fn open(
    choice: BackendChoice,
    chain: &ChainStatus,
    way: Option<Way>,
) -> Result<(Way, String), IpsetError> {
    let auto = choice == BackendChoice::Auto;
    if choice == BackendChoice::Rules {
        return Ok((Way::Rules, "asked for by --backend".to_owned()));
    }
    if auto && chain.no_set_match {
        return Ok((Way::Rules, "this kernel can't match sets in rules: load the module xt_set".to_owned()));
    }
    let why = "the kernel has ip_set, protocol 7".to_owned();
    match way {
        Some(Way::Ipset(ipset)) => Ok((Way::Ipset(ipset), why)),
        Some(Way::Rules) | None => match Ipset::open() {
            Ok(ipset) => Ok((Way::Ipset(ipset), why)),
            Err(error @ IpsetError::Missing) if auto => Ok((Way::Rules, error.to_string())),
            Err(error) => Err(error),
        },
    }
}

/// What is told where the kernel has no room for all.
pub(super) fn left_out(outcome: &Outcome, capacity: u32) -> Option<Problem> {
    if !outcome.unguarded.is_empty() {
        return Some(Problem {
            reason: "AllowSetIncomplete",
            message: format!(
                "some protected networks did not fit into the kernel's allow set, so {} bans that touch them are \
                 held back: give ProtectedNetworks fewer, wider networks",
                outcome.withheld
            ),
        });
    }
    (outcome.refused > 0).then(|| Problem {
        reason: "SetFull",
        message: format!(
            "{} bans had no room in a kernel set of {capacity} entries: raise --max-entries, or ban wider networks",
            outcome.refused
        ),
    })
}

fn reason(error: &IpsetError) -> &'static str {
    match error {
        IpsetError::Missing => "IpSetMissing",
        IpsetError::NotPermitted => "CapabilityMissing",
        _ => "KernelError",
    }
}

/// What is told of an error.
pub(super) fn problem_of(error: &IpsetError) -> Problem {
    Problem { reason: reason(error), message: whole_story(error) }
}

/// What is told where plain rules have no room for some bans.
pub(super) fn too_many(refused: usize) -> Option<Problem> {
    (refused > 0).then(|| Problem {
        reason: "TooManyBans",
        message: format!(
            "{refused} bans are not enforced, as without ip_set only {MOST_RULES} of each family can be: load the \
             kernel modules ip_set, ip_set_hash_ip, ip_set_hash_net and xt_set"
        ),
    })
}

/// An error with its causes, in one line.
fn whole_story(error: &dyn Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story.push_str(": ");
        story.push_str(&error.to_string());
        cause = error.source();
    }
    story
}
