//! What is due about one ban, from what is known of it right now.

use ip_sentry_crd::ip_ban::Origin;
use jiff::{SignedDuration, Timestamp};

use crate::bans::{Ban, EXPIRY_GRACE};

/// How long an object may be on its way out before somebody is told what keeps it.
pub const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// What is to be done about a ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// It is over and the operator's own: delete the object.
    Delete(Ended),
    /// It is being deleted: take the finalizer off, once its end is written down.
    Release(Ended),
    /// Somebody has made the operator's ban a Manual one: take off what the operator put on.
    LetGo,
    /// Its status is to give this reason for not being enforced; `None`: it is enforced.
    Tell(Option<Unenforced>),
}

/// Why a ban is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Its time ran out.
    Expired,
    /// Its network became protected, in whole or in part, or its policy excepts it now.
    Protected,
    /// It gave way to stronger evidence.
    Evicted,
    /// Somebody deleted it before its time.
    Lifted,
}

impl Ended {
    /// The fixed word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Expired => "Expired",
            Self::Protected => "Protected",
            Self::Evicted => "Evicted",
            Self::Lifted => "Lifted",
        }
    }
}

/// Why nodes do not enforce a ban whose object is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unenforced {
    /// It ran out, and is not the operator's to delete or can't be deleted.
    Expired,
    /// All of its network is protected.
    Protected,
    /// It is being deleted, and something keeps the object.
    Deleting,
}

impl Unenforced {
    /// The reason of the condition `Enforced`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Expired => "Expired",
            Self::Protected => "Protected",
            Self::Deleting => "Deleting",
        }
    }

    pub(super) fn is_told(self, ban: &Ban) -> bool {
        ban.unenforced.as_deref() == Some(self.reason())
    }
}

/// How much of a ban's network is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protection {
    /// Nothing of it.
    Nothing,
    /// Some of it, or the ban's policy excepts it: the operator's own ban ends, of another nodes drop the rest.
    Part,
    /// All of it: nodes drop nothing.
    Whole,
}

/// What [`due`] must know beside the ban.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The time.
    pub now: Timestamp,
    /// How much of its network is protected.
    pub protection: Protection,
    /// Whether the last deletion or release of it failed.
    pub is_failing: bool,
    /// Whether its status could not be written a moment ago.
    pub is_mute: bool,
}

/// What is to be done about `ban`, if anything.
#[must_use]
pub fn due(ban: &Ban, facts: Facts) -> Option<Due> {
    let Facts { now, protection, is_failing, is_mute } = facts;
    let is_protected = protection != Protection::Nothing;
    let tell = |why: Option<Unenforced>| (!is_mute).then_some(Due::Tell(why));
    if let Some(since) = ban.deleting_since {
        let is_stuck = (is_failing || !ban.other_finalizers.is_empty()) && since + STUCK_AFTER <= now;
        let told = (is_stuck && !Unenforced::Deleting.is_told(ban)).then_some(Some(Unenforced::Deleting));
        return told.and_then(tell).or_else(|| ban.is_held.then(|| Due::Release(ended(ban, is_protected))));
    }
    if is_taken_over(ban) {
        return Some(Due::LetGo);
    }
    let is_over = ban.expires_at.is_some_and(|end| end + EXPIRY_GRACE <= now);
    let why = if ban.is_evicted || is_over {
        Some(Unenforced::Expired)
    } else {
        (protection == Protection::Whole).then_some(Unenforced::Protected)
    };
    let ended = if ban.is_evicted {
        Some(Ended::Evicted)
    } else if is_over {
        Some(Ended::Expired)
    } else {
        is_protected.then_some(Ended::Protected)
    };
    let delete = ended.filter(|_| ban.is_managed).map(Due::Delete);
    let must_tell = match why {
        // A ban that can be deleted goes without a word.
        Some(why) => (delete.is_none() || is_failing) && !why.is_told(ban),
        None => ban.unenforced.is_some(),
    };
    must_tell.then(|| tell(why)).flatten().or(delete)
}

/// When something becomes due about `ban` by the passing of time alone, after `now`.
#[must_use]
pub fn next(ban: &Ban, now: Timestamp) -> Option<Timestamp> {
    let next = match ban.deleting_since {
        Some(since) => Some(since + STUCK_AFTER),
        None => ban.expires_at.map(|end| end + EXPIRY_GRACE),
    };
    next.filter(|&next| next > now)
}

/// Whether somebody has made the operator's ban a Manual one: the label or the finalizer is left of what it put on.
fn is_taken_over(ban: &Ban) -> bool {
    ban.origin == Origin::Manual && (ban.is_held || ban.is_managed)
}

