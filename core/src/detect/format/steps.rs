//! A log format's expression as steps along the line, several times faster than a regex engine finds its groups.
//!
//! Formats are nearly always one literal or run of a byte class after the other, such as `^(\S+) \[.+?\] "`. Groups can't
//! be had from a DFA, and the engines that do find them spend microseconds on a line. Here such an expression becomes
//! steps, and a step that could end in several places tries them in the order in which the regex would: the groups are
//! the same, or [`GaveUp`] says to ask the regex.

use memchr::memchr;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// How many bytes may be looked at for each byte of a line, and once more for short lines, before giving up.
const LOOKS_PER_BYTE: usize = 4;
const LOOKS_ONCE: usize = 1024;

/// How many bytes a search for one byte passes over in the time of one look.
const BYTES_PER_LOOK: usize = 32;

/// Backtracking would cost more than the regex does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct GaveUp;

/// Steps that lines are matched with, from their beginning.
#[derive(Clone, Debug)]
pub(super) struct Steps(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    /// This byte, as most literals are.
    Byte(u8),
    /// These bytes.
    Literal(Box<[u8]>),
    /// So many bytes of a class.
    Run(Run),
    /// A group begins or ends here: the number of its mark.
    Mark(usize),
    /// The end of the line.
    End,
}

#[derive(Clone, Debug)]
struct Run {
    class: Box<[bool; 256]>,
    least: usize,
    most: usize,
    /// Whether the longest run is tried first, not the shortest.
    is_greedy: bool,
    /// The byte that must come next, if a literal does.
    next: Option<u8>,
}

impl Run {
    /// Whether it can't hold what must follow it: it ends where it must, or nothing matches.
    fn has_one_end(&self) -> bool {
        self.is_greedy && self.next.is_some_and(|next| !self.class[usize::from(next)])
    }
}

impl Steps {
    /// The steps of an expression, if it is a plain sequence that begins with `^`.
    pub(super) fn compile(hir: &Hir) -> Option<Self> {
        let HirKind::Concat(parts) = hir.kind() else { return None };
        let (first, parts) = parts.split_first()?;
        if !matches!(first.kind(), HirKind::Look(Look::Start)) {
            return None;
        }
        let mut steps = Vec::new();
        parts.iter().try_for_each(|part| add(part, &mut steps))?;
        let mut next = None;
        for step in steps.iter_mut().rev() {
            match step {
                Step::Byte(byte) => next = Some(*byte),
                Step::Literal(bytes) => next = bytes.first().copied(),
                Step::Run(run) => run.next = next.take(),
                Step::Mark(_) => {}
                Step::End => next = None,
            }
        }
        Some(Self(steps))
    }

    /// Whether the line matches; if so, `marks` says where each group begins and ends.
    pub(super) fn find(&self, line: &[u8], marks: &mut [usize]) -> Result<bool, GaveUp> {
        let looks = LOOKS_ONCE + LOOKS_PER_BYTE * line.len();
        Search { line, marks, looks }.matches(&self.0, 0)
    }
}

fn add(hir: &Hir, steps: &mut Vec<Step>) -> Option<()> {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => match *literal.0 {
            [byte] => steps.push(Step::Byte(byte)),
            _ => steps.push(Step::Literal(literal.0.clone())),
        },
        HirKind::Class(Class::Bytes(_)) => steps.push(run(hir, 1, 1, true)?),
        HirKind::Repetition(repeated) => {
            let most = repeated.max.map_or(usize::MAX, |most| most as usize);
            steps.push(run(&repeated.sub, repeated.min as usize, most, repeated.greedy)?);
        }
        HirKind::Capture(group) => {
            let index = group.index as usize;
            steps.push(Step::Mark(2 * index));
            add(&group.sub, steps)?;
            steps.push(Step::Mark(2 * index + 1));
        }
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| add(part, steps))?,
        HirKind::Look(Look::End) => steps.push(Step::End),
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Alternation(_) => return None,
    }
    Some(())
}

