//! The two clocks of the process, in the engine's units. Nobody else reads a clock for a decision.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use drqm_engine::time::{Mono, Now, Wall};

/// Clocks that start with the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: wall(),
        }
    }

    pub(crate) fn mono(&self) -> Mono {
        Mono(self.start.elapsed().as_micros() as u64)
    }

    /// The moment of the runtime's timer that corresponds to the engine's.
    pub(crate) fn instant(&self, at: Mono) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + std::time::Duration::from_micros(at.0))
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall() -> Wall {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Wall(since.as_millis() as i64)
}
