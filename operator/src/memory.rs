//! One budget for the whole process, made from its container's memory limit.
//!
//! [`limit`] asks the kernel what the container may take, [`Budget`] says what each part gets of it, and [`divide`] how
//! the policies share what is theirs. Every table that grows with what others send has its bound here.

use std::{fs, path::Path};

/// What is taken for the limit where there is none.
const DEFAULT: u64 = 256 << 20;
/// What is used of a limit at most: more makes the tables longer and nothing better.
const MOST: u64 = 2 << 30;
/// What has bounds of its own: the program, its threads and connections, the tables of what exists, and with all of them
/// full 20,000 bans (11 MiB), 50,000 decisions that wait (64 MiB), 65,536 sources with a past (35 MiB) and as many
/// liftings (9 MiB); `operator/tests/memory.rs` measures them.
const FIXED: u64 = 160 << 20;
/// What one stream takes at most: the connection's buffers, TLS and the line that is being read.
const STREAM: u64 = 192 << 10;
/// What one policy takes beside its patterns and its tables: its object, its status, the lines that show what it read.
const POLICY: u64 = 32 << 10;
/// Logs that are read from some time ago, at the same time.
const READ_BACKS: usize = 8;

/// What each part of the process may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// What the sources and samples of all policies may take together, in bytes.
    pub tables: usize,
    /// What the compiled patterns of all policies may take together, in bytes.
    pub patterns: usize,
    /// How many policies may count.
    pub policies: usize,
    /// How many logs may be read.
    pub streams: usize,
    /// How many of them may be read back at the same time.
    pub read_backs: usize,
}

impl Budget {
    /// The budget of a process that may take `limit` bytes.
    ///
    /// Half of what is not fixed goes to the tables, a quarter to streams, an eighth each to patterns and policies.
    #[must_use]
    pub fn of(limit: u64) -> Self {
        // Where the limit is below what is fixed, the least of everything is better than nothing.
        let free = limit.min(MOST).saturating_sub(FIXED).max(16 << 20);
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            tables: count(free / 2),
            patterns: count(free / 8),
            policies: count(free / 8 / POLICY),
            streams: count(free / 4 / STREAM),
            read_backs: READ_BACKS,
        }
    }
}

/// What the container may take, in bytes: the least of what is `set` and what the kernel says under `cgroups`, usually
/// `/sys/fs/cgroup`.
#[must_use]
pub fn limit(cgroups: &Path, set: Option<u64>) -> u64 {
    // cgroup v2, then v1. Without a limit, v1 reports a number far above the memory of any machine.
    let files = ["memory.max", "memory/memory.limit_in_bytes"];
    let told =
        files.iter().filter_map(|file| fs::read_to_string(cgroups.join(file)).ok()?.trim().parse().ok());
    let least = told.chain(set).min().filter(|&least| least < 1 << 60);
    least.unwrap_or(DEFAULT)
}

/// Divides `total` among parts of which each wants so much: a part that wants less than an even share gets what it
/// wants, the others get the same, and what no part wants is divided evenly as well. The sum is never more than
/// `total`.
#[must_use]
pub fn divide(total: usize, wants: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_unstable_by_key(|&part| wants[part]);
    let mut shares = vec![0; wants.len()];
    let mut left = total;
    for (served, part) in order.into_iter().enumerate() {
        shares[part] = wants[part].min(left / (wants.len() - served));
        left -= shares[part];
    }
    let surplus = left.checked_div(wants.len()).unwrap_or_default();
    shares.into_iter().map(|share| share + surplus).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_budget_follows_the_limit_and_never_exceeds_it() {
        for (mib, policies, streams) in [(0, 64, 21), (128, 64, 21), (256, 384, 128), (512, 1408, 469)] {
            let budget = Budget::of(mib << 20);
            assert_eq!((budget.policies, budget.streams), (policies, streams), "{mib} MiB");
            let taken = budget.tables
                + budget.patterns
                + budget.policies * usize::try_from(POLICY).unwrap()
                + budget.streams * usize::try_from(STREAM).unwrap();
            let free = usize::try_from((mib << 20_u64).saturating_sub(FIXED).max(16 << 20)).unwrap();
            assert!(taken <= free, "{mib} MiB");
        }
        assert_eq!(Budget::of(u64::MAX), Budget::of(MOST));
    }

    #[test]
    fn the_limit_is_the_least_of_what_is_told() {
        #[rustfmt::skip]
        let table = [
            // memory.max          memory.limit_in_bytes         set                 expect
            (None,                 None,                         None,               DEFAULT),
            (Some("max\n"),        None,                         None,               DEFAULT),
            (Some("134217728\n"),  None,                         None,               128 << 20),
            (Some("134217728\n"),  None,                         Some(64 << 20),     64 << 20),
            (Some("max\n"),        None,                         Some(64 << 20),     64 << 20),
            (None,                 Some("9223372036854771712\n"), None,              DEFAULT),
            (None,                 Some("268435456\n"),          Some(1 << 40),      256 << 20),
        ];
        for (v2, v1, set, expect) in table {
            let cgroups = tempfile::tempdir().unwrap();
            fs::create_dir(cgroups.path().join("memory")).unwrap();
            for (file, text) in [("memory.max", v2), ("memory/memory.limit_in_bytes", v1)] {
                if let Some(text) = text {
                    fs::write(cgroups.path().join(file), text).unwrap();
                }
            }
            assert_eq!(limit(cgroups.path(), set), expect, "{v2:?} {v1:?} {set:?}");
        }
    }

    #[test]
    fn who_wants_little_gets_it_and_the_others_the_same() {
        #[rustfmt::skip]
        let table: [(usize, &[usize], &[usize]); 6] = [
            (100, &[],              &[]),
            (100, &[10],            &[100]),
            (100, &[usize::MAX],    &[100]),
            (100, &[10, 10],        &[50, 50]),
            (100, &[10, usize::MAX, 10], &[10, 80, 10]),
            (100, &[80, 10, 90],    &[45, 10, 45]),
        ];
        for (total, wants, expect) in table {
            assert_eq!(divide(total, wants), expect, "{total} among {wants:?}");
        }
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_an_even_share_of_what_it_wants(
            total in 0_usize..10_000, wants in prop::collection::vec(0_usize..3_000, 1..20),
        ) {
            let shares = divide(total, &wants);
            prop_assert!(shares.iter().sum::<usize>() <= total);
            for (share, want) in shares.iter().zip(&wants) {
                prop_assert!(*share >= (*want).min(total / wants.len()), "{share} of {want}");
            }
        }
    }
}
