//! Looking for the next event for a moment before going to sleep.
//!
//! To be woken costs more than a small write on a fast link takes in all. While somebody waits for
//! what comes next, the loop therefore looks again for up to [`LIMIT`]; where that does not pay, since
//! disk or link are slower, it stops trying, and tries again now and then.
//!
//! Does not live here: who waits (the driver knows).

use std::time::{Duration, Instant};

/// About what two wake-ups cost: looking longer would cost more than it can save.
const LIMIT: Duration = Duration::from_micros(80);

/// Misses in a row after which looking has proved useless.
const PATIENCE: u32 = 32;

/// Events between two trials then.
const REST: u32 = 64;

/// What was learned so far.
#[derive(Debug)]
pub(super) struct Spin {
    last_event: Instant,
    looked: bool,
    misses: u32,
    resting: u32,
}

impl Spin {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            last_event: now,
            looked: false,
            misses: 0,
            resting: 0,
        }
    }

    /// Something came: looking for it has paid, if it was looked for until now.
    pub(super) fn event(&mut self, now: Instant) {
        if std::mem::take(&mut self.looked) {
            self.misses = 0;
        }
        self.resting = self.resting.saturating_sub(1);
        self.last_event = now;
    }

    /// Whether to look once more instead of sleeping.
    pub(super) fn looks(&mut self, awaited: bool, now: Instant) -> bool {
        let in_time = now.duration_since(self.last_event) < LIMIT;
        let looks = awaited && in_time && self.resting == 0;
        if !looks && std::mem::take(&mut self.looked) && awaited {
            self.misses += 1;
            if self.misses == PATIENCE {
                // The trial after the rest decides again.
                (self.misses, self.resting) = (PATIENCE - 1, REST);
            }
        }
        self.looked |= looks;
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn it_looks_only_while_somebody_waits_and_not_for_long() {
        let start = Instant::now();
        let mut spin = Spin::new(start);
        assert!(!spin.looks(false, start + US));
        assert!(spin.looks(true, start + US));
        assert!(spin.looks(true, start + 59 * US));
        assert!(!spin.looks(true, start + LIMIT));
    }

    #[test]
    fn where_it_does_not_pay_it_rests_and_tries_again() {
        let mut now = Instant::now();
        let mut spin = Spin::new(now);
        let mut trials = 0;
        for _ in 0..1000 {
            trials += u32::from(spin.looks(true, now));
            now += LIMIT;
            assert!(!spin.looks(true, now));
            now += LIMIT;
            spin.event(now);
        }
        assert_eq!(trials, PATIENCE + 1000_u32.div_ceil(REST) - 1);
    }

    #[test]
    fn while_it_pays_it_goes_on() {
        let mut now = Instant::now();
        let mut spin = Spin::new(now);
        for _ in 0..1000 {
            assert!(spin.looks(true, now));
            now += 30 * US;
            spin.event(now);
        }
    }
}
