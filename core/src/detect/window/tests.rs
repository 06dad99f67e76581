use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Thresholds for hits, patterns and paths.
fn thresholds([hits, unique_patterns, unique_paths]: [usize; 3], window: i64) -> Thresholds {
    Thresholds { hits, unique_patterns, unique_paths, window }
}

fn hit((at, pattern, path): (i64, u16, u64)) -> Hit {
    Hit { at, path, sample: 0, pattern }
}

/// What the hits came to, in one letter each: below, stale, earned.
fn counts(hits: &[(i64, u16, u64)], thresholds: &Thresholds) -> String {
    let mut kept = Hits::default();
    let letter = |&new: &(i64, u16, u64)| match kept.count(hit(new), thresholds) {
        Count::Below => '.',
        Count::Stale => 's',
        Count::Earned(..) => 'E',
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
        let hits: Vec<_> = hits.iter().map(|&(at, pattern)| (at, pattern, 0)).collect();
        assert_eq!(counts(&hits, &thresholds([3, 2, 0], 120)), *expect, "hits {hits:?}");
        // Paths count as patterns do.
        let hits: Vec<_> = hits.iter().map(|&(at, pattern, _)| (at, 0, u64::from(pattern))).collect();
        assert_eq!(counts(&hits, &thresholds([3, 0, 2], 120)), *expect, "hits {hits:?}");
    }
}

#[test]
fn without_a_threshold_on_hits_a_flood_takes_no_memory_and_hides_nothing() {
    let thresholds = thresholds([0, 3, 3], 1_000_000);
    let mut hits = Hits::default();
    assert_eq!(hits.count(hit((0, 9, 9)), &thresholds), Count::Below);
    for at in 1..10_000 {
        assert_eq!(hits.count(hit((at, 8, 8)), &thresholds), Count::Below);
        assert!(hits.len() <= 4);
    }
    assert!(matches!(hits.clone().count(hit((10_000, 7, 8)), &thresholds), Count::Earned(..)));
    assert!(matches!(hits.count(hit((10_000, 8, 7)), &thresholds), Count::Earned(..)));
}

#[test]
fn a_lowered_threshold_holds_from_the_next_hit_on() {
    let mut hits = Hits::default();
    for at in 0..9 {
        hits.count(hit((at, 1, 1)), &thresholds([100, 0, 0], 120));
    }
    let Count::Earned(_, window) = hits.clone().count(hit((9, 1, 1)), &thresholds([2, 0, 0], 120)) else {
        panic!("no ban")
    };
    assert!(window.iter().any(|hit| hit.at == 9));
    let on_paths = thresholds([0, 0, 2], 120);
    assert_eq!(hits.count(hit((9, 1, 1)), &on_paths), Count::Below);
    assert!(hits.len() <= on_paths.kept());
    assert!(matches!(hits.count(hit((10, 1, 2)), &on_paths), Count::Earned(..)));
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
            in_window(&&new) && is_enough(&window, thresholds)
        });
        if is_enough {
            self.0.clear();
            return 'E';
        }
        '.'
    }
}

fn is_enough(window: &[&Hit], thresholds: &Thresholds) -> bool {
    let patterns: BTreeSet<u16> = window.iter().map(|hit| hit.pattern).collect();
    let paths: BTreeSet<u64> = window.iter().map(|hit| hit.path).collect();
    [
        (thresholds.hits, window.len()),
        (thresholds.unique_patterns, patterns.len()),
        (thresholds.unique_paths, paths.len()),
    ]
    .into_iter()
    .any(|(threshold, count)| threshold > 0 && count >= threshold)
}

/// Those thresholds with all but one turned off.
fn only(threshold: Threshold, all: Thresholds) -> Thresholds {
    let off = Thresholds { hits: 0, unique_patterns: 0, unique_paths: 0, ..all };
    match threshold {
        Threshold::Hits => Thresholds { hits: all.hits, ..off },
        Threshold::UniquePatterns => Thresholds { unique_patterns: all.unique_patterns, ..off },
        Threshold::UniquePaths => Thresholds { unique_paths: all.unique_paths, ..off },
    }
}

/// Thresholds of which one at least is on.
fn any_thresholds() -> impl Strategy<Value = Thresholds> {
    (prop::array::uniform3(0usize..6), 1i64..20)
        .prop_filter("one is on", |(each, _)| *each != [0; 3])
        .prop_map(|(each, window)| thresholds(each, window))
}

fn naive(hits: &[(i64, u16, u64)], thresholds: &Thresholds) -> String {
    let mut naive = Naive::default();
    hits.iter().map(|&new| naive.count(hit(new), thresholds)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// In whatever order they come.
    #[test]
    fn the_window_agrees_with_looking_at_every_window(
        hits in prop::collection::vec((0i64..60, 0u16..5, 0u64..6), 0..80),
        thresholds in any_thresholds(),
    ) {
        prop_assert_eq!(counts(&hits, &thresholds), naive(&hits, &thresholds));
    }

    /// In order, but for one in ten that comes late: many windows long.
    #[test]
    fn the_window_agrees_over_a_long_time(
        steps in prop::collection::vec((0i64..4, 0u16..6, 0u64..8, prop::option::weighted(0.1, 0i64..50)), 0..200),
        thresholds in any_thresholds(),
    ) {
        let in_time = steps.iter().scan(0, |now, &(step, pattern, path, late)| {
            *now += step;
            Some((*now - late.unwrap_or(0), pattern, path))
        });
        let hits: Vec<_> = in_time.collect();
        prop_assert_eq!(counts(&hits, &thresholds), naive(&hits, &thresholds));
    }

    #[test]
    fn evidence_is_one_window_in_order_with_the_new_hit_in_it_and_enough(
        hits in prop::collection::vec((0i64..60, 0u16..5, 0u64..6), 0..60),
        thresholds in any_thresholds(),
    ) {
        let mut kept = Hits::default();
        for new in hits.into_iter().map(hit) {
            if let Count::Earned(threshold, window) = kept.count(new, &thresholds) {
                prop_assert!(window.contains(&new));
                prop_assert!(window.is_sorted_by_key(|hit| hit.at));
                prop_assert!(window[window.len() - 1].at - window[0].at <= thresholds.window);
                prop_assert!(is_enough(&window.iter().collect::<Vec<_>>(), &only(threshold, thresholds)));
                prop_assert_eq!(kept.len(), 0);
            }
            prop_assert!(kept.len() <= thresholds.kept());
        }
    }

    /// Whatever was kept under other thresholds, the bound holds from the next hit that counts on.
    #[test]
    fn changed_thresholds_hold_what_is_kept(
        hits in prop::collection::vec((0i64..60, 0u16..9, 0u64..9), 0..60),
        thresholds in prop::collection::vec(any_thresholds(), 1..4),
    ) {
        let mut kept = Hits::default();
        for (new, thresholds) in hits.into_iter().map(hit).zip(thresholds.iter().cycle()) {
            if kept.count(new, thresholds) != Count::Stale {
                prop_assert!(kept.len() <= thresholds.kept());
            }
        }
    }
}
