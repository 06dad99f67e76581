//! Finds the lowest-numbered pattern that matches a request target, however many there are.
//!
//! Nearly every target matches nothing, and a hostile one must cost no more than its length. So the patterns are
//! sorted by what a match can't do without:
//!
//! * a literal at the start (`^/wp-admin`): one anchored automaton, which gives up at the first byte that no pattern
//!   begins with;
//! * a literal anywhere (`\.sql$`): one automaton that runs along the target;
//! * neither (`^/[0-9]+$`): one set of regular expressions.
//!
//! Where the literal isn't the whole pattern, the pattern's own expression confirms the match. Automata of all patterns
//! as one DFA were measured too: the lazy one can be driven to 0.8 µs a byte by whoever chooses the paths, the full
//! one takes a minute to build for 1,000 patterns.

mod beginnings;
mod literals;

use aho_corasick::{AhoCorasick, Anchored, Input, StartKind, automaton::OverlappingState};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use self::{beginnings::Beginnings, literals::Required};

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 512;

/// The most memory that a compiled pattern may take, and again the most that a search with it may cache, in bytes.
const MAX_COMPILED_BYTES: usize = 256 * 1024;

/// Why a text can't be a pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Longer than the limit.
    #[error("has {0} bytes; {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
    /// Not a regular expression.
    #[error("does not compile: {0}")]
    Syntax(String),
    /// Compiled, it is over the limit.
    #[error("takes more than {MAX_COMPILED_BYTES} bytes when compiled: use smaller repetitions")]
    TooBig,
    /// It would match every request.
    #[error("matches the empty path, and so every request: say what a probe asks for")]
    MatchesEmpty,
    /// There are more than can be numbered.
    #[error("is one pattern too many: {max} are allowed", max = u16::MAX)]
    TooMany,
}

/// Patterns, ready to be searched for together.
#[derive(Clone, Debug)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    beginnings: Beginnings,
    at_start: Option<Literals>,
    anywhere: Option<Literals>,
    others: Option<Others>,
    /// Patterns that were tried on the present target, as bits.
    tried: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: Box<str>,
    /// What confirms a match; absent where the literal is all there is, or the set decides.
    regex: Option<Regex>,
}

#[derive(Clone, Debug)]
struct Literals {
    automaton: AhoCorasick,
    /// The pattern of each literal.
    pattern: Vec<u16>,
}

#[derive(Clone, Debug)]
struct Others {
    set: RegexSet,
    pattern: Vec<u16>,
}

impl Matcher {
    /// Compiles patterns, numbered as they come; an error names the number of the one that can't be used.
    pub fn new<S: AsRef<str>>(texts: &[S]) -> Result<Self, (usize, PatternError)> {
        let mut patterns = Vec::with_capacity(texts.len());
        let (mut at_start, mut anywhere, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (index, text) in texts.iter().map(AsRef::as_ref).enumerate() {
            let number = u16::try_from(index).map_err(|_| (index, PatternError::TooMany))?;
            let required = literals::required(&parse(text).map_err(|error| (index, error))?);
            let is_whole =
                matches!(&required, Required::AtStart(found) | Required::Anywhere(found) if found.is_whole);
            match required {
                Required::AtStart(found) => at_start.push((found.literals, number)),
                Required::Anywhere(found) => anywhere.push((found.literals, number)),
                Required::Nothing => others.push((text, number)),
            }
            // Compiled in every case: a pattern that is too big is refused whatever serves it.
            let regex = compile(text).map_err(|error| (index, error))?;
            let is_other = others.last().is_some_and(|&(_, last)| last == number);
            patterns.push(Pattern { text: text.into(), regex: (!is_whole && !is_other).then_some(regex) });
        }
        let beginnings = Beginnings::of(at_start.iter().flat_map(|(literals, _)| literals));
        // Each pattern is bounded, but not all of them together.
        let too_many = (texts.len().saturating_sub(1), PatternError::TooMany);
        Ok(Self {
            tried: vec![0; patterns.len().div_ceil(64)],
            patterns,
            beginnings,
            at_start: Literals::new(at_start, StartKind::Anchored).map_err(|_| too_many.clone())?,
            anywhere: Literals::new(anywhere, StartKind::Unanchored).map_err(|_| too_many.clone())?,
            others: Others::new(&others).map_err(|_| too_many)?,
        })
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The text of a pattern; empty when there is none of that number.
    #[must_use]
    pub fn text(&self, number: u16) -> &str {
        self.patterns.get(usize::from(number)).map_or("", |pattern| &pattern.text)
    }

    /// The number of a pattern with that text.
    #[must_use]
    pub fn number(&self, text: &str) -> Option<u16> {
        self.patterns
            .iter()
            .position(|pattern| &*pattern.text == text)
            .and_then(|index| u16::try_from(index).ok())
    }

    /// Whether all patterns of `other` are among these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.patterns.iter().all(|pattern| self.number(&pattern.text).is_some())
    }

    /// The lowest-numbered pattern that matches.
    #[inline]
    pub fn find(&mut self, target: &[u8]) -> Option<u16> {
        let may_start = self.beginnings.may_be_of(target);
        let is_needless = !may_start && self.anywhere.is_none() && self.others.is_none();
        if is_needless { None } else { self.search(target, may_start) }
    }

    fn search(&mut self, target: &[u8], may_start: bool) -> Option<u16> {
        let Self { patterns, at_start, anywhere, others, tried, .. } = self;
        let mut best = Best { target, patterns, tried, number: None, is_clean: true };
        if let Some(literals) = at_start.as_ref().filter(|_| may_start) {
            literals.search(Anchored::Yes, &mut best);
        }
        if let Some(literals) = anywhere {
            literals.search(Anchored::No, &mut best);
        }
        let found = best.number;
        if !best.is_clean {
            tried.fill(0);
        }
        let other = others.as_ref().and_then(|others| others.search(target));
        found.into_iter().chain(other).min()
    }
}

/// The lowest-numbered match so far, while a target is searched.
struct Best<'a> {
    target: &'a [u8],
    patterns: &'a [Pattern],
    tried: &'a mut [u64],
    number: Option<u16>,
    is_clean: bool,
}

