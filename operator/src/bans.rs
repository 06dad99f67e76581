//! The bans that exist, as every replica hears of them.
//!
//! Owns the table of bans by name, which [`crate::ban_watch`] keeps up to date. An object that can't be read costs only
//! itself.

use std::{collections::HashMap, sync::Arc};

use ip_sentry_core::net::Source;
use ip_sentry_crd::{
    EVICTED_ANNOTATION, IPBan, MANAGED_BY, MANAGED_BY_LABEL, TTL_FINALIZER,
    ip_ban::{Origin, PolicyRef},
};
use jiff::{SignedDuration, Timestamp};
use kube::{Resource as _, ResourceExt as _};

/// How much later than the stored time of a deletion a line must be stamped to count again.
///
/// `deletionTimestamp` has whole seconds, cut off; the clocks of the nodes differ by little more.
pub const DELETION_SLACK: SignedDuration = SignedDuration::from_secs(2);

/// One ban, as far as the operator needs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ban {
    /// The object's name.
    pub name: String,
    /// The object's identity, for preconditions.
    pub uid: String,
    /// The version that was read, for preconditions.
    pub resource_version: String,
    /// The banned network.
    pub source: Source,
    /// Who decided it.
    pub origin: Origin,
    /// When it was stored.
    pub created_at: Option<Timestamp>,
    /// When it ends; `None`: when it is deleted.
    pub expires_at: Option<Timestamp>,
    /// The policy it comes from.
    pub policy: Option<PolicyRef>,
    /// Hits that were counted when it was decided; 0 for one made by hand.
    pub hits: u32,
    /// Since when it is being deleted; it is not enforced any more.
    pub deleting_since: Option<Timestamp>,
    /// Whether our finalizer holds the object.
    pub is_held: bool,
    /// The finalizers of others, usually none.
    pub other_finalizers: Vec<String>,
    /// Whether ip-sentry made it: the operator deletes nothing else.
    pub is_managed: bool,
    /// Whether the operator has ended it before its time, in favour of stronger evidence: see [`crate::evict`].
    pub is_evicted: bool,
    /// The reason for which its status says that it is not enforced.
    pub unenforced: Option<String>,
}

/// Why an `IPBan` can't be used.
#[derive(Debug, thiserror::Error)]
#[error("spec.cidr {cidr:?} of IPBan {name:?} can't be banned: {source}")]
pub struct UnusableBan {
    name: String,
    cidr: String,
    source: ip_sentry_core::net::SourceError,
}

impl Ban {
    /// What `object` says.
    pub fn read(object: &IPBan) -> Result<Self, UnusableBan> {
        let name = object.name_any();
        let source = object.spec.cidr.parse().map_err(|source| UnusableBan {
            name: name.clone(),
            cidr: object.spec.cidr.clone(),
            source,
        })?;
        let unenforced = object.status.as_ref().and_then(|status| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == "Enforced")?;
            (condition.status == "False").then(|| condition.reason.clone())
        });
        let is_managed = object.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
        let is_ours = |finalizer: &&String| *finalizer == TTL_FINALIZER;
        Ok(Self {
            name,
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
            source,
            origin: object.spec.origin,
            created_at: object.creation_timestamp().map(|time| time.0),
            expires_at: object.spec.expires_at.as_ref().map(|time| time.0),
            policy: object.spec.policy_ref.clone(),
            hits: object.spec.evidence.as_ref().map_or(0, |evidence| evidence.hits.unsigned_abs()),
            deleting_since: object.meta().deletion_timestamp.as_ref().map(|time| time.0),
            is_held: object.finalizers().iter().any(|finalizer| is_ours(&finalizer)),
            other_finalizers: object.finalizers().iter().filter(|one| !is_ours(one)).cloned().collect(),
            is_managed,
            is_evicted: is_managed && object.annotations().contains_key(EVICTED_ANNOTATION),
            unenforced,
        })
    }

    /// Whether nodes enforce it at `now`.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.deleting_since.is_none() && self.expires_at.is_none_or(|end| end > now)
    }

    /// When it was lifted: it was deleted before its time was over, by hand or because its network became protected.
    ///
    /// The operator deletes a ban that ran out only [`EXPIRY_GRACE`] after its end, and marks one that it evicts, so
    /// neither counts as lifting.
    #[must_use]
    pub fn lifted_at(&self) -> Option<Timestamp> {
        let is_early = |deleted: &Timestamp| self.expires_at.is_none_or(|end| *deleted < end);
        self.deleting_since.filter(is_early).filter(|_| !self.is_evicted)
    }

    /// When it ended, as an offence of its source that makes the next ban longer: `None` for one that somebody lifted,
    /// that nobody detected, or that is not over. Every replica that sees the object comes to the same.
    #[must_use]
    pub fn offence_ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        let is_over = self.deleting_since.is_some() || !self.is_active(now);
        let is_offence = self.is_managed && self.origin == Origin::Detected && self.lifted_at().is_none();
        self.expires_at.filter(|_| is_over && is_offence)
    }
}

/// How long after its end the operator deletes a ban, so that its deletion is told from one by hand.
pub const EXPIRY_GRACE: SignedDuration = SignedDuration::from_secs(1);

/// All bans, by name.
#[derive(Debug, Default)]
pub struct Bans {
    by_name: HashMap<String, Arc<Ban>>,
    /// Names seen in a list that is not complete yet.
    listing: Option<HashMap<String, Arc<Ban>>>,
    synced: bool,
}

