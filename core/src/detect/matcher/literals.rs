//! What a match of a pattern can't do without: literals, one of which stands in every match.

use regex_syntax::hir::{
    Hir, HirKind, Look,
    literal::{ExtractKind, Extractor, Seq},
};

/// Shorter literals at the start of a target single nothing out: all targets begin with a slash.
const SHORTEST_AT_START: usize = 2;

/// Shorter literals anywhere would be found in every other target.
const SHORTEST_ANYWHERE: usize = 3;

/// The most literals that one pattern may become, as `(?i)` and alternatives multiply them.
const MOST_LITERALS: usize = 250;

/// What every match of a pattern holds.
#[derive(Debug)]
pub(super) enum Required {
    /// One of these, at the start of the target.
    AtStart(Found),
    /// One of these.
    Anywhere(Found),
    /// No literal that is worth looking for.
    Nothing,
}

/// Literals, one of which every match holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) literals: Vec<Vec<u8>>,
    /// Where in the match it stands.
    pub(super) side: Side,
    /// Whether the pattern asks for nothing else, but perhaps for the end of the target behind it.
    pub(super) is_whole: bool,
}

/// Where in every match of a pattern the literal stands that was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// The match begins with it.
    Start,
    /// The match ends with it.
    End,
    /// It stands somewhere in it.
    Inside,
}

pub(super) fn required(hir: &Hir) -> Required {
    let is_anchored = hir.properties().look_set_prefix().contains(Look::Start);
    let prefix = extract(hir, ExtractKind::Prefix);
    if is_anchored && shortest(&prefix) >= SHORTEST_AT_START {
        return Required::AtStart(found(&prefix, Side::Start, asks_no_more(hir, true)));
    }
    let (best, side) = if hir.properties().maximum_len().is_none() && shortest(&prefix) >= SHORTEST_ANYWHERE {
        // What a long match ends with can then be asked for behind it.
        (prefix, Side::Start)
    } else {
        // Of those that are equally long the one that says most of where the match is: the last.
        let all = [
            (inner(hir), Side::Inside),
            (extract(hir, ExtractKind::Suffix), Side::End),
            (prefix, Side::Start),
        ];
        all.into_iter().max_by_key(|(seq, _)| shortest(seq)).unwrap_or((Seq::infinite(), Side::Inside))
    };
    if shortest(&best) < SHORTEST_ANYWHERE {
        return Required::Nothing;
    }
    Required::Anywhere(found(&best, side, asks_no_more(hir, false)))
}

/// What every match of a pattern ends with; perhaps nothing.
pub(super) fn tail(hir: &Hir) -> Vec<u8> {
    extract(hir, ExtractKind::Suffix).longest_common_suffix().unwrap_or_default().to_vec()
}

/// Whether there are no assertions in a pattern but `^` at its beginning, if the literal is only looked for there, and
/// `$` at its end.
fn asks_no_more(hir: &Hir, at_start: bool) -> bool {
    let HirKind::Concat(parts) = hir.kind() else { return has_no_assertion(hir) && !at_start };
    let is = |part: &Hir, look| *part.kind() == HirKind::Look(look);
    let mut rest = &parts[..];
    if at_start {
        match rest {
            [first, after @ ..] if is(first, Look::Start) => rest = after,
            _ => return false,
        }
    }
    if let [before @ .., last] = rest
        && is(last, Look::End)
    {
        rest = before;
    }
    rest.iter().all(has_no_assertion)
}

fn extract(hir: &Hir, kind: ExtractKind) -> Seq {
    Extractor::new().kind(kind).limit_total(MOST_LITERALS).extract(hir)
}

/// The longest literal that stands in every match, wherever that is.
fn inner(hir: &Hir) -> Seq {
    fn longest(hir: &Hir) -> Option<&[u8]> {
        match hir.kind() {
            HirKind::Literal(literal) => Some(&literal.0),
            HirKind::Capture(capture) => longest(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => longest(&repetition.sub),
            HirKind::Concat(parts) => parts.iter().filter_map(longest).max_by_key(|literal| literal.len()),
            _ => None,
        }
    }
    longest(hir).map_or_else(Seq::infinite, |bytes| {
        Seq::from_iter([regex_syntax::hir::literal::Literal::inexact(bytes)])
    })
}

/// Length of the shortest literal; 0 where any string may stand.
fn shortest(seq: &Seq) -> usize {
    seq.min_literal_len().unwrap_or(0)
}

fn has_no_assertion(hir: &Hir) -> bool {
    hir.properties().look_set().is_empty()
}

fn found(seq: &Seq, side: Side, asks_no_more: bool) -> Found {
    Found {
        side,
        literals: seq
            .literals()
            .unwrap_or_default()
            .iter()
            .map(|literal| literal.as_bytes().to_vec())
            .collect(),
        is_whole: asks_no_more && seq.is_exact(),
    }
}
