//! The cluster under test: whether it is there, and the ways to reach it.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// How long one command may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Where the cluster is; `Err` says what is missing.
static PLACE: LazyLock<Result<Place, String>> = LazyLock::new(look);

#[derive(Debug)]
struct Place {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

/// The running cluster.
pub struct Lab {
    /// A client with all rights.
    pub kube: kube::Client,
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// What keeps tests on the cluster from running here, or `None` when they can.
#[must_use]
pub fn missing() -> Option<&'static str> {
    PLACE.as_ref().err().map(String::as_str)
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

fn look() -> Result<Place, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("root is needed: clients and nodes are network namespaces".to_owned());
    }
    let cluster = script("cluster.sh");
    let run = |verb: &str| {
        std::process::Command::new(&cluster)
            .arg(verb)
            .output()
            .map_err(|error| format!("{} can't be run: {error}", cluster.display()))
    };
    if !run("is-up")?.status.success() {
        return Err("there is no cluster: run 'make cluster-up' first, or 'make test-e2e'".to_owned());
    }
    let lines = String::from_utf8_lossy(&run("env")?.stdout).into_owned();
    let variables: HashMap<&str, &str> = lines
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('\'')))
        .collect();
    let file = |name: &str| {
        variables.get(name).map(PathBuf::from).ok_or_else(|| format!("cluster.sh env names no {name}"))
    };
    Ok(Place { kubeconfig: file("KUBECONFIG")?, kubectl: file("KUBECTL")? })
}

fn place() -> Result<&'static Place> {
    PLACE.as_ref().map_err(|missing| anyhow::anyhow!("{missing}"))
}

impl Lab {
    /// Connects to it.
    pub async fn connect() -> Result<Self> {
        Ok(Self { kube: Self::client_with(|_| {}).await? })
    }

    /// A client whose configuration was changed, for example to another identity.
    pub async fn client_with(change: impl FnOnce(&mut kube::Config)) -> Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(&place()?.kubeconfig)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        change(&mut config);
        Ok(kube::Client::try_from(config)?)
    }
}

/// Runs kubectl as a person would, and returns what it printed.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    printed("kubectl", kubectl_with(arguments, None).await?)
}

/// Runs kubectl with that text as its standard input; a failure is not an error here.
pub async fn kubectl_with(arguments: &[&str], input: Option<&str>) -> Result<Output> {
    let place = place()?;
    let mut command = Command::new(&place.kubectl);
    command.env("KUBECONFIG", &place.kubeconfig).args(arguments).current_dir(root());
    run(command, input).await
}

/// The same with another PATH, on which kubectl finds its plugins.
pub async fn kubectl_on(path: &OsStr, arguments: &[&str]) -> Result<Output> {
    let place = place()?;
    let mut command = Command::new(&place.kubectl);
    command.env("KUBECONFIG", &place.kubeconfig).env("PATH", path).args(arguments).current_dir(root());
    run(command, None).await
}

/// Runs one of the cluster's scripts.
pub async fn cluster(name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(script(name));
    command.args(arguments);
    printed(name, run(command, None).await?)
}

/// Makes a target of the repository's Makefile with the cluster's kubectl.
pub async fn make(target: &str, variables: &[(&str, &str)]) -> Result<()> {
    let place = place()?;
    let mut command = Command::new("make");
    command.env("KUBECONFIG", &place.kubeconfig).envs(variables.iter().copied());
    command.arg("--no-print-directory").arg(target).arg(format!("KUBECTL={}", place.kubectl.display()));
    command.current_dir(root());
    printed(&format!("make {target}"), run(command, None).await?).map(drop)
}

/// Runs a program on this machine and returns what it printed.
pub async fn host<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    printed(program, run(command, None).await?)
}

/// What a program that succeeded printed.
pub fn printed(what: &str, output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed: {}", errors.trim());
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) async fn run(mut command: Command, input: Option<&str>) -> Result<Output> {
    let what = format!("{command:?}", command = command.as_std());
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{what} can't be run"))?;
    if let Some((mut pipe, text)) = child.stdin.take().zip(input) {
        pipe.write_all(text.as_bytes()).await?;
    }
    let Ok(output) = tokio::time::timeout(PATIENCE, child.wait_with_output()).await else {
        bail!("{what} was not done within {PATIENCE:?}");
    };
    Ok(output?)
}
