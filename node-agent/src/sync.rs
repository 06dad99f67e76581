//! Brings the kernel's sets in step with a complete view.
//!
//! Always starts from what the kernel holds, never from what was last written: after a restart or a stranger's
//! flush those differ. The protected networks go in before any ban, and a ban that touches one that would not
//! go in is held back: there is never a drop without its exception.

use std::collections::{BTreeMap, BTreeSet};

use ip_sentry_core::{
    enforce::{
        desired::{Desired, Timeout},
        plan::{Entry, Observed, Plan},
        sets::{SET_PREFIX, Set},
        view::{Complete, View},
    },
    net::{Network, Source},
    networks::Networks,
};
use jiff::Timestamp;

use crate::kernel::ipset::{ALLOW_CAPACITY, Ipset, IpsetError, Loaded};

/// The kernel's sets as the sync needs them.
pub trait Kernel {
    /// Whether the set is there and as it has to be, and if so how many entries it has.
    fn state(&mut self, set: Set, capacity: u32) -> Result<State, IpsetError>;
    /// Makes a set like `set` under that name.
    fn create(&mut self, name: &str, set: Set, capacity: u32, expected: usize) -> Result<(), IpsetError>;
    /// Destroys a set.
    fn destroy(&mut self, name: &str) -> Result<(), IpsetError>;
    /// Exchanges the contents of two sets.
    fn swap(&mut self, one: &str, other: &str) -> Result<(), IpsetError>;
    /// Reads a set.
    fn observe(&mut self, name: &str) -> Result<Observed, IpsetError>;
    /// Puts many entries in.
    fn load(&mut self, name: &str, entries: &[Entry]) -> Result<Loaded, IpsetError>;
    /// Takes many entries out.
    fn unload(&mut self, name: &str, networks: &[Network]) -> Result<Loaded, IpsetError>;
    /// Puts one entry in, says whether there was room.
    fn add(&mut self, name: &str, entry: Entry) -> Result<bool, IpsetError>;
    /// Takes one entry out.
    fn remove(&mut self, name: &str, network: Network) -> Result<(), IpsetError>;
}

/// What there is of a set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing.
    Missing,
    /// A set with other options.
    Unfit,
    /// The set, with that many entries.
    Fit(u32),
}

impl Kernel for Ipset {
    fn state(&mut self, set: Set, capacity: u32) -> Result<State, IpsetError> {
        Ok(match self.header(set.name())? {
            None => State::Missing,
            Some(header) if header.fits(set, capacity) => State::Fit(header.elements),
            Some(_) => State::Unfit,
        })
    }

    fn create(&mut self, name: &str, set: Set, capacity: u32, expected: usize) -> Result<(), IpsetError> {
        Self::create(self, name, set, capacity, expected)
    }

    fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        Self::destroy(self, name)
    }

    fn swap(&mut self, one: &str, other: &str) -> Result<(), IpsetError> {
        Self::swap(self, one, other)
    }

    fn observe(&mut self, name: &str) -> Result<Observed, IpsetError> {
        Self::observe(self, name)
    }

    fn load(&mut self, name: &str, entries: &[Entry]) -> Result<Loaded, IpsetError> {
        Self::load(self, name, entries)
    }

    fn unload(&mut self, name: &str, networks: &[Network]) -> Result<Loaded, IpsetError> {
        Self::unload(self, name, networks)
    }

    fn add(&mut self, name: &str, entry: Entry) -> Result<bool, IpsetError> {
        Self::add(self, name, entry)
    }

    fn remove(&mut self, name: &str, network: Network) -> Result<(), IpsetError> {
        Self::remove(self, name, network)
    }
}

/// What a full sync found and did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Bans that are in the kernel now.
    pub entries: usize,
    /// Bans that the kernel did not take, for want of room in most cases.
    pub refused: usize,
    /// Bans held back because they touch a protected network that is not in the kernel.
    pub withheld: usize,
    /// Protected networks that are not in the kernel.
    pub unguarded: Networks,
    /// How many sets were not as they had to be.
    pub drifted: usize,
}

impl Outcome {
    /// Whether every ban and every protected network is in the kernel.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.refused == 0 && self.withheld == 0 && self.unguarded.is_empty()
    }
}

/// What one set needed.
#[derive(Default)]
struct Brought {
    refused: usize,
    drifted: bool,
}

/// Brings all sets in step with the view. On an error the sets may be in step in part.
pub fn full(
    kernel: &mut impl Kernel,
    view: &View<Complete>,
    capacity: u32,
    now: Timestamp,
) -> Result<Outcome, IpsetError> {
    let mut desired = view.desired(now);
    let mut outcome = Outcome::default();

    let guarded = guard(kernel, &desired, &mut outcome);
    if guarded.is_err() {
        outcome.unguarded = desired.protected.iter().copied().collect();
    }
    outcome.withheld = desired.withhold(&outcome.unguarded);

    for set in Set::ALL.into_iter().filter(|set| !set.is_allow()) {
        if guarded.is_err() {
            // No ban goes in now, but those that drop what must pass go out.
            lift_unwanted(kernel, set, &desired);
            continue;
        }
        let plan = |observed: &Observed| Plan::of_bans(set, observed, &desired.bans);
        let brought = bring(kernel, set, capacity, &plan)?;
        outcome.refused += brought.refused;
        outcome.drifted += usize::from(brought.drifted);
    }
    guarded?;
    outcome.entries = desired.bans.len() - outcome.refused;
    Ok(outcome)
}