/// How a ban that is being deleted ended.
fn ended(ban: &Ban, is_protected: bool) -> Ended {
    if ban.is_evicted {
        Ended::Evicted
    } else if ban.lifted_at().is_none() {
        Ended::Expired
    } else if is_protected {
        Ended::Protected
    } else {
        Ended::Lifted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_due_follows_from_the_ban_and_the_time() {
        let own = Ban::example();
        let foreign = Ban { is_managed: false, is_held: false, origin: Origin::Manual, ..Ban::example() };
        let told = |reason: &str| Ban { unenforced: Some(reason.into()), ..foreign.clone() };
        let deleted = Ban { deleting_since: Some(at(50)), ..Ban::example() };
        let pinned = Ban { other_finalizers: vec!["example.com/pin".into()], ..deleted.clone() };
        let pinned_only = Ban { is_held: false, ..pinned.clone() };
        let told_deleting = |ban: &Ban| Ban { unenforced: Some("Deleting".into()), ..ban.clone() };
        let taken = Ban { origin: Origin::Manual, ..Ban::example() };
        let taken_without_finalizer = Ban { is_held: false, ..taken.clone() };
        let taken_without_label = Ban { is_managed: false, ..taken.clone() };
        let forever = Ban { expires_at: None, ..foreign.clone() };
        let evicted = Ban { is_evicted: true, expires_at: Some(at(40)), ..Ban::example() };
        let evicted_going = Ban { deleting_since: Some(at(39)), ..evicted.clone() };
        let going_late = Ban { deleting_since: Some(at(101)), ..Ban::example() };
        let (expired, protected) = (Some(Unenforced::Expired), Some(Unenforced::Protected));
        let deleting = Some(Unenforced::Deleting);
        #[rustfmt::skip]
        let table = [
            // the ban                now  protected failing  due
            (own.clone(),             100, false,    false,   None),
            (own.clone(),             101, false,    false,   Some(Due::Delete(Ended::Expired))),
            (own.clone(),             50,  true,     false,   Some(Due::Delete(Ended::Protected))),
            (own,                     101, false,    true,    Some(Due::Tell(expired))),
            (evicted,                 40,  false,    false,   Some(Due::Delete(Ended::Evicted))),
            (foreign.clone(),         100, false,    false,   None),
            (foreign.clone(),         101, false,    false,   Some(Due::Tell(expired))),
            (foreign.clone(),         50,  true,     false,   Some(Due::Tell(protected))),
            (forever,                 9_000_000, false, false,  None),
            (told("Expired"),         101, false,    false,   None),
            (told("Expired"),         101, true,     false,   None),
            (told("Protected"),       101, true,     false,   Some(Due::Tell(expired))),
            // It was made longer; its network is protected no more.
            (told("Expired"),         90,  false,    false,   Some(Due::Tell(None))),
            (told("Protected"),       90,  false,    false,   Some(Due::Tell(None))),
            (deleted.clone(),         50,  false,    false,   Some(Due::Release(Ended::Lifted))),
            (deleted.clone(),         50,  true,     false,   Some(Due::Release(Ended::Protected))),
            (deleted.clone(),         59,  false,    true,    Some(Due::Release(Ended::Lifted))),
            (deleted.clone(),         60,  false,    true,    Some(Due::Tell(deleting))),
            (told_deleting(&deleted), 60,  false,    true,    Some(Due::Release(Ended::Lifted))),
            (going_late,              101, false,    false,   Some(Due::Release(Ended::Expired))),
            (evicted_going,           41,  false,    false,   Some(Due::Release(Ended::Evicted))),
            (pinned.clone(),          59,  false,    false,   Some(Due::Release(Ended::Lifted))),
            (pinned,                  60,  false,    false,   Some(Due::Tell(deleting))),
            (pinned_only.clone(),     59,  false,    false,   None),
            (pinned_only.clone(),     60,  false,    false,   Some(Due::Tell(deleting))),
            (told_deleting(&pinned_only), 60, false, false,   None),
            (taken.clone(),           50,  false,    false,   Some(Due::LetGo)),
            // What the operator's end was means nothing to it any more.
            (taken,                   101, false,    false,   Some(Due::LetGo)),
            (taken_without_finalizer.clone(), 50, false, false, Some(Due::LetGo)),
            (taken_without_finalizer, 101, false,    false,   Some(Due::LetGo)),
            (taken_without_label,     50,  false,    false,   Some(Due::LetGo)),
        ];
        for (ban, now, is_protected, is_failing, expect) in table {
            let protection = if is_protected { Protection::Whole } else { Protection::Nothing };
            let facts = Facts { now: at(now), protection, is_failing, is_mute: false };
            assert_eq!(due(&ban, facts), expect, "{ban:?} at {now}, protected: {is_protected}");
        }
    }

    #[test]
    fn a_partly_protected_ban_ends_if_it_is_the_operators_and_else_is_enforced() {
        let own = Ban::example();
        let foreign = Ban { is_managed: false, is_held: false, origin: Origin::Manual, ..Ban::example() };
        let told = |ban: &Ban| Ban { unenforced: Some("Protected".into()), ..ban.clone() };
        let deleted = Ban { deleting_since: Some(at(50)), ..own.clone() };
        let (delete, enforced) = (Some(Due::Delete(Ended::Protected)), Some(Due::Tell(None)));
        #[rustfmt::skip]
        let table = [
            // the ban           failing  due
            (own.clone(),        false,   delete),
            (own.clone(),        true,    delete), // nodes drop the rest until it is gone
            (told(&own),         true,    enforced),
            (deleted,            false,   Some(Due::Release(Ended::Protected))),
            (foreign.clone(),    false,   None),
            // A smaller part is protected than before.
            (told(&foreign),     false,   enforced),
        ];
        for (ban, is_failing, expect) in table {
            let facts = Facts { now: at(50), protection: Protection::Part, is_failing, is_mute: false };
            assert_eq!(due(&ban, facts), expect, "{ban:?}, failing: {is_failing}");
        }
    }

    #[test]
    fn a_status_that_can_not_be_written_keeps_nothing_from_being_deleted_or_released() {
        let over = Facts { now: at(200), protection: Protection::Nothing, is_failing: true, is_mute: true };
        assert_eq!(due(&Ban::example(), over), Some(Due::Delete(Ended::Expired)));
        let deleted = Ban { deleting_since: Some(at(50)), ..Ban::example() };
        assert_eq!(due(&deleted, over), Some(Due::Release(Ended::Lifted)));
    }
}
