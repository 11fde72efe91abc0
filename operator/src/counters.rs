//! Failures in a row per object, so that repeated failures are retried ever more slowly.
//!
//! Lives here: add, reset, forget. Does not live here: how long a delay is
//! (`drqm_core::retry`). kube keeps no such count (kube-rs/kube#1916).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Counts failures in a row, by uid: a re-created object starts anew.
#[derive(Debug, Default)]
pub struct FailureCounters {
    by_uid: Mutex<HashMap<String, u32>>,
}

impl FailureCounters {
    /// Notes a failure and returns how many there have been in a row.
    pub fn add(&self, uid: &str) -> u32 {
        let mut map = self.lock();
        let count = map.entry(uid.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    /// Forgets the object: it succeeded, or is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// How many objects fail at present.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing fails at present.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // A map of counts is valid whatever a panicking holder did.
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_a_row_until_forgotten() {
        let counters = FailureCounters::default();
        assert_eq!(
            (counters.add("a"), counters.add("a"), counters.add("b")),
            (1, 2, 1)
        );
        counters.forget("a");
        assert_eq!((counters.add("a"), counters.len()), (1, 2));
    }
}
