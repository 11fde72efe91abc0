//! Waiting for a condition: looked at again and again until it holds or the time is up.
//!
//! Nothing else in this package sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use drqm_lab::interrupt;

/// Time between two looks. One look is a process or a file.
const INTERVAL: Duration = Duration::from_millis(150);

/// What one look saw.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Holds(T),
    /// Not yet; what was seen instead.
    NotYet(String),
}

/// Looks until the condition holds.
///
/// # Errors
/// When it does not hold within the deadline (the message tells what was seen last), when a look fails,
/// or when the program is interrupted.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        let seen = match look()? {
            Look::Holds(value) => return Ok(value),
            Look::NotYet(seen) => seen,
        };
        if started.elapsed() >= deadline {
            bail!(
                "{what}: not within {} s; last seen: {seen}",
                deadline.as_secs()
            );
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Lets a time pass. Only for measurements that are spread over the beat of something else; whoever needs
/// something to have happened waits for that.
pub fn wait_out(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_the_first_look_that_holds_is_returned() {
        let mut looks = 0;
        let value = wait_until("three looks", Duration::from_secs(10), || {
            looks += 1;
            Ok(if looks == 3 {
                Look::Holds(looks)
            } else {
                Look::NotYet(looks.to_string())
            })
        });
        assert_eq!(value.expect("the third look holds"), 3);
    }

    #[test]
    fn the_last_sight_is_told_when_time_is_up() {
        let never = wait_until("never", Duration::ZERO, || {
            Ok(Look::<()>::NotYet("blue".into()))
        });
        let text = never.expect_err("it never holds").to_string();
        assert!(text.contains("never") && text.contains("blue"), "{text}");
    }
}
