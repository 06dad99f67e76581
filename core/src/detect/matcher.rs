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
//! Where the literal isn't the whole pattern, the match is confirmed (see [`confirm`]). With 5,000 patterns that takes
//! 11 to 14 ns a byte, whatever is in the path. What can take longer are patterns without a longest match, such as
//! `union[^&]*select`: each of which the path holds beginning and end, in this order, reads it once.
//!
//! Automata of all patterns as one DFA were measured too: the lazy one can be driven to 0.8 µs a byte by whoever chooses
//! the paths, the full one takes a minute to build for 1,000 patterns.

mod beginnings;
mod confirm;
mod literals;

use aho_corasick::{AhoCorasick, Anchored, Input, Span, StartKind, automaton::OverlappingState};
use regex_automata::{MatchKind, PatternSet, meta, nfa::thompson::WhichCaptures};
use regex_syntax::hir::Hir;

use self::{
    beginnings::Beginnings,
    confirm::{Cache, Confirm, Finding},
    literals::{Found, Required},
};

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
    /// It would match everything.
    #[error("matches the empty text, and so everything: say what must be there")]
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
    /// Patterns that are known not to match the present target, as bits.
    ruled_out: Vec<u64>,
    cache: Cache,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: Box<str>,
    /// What confirms a match; absent where the pattern has no literal.
    confirm: Option<Confirm>,
}

#[derive(Clone, Debug)]
struct Literals {
    automaton: AhoCorasick,
    /// The pattern of each literal.
    pattern: Vec<u16>,
}

#[derive(Clone, Debug)]
struct Others {
    set: meta::Regex,
    matches: PatternSet,
    pattern: Vec<u16>,
}

impl Matcher {
    /// Compiles patterns, numbered as they come; an error names the number of the one that can't be used.
    pub fn new<S: AsRef<str>>(texts: &[S]) -> Result<Self, (usize, PatternError)> {
        let mut patterns = Vec::with_capacity(texts.len());
        let (mut at_start, mut anywhere, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (index, text) in texts.iter().map(AsRef::as_ref).enumerate() {
            let named = |error| (index, error);
            let number = u16::try_from(index).map_err(|_| named(PatternError::TooMany))?;
            let hir = parse(text).map_err(named)?;
            let confirm = |found: &Found| Confirm::new(&hir, found).map_err(named);
            let confirm = match literals::required(&hir) {
                Required::AtStart(found) => {
                    let confirm = confirm(&found)?;
                    at_start.push((found.literals, number));
                    Some(confirm)
                }
                Required::Anywhere(found) => {
                    let confirm = confirm(&found)?;
                    anywhere.push((found.literals, number));
                    Some(confirm)
                }
                Required::Nothing => {
                    // By itself, so that one that is too big is named.
                    compile(std::slice::from_ref(&hir)).map_err(named)?;
                    others.push((hir, number));
                    None
                }
            };
            patterns.push(Pattern { text: text.into(), confirm });
        }
        let beginnings = Beginnings::of(at_start.iter().flat_map(|(literals, _)| literals));
        // Each pattern is bounded, but not all of them together.
        let too_many = (texts.len().saturating_sub(1), PatternError::TooMany);
        Ok(Self {
            ruled_out: vec![0; patterns.len().div_ceil(64)],
            patterns,
            beginnings,
            at_start: Literals::new(at_start, StartKind::Anchored).map_err(|_| too_many.clone())?,
            anywhere: Literals::new(anywhere, StartKind::Unanchored).map_err(|_| too_many.clone())?,
            others: Others::new(others).map_err(|_| too_many)?,
            cache: Cache::default(),
        })
    }

    /// What they take compiled, in bytes; searches may cache as much again.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        let literals = [&self.at_start, &self.anywhere].into_iter().flatten();
        let automata = literals.map(|literals| literals.automaton.memory_usage()).sum::<usize>();
        let confirms = self.patterns.iter().filter_map(|pattern| pattern.confirm.as_ref());
        let confirms = confirms.map(Confirm::memory_usage).sum::<usize>();
        let others = self.others.as_ref().map_or(0, |others| others.set.memory_usage());
        automata + confirms + others + self.patterns.len() * size_of::<Pattern>()
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
        let Self { patterns, at_start, anywhere, others, ruled_out, cache, .. } = self;
        let mut best = Best { target, patterns, ruled_out, cache, number: None, is_clean: true };
        if let Some(literals) = at_start.as_ref().filter(|_| may_start) {
            literals.search(Anchored::Yes, &mut best);
        }
        if let Some(literals) = anywhere {
            literals.search(Anchored::No, &mut best);
        }
        let found = best.number;
        if !best.is_clean {
            ruled_out.fill(0);
        }
        let other = others.as_mut().and_then(|others| others.search(target));
        found.into_iter().chain(other).min()
    }
}

/// The lowest-numbered match so far, while a target is searched.
struct Best<'a> {
    target: &'a [u8],
    patterns: &'a [Pattern],
    ruled_out: &'a mut [u64],
    cache: &'a mut Cache,
    number: Option<u16>,
    is_clean: bool,
}

impl Best<'_> {
    /// A literal of this pattern was found.
    fn candidate(&mut self, number: u16, span: Span) {
        if self.number.is_some_and(|best| best <= number) {
            return;
        }
        let Some(confirm) = &self.patterns[usize::from(number)].confirm else { return };
        let (word, bit) = (usize::from(number) / 64, 1u64 << (number % 64));
        if self.ruled_out[word] & bit != 0 {
            return;
        }
        match confirm.check(self.target, span, self.cache) {
            Finding::Match => self.number = Some(number),
            Finding::NoMatch => {}
            Finding::NoneAtAll => {
                self.ruled_out[word] |= bit;
                self.is_clean = false;
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
            best.candidate(self.pattern[found.pattern().as_usize()], found.span());
        }
    }
}

impl Others {
    fn new(patterns: Vec<(Hir, u16)>) -> Result<Option<Self>, PatternError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let (hirs, pattern): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        let set = compile(&hirs)?;
        Ok(Some(Self { matches: PatternSet::new(set.pattern_len()), set, pattern }))
    }

    fn search(&mut self, target: &[u8]) -> Option<u16> {
        // Nearly always the answer is no, and that needs no list of matches.
        if !self.set.is_match(target) {
            return None;
        }
        self.matches.clear();
        self.set.which_overlapping_matches(&target.into(), &mut self.matches);
        self.matches.iter().next().map(|index| self.pattern[index.as_usize()])
    }
}

fn parse(text: &str) -> Result<Hir, PatternError> {
    if text.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong(text.len()));
    }
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    let hir = parser.parse(text).map_err(|error| PatternError::Syntax(one_line(&error)))?;
    let may_be_empty = hir.properties().minimum_len() == Some(0);
    if may_be_empty && compile(std::slice::from_ref(&hir))?.is_match(b"") {
        return Err(PatternError::MatchesEmpty);
    }
    Ok(hir)
}

/// Compiles patterns of which each has [`MAX_COMPILED_BYTES`].
fn compile(patterns: &[Hir]) -> Result<meta::Regex, PatternError> {
    let config = meta::Config::new()
        .match_kind(if patterns.len() > 1 { MatchKind::All } else { MatchKind::LeftmostFirst })
        .utf8_empty(false)
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(patterns.len() * MAX_COMPILED_BYTES))
        .hybrid_cache_capacity(patterns.len() * MAX_COMPILED_BYTES);
    meta::Builder::new().configure(config).build_many_from_hir(patterns).map_err(|_| PatternError::TooBig)
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
