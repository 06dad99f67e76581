//! What the leader writes of the cluster's own networks into `ProtectedNetworks/cluster`.

use std::fmt::Write as _;

use ip_sentry_crd::{
    ProtectedNetworks,
    condition::{self, Finding},
    protected_networks::ProtectedNetworksStatus,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::select::{MOST, Selection, Why};

/// The age at which `observedAt` is renewed, though nothing else has changed: agents take it as the sign that an
/// operator leads. With the control loop's rounds it is never older than 20 s.
const RENEW: SignedDuration = SignedDuration::from_secs(15);
/// How many of the networks that are left out for one reason are named.
const NAMED: usize = 5;

/// The list of networks as it is written.
#[must_use]
pub fn cidrs(selection: &Selection<'_>) -> Vec<String> {
    selection.networks.iter().map(ToString::to_string).collect()
}

/// The status to write, or `None` where it says so already. Where the API server has refused the list, for the reason
/// `refusal`, the last one that it took stays, and the condition says so.
#[must_use]
pub fn status(
    object: &ProtectedNetworks,
    selection: &Selection<'_>,
    unread: &[&'static str],
    refusal: Option<&str>,
    now: Timestamp,
) -> Option<ProtectedNetworksStatus> {
    let nothing = ProtectedNetworksStatus::default();
    let old = object.status.as_ref().unwrap_or(&nothing);
    let is_listed = refusal.is_none() || old.observed_at.is_some();
    let finding = complete(selection, unread, refusal.map(|why| (why, is_listed)));
    let new = ProtectedNetworksStatus {
        cidrs: if refusal.is_none() { cidrs(selection) } else { old.cidrs.clone() },
        api_servers: selection.api_servers.iter().map(ToString::to_string).collect(),
        // From then on bans are admitted: not before there is a list.
        observed_at: is_listed.then_some(Time(now)),
        conditions: condition::merge(&old.conditions, &[finding], object.metadata.generation, now),
    };
    // One in the future is of a leader whose clock was ahead.
    let is_fresh = |observed: &Time| now.duration_since(observed.0).abs() < RENEW;
    let is_told = old.observed_at.is_some() == is_listed
        && old.observed_at.as_ref().is_none_or(is_fresh)
        && old.cidrs == new.cidrs
        && old.api_servers == new.api_servers
        && old.conditions == new.conditions;
    (!is_told).then_some(new)
}

/// Whether everything that the cluster states is protected. `refusal`: why the API server refused the list, and whether
/// an earlier one is in force.
fn complete(selection: &Selection<'_>, unread: &[&'static str], refusal: Option<(&str, bool)>) -> Finding {
    let mut message = String::new();
    let mut say = |text: &str| {
        let _ = write!(message, "{}{text}", if message.is_empty() { "" } else { "; " });
    };
    if let Some((why, is_listed)) = refusal {
        let so = if is_listed { "the last one stays in force" } else { "no ban is admitted before" };
        say(&format!("the API server refuses the list, {so}: {why}"));
    }
    if !unread.is_empty() {
        say(&format!("the operator can't read {}: check its ClusterRole", unread.join(", ")));
    }
    if selection.is_widened {
        say(&format!(
            "more than {MOST} networks of nodes and pods: wider ones that contain them are protected"
        ));
    }
    let mut reason = None;
    for why in Why::ALL {
        let facts: Vec<_> = selection.left_out.iter().filter(|(because, _)| *because == why).collect();
        if facts.is_empty() {
            continue;
        }
        // Somebody who may only write a spec must not be able to turn the condition.
        reason = reason.or_else(|| (why != Why::Unconfirmed).then_some(reason_of(why)));
        let named: Vec<String> =
            facts.iter().take(NAMED).map(|(_, fact)| format!("{} of {}", fact.network, fact.by)).collect();
        let more = match facts.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        say(&format!("not protected, {}: {}{more}", explain(why), named.join(", ")));
    }
    if refusal.is_some() {
        return Finding::no("Complete", "Refused", message);
    }
    match (unread.is_empty(), reason) {
        (false, _) => Finding::no("Complete", "Unreadable", message),
        (true, Some(reason)) => Finding::no("Complete", reason, message),
        (true, None) if selection.is_widened => Finding::yes("Complete", "Widened", message),
        (true, None) if message.is_empty() => {
            Finding::yes("Complete", "Complete", "the cluster's own networks are protected")
        }
        (true, None) => Finding::yes("Complete", "Complete", message),
    }
}

const fn reason_of(why: Why) -> &'static str {
    match why {
        Why::NoRoom => "NoRoom",
        Why::Share => "ShareUsedUp",
        Why::TooWide => "TooWide",
        Why::Unconfirmed => "Unconfirmed",
    }
}

