use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn thresholds(hits: usize, unique_patterns: usize, window: i64) -> Thresholds {
    Thresholds { hits, unique_patterns, unique_paths: 0, window }
}

fn hit(at: i64, pattern: u16) -> Hit {
    Hit { at, sample: 0, pattern }
}

/// What the hits came to, in one letter each: below, stale, earned.
fn counts(hits: &[(i64, u16)], thresholds: &Thresholds) -> String {
    let mut kept = Hits::default();
    let letter = |&(at, pattern): &(i64, u16)| match kept.count(hit(at, pattern), thresholds) {
        Count::Below => '.',
        Count::Stale => 's',
        Count::Earned(_) => 'E',
    };
    hits.iter().map(letter).collect()
}

#[test]
fn a_window_is_closed_at_both_ends() {
    #[rustfmt::skip]
    let table: &[(&[(i64, u16)], &str)] = &[
        (&[(0, 1), (60, 1), (120, 1)],                        "..E"),
        (&[(0, 1), (60, 1), (121, 1)],                        "..."),
        (&[(0, 1), (120, 2)],                                 ".E"),
        (&[(0, 1), (121, 2)],                                 ".."),
        (&[(0, 1), (1, 1), (121, 1), (122, 1)],               "...."),
        (&[(0, 1), (1, 1), (121, 1), (121, 1)],               "...E"),
        // late, in whichever order
        (&[(120, 1), (60, 1), (0, 1)],                        "..E"),
        (&[(300, 1), (60, 1), (61, 1), (62, 1)],              "...E"),
        (&[(300, 1), (60, 1), (61, 2)],                       "..E"),
        // later than two windows
        (&[(300, 1), (59, 1), (60, 1)],                       ".s."),
        // at one instant
        (&[(0, 1), (0, 1), (0, 1)],                           "..E"),
        (&[(i64::MIN, 1), (i64::MAX, 2), (i64::MIN, 3)],      "..s"),
    ];
    for (hits, expect) in table {
        assert_eq!(counts(hits, &thresholds(3, 2, 120)), *expect, "hits {hits:?}");
    }
}

#[test]
fn without_a_threshold_on_hits_a_flood_takes_no_memory_and_hides_no_pattern() {
    let thresholds = thresholds(0, 3, 1_000_000);
    let mut hits = Hits::default();
    assert_eq!(hits.count(hit(0, 9), &thresholds), Count::Below);
    for at in 1..10_000 {
        assert_eq!(hits.count(hit(at, 8), &thresholds), Count::Below);
        assert!(hits.len() <= thresholds.kept());
    }
    assert!(matches!(hits.count(hit(10_000, 7), &thresholds), Count::Earned(_)));
}

#[test]
fn a_lowered_threshold_holds_from_the_next_hit_on() {
    let mut hits = Hits::default();
    for at in 0..9 {
        hits.count(hit(at, 1), &thresholds(100, 0, 120));
    }
    let Count::Earned(window) = hits.count(hit(9, 1), &thresholds(2, 0, 120)) else { panic!("no ban") };
    assert!(window.iter().any(|hit| hit.at == 9));
}

/// Every accepted hit since the last ban, and every window looked at.
#[derive(Default)]
struct Naive(Vec<Hit>);

impl Naive {
    fn count(&mut self, new: Hit, thresholds: &Thresholds) -> char {
        let newest = self.0.iter().map(|hit| hit.at).chain([new.at]).max().unwrap();
        let oldest = newest - 2 * thresholds.window;
        if new.at < oldest {
            return 's';
        }
        self.0.retain(|hit| hit.at >= oldest);
        self.0.push(new);
        let is_enough = self.0.iter().any(|start| {
            let in_window = |hit: &&Hit| (start.at..=start.at + thresholds.window).contains(&hit.at);
            let window: Vec<&Hit> = self.0.iter().filter(in_window).collect();
            let patterns: BTreeSet<u16> = window.iter().map(|hit| hit.pattern).collect();
            in_window(&&new)
                && (thresholds.hits > 0 && window.len() >= thresholds.hits
                    || thresholds.unique_patterns > 0 && patterns.len() >= thresholds.unique_patterns)
        });
        if is_enough {
            self.0.clear();
            return 'E';
        }
        '.'
    }
}

proptest! {
    #[test]
    fn the_window_agrees_with_looking_at_every_window(
        hits in prop::collection::vec((0i64..60, 0u16..5), 0..60),
        // Without a threshold on hits, those of one pattern stand for each other; late ones then may count less.
        threshold in 1usize..6,
        unique in 0usize..5,
        window in 1i64..20,
    ) {
        let thresholds = thresholds(threshold, unique, window);
        let mut naive = Naive::default();
        let expect: String = hits.iter().map(|&(at, pattern)| naive.count(hit(at, pattern), &thresholds)).collect();
        prop_assert_eq!(counts(&hits, &thresholds), expect);
    }

    #[test]
    fn without_a_threshold_on_hits_lines_in_order_still_agree(
        steps in prop::collection::vec((0i64..4, 0u16..6), 0..200),
        unique in 1usize..6,
        window in 1i64..20,
    ) {
        let thresholds = thresholds(0, unique, window);
        let in_order = steps.iter().scan(0, |at, &(step, pattern)| { *at += step; Some((*at, pattern)) });
        let hits: Vec<(i64, u16)> = in_order.collect();
        let mut naive = Naive::default();
        let expect: String = hits.iter().map(|&(at, pattern)| naive.count(hit(at, pattern), &thresholds)).collect();
        prop_assert_eq!(counts(&hits, &thresholds), expect);
    }

    #[test]
    fn evidence_is_one_window_in_order_with_the_new_hit_in_it_and_enough(
        hits in prop::collection::vec((0i64..60, 0u16..5), 0..60),
        threshold in 1usize..6,
        unique in 0usize..5,
    ) {
        let thresholds = thresholds(threshold, unique, 15);
        let mut kept = Hits::default();
        for (at, pattern) in hits {
            let new = hit(at, pattern);
            if let Count::Earned(window) = kept.count(new, &thresholds) {
                prop_assert!(window.contains(&new));
                prop_assert!(window.is_sorted_by_key(|hit| hit.at));
                prop_assert!(window[window.len() - 1].at - window[0].at <= 15);
                let patterns: BTreeSet<u16> = window.iter().map(|hit| hit.pattern).collect();
                prop_assert!(window.len() >= threshold || (unique > 0 && patterns.len() >= unique));
                prop_assert_eq!(kept.len(), 0);
            }
            prop_assert!(kept.len() <= thresholds.kept());
        }
    }
}
