//! What literals at the start of a target begin with: most targets begin otherwise, and need no search.

/// The four bytes behind the slash that literals begin with: a set that may seem to have some that it hasn't.
#[derive(Clone, Debug)]
pub(super) struct Beginnings {
    set: Box<[u64; WORDS]>,
}

/// 8 KiB, so that a few thousand beginnings leave most of it empty.
const WORDS: usize = 1 << 10;

impl Beginnings {
    pub(super) fn of<'a>(literals: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut all = Box::new([0; WORDS]);
        for literal in literals {
            match literal[..] {
                [b'/', a, b, c, d, ..] => set(&mut all, [a, b, c, d]),
                [b'/', a, b, c] => (0..=255).for_each(|d| set(&mut all, [a, b, c, d])),
                [b'/', ..] => all.fill(u64::MAX),
                // No target that begins with a slash begins with it.
                _ => {}
            }
        }
        Self { set: all }
    }

    /// Whether a literal may be at the start of the target.
    pub(super) fn may_be_of(&self, target: &[u8]) -> bool {
        match *target {
            [b'/', a, b, c, d, ..] => {
                let (word, bit) = place([a, b, c, d]);
                self.set[word] & bit != 0
            }
            _ => true,
        }
    }
}

fn set(all: &mut [u64; WORDS], beginning: [u8; 4]) {
    let (word, bit) = place(beginning);
    all[word] |= bit;
}

/// Which bit stands for four bytes.
fn place(beginning: [u8; 4]) -> (usize, u64) {
    let spread = u32::from_le_bytes(beginning).wrapping_mul(0x9e37_79b1);
    ((spread >> 22) as usize % WORDS, 1 << (spread >> 16 & 63))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_target_that_begins_with_a_literal_is_never_left_out(
            literals in prop::collection::vec(prop::collection::vec(prop::sample::select(b"/ab\xff".to_vec()), 1..7), 0..5),
            tail in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let beginnings = Beginnings::of(&literals);
            for literal in &literals {
                prop_assert!(beginnings.may_be_of(&[&literal[..], &tail].concat()));
            }
        }
    }

    #[test]
    fn a_target_that_begins_as_no_literal_does_is_left_out() {
        let beginnings = Beginnings::of(&[b"/wp-admin".to_vec(), b"/.en".to_vec(), b"y".to_vec()]);
        let table: [(&[u8], bool); 9] = [
            (b"/wp-about", true),
            (b"/wp-content", false),
            (b"/.git/", false),
            (b"/.env", true),
            (b"/.en\xff", true),
            (b"/.en", true),
            (b"/yyyy", false),
            (b"/", true),
            (b"http://", true),
        ];
        for (target, expect) in table {
            assert_eq!(beginnings.may_be_of(target), expect, "{}", target.escape_ascii());
        }
    }
}
