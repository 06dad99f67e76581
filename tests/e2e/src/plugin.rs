//! The kubectl plugin, run as `kubectl ip-sentry` by kubectl itself.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::lab;

/// The file that kubectl looks for on the PATH.
const NAME: &str = "kubectl-ip_sentry";

/// Runs `kubectl ip-sentry` with these arguments and returns what it printed.
pub async fn plugin(arguments: &[&str]) -> Result<String> {
    let path = path()?;
    let mut all = vec!["ip-sentry"];
    all.extend(arguments);
    lab::printed("kubectl ip-sentry", lab::kubectl_on(&path, &all).await?)
}

/// The PATH with the folder in front where cargo puts the workspace's programs, beside `deps/` with this test.
fn path() -> Result<OsString> {
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).map(PathBuf::from).context("the test's program has no folder")?;
    ensure!(
        folder.join(NAME).exists(),
        "there is no {NAME} in {}: cargo build -p ip-sentry-cli, as make test-e2e does",
        folder.display()
    );
    let rest = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths([folder].into_iter().chain(env::split_paths(&rest)))?)
}