/// Brings the allow sets in step and notes which protected networks are still not in them.
fn guard(kernel: &mut impl Kernel, desired: &Desired, outcome: &mut Outcome) -> Result<(), IpsetError> {
    let mut missing = BTreeSet::new();
    for set in Set::ALL.into_iter().filter(|set| set.is_allow()) {
        let plan = |observed: &Observed| Plan::of_protected(set, observed, &desired.protected);
        let brought = bring(kernel, set, ALLOW_CAPACITY, &plan)?;
        outcome.drifted += usize::from(brought.drifted);
        if brought.refused > 0 {
            let missed = plan(&kernel.observe(set.name())?).add;
            missing.extend(missed.into_iter().map(|(network, _)| network));
        }
    }
    outcome.unguarded = missing.into_iter().collect();
    Ok(())
}

fn bring(
    kernel: &mut impl Kernel,
    set: Set,
    capacity: u32,
    plan: &dyn Fn(&Observed) -> Plan,
) -> Result<Brought, IpsetError> {
    let name = set.name();
    let state = kernel.state(set, capacity)?;
    if let State::Fit(_) = state {
        let plan = plan(&kernel.observe(name)?);
        let drifted = plan.is_drift();
        return Ok(Brought { refused: carry_out(kernel, name, &plan)?, drifted });
    }
    let plan = plan(&Observed::new());
    if state == State::Missing {
        kernel.create(name, set, capacity, plan.add.len())?;
        return Ok(Brought { refused: carry_out(kernel, name, &plan)?, drifted: true });
    }
    // Filled beside the one in use and then exchanged with it, so that no packet meets a set that is not full.
    let spare = format!("{SET_PREFIX}spare");
    kernel.destroy(&spare)?;
    kernel.create(&spare, set, capacity, plan.add.len())?;
    let refused = carry_out(kernel, &spare, &plan)?;
    kernel.swap(&spare, name)?;
    kernel.destroy(&spare)?;
    Ok(Brought { refused, drifted: true })
}

/// Carries out a plan and says how many entries the kernel did not take.
fn carry_out(kernel: &mut impl Kernel, name: &str, plan: &Plan) -> Result<usize, IpsetError> {
    let mut refused = 0;
    if !plan.remove.is_empty() {
        kernel.unload(name, &plan.remove)?;
    }
    for entries in [&plan.add, &plan.renew] {
        if !entries.is_empty() {
            let loaded = kernel.load(name, entries)?;
            refused += loaded.refused.len() + loaded.full;
        }
    }
    Ok(refused)
}

/// Takes out what is no longer desired, as far as the kernel lets it: its allow set has just failed.
fn lift_unwanted(kernel: &mut impl Kernel, set: Set, desired: &Desired) {
    let lifted = kernel.observe(set.name()).and_then(|observed| {
        let unwanted = Plan::of_bans(set, &observed, &desired.bans).remove;
        if unwanted.is_empty() { Ok(Loaded::default()) } else { kernel.unload(set.name(), &unwanted) }
    });
    if let Err(error) = lifted {
        tracing::warn!(set = set.name(), error = &error as &dyn std::error::Error, "bans not lifted");
    }
}

/// What became of one ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It is in the kernel.
    Added,
    /// It is not, and must not be.
    Removed,
    /// It should be, and there was no room.
    NoRoom,
    /// It touches a protected network that is not in the kernel.
    Withheld,
}

/// Brings one network in step, with one message. `unguarded` is from the last full sync.
pub fn one(
    kernel: &mut impl Kernel,
    view: &View<Complete>,
    source: Source,
    unguarded: &Networks,
    now: Timestamp,
) -> Result<Step, IpsetError> {
    let network = source.network();
    let name = Set::of_ban(&network).name();
    match view.desired_of(source, now) {
        Some(_) if unguarded.overlaps(&network) => {
            kernel.remove(name, network)?;
            Ok(Step::Withheld)
        }
        Some(timeout) => {
            Ok(if kernel.add(name, (network, Some(timeout)))? { Step::Added } else { Step::NoRoom })
        }
        None => {
            kernel.remove(name, network)?;
            Ok(Step::Removed)
        }
    }
}

/// Whether the sets are all there and as full as they must be, by their headers alone.
///
/// Much cheaper than reading them; it notices a set that was flushed, destroyed or made anew. An entry more or
/// less is left to the next full sync.
pub fn looks_right(
    kernel: &mut impl Kernel,
    view: &View<Complete>,
    capacity: u32,
    now: Timestamp,
) -> Result<bool, IpsetError> {
    let mut least: BTreeMap<Set, usize> = BTreeMap::new();
    for network in view.protected() {
        let family = ip_sentry_core::enforce::sets::Family::of(network);
        *least.entry(Set::allow(family)).or_default() += 1;
    }
    for (source, until) in view.in_force(now) {
        // One that ends in a moment may be gone in the kernel already.
        if Timeout::between(now, until).is_some_and(|timeout| timeout.secs() > 2) {
            *least.entry(Set::of_ban(&source.network())).or_default() += 1;
        }
    }
    for set in Set::ALL {
        let capacity = if set.is_allow() { ALLOW_CAPACITY } else { capacity };
        let least = least.get(&set).copied().unwrap_or_default().min(capacity as usize);
        match kernel.state(set, capacity)? {
            State::Fit(elements) if elements as usize >= least => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
