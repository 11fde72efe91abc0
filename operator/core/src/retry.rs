//! How long to wait before trying again.
//!
//! Lives here: the arithmetic. Does not live here: the count of failures (the operator keeps it per
//! object), randomness (`jitter` is an argument).

use std::time::Duration;

/// Growing delays between a first and a longest one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    first: Duration,
    cap: Duration,
    spread: f64,
}

/// Why a policy makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRetryPolicy {
    /// The first delay is zero: failures would turn in a circle.
    #[error("the first delay must be longer than zero")]
    ZeroDelay,
    /// The longest delay is shorter than the first.
    #[error("the longest delay must not be shorter than the first")]
    CapBelowFirst,
    /// The spread is not within 0 and 1.
    #[error("the spread must lie between 0 and 1")]
    BadSpread,
}

impl RetryPolicy {
    /// A policy; `spread` is the part of a delay by which it varies.
    ///
    /// # Errors
    /// When the values make no sense together.
    pub fn new(first: Duration, cap: Duration, spread: f64) -> Result<Self, BadRetryPolicy> {
        if first.is_zero() {
            return Err(BadRetryPolicy::ZeroDelay);
        }
        if cap < first {
            return Err(BadRetryPolicy::CapBelowFirst);
        }
        if !(0.0..=1.0).contains(&spread) {
            return Err(BadRetryPolicy::BadSpread);
        }
        Ok(Self { first, cap, spread })
    }
}

/// Delay before attempt `attempt` (the first retry is 1); `jitter` between -1 and 1.
#[must_use]
pub fn retry_delay(attempt: u32, policy: &RetryPolicy, jitter: f64) -> Duration {
    let factor = f64::from(1_u32 << attempt.saturating_sub(1).min(16));
    let raw = (policy.first.as_secs_f64() * factor).min(policy.cap.as_secs_f64());
    Duration::from_secs_f64(spread(raw, policy.spread, jitter))
}

/// A regular interval, varied so that objects do not move in step.
#[must_use]
pub fn jittered(interval: Duration, jitter: f64) -> Duration {
    Duration::from_secs_f64(spread(interval.as_secs_f64(), 0.1, jitter))
}

fn spread(seconds: f64, part: f64, jitter: f64) -> f64 {
    seconds * (1.0 + part * jitter.clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = RetryPolicy::new(seconds(1), seconds(60), 0.0).expect("valid");
        let delays = [0, 1, 2, 3, 6, 7, 8, u32::MAX].map(|n| retry_delay(n, &policy, 1.0));
        assert_eq!(
            delays.map(|delay| delay.as_secs()),
            [1, 1, 2, 4, 32, 60, 60, 60]
        );
    }

    #[test]
    fn jitter_stays_within_the_spread() {
        let policy = RetryPolicy::new(seconds(10), seconds(60), 0.2).expect("valid");
        assert_eq!(retry_delay(1, &policy, 1.0), seconds(12));
        assert_eq!(retry_delay(1, &policy, -7.0), seconds(8));
        assert_eq!(jittered(seconds(600), -1.0), seconds(540));
    }

    #[test]
    fn policies_that_make_no_sense() {
        let new = RetryPolicy::new;
        assert_eq!(
            new(seconds(0), seconds(1), 0.1),
            Err(BadRetryPolicy::ZeroDelay)
        );
        assert_eq!(
            new(seconds(2), seconds(1), 0.1),
            Err(BadRetryPolicy::CapBelowFirst)
        );
        assert_eq!(
            new(seconds(1), seconds(1), 1.5),
            Err(BadRetryPolicy::BadSpread)
        );
    }
}