fn run(class: &Hir, least: usize, most: usize, is_greedy: bool) -> Option<Step> {
    let mut members = Box::new([false; 256]);
    match class.kind() {
        HirKind::Class(Class::Bytes(class)) => {
            for range in class.ranges() {
                members[usize::from(range.start())..=usize::from(range.end())].fill(true);
            }
        }
        HirKind::Literal(literal) if literal.0.len() == 1 => members[usize::from(literal.0[0])] = true,
        _ => return None,
    }
    Some(Step::Run(Run { class: members, least, most, is_greedy, next: None }))
}

/// One line being matched.
struct Search<'a> {
    line: &'a [u8],
    marks: &'a mut [usize],
    looks: usize,
}

impl<'a> Search<'a> {
    fn matches(&mut self, steps: &[Step], mut at: usize) -> Result<bool, GaveUp> {
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Mark(mark) => self.marks[*mark] = at,
                Step::Byte(byte) if self.line.get(at) == Some(byte) => at += 1,
                Step::Literal(bytes) if self.line[at..].starts_with(bytes) => at += bytes.len(),
                Step::End if at == self.line.len() => {}
                Step::End | Step::Byte(_) | Step::Literal(_) => return Ok(false),
                Step::Run(run) if run.has_one_end() => {
                    let length = self.length(run, at)?;
                    if length < run.least {
                        return Ok(false);
                    }
                    at += length;
                }
                Step::Run(run) if run.is_greedy => return self.longest_first(run, &steps[index + 1..], at),
                Step::Run(run) => return self.shortest_first(run, &steps[index + 1..], at),
            }
        }
        Ok(true)
    }

    fn longest_first(&mut self, run: &Run, rest: &[Step], at: usize) -> Result<bool, GaveUp> {
        let mut length = self.length(run, at)?;
        // Nothing follows, so nothing can fail.
        if rest.is_empty() {
            return Ok(length >= run.least);
        }
        loop {
            if length < run.least {
                return Ok(false);
            }
            self.look(1)?;
            if self.may_follow(run, at + length) && self.matches(rest, at + length)? {
                return Ok(true);
            }
            let Some(shorter) = length.checked_sub(1) else { return Ok(false) };
            length = shorter;
        }
    }

    fn shortest_first(&mut self, run: &Run, rest: &[Step], at: usize) -> Result<bool, GaveUp> {
        let in_reach = self.in_reach(run, at);
        let mut length = 0;
        loop {
            // Where what follows can begin at all, and whether the run reaches it.
            let least = length.max(run.least);
            let Some(after) = self.line.get(at + least..) else { return Ok(false) };
            self.look(1 + after.len() / BYTES_PER_LOOK)?;
            let skipped = run.next.map_or(Some(0), |next| memchr(next, after));
            let between = skipped.and_then(|skipped| in_reach.get(length..least + skipped));
            let Some(between) = between else { return Ok(false) };
            self.look(between.len())?;
            if prefix_length(&run.class, between) < between.len() {
                return Ok(false);
            }
            length += between.len();
            if self.matches(rest, at + length)? {
                return Ok(true);
            }
            match in_reach.get(length) {
                Some(&byte) if run.class[usize::from(byte)] => length += 1,
                _ => return Ok(false),
            }
        }
    }

    /// How long the longest run is from here.
    fn length(&mut self, run: &Run, at: usize) -> Result<usize, GaveUp> {
        let length = prefix_length(&run.class, self.in_reach(run, at));
        self.look(length)?;
        Ok(length)
    }

    /// The bytes that may be in a run from here.
    fn in_reach(&self, run: &Run, at: usize) -> &'a [u8] {
        let rest = &self.line[at..];
        &rest[..rest.len().min(run.most)]
    }

    fn may_follow(&self, run: &Run, at: usize) -> bool {
        run.next.is_none_or(|next| self.line.get(at) == Some(&next))
    }

    fn look(&mut self, bytes: usize) -> Result<(), GaveUp> {
        self.looks = self.looks.checked_sub(bytes).ok_or(GaveUp)?;
        Ok(())
    }
}

