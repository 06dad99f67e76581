//! Which bans give way before their end: those that a wider ban makes unnecessary, and at the limit the weakest.

use ip_sentry_core::net::Source;
use ip_sentry_crd::ip_ban::Origin;

use super::{Action, BanQueue, Eviction, MOST_WRITES, Now, Snapshot};

impl BanQueue {
    /// The operator's own bans that a ban of `source` makes unnecessary, or that make it so.
    pub(super) fn find_superseded(&mut self, source: Source, snapshot: &Snapshot<'_>, now: Now) {
        if !self.stored.is_detected(source) {
            return;
        }
        let inside = self.stored.detected_within(source).map(|(inside, _)| inside);
        let candidates =
            inside.chain([source]).filter_map(|candidate| snapshot.bans.active(candidate, now.time));
        let superseded = candidates
            .filter(|ban| ban.is_managed && snapshot.is_superseded(&self.stored, ban, now.time))
            .map(|ban| ban.name.clone());
        self.superseded.extend(superseded);
    }

    /// Whether one more ban may be stored; where as many exist as may, the weakest gives way if it has fewer hits.
    pub(super) fn make_place(&mut self, hits: u32, snapshot: &Snapshot<'_>, now: Now) -> bool {
        let expected = self.stored.detected() + self.creating.len();
        if expected < self.most_bans + self.evicting.len() {
            return true;
        }
        if let Some(name) = self.next_superseded(snapshot, now) {
            self.evict(name, Eviction::Superseded);
            return true;
        }
        let weakest = self.stored.weakest().find(|(_, name)| !self.evicting.contains(*name));
        let weaker = weakest.filter(|&(weakest, _)| weakest < hits).map(|(_, name)| name.to_owned());
        let Some(name) = weaker else { return false };
        self.evict(name, Eviction::Weakest);
        true
    }

    /// Takes out the next ban that a wider one makes unnecessary, if that is still so.
    fn next_superseded(&mut self, snapshot: &Snapshot<'_>, now: Now) -> Option<String> {
        while let Some(name) = self.superseded.pop_first() {
            let ban = snapshot.bans.get(&name).filter(|ban| ban.is_active(now.time) && ban.is_managed);
            let is_unnecessary = ban.is_some_and(|ban| {
                ban.origin == Origin::Detected && snapshot.is_superseded(&self.stored, ban, now.time)
            });
            if is_unnecessary && !self.evicting.contains(&name) {
                return Some(name);
            }
        }
        None
    }

    fn evict(&mut self, name: String, why: Eviction) {
        self.evicting.insert(name.clone());
        self.actions.push(Action::Evict(name, why));
    }

    pub(super) fn evict_superseded(&mut self, snapshot: &Snapshot<'_>, now: Now) {
        while self.evicting.len() < MOST_WRITES
            && self.evictions.ready_at(now.instant) <= now.instant
            && let Some(name) = self.next_superseded(snapshot, now)
        {
            self.evictions.spend(now.instant);
            self.evict(name, Eviction::Superseded);
        }
    }
}
