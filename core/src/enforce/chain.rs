//! Our chains and the jumps to them: recognised in what `iptables-save` prints, rendered for
//! `iptables-restore --noflush`.
//!
//! The chains are ours and are written as a whole; in the kernel's own nothing is touched but our own jumps. A
//! restore is one change of the kernel's table, so no packet sees half of it.

use std::fmt::Write;

use super::rules::{CHAIN, HIT_CHAIN, OUT_CHAIN, Rules};

/// The kernel's chains that jump to ours first, and to which: packets for the node itself, packets for its pods and
/// of them, and packets of the node.
const HOOKS: [(&str, &str); 3] = [("INPUT", CHAIN), ("FORWARD", CHAIN), ("OUTPUT", OUT_CHAIN)];

/// Our chains: what goes to the second is named by the first.
const CHAINS: [&str; 3] = [CHAIN, HIT_CHAIN, OUT_CHAIN];

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
    /// The rules in each of [`CHAINS`] with their counters; `None` where there is no such chain.
    chains: [Option<Vec<(String, Counters)>>; 3],
    /// What there is in each of [`HOOKS`].
    hooks: [Hook; 3],
    /// Every rule elsewhere that goes to a chain of ours, as `CHAIN the rest`.
    references: Vec<String>,
}

/// A chain of the kernel that jumps to ours.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Hook {
    /// How many rules it has.
    rules: usize,
    /// At which places, from 0, are plain jumps to the chain of ours that it goes to.
    jumps: Vec<usize>,
    /// What went through those.
    passed: Counters,
}

/// Where our jumps stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Missing somewhere.
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
        line.contains(CHAIN) || HOOKS.iter().any(|(hook, _)| rule.starts_with(&format!("-A {hook} ")))
    }

    /// Reads the output of `iptables-save -c -t filter`. Lines that say nothing about us are passed over.
    #[must_use]
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut table = Self::default();
        for line in lines {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if let Some(ours) = table.ours(chain) {
                    ours.get_or_insert_default();
                }
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

    fn ours(&mut self, chain: &str) -> Option<&mut Option<Vec<(String, Counters)>>> {
        self.chains.get_mut(CHAINS.iter().position(|ours| *ours == chain)?)
    }

    fn take_rule(&mut self, chain: &str, rest: &str, counters: Counters) {
        if let Some(ours) = self.ours(chain) {
            ours.get_or_insert_default().push((rest.to_owned(), counters));
            return;
        }
        let hook = HOOKS.iter().position(|(hook, _)| *hook == chain);
        let target = rest.rsplit_once("-j ").or_else(|| rest.rsplit_once("-g ")).map(|(_, target)| target);
        let target = target.and_then(|target| target.split(' ').next());
        let is_jump = hook.is_some_and(|hook| rest.strip_prefix("-j ") == Some(HOOKS[hook].1));
        if target.is_some_and(|target| CHAINS.contains(&target)) && !is_jump {
            self.references.push(format!("{chain} {rest}"));
        }
        if let Some(hook) = hook.and_then(|hook| self.hooks.get_mut(hook)) {
            if is_jump {
                hook.jumps.push(hook.rules);
                hook.passed = hook.passed + counters;
            }
            hook.rules += 1;
        }
    }

    /// Where our jumps stand.
    #[must_use]
    pub fn place(&self) -> Place {
        if self.hooks.iter().any(|hook| hook.jumps.is_empty()) {
            Place::Missing
        } else if self.hooks.iter().all(|hook| hook.jumps[..] == [0]) {
            Place::First
        } else {
            Place::Behind
        }
    }

    /// Whether our chains hold exactly these rules in this order.
    #[must_use]
    pub fn holds(&self, rules: &Rules) -> bool {
        let pairs = self.chains.iter().zip(by_chain(rules));
        pairs.into_iter().all(|(held, wanted)| {
            held.as_ref().is_some_and(|held| held.iter().map(|(rule, _)| rule).eq(wanted))
        })
    }

    /// Whether there is nothing of ours here.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.chains.iter().all(Option::is_none)
            && self.references.is_empty()
            && self.hooks.iter().all(|hook| hook.jumps.is_empty())
    }

    /// The rules of the chain that every packet passes, with what they matched.
    #[must_use]
    pub fn rules(&self) -> &[(String, Counters)] {
        let [chain, ..] = &self.chains;
        chain.as_deref().unwrap_or_default()
    }

    /// What the rules that drop have dropped since they were put in.
    #[must_use]
    pub fn dropped(&self) -> Counters {
        let rules = self.chains.iter().flatten().flatten();
        let drops = rules.filter(|(rule, _)| rule.ends_with("-j DROP"));
        drops.fold(Counters::default(), |sum, (_, counters)| sum + *counters)
    }

    /// What went from FORWARD through our chain since the jump was put in, banned or not.
    #[must_use]
    pub fn forwarded(&self) -> Counters {
        let [_, forward, _] = &self.hooks;
        forward.passed
    }

    /// The restore text that makes our chains hold `rules` and puts the jumps first, or `None` where all that is
    /// so. With `keep_place` a jump that stands behind other rules stays where it is.
    #[must_use]
    pub fn repair(&self, rules: &Rules, keep_place: bool) -> Option<String> {
        let mut text = String::new();
        if !self.holds(rules) {
            // Declaring a chain makes it, or empties the one that is there.
            for chain in CHAINS {
                line(&mut text, format_args!(":{chain} - [0:0]"));
            }
            for (chain, rules) in CHAINS.iter().zip(by_chain(rules)) {
                for rule in rules {
                    line(&mut text, format_args!("-A {chain} {rule}"));
                }
            }
        }
        for ((hook, chain), Hook { jumps, .. }) in HOOKS.iter().zip(&self.hooks) {
            let stays = if keep_place { jumps.len() == 1 } else { jumps[..] == [0] };
            if stays {
                continue;
            }
            for _ in jumps {
                line(&mut text, format_args!("-D {hook} -j {chain}"));
            }
            line(&mut text, format_args!("-I {hook} 1 -j {chain}"));
        }
        (!text.is_empty()).then(|| format!("*filter\n{text}COMMIT\n"))
    }

    /// The restore text that takes out our chains and everything that goes to them, or `None` where there is
    /// nothing.
    #[must_use]
    pub fn removal(&self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        let mut text = String::from("*filter\n");
        for ((hook, chain), Hook { jumps, .. }) in HOOKS.iter().zip(&self.hooks) {
            for _ in jumps {
                line(&mut text, format_args!("-D {hook} -j {chain}"));
            }
        }
        for rule in &self.references {
            line(&mut text, format_args!("-D {rule}"));
        }
        // Emptied first, since one goes to the other.
        let there = || CHAINS.iter().zip(&self.chains).filter(|(_, rules)| rules.is_some());
        for (chain, _) in there() {
            line(&mut text, format_args!("-F {chain}"));
        }
        for (chain, _) in there() {
            line(&mut text, format_args!("-X {chain}"));
        }
        text.push_str("COMMIT\n");
        Some(text)
    }
}

/// What each of [`CHAINS`] must hold.
fn by_chain(rules: &Rules) -> [&Vec<String>; 3] {
    [&rules.chain, &rules.hit, &rules.out]
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