impl Bans {
    /// A list begins: what it does not name is gone when it is done.
    pub fn list_begins(&mut self) {
        self.listing = Some(HashMap::new());
    }

    /// One object of the list.
    pub fn listed(&mut self, ban: Ban) {
        self.listing.get_or_insert_default().insert(ban.name.clone(), Arc::new(ban));
    }

    /// The list is complete. Returns the bans that went meanwhile.
    pub fn list_done(&mut self) -> Vec<Arc<Ban>> {
        let listed = self.listing.take().unwrap_or_default();
        let before = std::mem::replace(&mut self.by_name, listed);
        self.synced = true;
        before.into_values().filter(|ban| !self.by_name.contains_key(&ban.name)).collect()
    }

    /// An object came or changed.
    pub fn applied(&mut self, ban: Ban) {
        self.by_name.insert(ban.name.clone(), Arc::new(ban));
    }

    /// An object went. Returns what it last was.
    pub fn deleted(&mut self, name: &str) -> Option<Arc<Ban>> {
        self.by_name.remove(name)
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The ban of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Ban> {
        self.by_name.get(name).map(Arc::as_ref)
    }

    /// The ban of that name, to be kept.
    #[must_use]
    pub fn share(&self, name: &str) -> Option<Arc<Ban>> {
        self.by_name.get(name).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Every ban.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.by_name.values().map(Arc::as_ref)
    }

    /// The ban that is enforced on exactly this source, whatever its name.
    #[must_use]
    pub fn active(&self, source: Source, now: Timestamp) -> Option<&Ban> {
        let name = source.ban_name();
        [name.clone(), detected_name(&name)]
            .iter()
            .filter_map(|name| self.get(name))
            .find(|ban| ban.source == source && ban.is_active(now))
    }
}

/// What the name beside a ban's own ends in.
const BESIDE: &str = ".detected";

/// The name beside a ban's own, for when an object that does not enforce it holds that.
#[must_use]
pub fn detected_name(name: &str) -> String {
    format!("{name}{BESIDE}")
}

/// The source that an object of this name bans.
#[must_use]
pub fn source_of(name: &str) -> Option<Source> {
    Source::of_ban_name(name.strip_suffix(BESIDE).unwrap_or(name))
}

#[cfg(test)]
impl Ban {
    /// The operator's own ban of 203.0.113.7 until second 100, to be varied by tests.
    pub(crate) fn example() -> Self {
        Self {
            name: "203.0.113.7".into(),
            uid: "u".into(),
            resource_version: "1".into(),
            source: "203.0.113.7/32".parse().unwrap(),
            origin: Origin::Detected,
            created_at: Timestamp::from_second(10).ok(),
            expires_at: Timestamp::from_second(100).ok(),
            policy: None,
            hits: 3,
            deleting_since: None,
            is_held: true,
            other_finalizers: Vec::new(),
            is_managed: true,
            is_evicted: false,
            unenforced: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_deletion_before_the_end_is_a_lifting_and_the_operators_own_never_is() {
        assert_eq!(Ban { deleting_since: Some(at(99)), ..Ban::example() }.lifted_at(), Some(at(99)));
        assert_eq!(Ban { deleting_since: Some(at(101)), ..Ban::example() }.lifted_at(), None);
        assert_eq!(Ban::example().lifted_at(), None);
        let manual = Ban { expires_at: None, deleting_since: Some(at(5)), ..Ban::example() };
        assert_eq!(manual.lifted_at(), Some(at(5)));
    }

    #[test]
    fn only_a_detected_ban_that_ran_its_time_or_was_evicted_is_an_offence() {
        let deleted = |second| Ban { deleting_since: Some(at(second)), ..Ban::example() };
        let evicted = |second| Ban { is_evicted: true, expires_at: Some(at(40)), ..deleted(second) };
        let manual = Ban { origin: Origin::Manual, ..deleted(101) };
        #[rustfmt::skip]
        let table = [
            // what is seen                  now  ended as an offence, lifted
            (Ban::example(),                 99,  None,     None),
            (Ban::example(),                 100, Some(100), None),
            (deleted(101),                   101, Some(100), None),
            (deleted(99),                    101, None,     Some(99)),
            // An API server whose clock is behind the operator's deletes before the end that the operator wrote.
            (evicted(38),                    41,  Some(40), None),
            (evicted(41),                    41,  Some(40), None),
            (manual,                         101, None,     None),
        ];
        for (ban, now, ended, lifted) in table {
            assert_eq!(ban.offence_ended_at(at(now)), ended.map(at), "{ban:?} at {now}");
            assert_eq!(ban.lifted_at(), lifted.map(at), "{ban:?} at {now}");
        }
    }

    #[test]
    fn a_list_forgets_what_it_does_not_name_only_when_it_is_done() {
        let mut bans = Bans::default();
        bans.applied(Ban::example());
        bans.list_begins();
        bans.listed(Ban { name: "203.0.113.8".into(), ..Ban::example() });
        assert!(bans.get("203.0.113.7").is_some());
        assert!(!bans.is_synced());
        let gone = bans.list_done();
        assert_eq!(gone.len(), 1);
        assert!(bans.get("203.0.113.7").is_none() && bans.get("203.0.113.8").is_some());
        assert!(bans.is_synced());
    }
}
