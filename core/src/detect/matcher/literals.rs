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
    /// Whether to find one is to find a match.
    pub(super) is_whole: bool,
}

pub(super) fn required(hir: &Hir) -> Required {
    let is_anchored = hir.properties().look_set_prefix().contains(Look::Start);
    let prefix = extract(hir, ExtractKind::Prefix);
    if is_anchored && shortest(&prefix) >= SHORTEST_AT_START {
        // `^` and then nothing but literals; any other assertion would have to be looked at.
        let is_plain = match hir.kind() {
            HirKind::Concat(parts) => {
                matches!(parts[0].kind(), HirKind::Look(Look::Start))
                    && parts[1..].iter().all(has_no_assertion)
            }
            _ => false,
        };
        return Required::AtStart(found(&prefix, is_plain));
    }
    let is_plain = has_no_assertion(hir);
    let best = [prefix, extract(hir, ExtractKind::Suffix), inner(hir)].into_iter().max_by_key(shortest);
    match best {
        Some(best) if shortest(&best) >= SHORTEST_ANYWHERE => Required::Anywhere(found(&best, is_plain)),
        _ => Required::Nothing,
    }
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

fn found(seq: &Seq, is_plain: bool) -> Found {
    Found {
        literals: seq
            .literals()
            .unwrap_or_default()
            .iter()
            .map(|literal| literal.as_bytes().to_vec())
            .collect(),
        is_whole: is_plain && seq.is_exact(),
    }
}