impl Best<'_> {
    /// A literal of this pattern was found. Each pattern is confirmed at most once, however often its literal occurs.
    fn candidate(&mut self, number: u16) {
        if self.number.is_some_and(|best| best <= number) {
            return;
        }
        let Some(regex) = &self.patterns[usize::from(number)].regex else {
            self.number = Some(number);
            return;
        };
        let (word, bit) = (usize::from(number) / 64, 1u64 << (number % 64));
        if self.tried[word] & bit == 0 {
            self.tried[word] |= bit;
            self.is_clean = false;
            if regex.is_match(self.target) {
                self.number = Some(number);
            }
        }
    }
}

impl Literals {
    /// An automaton of each pattern's literals.
    fn new(
        patterns: Vec<(Vec<Vec<u8>>, u16)>,
        start: StartKind,
    ) -> Result<Option<Self>, aho_corasick::BuildError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let each = patterns
            .into_iter()
            .flat_map(|(literals, number)| literals.into_iter().map(move |one| (one, number)));
        let (literals, pattern): (Vec<_>, Vec<_>) = each.unzip();
        let automaton = AhoCorasick::builder().start_kind(start).build(literals)?;
        Ok(Some(Self { automaton, pattern }))
    }

    fn search(&self, anchored: Anchored, best: &mut Best<'_>) {
        let input = Input::new(best.target).anchored(anchored);
        let mut state = OverlappingState::start();
        loop {
            self.automaton.find_overlapping(input.clone(), &mut state);
            let Some(found) = state.get_match() else { return };
            // Anchored too, it tells of every literal that ends here, also of those that began further on.
            if anchored.is_anchored() && found.start() > 0 {
                continue;
            }
            best.candidate(self.pattern[found.pattern().as_usize()]);
        }
    }
}

impl Others {
    fn new(patterns: &[(&str, u16)]) -> Result<Option<Self>, regex::Error> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let set = RegexSetBuilder::new(patterns.iter().map(|&(text, _)| text))
            .unicode(false)
            .size_limit(patterns.len() * MAX_COMPILED_BYTES)
            .build()?;
        Ok(Some(Self { set, pattern: patterns.iter().map(|&(_, number)| number).collect() }))
    }

    fn search(&self, target: &[u8]) -> Option<u16> {
        // Nearly always the answer is no, and that needs no list of matches.
        if !self.set.is_match(target) {
            return None;
        }
        self.set.matches(target).iter().next().map(|index| self.pattern[index])
    }
}

fn parse(text: &str) -> Result<regex_syntax::hir::Hir, PatternError> {
    if text.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong(text.len()));
    }
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    parser.parse(text).map_err(|error| PatternError::Syntax(one_line(&error)))
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    let regex = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|_| PatternError::TooBig)?;
    if regex.is_match(b"") { Err(PatternError::MatchesEmpty) } else { Ok(regex) }
}

/// A syntax error in one line, with the place: conditions and metrics have no room for drawn arrows.
pub(super) fn one_line(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => {
            format!("{}, at character {}", error.kind(), error.span().start.column)
        }
        regex_syntax::Error::Translate(error) => {
            format!("{}, at character {}", error.kind(), error.span().start.column)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
