//! Running one of the node image's tools: by absolute path, without a shell, with a time limit, and with no more
//! of its output kept than is wanted.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

/// Where tools are looked for.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// How long a tool may take. It waits for the lock for 5 s at most.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How much of what a tool says is wrong is kept, in bytes.
const MOST_COMPLAINT: u64 = 2_048;
/// How much wanted output is kept, in bytes: far beyond a chain of plain rules.
const MOST_OUTPUT: usize = 4 * 1024 * 1024;
/// The longest line that is read whole, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It isn't there.
    #[error("{0} is missing: the agent's image must hold Debian's iptables package or its like")]
    Missing(&'static str),
    /// It ended with an error.
    #[error("{tool} ended with status {status}: {complaint}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// Its exit status, -1 when a signal ended it.
        status: i32,
        /// What it printed.
        complaint: String,
    },
    /// It didn't end.
    #[error("{0} took longer than {limit} s and was ended", limit = TIME_LIMIT.as_secs())]
    TimedOut(&'static str),
    /// It printed more than can be right.
    #[error("{0} printed more than {MOST_OUTPUT} bytes about us")]
    Flood(&'static str),
    /// It could not be started or spoken to.
    #[error("{tool} could not be run")]
    Io {
        /// Its name.
        tool: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The absolute path of a tool.
pub fn find(tool: &'static str) -> Result<PathBuf, ToolError> {
    DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(tool))
        .find(|path| path.is_file())
        .ok_or(ToolError::Missing(tool))
}

/// Runs a tool with `input` and returns the lines of its output that `keep` wants.
pub async fn run(
    tool: &'static str,
    arguments: &[&str],
    input: &str,
    keep: impl Fn(&str) -> bool,
) -> Result<Vec<String>, ToolError> {
    let path = find(tool)?;
    let io = |source| ToolError::Io { tool, source };
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Also ends it where the time limit drops this future.
        .kill_on_drop(true)
        .spawn()
        .map_err(io)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(io(std::io::ErrorKind::BrokenPipe.into()));
    };

    let write = async {
        // A tool that refuses its input may end before it has read all of it; its status tells.
        let _status_tells = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let read = read_lines(tool, BufReader::new(stdout), keep);
    let complain = async {
        let mut stderr = stderr;
        let mut complaint = Vec::new();
        let _best_effort = (&mut stderr).take(MOST_COMPLAINT).read_to_end(&mut complaint).await;
        let _drained = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&complaint).trim().replace('\n', "; ")
    };
    let work = async {
        let ((), lines, complaint) = tokio::join!(write, read, complain);
        let status = child.wait().await.map_err(io)?;
        if !status.success() {
            return Err(ToolError::Failed { tool, status: status.code().unwrap_or(-1), complaint });
        }
        lines
    };
    tokio::time::timeout(TIME_LIMIT, work).await.unwrap_or(Err(ToolError::TimedOut(tool)))
}

async fn read_lines(
    tool: &'static str,
    mut output: impl tokio::io::AsyncBufRead + Unpin,
    keep: impl Fn(&str) -> bool,
) -> Result<Vec<String>, ToolError> {
    let mut lines = Vec::new();
    let mut kept = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut output).take(LONGEST_LINE as u64);
        let read = bounded.read_until(b'\n', &mut line).await;
        if read.map_err(|source| ToolError::Io { tool, source })? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !keep(text) {
            continue;
        }
        kept += text.len();
        if kept > MOST_OUTPUT {
            // The rest has to be read all the same, or the tool would wait for ever.
            let _drained = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
            return Err(ToolError::Flood(tool));
        }
        lines.push(text.to_owned());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_wanted_lines_are_kept_and_input_is_fed() {
        let lines = run("cat", &[], "one\ntwo\nthree", |line| line.contains('t')).await.unwrap();
        assert_eq!(lines, ["two", "three"]);
    }

    #[tokio::test]
    async fn a_failure_says_what_the_tool_said() {
        let error = run("cat", &["/nonexistent/file"], "", |_| true).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cat ended with status 1: ") && text.contains("No such file"), "{text}");
    }

    #[tokio::test]
    async fn a_missing_tool_is_named() {
        let error = run("iptables-imaginary", &[], "", |_| true).await.unwrap_err();
        assert!(matches!(error, ToolError::Missing("iptables-imaginary")));
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_does_not_hang() {
        let input = "x".repeat(100).repeat(MOST_OUTPUT / 50);
        let error = run("cat", &[], &input, |_| true).await.unwrap_err();
        assert!(matches!(error, ToolError::Flood("cat")), "{error}");
    }
}
