//! A list that grows page by page: it never takes twice what it holds, and gives back what it holds no more.

use std::ops::{Index, IndexMut};

/// How many items a page has room for.
const PAGE: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Pages<T>(Vec<Vec<T>>);

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Pages<T> {
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PAGE + last.len())
    }

    pub(super) fn push(&mut self, item: T) {
        if self.0.last().is_none_or(|last| last.len() == PAGE) {
            self.0.push(Vec::with_capacity(PAGE));
        }
        if let Some(page) = self.0.last_mut() {
            page.push(item);
        }
    }

    /// Takes one out and lets the last one have its place.
    pub(super) fn swap_remove(&mut self, place: usize) -> Option<T> {
        let page = self.0.last_mut()?;
        let last = page.pop()?;
        if page.is_empty() {
            self.0.pop();
        }
        if place == self.len() { Some(last) } else { Some(std::mem::replace(&mut self[place], last)) }
    }

    /// Keeps those that `keep` says, in order.
    pub(super) fn retain_mut(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        for page in std::mem::take(&mut self.0) {
            for mut item in page {
                if keep(&mut item) {
                    self.push(item);
                }
            }
        }
        self.0.shrink_to_fit();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.0[place / PAGE][place % PAGE]
    }
}

impl<T> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.0[place / PAGE][place % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_agree_with_a_list(steps in prop::collection::vec((0usize..4, any::<usize>()), 0..40)) {
            let (mut pages, mut list) = (Pages::default(), Vec::new());
            for (step, number) in steps {
                match step {
                    0 | 1 => for item in 0..number % 300 {
                        pages.push(item);
                        list.push(item);
                    },
                    2 if !list.is_empty() => {
                        let place = number % list.len();
                        prop_assert_eq!(pages.swap_remove(place), Some(list.swap_remove(place)));
                    }
                    _ => {
                        pages.retain_mut(|item| *item % 3 != number % 3);
                        list.retain(|item| *item % 3 != number % 3);
                    }
                }
                prop_assert_eq!(pages.len(), list.len());
                prop_assert!(pages.iter().eq(&list));
                prop_assert!((0..list.len()).all(|place| pages[place] == list[place]));
                prop_assert!(pages.0.iter().all(|page| !page.is_empty() && page.capacity() == PAGE));
            }
        }
    }
}
