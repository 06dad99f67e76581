//! What the API server refuses, and in which words: the files under `admission/`, one a case.

use anyhow::{Result, ensure};
use ip_sentry_e2e::{
    admission::{cases, check},
    lab::kubectl,
    scenario::{Scenario, alone, shared},
};

/// Checks all cases of a folder, one after the other since they share names, and tells of all that fail.
async fn table(scenario: &Scenario, folder: &str) -> Result<()> {
    let (cases, mut wrong) = (cases(folder)?, Vec::new());
    for case in &cases {
        if let Err(error) = check(case, &scenario.namespace).await {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn bans_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "ipban").await);
}

#[test]
fn policies_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "probepolicy").await);
}

#[test]
fn the_examples_are_accepted() {
    shared(async |scenario: &Scenario| {
        let space = format!("--namespace={}", scenario.namespace);
        let jails = "--filename=deploy/kustomize/examples/jails";
        kubectl(&[&space, "apply", "--dry-run=server", "--validate=strict", jails]).await.map(drop)
    });
}

#[test]
fn protected_networks_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "protectednetworks").await);
}

#[test]
fn node_firewalls_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "nodefirewall").await);
}
