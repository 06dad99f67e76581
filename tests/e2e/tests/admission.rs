//! What the API server refuses, and in which words: the files under `admission/`, one a case.

use anyhow::{Result, ensure};
use futures::{StreamExt as _, stream};
use ip_sentry_e2e::{
    admission::{cases, check},
    scenario::{Scenario, alone},
};

/// Checks all cases of a folder, so many at a time, and tells of all that fail.
async fn table(scenario: &Scenario, folder: &str, at_a_time: usize) -> Result<()> {
    let cases = cases(folder)?;
    let checked =
        stream::iter(&cases).map(|case| check(case, &scenario.namespace)).buffer_unordered(at_a_time);
    let results: Vec<Result<usize>> = checked.collect().await;
    let wrong: Vec<String> =
        results.iter().filter_map(|case| Some(format!("{:#}", case.as_ref().err()?))).collect();
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

// Cases of one kind share names, so only those of policies, which name objects that nobody else sees, run side by
// side; and no other test's bans are about.

#[test]
fn bans_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "ipban", 1).await);
}

#[test]
fn policies_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "probepolicy", 1).await);
}

#[test]
fn protected_networks_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "protectednetworks", 1).await);
}

#[test]
fn node_firewalls_are_accepted_and_refused_as_the_table_says() {
    alone(async |scenario: &Scenario| table(scenario, "nodefirewall", 1).await);
}
