use serde_json::json;

use super::*;

fn object(generation: i64, patterns: &[&str]) -> ProbePolicy {
    serde_json::from_value(json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
        "metadata": {"name": "gw", "namespace": "web", "uid": "u", "generation": generation},
        "spec": {"podSelector": {}, "match": {"patterns": patterns}, "threshold": 2, "uniquePatternThreshold": 0},
    }))
    .unwrap()
}

fn line(path: &str) -> Vec<u8> {
    format!(r#"203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET {path} HTTP/1.1" 404 0 "-" "-""#)
        .into_bytes()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn update(policies: &mut Policies, object: &ProbePolicy) {
    policies.update(&[object], usize::MAX, &[], at(0));
}

#[test]
fn a_bad_change_is_refused_and_the_last_good_version_goes_on() {
    let mut policies = Policies::default();
    update(&mut policies, &object(1, &["^/admin"]));
    let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
    assert!(jail.observe(&mut Trail::stamped(), at(1), &line("/admin"), &Networks::default()).is_none());
    update(&mut policies, &object(2, &["("]));
    let (_, entry) = policies.iter().next().unwrap();
    assert_eq!(entry.accepted.status, Some(false));
    assert!(entry.accepted.message.contains("stays in force until the operator restarts"));
    assert_eq!(entry.generation, Some(2));
    assert!(matches!(
        jail.observe(&mut Trail::stamped(), at(2), &line("/admin"), &Networks::default()),
        Some(Outcome::Earned(_))
    ));
}

#[test]
fn a_new_policy_that_is_bad_counts_nothing_and_says_so() {
    let mut policies = Policies::default();
    update(&mut policies, &object(1, &["("]));
    let (_, entry) = policies.iter().next().unwrap();
    assert!(entry.jail.is_none());
    assert!(entry.accepted.message.contains("spec.match.patterns[0]"), "{}", entry.accepted.message);
    assert!(entry.accepted.message.contains("nobody is banned"));
}

#[test]
fn a_good_change_keeps_the_counts() {
    let mut policies = Policies::default();
    update(&mut policies, &object(1, &["^/admin"]));
    let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
    assert!(jail.observe(&mut Trail::stamped(), at(1), &line("/admin"), &Networks::default()).is_none());
    update(&mut policies, &object(2, &["^/admin", "^/other"]));
    assert!(matches!(
        jail.observe(&mut Trail::stamped(), at(2), &line("/other"), &Networks::default()),
        Some(Outcome::Earned(_))
    ));
}

#[test]
fn a_longer_window_is_known_to_lack_what_was_older_than_the_former() {
    let windowed = |generation, window: &str| {
        let mut object = object(generation, &["^/admin"]);
        object.spec.window = window.to_owned();
        object
    };
    let mut policies = Policies::default();
    for (generation, window, now, expect) in
        [(1, "2m", 0, None), (2, "1m", 500, None), (3, "1h", 1_000, Some(940)), (4, "30m", 1_500, Some(940))]
    {
        policies.update(&[&windowed(generation, window)], usize::MAX, &[], at(now));
        let kept_since = policies.iter().next().unwrap().1.kept_since;
        assert_eq!(kept_since, expect.map(at), "window {window} at {now}");
    }
}

#[test]
fn a_policy_made_again_under_its_name_starts_anew() {
    let mut policies = Policies::default();
    update(&mut policies, &object(1, &["^/admin"]));
    let first = policies.iter().next().unwrap().1.jail.clone().unwrap();
    let mut again = object(1, &["^/admin"]);
    again.metadata.uid = Some("other".into());
    update(&mut policies, &again);
    let second = policies.iter().next().unwrap().1.jail.clone().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}

#[test]
fn lines_from_before_a_lifting_count_in_no_jail_not_in_a_new_one_either() {
    let source: Source = "203.0.113.7/32".parse().unwrap();
    let mut policies = Policies::default();
    policies.update(&[&object(1, &["^/admin"])], usize::MAX, &[(source, at(10))], at(0));
    let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
    for second in [8, 9, 10, 11] {
        assert!(
            jail.observe(&mut Trail::stamped(), at(second), &line("/admin"), &Networks::default()).is_none(),
            "{second}"
        );
    }
    assert!(jail.observe(&mut Trail::stamped(), at(12), &line("/admin"), &Networks::default()).is_some());
}

#[test]
fn a_policy_that_is_one_too_many_says_so_and_counts_when_there_is_room() {
    let mut policies = Policies::default();
    let object = object(1, &["^/admin"]);
    let key = PolicyKey::of(&object);
    for (is_admitted, reason) in [(false, "TooManyPolicies"), (true, "Accepted"), (false, "TooManyPolicies")]
    {
        let (admitted, refused) = if is_admitted { (vec![&object], vec![]) } else { (vec![], vec![&object]) };
        policies.update(&admitted, usize::MAX, &[], at(0));
        policies.refuse(&refused);
        let entry = policies.get(&key).unwrap();
        assert_eq!((entry.accepted.reason, entry.jail.is_some()), (reason, is_admitted));
        assert_eq!(entry.generation, Some(1));
    }
}

#[test]
fn patterns_that_no_room_is_left_for_wait_until_there_is() {
    let mut policies = Policies::default();
    let (first, second) = (object(1, &["^/admin"]), {
        let mut second = object(1, &["^/admin"]);
        second.metadata.name = Some("second".into());
        second
    });
    policies.update(&[&first], usize::MAX, &[], at(0));
    let room_for_one = policies.pattern_bytes();
    policies.update(&[&first, &second], room_for_one, &[], at(0));
    let key = PolicyKey::of(&second);
    let entry = policies.get(&key).unwrap();
    assert_eq!((entry.accepted.reason, entry.jail.is_some()), ("TooManyPatterns", false));
    assert!(entry.accepted.message.contains("nobody is banned"), "{}", entry.accepted.message);
    policies.update(&[&second], room_for_one, &[], at(0));
    assert!(policies.get(&key).unwrap().jail.is_some());
    assert!(policies.pattern_bytes() <= room_for_one);
}

#[test]
fn a_policy_under_attack_gets_what_the_others_do_not_need() {
    let mut policies = Policies::default();
    let objects: Vec<ProbePolicy> = (0..100)
        .map(|number| {
            let mut object = object(1, &["^/admin"]);
            object.metadata.name = Some(format!("p{number}"));
            object
        })
        .collect();
    policies.update(&objects.iter().collect::<Vec<_>>(), usize::MAX, &[], at(0));
    let total = 32 << 20;
    policies.share(total);
    let jails: Vec<Arc<PolicyJail>> = policies.iter().filter_map(|(_, entry)| entry.jail.clone()).collect();
    let given = || jails.iter().map(|jail| jail.jail().limits().source_bytes).sum::<usize>();
    assert!(given() <= total);
    let mut next = 0x0b00_0000;
    let mut spray = |jail: &PolicyJail, count: u32| {
        for _ in 0..count {
            next += 1;
            let client = std::net::Ipv4Addr::from_bits(next);
            let line = format!(r#"{client} - - [-] "GET /admin HTTP/1.1" 404 1"#);
            assert!(
                jail.observe(&mut Trail::stamped(), at(1), line.as_bytes(), &Networks::default()).is_none()
            );
        }
    };
    spray(&jails[7], 10_000);
    assert!(jails[7].jail().counters().evicted > 0);
    policies.share(total);
    assert!(given() <= total);
    assert!(jails[7].jail().limits().source_bytes > total / 2);
    // Another one comes under attack as well: the first gives back what is too much.
    spray(&jails[7], 200_000);
    spray(&jails[8], 10_000);
    policies.share(total);
    assert!(given() <= total);
    let taken: usize = jails.iter().map(|jail| jail.jail().tracked_bytes()).sum();
    assert!(taken <= total, "{taken}");
    assert!(jails[8].jail().limits().source_bytes > total / 4);
}
