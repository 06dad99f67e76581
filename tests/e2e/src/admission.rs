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

use crate::api_server::ApiServer;

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
    claims: Vec<String>,
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
pub async fn check(case: &Path, server: &ApiServer) -> Result<usize> {
    let steps =
        read(&fs::read_to_string(case)?).with_context(|| format!("{} can't be read", case.display()))?;
    let mut made = BTreeSet::new();
    let mut wrong = Ok(());
    for step in &steps {
        let (output, is_right) = send(step, server).await?;
        // There always is one of it: it stays, as the case's last document leaves it.
        if output.status.success() && !step.reference.starts_with("ProtectedNetworks.") {
            made.insert(step.reference.clone());
        }
        if !is_right {
            wrong = Err(anyhow::anyhow!("{:?} is expected, but {}", step.expect, said(&output)));
            break;
        }
        if step.then_delete {
            server.kubectl_with(&["delete", &step.reference, "--wait=false"], None).await?;
        }
    }
    for reference in &made {
        let release = ["patch", reference, "--type=merge", r#"--patch={"metadata":{"finalizers":null}}"#];
        server.kubectl_with(&release, None).await?;
        server.kubectl_with(&["delete", reference, "--ignore-not-found", "--timeout=10s"], None).await?;
    }
    wrong.with_context(|| case.display().to_string())?;
    Ok(steps.len())
}

async fn send(step: &Step, server: &ApiServer) -> Result<(Output, bool)> {
    let begun = Instant::now();
    loop {
        let output = server.kubectl_with(&arguments(step), Some(&step.object)).await?;
        let is_right = is_as_expected(step, &output);
        if is_right || begun.elapsed() >= step.within {
            return Ok((output, is_right));
        }
        if output.status.success() {
            server.kubectl_with(&["delete", &step.reference], None).await?;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn arguments(step: &Step) -> Vec<&str> {
    let mut arguments = match step.verb {
        "patch" => vec!["patch", &step.reference, "--type=merge", "--patch-file=/dev/stdin"],
        verb => vec![verb, "--filename=-"],
    };
    if let Some(user) = &step.user {
        arguments.extend(["--as", user]);
        if step.verb == "apply" {
            arguments.extend(["--server-side", "--field-manager=case", "--force-conflicts"]);
        }
    }
    for claim in &step.claims {
        arguments.extend(["--as-user-extra", claim]);
    }
    if let Some(subresource) = &step.subresource {
        arguments.extend(["--subresource", subresource]);
    }
    arguments
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
        claims: Vec::new(),
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
            ("node", node) => {
                let (name, uid) = node.split_once(' ').unwrap_or((node, ""));
                let claims = [("node-name", name), ("node-uid", uid)]
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty());
                step.claims = claims
                    .map(|(claim, value)| format!("authentication.kubernetes.io/{claim}={value}"))
                    .collect();
            }
            ("subresource", name) => step.subresource = Some(name.to_owned()),
            ("active within", time) => {
                step.within =
                    Duration::from_secs(time.trim_end_matches('s').parse().context("active within")?);
            }
            ("create", "") => step.verb = "create",
            ("replace", "") => step.verb = "replace",
            ("patch", "") => step.verb = "patch",
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
             # refused: no: way\n# as: someone\n# node: n1 5d1c\n# subresource: status\n# active within: 10s\n# create\n\
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
        let claims = ["node-name=n1", "--as-user-extra", "node-uid=5d1c", "--subresource", "status"];
        let given: Vec<&str> = arguments(&steps[1])[5..]
            .iter()
            .map(|argument| argument.trim_start_matches("authentication.kubernetes.io/"))
            .collect();
        assert_eq!(given, claims);
    }

    #[test]
    fn a_document_that_says_nothing_is_an_error() {
        assert!(read("# Only a claim.\nkind: IPBan\nmetadata: {name: a}\n").is_err());
    }

    #[test]
    fn every_case_can_be_read() {
        for folder in ["ipban", "nodefirewall", "policylimits", "probepolicy", "protectednetworks", "rights"]
        {
            for case in cases(folder).unwrap() {
                read(&fs::read_to_string(&case).unwrap())
                    .unwrap_or_else(|error| panic!("{}: {error}", case.display()));
            }
        }
    }
}
