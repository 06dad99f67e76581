//! What a jail keeps of its counts when its policy changes.

use super::*;

#[test]
fn a_changed_policy_keeps_the_counts_that_still_mean_the_same() {
    let change = |new: &PolicyDraft, old: &PolicyDraft, client: &str, path: &str| {
        let mut jail = jail(old);
        watch(&mut jail, client, &[("10:00:00", path)]);
        jail.reconfigure(Policy::compile(new).unwrap());
        jail.tracked()
    };
    let old = PolicyDraft { patterns: vec!["^/own".to_owned()], ..PolicyDraft::default() };
    let without = |catalogues: Vec<_>| PolicyDraft { catalogues, ..old.clone() };
    assert_eq!(
        change(&without(vec![]), &old, "203.0.113.7", "/own"),
        1,
        "the pattern has another number now"
    );
    assert_eq!(change(&without(vec![]), &old, "203.0.113.7", "/.env"), 0, "the pattern is gone");
    let longer = PolicyDraft { window: Duration::from_hours(1), threshold: 9, ..old.clone() };
    assert_eq!(change(&longer, &old, "203.0.113.7", "/.env"), 1);
    let narrower = PolicyDraft { ipv6_prefix: 128, ..old.clone() };
    assert_eq!(change(&narrower, &old, "203.0.113.7", "/.env"), 1);
    assert_eq!(change(&narrower, &old, "2001:db8::1", "/.env"), 0, "counted by another prefix");
    let exempt = PolicyDraft { except_cidrs: vec!["203.0.113.0/24".parse().unwrap()], ..old.clone() };
    assert_eq!(change(&exempt, &old, "203.0.113.7", "/.env"), 0, "exempt now");
    assert_eq!(change(&exempt, &old, "198.51.100.7", "/.env"), 1);
    let exempt = PolicyDraft { except_patterns: vec!["^/.env/ok".to_owned()], ..old.clone() };
    assert_eq!(change(&exempt, &old, "203.0.113.7", "/.env"), 0, "may have been exempt");
    assert_eq!(change(&old, &exempt, "203.0.113.7", "/.env"), 1, "nothing is exempt anew");
    let exempt = PolicyDraft { except_user_agents: vec!["^Googlebot".to_owned()], ..old.clone() };
    assert_eq!(change(&exempt, &old, "203.0.113.7", "/.env"), 0, "may have been exempt");
    assert_eq!(change(&old, &exempt, "203.0.113.7", "/.env"), 1, "nothing is exempt anew");
    let longer = PolicyDraft {
        ban_duration: Duration::from_hours(48),
        escalation: Some(Escalation {
            factor: 2,
            max_duration: Duration::from_hours(96),
            memory: Duration::from_hours(96),
        }),
        ..old.clone()
    };
    assert_eq!(change(&longer, &old, "203.0.113.7", "/.env"), 1, "how long bans last changes no count");
    let behind_proxies = PolicyDraft {
        client_ip: Some(ClientIpDraft {
            header: ClientIpHeader::XForwardedFor,
            trusted_hops: 0,
            trusted_proxies: vec!["198.51.100.0/24".parse().unwrap()],
        }),
        ..old.clone()
    };
    assert_eq!(change(&behind_proxies, &old, "203.0.113.7", "/.env"), 0, "clients are found elsewhere");
}

#[test]
fn a_changed_narrowing_keeps_the_counts_unless_it_lets_less_through() {
    let any = |statuses: &[&str]| PolicyDraft {
        catalogues: vec![],
        any_path: true,
        statuses: statuses.iter().map(|&status| status.to_owned()).collect(),
        ..PolicyDraft::default()
    };
    let of_patterns = PolicyDraft::default();
    #[rustfmt::skip]
    let table = [
        (any(&["404"]),  any(&["404"]),       1),
        (any(&["404"]),  any(&["4xx", "500"]), 1),
        (any(&["404"]),  any(&[]),            1),
        (any(&["4xx"]),  any(&["404"]),       0),
        (any(&[]),       any(&["404"]),       0),
        (of_patterns.clone(), any(&[]),       1),
        (of_patterns.clone(), any(&["404"]),  0),
        (any(&[]),       of_patterns.clone(), 0),
    ];
    for (index, (old, new, expect)) in table.into_iter().enumerate() {
        let mut jail = jail(&old);
        watch(&mut jail, "203.0.113.7", &[("10:00:00", "/.env")]);
        jail.reconfigure(Policy::compile(&new).unwrap());
        assert_eq!(jail.tracked(), expect, "row {index}");
    }
}

#[test]
fn paths_that_were_asked_for_before_they_counted_count() {
    let old = PolicyDraft { unique_pattern_threshold: 0, threshold: 100, ..PolicyDraft::default() };
    let new = PolicyDraft { unique_path_threshold: 3, ..old.clone() };
    let mut jail = jail(&old);
    watch(
        &mut jail,
        "203.0.113.7",
        &[("10:00:00", "/.env"), ("10:00:01", "/.env.bak"), ("10:00:02", "//.env?x")],
    );
    jail.reconfigure(Policy::compile(&new).unwrap());
    assert_eq!(
        watch(&mut jail, "203.0.113.7", &[("10:00:03", "/.env?y")]),
        [Verdict::Counted],
        "still two paths"
    );
    let verdicts = watch(&mut jail, "203.0.113.7", &[("10:00:04", "/.env.old")]);
    assert_eq!(earned(&verdicts[0]).evidence.hits, 5);
}

#[test]
fn a_renumbered_pattern_goes_on_counting_as_itself() {
    let old = PolicyDraft { patterns: vec!["^/own".to_owned()], ..PolicyDraft::default() };
    let new = PolicyDraft {
        catalogues: vec![],
        patterns: vec!["^/new".to_owned(), "^/own".to_owned()],
        ..old.clone()
    };
    let mut jail = jail(&old);
    watch(&mut jail, "203.0.113.7", &[("10:00:00", "/own")]);
    jail.reconfigure(Policy::compile(&new).unwrap());
    assert_eq!(
        watch(&mut jail, "203.0.113.7", &[("10:00:01", "/own")]),
        [Verdict::Counted],
        "still one pattern"
    );
    earned(&watch(&mut jail, "203.0.113.7", &[("10:00:02", "/new")])[0]);
}
