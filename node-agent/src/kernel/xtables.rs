//! The `iptables-legacy` tools: read the table `filter`, change it in one step.
//!
//! `iptables-legacy` and not `iptables`: both kinds' hooks run in the kernel and a DROP in either is final, so
//! ours works whatever the node's own tools write, and is seen where people look for it.
//! Reading is done by `iptables-legacy-save`, which does not take the lock: other readers do, and would wake
//! ourselves, who watch it.

use std::path::{Path, PathBuf};

use ip_sentry_core::enforce::{chain::Table, sets::Family};

use super::tool::{self, ToolError};

/// How long to wait for the lock that all xtables tools share, in seconds.
///
/// Always given: without it some versions do not wait and some wait for ever.
const LOCK_WAIT_SECS: &str = "5";
/// Exit status of a tool that could not get the lock or other means.
const EXIT_RESOURCE: i32 = 4;

/// Why the rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XtablesError {
    /// The kernel can't match sets.
    #[error("the kernel can't match sets in rules: load the module xt_set ({0})")]
    NoSetMatch(ToolError),
    /// The kernel can't match the time.
    #[error("the kernel can't match the time in rules ({0})")]
    NoTimeMatch(ToolError),
    /// The kernel can't match connections.
    #[error("the kernel can't match connections in rules: load the module xt_conntrack ({0})")]
    NoConntrackMatch(ToolError),
    /// The kernel can't match labels of connections.
    #[error("the kernel can't match labels of connections in rules: load the module xt_connlabel ({0})")]
    NoLabelMatch(ToolError),
    /// Somebody else holds the lock.
    #[error(
        "another program holds the xtables lock, or /run/xtables.lock can't be opened: mount it from the host ({0})"
    )]
    Locked(ToolError),
    /// The capability is missing, or the table.
    #[error(
        "iptables-legacy has no access to the table filter: the container needs NET_ADMIN and NET_RAW, and the kernel ip_tables with iptable_filter ({0})"
    )]
    NoTable(ToolError),
    /// What was written is not what is read.
    #[error(
        "the rules read back are not those that were written: another program rewrites the chain IP-BLOCKER, stop the one that does"
    )]
    NotAsWritten,
    /// Anything else.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl XtablesError {
    /// A stable word for it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSetMatch(_) => "SetMatchMissing",
            Self::NoTimeMatch(_) => "TimeMatchMissing",
            Self::NoConntrackMatch(_) => "ConntrackMatchMissing",
            Self::NoLabelMatch(_) => "LabelMatchMissing",
            Self::Locked(_) => "XtablesLocked",
            Self::NoTable(_) => "NoFilterTable",
            Self::NotAsWritten => "ChainContended",
            Self::Tool(ToolError::Missing(_)) => "IptablesLegacyMissing",
            Self::Tool(_) => "IptablesFailed",
        }
    }

    /// What a failed tool means. `lacks` says whether the kernel knows no match of that name.
    fn of(error: ToolError, input: &str, lacks: impl Fn(&str) -> bool) -> Self {
        let ToolError::Failed { status, complaint, .. } = &error else { return Self::Tool(error) };
        let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        // Where the kernel refuses a rule, the tool says no more than the number of a line.
        let refused = says(&["No chain/target/match", " failed"]);
        if *status == EXIT_RESOURCE
            || says(&["xtables lock", "lock file", "Can't lock", "Can't open /run/xtables.lock"])
        {
            Self::Locked(error)
        } else if says(&["Permission denied", "you must be root", "can't initialize", "Cannot initialize"]) {
            Self::NoTable(error)
        } else if input.contains("--match-set")
            && (says(&["match `set'", "open socket to ipset", "xt_set is not loaded"])
                || refused && lacks("set"))
        {
            Self::NoSetMatch(error)
        } else if input.contains("--datestop") && (says(&["match `time'"]) || refused && lacks("time")) {
            Self::NoTimeMatch(error)
        } else if input.contains("--ctdir") && (says(&["match `conntrack'"]) || refused && lacks("conntrack"))
        {
            Self::NoConntrackMatch(error)
        } else if input.contains("--label") && (says(&["match `connlabel'"]) || refused && lacks("connlabel"))
        {
            Self::NoLabelMatch(error)
        } else {
            Self::Tool(error)
        }
    }
}

