//! Memory that is free again goes back to the machine when the process has nothing to do.
//!
//! The allocator keeps what buffers leave behind, in its arenas; with many volumes that adds up to more
//! than they hold. While volumes are in use it is left alone: they would only have to ask for it again.
//!
//! Does not live here: the call itself ([`crate::sys`]).

use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// Ticks of processor time between two looks below which there is nothing to do: a tenth of a core.
const QUIET: u64 = 100;

/// Pages that have come since the last time and are worth the call: 8 MiB.
const WORTH: u64 = 2048;

/// What a look sees: ticks of processor time so far, resident pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    ticks: u64,
    pages: u64,
}

/// Looks after it, for ever. Cancel safe. What it cannot see it leaves alone.
pub(crate) async fn give_back() -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Look> = None;
    let mut least = u64::MAX;
    loop {
        looks.tick().await;
        let Some(now) = look() else { continue };
        least = least.min(now.pages);
        if last.is_some_and(|last| is_due(last, now, least)) {
            crate::sys::trim_memory();
            least = look().map_or(now.pages, |after| after.pages);
        }
        last = Some(now);
    }
}

const fn is_due(last: Look, now: Look, least: u64) -> bool {
    now.ticks.saturating_sub(last.ticks) < QUIET && now.pages > least + WORTH
}

fn look() -> Option<Look> {
    parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse(stat: &str) -> Option<Look> {
    // Behind the name, which may hold anything: the 12th and 13th field, and the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<u64>().ok();
    Some(Look {
        ticks: field(11)? + field(12)?,
        pages: field(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiet_process_that_has_grown_gives_back() {
        let look = |ticks, pages| Look { ticks, pages };
        let last = look(500, 9_000);
        assert!(is_due(last, look(510, 9_000), 1_000));
        assert!(!is_due(last, look(900, 9_000), 1_000), "busy");
        assert!(!is_due(last, look(510, 9_000), 8_000), "not worth it");
    }

    #[test]
    fn the_kernel_is_understood() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 41 2 0 0 20 0 4 0 100 1000000 321 18446744073709551615";
        assert_eq!(
            parse(text),
            Some(Look {
                ticks: 43,
                pages: 321
            })
        );
        assert!(super::look().is_some_and(|l| l.pages > 0));
    }
}