const fn explain(why: Why) -> &'static str {
    match why {
        Why::NoRoom => "as the list of 1,024 is full",
        Why::Share => "as 16 addresses count that a namespace asked for or a node has",
        Why::TooWide => "as nobody has a range of pods or services that is wider than /8, or /16 of IPv6",
        Why::Unconfirmed => "as only a spec names them and no load balancer has them",
    }
}

#[cfg(test)]
mod tests {
    use ip_sentry_crd::protected_networks::ProtectedNetworksSpec;

    use super::*;
    use crate::protected::{
        facts::{Basis, Fact, Stater},
        in_force, is_observed,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn one_network() -> Selection<'static> {
        Selection { networks: vec!["10.99.0.11/32".parse().unwrap()], ..Selection::default() }
    }

    #[test]
    fn the_status_is_written_when_it_differs_and_every_twenty_seconds() {
        let mut object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
        assert!(!is_observed(&object));
        object.status = status(&object, &one_network(), &[], None, at(100));
        assert!(is_observed(&object));
        assert!(in_force(&object).contains("10.99.0.11".parse().unwrap()));
        #[rustfmt::skip]
        let table = [
            // what was found       unread                at   written
            (one_network(),         &[][..],              110, false),
            (one_network(),         &[][..],              114, false),
            (one_network(),         &[][..],              115, true),
            (one_network(),         &[][..],               80, true), // another leader's clock was ahead
            (Selection::default(),  &[][..],              101, true),
            (one_network(),         &["servicecidrs"][..], 101, true),
        ];
        for (found, unread, now, written) in table {
            let status = status(&object, &found, unread, None, at(now));
            assert_eq!(status.is_some(), written, "{found:?} at {now}");
            if let Some(status) = status {
                assert_eq!(status.observed_at, Some(Time(at(now))));
            }
        }
    }

    #[test]
    fn a_refused_list_leaves_the_last_one_in_force_and_is_told() {
        let mut object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
        let refused = |object: &ProtectedNetworks, at| {
            status(object, &Selection::default(), &["gateways"], Some("no"), at)
        };
        let first = refused(&object, at(50)).unwrap();
        assert!(first.cidrs.is_empty() && first.observed_at.is_none(), "no ban is admitted: {first:?}");
        object.status = Some(first);
        assert_eq!(refused(&object, at(500)), None, "nothing is renewed before there is a list");

        object.status = status(&object, &one_network(), &[], None, at(100));
        let later = refused(&object, at(110)).unwrap();
        assert_eq!(
            (later.cidrs.clone(), later.observed_at.clone()),
            (vec!["10.99.0.11/32".into()], Some(Time(at(110))))
        );
        let condition = &later.conditions[0];
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Refused"));
        let message = "the API server refuses the list, the last one stays in force: no; the operator can't read gateways";
        assert!(condition.message.starts_with(message), "{}", condition.message);
        object.status = Some(later);
        assert_eq!(refused(&object, at(124)), None);
        assert!(refused(&object, at(125)).is_some(), "the leader is at work, and says so");
    }

    #[test]
    fn complete_says_what_is_not_protected_and_of_whom() {
        let by = |name| Stater { kind: "Service", namespace: "shop", name };
        let fact = |network: &str, name| Fact {
            network: network.parse().unwrap(),
            basis: Basis::Given,
            by: by(name),
        };
        let left = |why| Selection { left_out: vec![(why, fact("203.0.113.7/32", "a"))], ..one_network() };
        let many = (0..8).map(|_| (Why::NoRoom, fact("203.0.113.7/32", "a"))).collect();
        let many = Selection { left_out: many, ..one_network() };
        let widened = Selection { is_widened: true, ..one_network() };
        #[rustfmt::skip]
        let table = [
            // what was found          unread              condition
            (one_network(),            &[][..],            "True Complete the cluster's own networks are protected"),
            (one_network(),            &["gateways"][..],  "False Unreadable the operator can't read gateways"),
            (widened,                  &[][..],            "True Widened more than 1024 networks of nodes and pods"),
            (left(Why::NoRoom),        &[][..],            "False NoRoom not protected, as the list of 1,024 is full: 203.0.113.7/32 of Service shop/a"),
            (left(Why::Share),         &[][..],            "False ShareUsedUp not protected, as 16 addresses count"),
            (left(Why::TooWide),       &[][..],            "False TooWide not protected"),
            (left(Why::Unconfirmed),   &[][..],            "True Complete not protected, as only a spec names them and no load balancer has them: 203.0.113.7/32"),
            (many,                     &[][..],            "False NoRoom not protected, as the list of 1,024 is full: 203.0.113.7/32 of Service shop/a, "),
        ];
        for (found, unread, expect) in table {
            let object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
            let condition = status(&object, &found, unread, None, at(0)).unwrap().conditions.remove(0);
            let told = format!("{} {} {}", condition.status, condition.reason, condition.message);
            assert!(told.starts_with(expect), "{told}");
            assert_eq!(told.ends_with(" and 3 more"), found.left_out.len() == 8, "{told}");
        }
    }
}