/// How many bytes there are before the first that is not of the class.
fn prefix_length(class: &[bool; 256], bytes: &[u8]) -> usize {
    // Eight at a time without a branch, and then one by one: a third of the instructions.
    let (eights, _) = bytes.as_chunks::<8>();
    let is_inside = |eight: &&[u8; 8]| eight.iter().fold(true, |all, &byte| all & class[usize::from(byte)]);
    let whole = 8 * eights.iter().take_while(is_inside).count();
    let rest = &bytes[whole..];
    whole + rest.iter().position(|&byte| !class[usize::from(byte)]).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::RegexBuilder;

    use super::*;

    fn hir(text: &str) -> Hir {
        regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(text).unwrap()
    }

    /// Marks of a match, by the steps and by the regex; `None` where the steps don't apply or gave up.
    fn both(text: &str, line: &[u8]) -> Option<[Option<Vec<usize>>; 2]> {
        let steps = Steps::compile(&hir(text))?;
        let regex = RegexBuilder::new(text).unicode(false).build().unwrap();
        let mut marks = vec![0; 2 * regex.captures_len()];
        let is_match = steps.find(line, &mut marks).ok()?;
        let by_regex = regex.captures(line).map(|groups| {
            groups.iter().skip(1).flatten().flat_map(|group| [group.start(), group.end()]).collect()
        });
        Some([is_match.then(|| marks[2..].to_vec()), by_regex])
    }

    #[test]
    fn usual_formats_become_steps_and_others_do_not() {
        #[rustfmt::skip]
        let table = [
            (r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#,                                 true),
            (r#"^(?<ip>[0-9a-f.:]{2,45}) - - \[([^]]+)\] "(?<path>/\S*?)" (?<status>\d{3})$"#,       true),
            (r"^(\S+)(?: x)? (\S+)",                                                                 false),
            (r"^(a|bc) (\S+)",                                                                       false),
            (r"^(\S+) \b(\S+)",                                                                      false),
            (r"(\S+) (\S+)",                                                                         false),
        ];
        for (text, expect) in table {
            assert_eq!(Steps::compile(&hir(text)).is_some(), expect, "expression {text}");
        }
    }

    #[test]
    fn a_line_made_to_backtrack_is_given_up_in_time() {
        let steps = Steps::compile(&hir(r"^(\S+)x(\S+)x(\S+)x(\S+)y$")).unwrap();
        assert_eq!(steps.find(&b"x".repeat(60_000), &mut [0; 10]), Err(GaveUp));
    }

    proptest! {
        #[test]
        fn steps_find_the_groups_that_the_regex_finds(
            pieces in prop::collection::vec(prop::sample::select(vec![
                r"(\S+)", r"(\S*)", r"\S+", " ", r"\[(.+?)\]", "\"", r"([A-Z]+)", r"\d{1,3}", r"(\d{3})", r"[^ ]", r".*",
                r"(.*?)", "a", "ab", r"(a*)", r"(?i:b)", r"a?", r"(a??)", r"(\S{2,4}?)", "(?:a b)", "$", r"(b)(c)", r"\xff",
            ]), 1..8),
            line in prop::collection::vec(prop::sample::select(b"ab AB1[]\" \xff\xfe.cx".to_vec()), 0..24),
        ) {
            let text = format!("^{}", pieces.concat());
            if let Some([by_steps, by_regex]) = both(&text, &line) {
                prop_assert_eq!(by_steps, by_regex, "expression {}", text);
            }
        }

        #[test]
        fn steps_find_the_groups_of_a_log_line(
            user in r#"[a-c \[\]"]{0,8}"#, time in r"[0-9/: \]]{0,12}", path in r#"[/a-c "\xff]{0,12}"#, agent in r#"[A-Z "]{0,20}"#,
        ) {
            let line = format!(r#"203.0.113.7 - {user} [{time}] "GET {path} HTTP/1.1" 200 {agent}"#);
            let text = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;
            let [by_steps, by_regex] = both(text, line.as_bytes()).unwrap();
            prop_assert_eq!(by_steps, by_regex);
        }
    }
}
