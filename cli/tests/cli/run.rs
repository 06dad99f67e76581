//! Runs the program.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// How a run ended.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// What it printed, as JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    /// The networks that were banned, in order.
    pub(crate) fn banned(&self) -> Vec<String> {
        let bans = self.json()["bans"].as_array().unwrap().clone();
        bans.iter().map(|ban| ban["spec"]["cidr"].as_str().unwrap().to_owned()).collect()
    }
}

/// A folder of files for one test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with a policy `p.yaml` of this spec.
    pub(crate) fn with_policy(spec: &str) -> Self {
        let folder = Self::new();
        folder.write("p.yaml", policy(spec).as_bytes());
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-ip_sentry"));
        command.args(arguments).current_dir(self.path()).env("KUBECONFIG", self.path().join("kubeconfig"));
        command
    }

    /// Runs it with these bytes on standard input.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Beside it: it may print before it has read all, and may not read at all.
        let feeding = std::thread::spawn(move || stdin.write_all(&input).unwrap_or_default());
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A policy of this spec, in flow style.
pub(crate) fn policy(spec: &str) -> String {
    format!(
        "apiVersion: ipsentry.dev/v1alpha1\nkind: ProbePolicy\nmetadata: {{name: gw, namespace: web}}\n\
         spec: {{podSelector: {{}}, {spec}}}\n"
    )
}

/// A line of the combined format at a second after 10:00:00.
pub(crate) fn line(client: &str, second: u32, path: &str) -> String {
    let (hours, minutes, seconds) = (10 + second / 3600, second / 60 % 60, second % 60);
    format!(
        "{client} - - [22/Nov/2026:{hours:02}:{minutes:02}:{seconds:02} +0000] \"GET {path} HTTP/1.1\" 404 153 \"-\" \"curl/8\"\n"
    )
}

/// Three probes of a client, a second apart.
pub(crate) fn probes(client: &str, second: u32) -> String {
    (0..3).map(|more| line(client, second + more, "/.env?a=b")).collect()
}
