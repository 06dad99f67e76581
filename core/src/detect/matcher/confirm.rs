//! Whether a pattern matches, once one of its literals was found.
//!
//! A client may write literals by the hundred into one path. So what the place of a literal says is asked first, which
//! is a comparison; then a pattern whose matches are short is tried right there, which takes as long as the match;
//! and only one whose matches may be long is tried on the whole target, once however often its literal stands there, and
//! not where what its matches end with doesn't follow.

use aho_corasick::Span;
use memchr::memmem;
use regex_automata::{
    Anchored, Input, meta,
    nfa::thompson::{
        self,
        backtrack::{self, BoundedBacktracker},
    },
};
use regex_syntax::hir::{Hir, Look};

use super::{
    MAX_COMPILED_BYTES, PatternError, compile,
    literals::{self, Found, Side},
};

/// The longest match that is tried where its literal stands, in bytes.
const LONGEST_NEAR: usize = 64;

/// How a pattern is confirmed.
#[derive(Clone, Debug)]
pub(super) struct Confirm {
    place: Place,
    engine: Engine,
}

/// What the place of a literal must be.
#[derive(Clone, Copy, Debug)]
struct Place {
    side: Side,
    is_whole: bool,
    /// The pattern begins with `^`.
    at_start: bool,
    /// The pattern ends with `$`.
    at_end: bool,
    /// The longest match, in bytes; absent where there is none.
    longest: Option<usize>,
}

#[derive(Clone, Debug)]
enum Engine {
    /// The literal is all there is.
    None,
    /// Tried around each literal, so far away from it.
    Near(BoundedBacktracker, usize),
    /// Tried once on the whole target.
    Once(Box<Long>),
}

/// A pattern whose matches may be long.
#[derive(Clone, Debug)]
struct Long {
    regex: meta::Regex,
    /// What each match ends with; empty where that isn't known.
    tail: memmem::Finder<'static>,
}

/// What a literal that was found says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Finding {
    Match,
    NoMatch,
    /// The whole target has no match, whatever other literals it holds.
    NoneAtAll,
}

impl Confirm {
    pub(super) fn new(hir: &Hir, found: &Found) -> Result<Self, PatternError> {
        let properties = hir.properties();
        let place = Place {
            side: found.side,
            is_whole: found.is_whole,
            at_start: properties.look_set_prefix().contains(Look::Start),
            at_end: properties.look_set_suffix().contains(Look::End),
            longest: properties.maximum_len(),
        };
        let engine = match place.longest {
            _ if found.is_whole => Engine::None,
            Some(longest) if longest <= LONGEST_NEAR => Engine::Near(near(hir)?, longest),
            _ => {
                let tail = if found.side == Side::Start { literals::tail(hir) } else { Vec::new() };
                let regex = compile(std::slice::from_ref(hir))?;
                Engine::Once(Box::new(Long { regex, tail: memmem::Finder::new(&tail).into_owned() }))
            }
        };
        Ok(Self { place, engine })
    }

    /// Whether the pattern matches `target`, in which its literal stands at `span`.
    pub(super) fn check(&self, target: &[u8], span: Span, cache: &mut Cache) -> Finding {
        if !self.place.allows(span, target.len()) {
            return Finding::NoMatch;
        }
        match &self.engine {
            Engine::None => Finding::Match,
            Engine::Near(regex, longest) => {
                let input = self.place.around(target, span, *longest);
                if cache.is_match(regex, input) { Finding::Match } else { Finding::NoMatch }
            }
            Engine::Once(long) => {
                let Long { regex, tail } = &**long;
                // Literals are found in the order of their ends, and no match ends before its first.
                let behind = &target[span.end.saturating_sub(tail.needle().len())..];
                let is_match = tail.find(behind).is_some() && regex.is_match(target);
                if is_match { Finding::Match } else { Finding::NoneAtAll }
            }
        }
    }

    /// What it takes, in bytes, beside itself.
    pub(super) fn memory_usage(&self) -> usize {
        match &self.engine {
            Engine::None => 0,
            Engine::Near(regex, _) => regex.get_nfa().memory_usage(),
            Engine::Once(long) => size_of::<Long>() + long.regex.memory_usage() + long.tail.needle().len(),
        }
    }
}

impl Place {
    /// Whether a match may have its literal there.
    fn allows(&self, span: Span, length: usize) -> bool {
        let begins = self.side == Side::Start || self.is_whole;
        let ends = self.side == Side::End || self.is_whole;
        let reaches = |bytes: usize| self.longest.is_none_or(|longest| bytes <= longest);
        let start_is_right = !self.at_start || if begins { span.start == 0 } else { reaches(span.end) };
        let end_is_right =
            !self.at_end || if ends { span.end == length } else { reaches(length - span.start) };
        start_is_right && end_is_right
    }

    /// The part of the target in which a match lies that has its literal there.
    fn around<'a>(&self, target: &'a [u8], span: Span, longest: usize) -> Input<'a> {
        let begins = self.side == Side::Start;
        let start = if begins { span.start } else { span.end.saturating_sub(longest) };
        let end = match self.side {
            Side::End => span.end,
            Side::Start | Side::Inside => target.len().min(span.start + longest),
        };
        Input::new(target).range(start..end).anchored(if begins { Anchored::Yes } else { Anchored::No })
    }
}

/// What all patterns search with, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache(Option<backtrack::Cache>);

impl Cache {
    fn is_match(&mut self, regex: &BoundedBacktracker, input: Input<'_>) -> bool {
        let cache = self.0.get_or_insert_with(|| regex.create_cache());
        cache.reset(regex);
        // It only fails on what is too long, which nothing near a literal is.
        regex.try_is_match(cache, input).unwrap_or(false)
    }
}

fn near(hir: &Hir) -> Result<BoundedBacktracker, PatternError> {
    let config = thompson::Config::new()
        .utf8(false)
        .which_captures(thompson::WhichCaptures::None)
        .nfa_size_limit(Some(MAX_COMPILED_BYTES));
    let compiled = thompson::Compiler::new().configure(config).build_from_hir(hir);
    let nfa = compiled.map_err(|_| PatternError::TooBig)?;
    // A byte of its memory for eight pairs of a state and a place, so that no search near a literal is too long.
    let capacity = nfa.states().len() * 2 * LONGEST_NEAR / 8 + LONGEST_NEAR;
    let config = backtrack::Config::new().visited_capacity(capacity);
    BoundedBacktracker::builder().configure(config).build_from_nfa(nfa).map_err(|_| PatternError::TooBig)
}
