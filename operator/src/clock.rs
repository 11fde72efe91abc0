//! The only use of system clocks in the operator.
//!
//! Lives here: the wall clock (for status and Events) and the monotonic one (for timeouts that
//! outlive a pass). Does not live here: anything that decides by them.

use std::time::Instant;

use jiff::Timestamp;

/// Reads the clocks; a test gives a fixed one.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's clocks.
    System,
    /// Always the same moment.
    Fixed(Timestamp),
}

impl Clock {
    /// Wall clock time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Fixed(at) => *at,
        }
    }

    /// Monotonic time, for durations.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}
