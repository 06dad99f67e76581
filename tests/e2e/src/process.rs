//! The processes in the cluster's pods, as this machine sees them: killed and measured as no API can.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A process of ip-sentry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process(Pid);

impl Process {
    /// The operator that runs in this pod, if it runs.
    #[must_use]
    pub fn of_operator(pod: &str) -> Option<Self> {
        find("/ip-sentry-operator", &format!("POD_NAME={pod}"))
    }

    /// The agent that runs on this node, if it runs.
    #[must_use]
    pub fn of_agent(node: crate::node::Node) -> Option<Self> {
        find("/usr/local/bin/ip-sentry-node-agent", &format!("NODE_NAME={node}"))
    }

    /// Ends it at once.
    pub fn kill(self) -> Result<()> {
        kill_process(self.0, Signal::KILL).context("it can't be killed")
    }

    /// The memory that it has resident, in KiB.
    pub fn resident_kib(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.as_raw_nonzero()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// The process of that program with that variable in its environment.
fn find(program: &str, variable: &str) -> Option<Process> {
    let ids = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |file: String, first: bool, text: &str| {
        let content = fs::read(file).unwrap_or_default();
        let mut parts = content.split(|&byte| byte == 0);
        if first { parts.next() == Some(text.as_bytes()) } else { parts.any(|part| part == text.as_bytes()) }
    };
    let id = ids.find(|id| {
        has(format!("/proc/{id}/cmdline"), true, program)
            && has(format!("/proc/{id}/environ"), false, variable)
    })?;
    Pid::from_raw(id).map(Process)
}
