//! The table of what the API server refuses: one file a case under `admission/`, whose README tells the format.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::kubectl_with;

/// The time between two tries of a document that is to be refused soon.
const AGAIN: Duration = Duration::from_millis(200);

/// What is to become of a document.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Expect {
    Accepted,
    Refused(String),
    Warns(String),
}

/// One document of a case and how it is sent.
#[derive(Clone, Debug)]
struct Step {
    expect: Expect,
    verb: &'static str,
    user: Option<String>,
    node: Option<String>,
    subresource: Option<String>,
    within: Duration,
    then_delete: bool,
    object: String,
    /// `kind.group/name`, as kubectl takes it.
    reference: String,
}

/// The cases in a folder, in order.
pub fn cases(folder: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("admission").join(folder);
    let files = fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))?;
    let mut files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

/// Sends a case's documents, and removes what they made. Returns how many there were; fails with what differs.
pub async fn check(case: &Path, namespace: &str) -> Result<usize> {
    let steps =
        read(&fs::read_to_string(case)?).with_context(|| format!("{} can't be read", case.display()))?;
    let mut made = BTreeSet::new();
    let mut wrong = Ok(());
    for step in &steps {
        let (output, is_right) = send(step, namespace).await?;
        // The one object of its kind: it stays, as the case's last document leaves it.
        if output.status.success() && !step.reference.ends_with("/cluster") {
            made.insert(step.reference.clone());
        }
        if !is_right {
            wrong = Err(anyhow::anyhow!("{:?} is expected, but {}", step.expect, said(&output)));
            break;
        }
        if step.then_delete {
            run(&["delete", &step.reference, "--wait=false"], namespace, None).await?;
        }
    }
    for reference in &made {
        let release = ["patch", reference, "--type=merge", r#"--patch={"metadata":{"finalizers":null}}"#];
        run(&release, namespace, None).await?;
        run(&["delete", reference, "--ignore-not-found", "--timeout=10s"], namespace, None).await?;
    }
    wrong.with_context(|| case.display().to_string())?;
    Ok(steps.len())
}

async fn send(step: &Step, namespace: &str) -> Result<(Output, bool)> {
    let begun = Instant::now();
    loop {
        let output = run(&arguments(step), namespace, Some(&step.object)).await?;
        let is_right = is_as_expected(step, &output);
        if is_right || begun.elapsed() >= step.within {
            return Ok((output, is_right));
        }
        if output.status.success() {
            run(&["delete", &step.reference], namespace, None).await?;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn arguments(step: &Step) -> Vec<&str> {
    let mut arguments = vec![step.verb, "--filename=-"];
    if let Some(user) = &step.user {
        arguments.extend(["--as", user]);
        if step.verb == "apply" {
            arguments.extend(["--server-side", "--field-manager=case", "--force-conflicts"]);
        }
    }
    if let Some(claim) = &step.node {
        arguments.extend(["--as-user-extra", claim]);
    }
    if let Some(subresource) = &step.subresource {
        arguments.extend(["--subresource", subresource]);
    }
    arguments
}

async fn run(arguments: &[&str], namespace: &str, input: Option<&str>) -> Result<Output> {
    let mut all = vec!["--namespace", namespace];
    all.extend(arguments);
    kubectl_with(&all, input).await
}

fn is_as_expected(step: &Step, output: &Output) -> bool {
    let is_accepted = output.status.success();
    match &step.expect {
        Expect::Accepted => is_accepted,
        Expect::Refused(text) => !is_accepted && said(output).contains(text),
        Expect::Warns(text) => is_accepted && said(output).contains(text),
    }
}

fn said(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).trim().to_owned());
    parts.join(" ").trim().to_owned()
}

fn read(case: &str) -> Result<Vec<Step>> {
    case.split("---\n").map(read_step).collect()
}

fn read_step(document: &str) -> Result<Step> {
    let object: Value = serde_yaml_ng::from_str(document)?;
    let (Some(kind), Some(name)) = (object["kind"].as_str(), object["metadata"]["name"].as_str()) else {
        bail!("a document without kind or metadata.name");
    };
    let mut step = Step {
        expect: Expect::Accepted,
        verb: "apply",
        user: None,
        node: None,
        subresource: None,
        within: Duration::ZERO,
        then_delete: false,
        object: document.to_owned(),
        reference: format!("{kind}.ipsentry.dev/{name}"),
    };
    let mut is_told = false;
    for line in document.lines().filter_map(|line| line.strip_prefix("# ")) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("accepted", "") => is_told = true,
            ("refused", text) => (step.expect, is_told) = (Expect::Refused(text.to_owned()), true),
            ("warns", text) => (step.expect, is_told) = (Expect::Warns(text.to_owned()), true),
            ("as", user) => step.user = Some(user.to_owned()),
            ("node", node) => step.node = Some(format!("authentication.kubernetes.io/node-name={node}")),
            ("subresource", name) => step.subresource = Some(name.to_owned()),
            ("active within", time) => {
                step.within =
                    Duration::from_secs(time.trim_end_matches('s').parse().context("active within")?);
            }
            ("create", "") => step.verb = "create",
            ("replace", "") => step.verb = "replace",
            ("then delete", "") => step.then_delete = true,
            // The claim, in a file's first line, and remarks.
            _ => {}
        }
    }
    ensure!(is_told, "a document that says neither accepted, refused nor warns");
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_as_its_comments_say() {
        let steps = read(
            "# A ban that goes.\n# accepted\n# then delete\nkind: IPBan\nmetadata: {name: a}\n---\n\
             # refused: no: way\n# as: someone\n# node: n1\n# subresource: status\n# active within: 10s\n# create\n\
             kind: NodeFirewall\nmetadata: {name: b}\n",
        )
        .unwrap();
        assert_eq!(
            (&steps[0].expect, steps[0].verb, steps[0].then_delete),
            (&Expect::Accepted, "apply", true)
        );
        assert_eq!(steps[0].reference, "IPBan.ipsentry.dev/a");
        assert_eq!(steps[1].expect, Expect::Refused("no: way".to_owned()));
        assert_eq!(steps[1].within, Duration::from_secs(10));
        let expect = ["create", "--filename=-", "--as", "someone", "--as-user-extra"];
        assert_eq!(arguments(&steps[1])[..5], expect);
        assert_eq!(
            arguments(&steps[1])[5..],
            ["authentication.kubernetes.io/node-name=n1", "--subresource", "status",]
        );
    }

    #[test]
    fn a_document_that_says_nothing_is_an_error() {
        assert!(read("# Only a claim.\nkind: IPBan\nmetadata: {name: a}\n").is_err());
    }

    #[test]
    fn every_case_can_be_read() {
        for folder in ["ipban", "nodefirewall", "probepolicy", "protectednetworks"] {
            for case in cases(folder).unwrap() {
                read(&fs::read_to_string(&case).unwrap())
                    .unwrap_or_else(|error| panic!("{}: {error}", case.display()));
            }
        }
    }
}
