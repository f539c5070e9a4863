//! A bounded memory that forgets what was asked for longest ago.
//!
//! Two generations: what is touched lives in the young one; when that is full it becomes the old one, and what was the old
//! one is forgotten. So a flood of new keys costs no search, and a key that is touched now and then stays.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, num::NonZeroUsize};

/// A bounded memory. Holds twice `generation` entries at most.
#[derive(Debug)]
pub(crate) struct Ages<K, V> {
    generation: NonZeroUsize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Clone + Eq + Hash, V> Ages<K, V> {
    pub(crate) fn new(generation: NonZeroUsize) -> Self {
        Self { generation, young: HashMap::new(), old: HashMap::new() }
    }

    /// What is remembered of `key`, made if nothing is.
    pub(crate) fn touch(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        let older = if self.young.contains_key(key) { None } else { self.old.remove(key) };
        if self.young.len() >= self.generation.get() && !self.young.contains_key(key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.entry(key.clone()).or_insert_with(|| older.unwrap_or_else(make))
    }

    /// What is remembered of `key`. Does not keep it from being forgotten.
    pub(crate) fn peek<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self.young.get_mut(key) {
            Some(value) => Some(value),
            None => self.old.get_mut(key),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_stays_and_the_memory_is_bounded() {
        let mut ages = Ages::new(NonZeroUsize::new(8).unwrap());
        *ages.touch(&0, || 0) = 77;
        for key in 1..10_000 {
            ages.touch(&key, || 0);
            if key % 4 == 0 {
                ages.touch(&0, || 0);
            }
            assert!(ages.len() <= 16);
        }
        assert_eq!(ages.peek(&0), Some(&mut 77));
        assert_eq!(ages.peek(&1), None);
    }
}
