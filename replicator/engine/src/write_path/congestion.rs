//! A peer that takes less than is written. Who chose to wait for it waits a little at each write, so that
//! it comes to no standstill; otherwise it is left behind at an exact place of the stream, stays
//! consistent and promotable, and is caught up with by a copy when it has taken what was sent.
//!
//! The two are never mixed: writers that are slowed down may never fill the window, and the peer would not be
//! left behind although they wait for it.
//!
//! Does not live here: the bound itself ([`super::WritePath`]), the copy ([`crate::resync`]).

use std::time::Duration;

use crate::effect::Effect;
use crate::engine::Engine;
use crate::frame::Frame;
use crate::link::Join;
use crate::settings::{
    AHEAD_AFTER, BEHIND_FOR, BEHIND_MAX, CONGESTED_PERCENT, Mode, OnCongestion, OnPeerLoss,
    WINDOW_COUNT,
};
use crate::time::Mono;

/// What a write waits when the window is two thirds full.
const DELAY_UNIT: Duration = Duration::from_micros(250);

/// The longest that a write waits because of others.
const DELAY_MAX: Duration = Duration::from_millis(20);

/// Waits are made up for that were longer than needed, up to this: timers are coarse.
const DELAY_CREDIT: Duration = Duration::from_millis(2);

/// How full the window was, and how often that has ended badly.
#[derive(Clone, Hash, Default)]
pub(crate) struct Congestion {
    /// When the next write may start.
    admits_from: Mono,
    since: Option<Mono>,
    /// When the peer was last left behind, and for how long at least.
    behind: Option<(Mono, Duration)>,
}

impl Engine {
    /// Leaves a peer behind that has been too slow for too long; compares again once it has taken
    /// everything that was sent, and has had its time.
    pub(crate) fn advance_congestion(&mut self, out: &mut Vec<Effect>) {
        let now = self.now.mono;
        let in_order = matches!(self.link.join(), Some(Join::InOrder));
        let may = self.settings.on_congestion == OnCongestion::PullAhead
            && self.settings.mode == Mode::Asynchronous
            && self.settings.on_peer_loss == OnPeerLoss::Continue
            && self.change.is_none()
            && in_order;
        if may && self.window_fill() >= CONGESTED_PERCENT {
            let since = *self.guest.congestion.since.get_or_insert(now);
            if now >= since.after(AHEAD_AFTER) {
                self.pull_ahead(out);
            }
        } else {
            self.guest.congestion.since = None;
        }
        let rested = self.rests_until().is_some_and(|at| now >= at);
        if self.link.is_ahead() && rested && !self.guest.is_outstanding() {
            self.compare_again("the peer has taken everything that was sent", out);
        }
    }

    /// Whether writers are slowed down rather than the peer left behind.
    fn slows_down(&self) -> bool {
        self.settings.on_congestion == OnCongestion::Block && self.link.is_in_order()
    }

    /// Whether the next write to the peer has to wait a little.
    pub(super) fn is_slowed_down(&self) -> bool {
        self.slows_down() && self.now.mono < self.guest.congestion.admits_from
    }

    /// A write to the peer has started.
    pub(super) fn slow_down(&mut self) {
        if !self.slows_down() {
            return;
        }
        let now = self.now.mono;
        let earliest = Mono(now.0.saturating_sub(DELAY_CREDIT.as_micros() as u64));
        let delay = delay_at(self.window_fill());
        let congestion = &mut self.guest.congestion;
        congestion.admits_from = congestion.admits_from.max(earliest).after(delay);
    }

    /// Percent of the bounds of what is on its way.
    fn window_fill(&self) -> u64 {
        let bytes = self.guest.window_bytes * 100 / self.settings.window_bytes.max(1);
        let count = self.guest.window_count * 100 / WINDOW_COUNT;
        bytes.max(count as u64)
    }

    /// From here on writes are marked; what was sent is taken in order.
    fn pull_ahead(&mut self, out: &mut Vec<Effect>) {
        let now = self.now.mono;
        let congestion = &mut self.guest.congestion;
        congestion.since = None;
        let rest = match congestion.behind {
            Some((at, rest)) if now < at.after(rest * 3) => (rest * 2).min(BEHIND_MAX),
            Some(_) | None => BEHIND_FOR,
        };
        congestion.behind = Some((now, rest));
        // What is under way is not kept for a later session: what follows is told by bits.
        self.guest.log_from = None;
        self.send(Frame::LeftBehind, out);
        self.link.set_join(Join::Ahead);
    }

    fn rests_until(&self) -> Option<Mono> {
        self.guest
            .congestion
            .behind
            .map(|(at, rest)| at.after(rest))
    }

    pub(crate) fn congestion_wakeup(&self) -> Option<Mono> {
        let full = self.guest.congestion.since.map(|s| s.after(AHEAD_AFTER));
        let ahead = self.link.is_ahead() && !self.guest.is_outstanding();
        let slowed = self.is_slowed_down() && !self.guest.parked.is_empty();
        let next = slowed.then_some(self.guest.congestion.admits_from);
        next.or(full)
            .or_else(|| self.rests_until().filter(|_| ahead))
    }
}

/// What a write waits when the window is so full: nothing up to half, then the longer the fuller it is.
fn delay_at(percent: u64) -> Duration {
    let left = 100_u64.saturating_sub(percent).max(1);
    // 1 / (1 - fill) - 2, in hundredths.
    let steep = (10_000 / left).saturating_sub(200);
    let micros = DELAY_UNIT.as_micros() as u64 * steep / 100;
    Duration::from_micros(micros).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_nothing_up_to_half_and_grows_to_its_bound() {
        assert_eq!(delay_at(0), Duration::ZERO);
        assert_eq!(delay_at(50), Duration::ZERO);
        assert_eq!(delay_at(75), DELAY_UNIT * 2);
        assert_eq!(delay_at(100), DELAY_MAX);
        assert!((0..150).all(|percent| delay_at(percent) <= delay_at(percent + 1)));
    }
}
