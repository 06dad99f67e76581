//! The chain `IP-BLOCKER` and the jumps to it: recognised in what `iptables-save` prints, rendered for
//! `iptables-restore --noflush`.
//!
//! The chain is ours and is written as a whole; in INPUT and FORWARD nothing is touched but our own jumps. A
//! restore is one change of the kernel's table, so no packet sees half of it.

use std::fmt::Write;

use super::sets::{Family, Set};

/// The name of the chain, in the table `filter` of both families.
pub const CHAIN: &str = "IP-BLOCKER";
/// The chains that jump to ours first: packets for the node itself, and packets for its pods.
pub const HOOKS: [&str; 2] = ["INPUT", "FORWARD"];

/// What must be in the chain: rules as `iptables-save` prints them, without `-A IP-BLOCKER`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules(pub Vec<String>);

impl Rules {
    /// The rules that use the sets: one for each set of bans, however many bans there are.
    ///
    /// A packet that is in no set of bans costs one look-up a rule; only one that is, is looked up among the
    /// protected networks, which always pass.
    #[must_use]
    pub fn of_sets(family: Family) -> Self {
        let allow = Set::allow(family).name();
        let bans = Set::ALL.into_iter().filter(|set| set.family() == family && !set.is_allow());
        Self(
            bans.map(|set| {
                format!("-m set --match-set {} src -m set ! --match-set {allow} src -j DROP", set.name())
            })
            .collect(),
        )
    }
}

/// Packets and bytes that a rule matched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// The table `filter` of one family, as far as it concerns us.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    /// The rules in our chain with their counters; `None` where there is no such chain.
    chain: Option<Vec<(String, Counters)>>,
    /// For each of [`HOOKS`]: how many rules it has and at which places, from 0, are plain jumps to our chain.
    hooks: [(usize, Vec<usize>); 2],
    /// Every rule elsewhere that goes to our chain, as `CHAIN the rest`.
    references: Vec<String>,
}

/// Where our jumps stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Missing in INPUT or FORWARD.
    Missing,
    /// Once in each, somewhere behind other rules, or more than once.
    Behind,
    /// Once in each, before everything else.
    First,
}

impl Table {
    /// Whether a line of `iptables-save -c -t filter` tells anything about us: the rest need not be kept.
    #[must_use]
    pub fn concerns_us(line: &str) -> bool {
        let (_, rule) = split_counters(line);
        line.contains(CHAIN) || HOOKS.iter().any(|hook| rule.starts_with(&format!("-A {hook} ")))
    }

    /// Reads the output of `iptables-save -c -t filter`. Lines that say nothing about us are passed over.
    #[must_use]
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut table = Self::default();
        for line in lines {
            if line.strip_prefix(':').is_some_and(|rest| rest.split(' ').next() == Some(CHAIN)) {
                table.chain.get_or_insert_default();
                continue;
            }
            let (counters, rule) = split_counters(line);
            let Some((chain, rest)) = rule.strip_prefix("-A ").and_then(|rule| rule.split_once(' ')) else {
                continue;
            };
            table.take_rule(chain, rest, counters);
        }
        table
    }

    fn take_rule(&mut self, chain: &str, rest: &str, counters: Counters) {
        if chain == CHAIN {
            self.chain.get_or_insert_default().push((rest.to_owned(), counters));
            return;
        }
        let hook = HOOKS.iter().position(|hook| *hook == chain);
        let target = rest.rsplit_once("-j ").or_else(|| rest.rsplit_once("-g ")).map(|(_, target)| target);
        let ours = target.and_then(|target| target.split(' ').next()) == Some(CHAIN);
        let is_jump = hook.is_some() && rest.strip_prefix("-j ") == Some(CHAIN);
        if ours && !is_jump {
            self.references.push(format!("{chain} {rest}"));
        }
        if let Some((rules, jumps)) = hook.and_then(|hook| self.hooks.get_mut(hook)) {
            if is_jump {
                jumps.push(*rules);
            }
            *rules += 1;
        }
    }

    /// Where our jumps stand.
    #[must_use]
    pub fn place(&self) -> Place {
        if self.hooks.iter().any(|(_, jumps)| jumps.is_empty()) {
            Place::Missing
        } else if self.hooks.iter().all(|(_, jumps)| jumps[..] == [0]) {
            Place::First
        } else {
            Place::Behind
        }
    }

    /// Whether the chain holds exactly these rules in this order.
    #[must_use]
    pub fn holds(&self, rules: &Rules) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.iter().map(|(rule, _)| rule).eq(&rules.0))
    }

    /// Whether there is nothing of ours here.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.chain.is_none()
            && self.references.is_empty()
            && self.hooks.iter().all(|(_, jumps)| jumps.is_empty())
    }

    /// The rules of the chain with what they matched.
    #[must_use]
    pub fn rules(&self) -> &[(String, Counters)] {
        self.chain.as_deref().unwrap_or_default()
    }

    /// What the rules that drop have dropped since they were put in.
    #[must_use]
    pub fn dropped(&self) -> Counters {
        let drops = self.rules().iter().filter(|(rule, _)| rule.ends_with("-j DROP"));
        drops.fold(Counters::default(), |sum, (_, counters)| sum + *counters)
    }

    /// The restore text that makes the chain hold `rules` and puts the jumps first, or `None` where all that is
    /// so. With `keep_place` a jump that stands behind other rules stays where it is.
    #[must_use]
    pub fn repair(&self, rules: &Rules, keep_place: bool) -> Option<String> {
        let mut text = String::new();
        if !self.holds(rules) {
            // Declaring the chain makes it, or empties the one that is there.
            line(&mut text, format_args!(":{CHAIN} - [0:0]"));
            for rule in &rules.0 {
                line(&mut text, format_args!("-A {CHAIN} {rule}"));
            }
        }
        for (hook, (_, jumps)) in HOOKS.iter().zip(&self.hooks) {
            let stays = if keep_place { jumps.len() == 1 } else { jumps[..] == [0] };
            if stays {
                continue;
            }
            for _ in jumps {
                line(&mut text, format_args!("-D {hook} -j {CHAIN}"));
            }
            line(&mut text, format_args!("-I {hook} 1 -j {CHAIN}"));
        }
        (!text.is_empty()).then(|| format!("*filter\n{text}COMMIT\n"))
    }

    /// The restore text that takes out the chain and everything that goes to it, or `None` where there is
    /// nothing.
    #[must_use]
    pub fn removal(&self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        let mut text = String::from("*filter\n");
        for (hook, (_, jumps)) in HOOKS.iter().zip(&self.hooks) {
            for _ in jumps {
                line(&mut text, format_args!("-D {hook} -j {CHAIN}"));
            }
        }
        for rule in &self.references {
            line(&mut text, format_args!("-D {rule}"));
        }
        if self.chain.is_some() {
            line(&mut text, format_args!("-F {CHAIN}"));
            line(&mut text, format_args!("-X {CHAIN}"));
        }
        text.push_str("COMMIT\n");
        Some(text)
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _infallible = writeln!(text, "{content}");
}

/// `[packets:bytes] rule` → both; a line without counters has none.
fn split_counters(line: &str) -> (Counters, &str) {
    let split = || {
        let (counters, rule) = line.strip_prefix('[')?.split_once("] ")?;
        let (packets, bytes) = counters.split_once(':')?;
        Some((Counters { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? }, rule))
    };
    split().unwrap_or((Counters::default(), line))
}

#[cfg(test)]
mod tests;
