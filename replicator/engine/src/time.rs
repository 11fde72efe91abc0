//! Time as the engine sees it: passed in, never read.

use std::time::Duration;

/// Microseconds since the process started; never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment plus a duration.
    #[must_use]
    pub const fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d.as_micros() as u64))
    }

    /// Time since an earlier moment; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970 by a wall clock; 0 means unknown. For people and recovery points only:
/// no decision of the engine compares two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Wall(pub i64);

/// Both clocks at the moment of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Now {
    /// For deadlines and rates.
    pub mono: Mono,
    /// For people and for the recovery point.
    pub wall: Wall,
}