/// Whether the kernel has no match of that name, loaded or built in. After a rule with it was refused it was
/// asked to load it, so then this is final.
fn lacks_match(family: Family, name: &str) -> bool {
    let matches = match family {
        Family::V4 => "/proc/net/ip_tables_matches",
        Family::V6 => "/proc/net/ip6_tables_matches",
    };
    std::fs::read_to_string(matches).is_ok_and(|matches| !matches.lines().any(|line| line == name))
}

/// The families that this kernel speaks: a node may be booted without IPv6.
#[must_use]
pub fn families() -> &'static [Family] {
    if Path::new("/proc/net/if_inet6").exists() { &Family::BOTH } else { &Family::BOTH[..1] }
}

/// Reads the table `filter` of that family.
pub async fn read(family: Family) -> Result<Table, XtablesError> {
    let tool = match family {
        Family::V4 => "iptables-legacy-save",
        Family::V6 => "ip6tables-legacy-save",
    };
    // Without `-t` a process that may not read the list of tables prints nothing and says that all is well.
    let lines = tool::run(tool, &["-c", "-t", "filter"], "", Table::concerns_us).await;
    let lines = lines.map_err(|error| XtablesError::of(error, "", |_| false))?;
    Ok(Table::parse(lines.iter().map(String::as_str)))
}

/// Whether the kernel has the table at all; reading it would make it.
#[must_use]
pub fn has_filter(family: Family) -> bool {
    let names = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    std::fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// Applies a restore text, all of it or nothing.
pub async fn restore(family: Family, text: &str) -> Result<(), XtablesError> {
    let tool = match family {
        Family::V4 => "iptables-legacy-restore",
        Family::V6 => "ip6tables-legacy-restore",
    };
    let done = tool::run(tool, &["--noflush", "-w", LOCK_WAIT_SECS], text, |_| false).await;
    done.map(drop).map_err(|error| XtablesError::of(error, text, |name| lacks_match(family, name)))
}

/// The file that all xtables tools lock while they write.
#[must_use]
pub fn lock_file() -> PathBuf {
    // The tools' own variable for it.
    std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| "/run/xtables.lock".into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_complains_of_becomes_a_reason() {
        let sets = "-A IP-BLOCKER -m set --match-set a src -j IP-BLOCKER-HIT";
        let time = "-A IP-BLOCKER-HIT -m time --datestop 2026-11-22T10:00:00 -j RETURN";
        let conn = "-A IP-BLOCKER-HIT -m conntrack --ctdir REPLY -m connlabel ! --label \"115\" -j RETURN";
        #[rustfmt::skip]
        let table = [
            // status, complaint (iptables 1.8.9)                                                  input lacks   reason
            (4, "Another app is currently holding the xtables lock. Stopped waiting after 5s.",    "",   "",     "XtablesLocked"),
            (3, "iptables-restore v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)", "", "", "NoFilterTable"),
            (3, "ip6tables-save v1.8.9 (legacy): Cannot initialize: Table does not exist (do you need to insmod?)", "", "", "NoFilterTable"),
            (1, "iptables-restore v1.8.9 (legacy): Kernel module xt_set is not loaded in.",        sets, "",     "SetMatchMissing"),
            (1, "iptables-restore: line 3 failed",                                                 sets, "set",  "SetMatchMissing"),
            (1, "iptables-restore: line 3 failed",                                                 sets, "time", "IptablesFailed"),
            (1, "iptables-restore: line 3 failed",                                                 time, "time", "TimeMatchMissing"),
            (2, "iptables-restore v1.8.9 (legacy): Couldn't load match `time':No such file",       time, "",     "TimeMatchMissing"),
            (1, "iptables-restore: line 3 failed",                                                 conn, "conntrack", "ConntrackMatchMissing"),
            (1, "iptables-restore: line 3 failed",                                                 conn, "connlabel", "LabelMatchMissing"),
            (2, "iptables-restore v1.8.9 (legacy): Couldn't load match `connlabel':No such file",  conn, "",     "LabelMatchMissing"),
            (2, "iptables-restore v1.8.9 (legacy): Set ipsentry-hosts4 doesn't exist.",            sets, "",     "IptablesFailed"),
        ];
        for (status, complaint, input, lacks, expect) in table {
            let error = ToolError::Failed {
                tool: "iptables-legacy-restore",
                status,
                complaint: complaint.to_owned(),
            };
            let error = XtablesError::of(error, input, |name| name == lacks);
            assert_eq!(error.reason(), expect, "{complaint}");
        }
    }
}
