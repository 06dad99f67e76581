//! Takes everything that the agent ever made out of the kernel: the chain, the jumps to it, the sets.
//!
//! It goes by names, so it needs no memory of what was made, and doing it again does nothing.

use ip_sentry_core::enforce::sets::SET_PREFIX;

use crate::kernel::{
    ipset::{Ipset, IpsetError},
    tool::ToolError,
    xtables::{self, XtablesError},
};

/// Why something may be left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// The rules.
    #[error("the chain IP-BLOCKER or jumps to it may be left")]
    Rules(#[from] XtablesError),
    /// The sets.
    #[error("sets may be left: ipset list -n")]
    Sets(#[from] IpsetError),
    /// Another program, most likely an agent that still runs, puts the rules back.
    #[error("the chain is back after it was removed: stop the agent on this node first")]
    Back,
}

/// How often a chain that came back is removed again.
const ROUNDS: usize = 3;

/// Removes all of it.
pub async fn cleanup() -> Result<(), CleanupError> {
    for &family in xtables::families() {
        // Reading a table that isn't there would make it.
        if !xtables::has_filter(family) {
            continue;
        }
        let mut rounds = 0;
        loop {
            let table = match xtables::read(family).await {
                Err(XtablesError::Tool(ToolError::Missing(tool))) => {
                    tracing::warn!(tool, "rules can't be removed, sets can");
                    break;
                }
                table => table?,
            };
            let Some(text) = table.removal() else { break };
            if rounds == ROUNDS {
                return Err(CleanupError::Back);
            }
            rounds += 1;
            xtables::restore(family, &text).await?;
            tracing::info!(?family, "chain and jumps removed");
        }
    }
    let mut ipset = match Ipset::open() {
        Err(IpsetError::Missing) => return Ok(()),
        opened => opened?,
    };
    for name in ipset.names()? {
        if name.starts_with(SET_PREFIX) {
            ipset.destroy(&name)?;
            tracing::info!(name, "set removed");
        }
    }
    Ok(())
}
