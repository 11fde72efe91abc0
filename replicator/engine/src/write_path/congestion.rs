//! A peer that takes less than is written: it is left behind at an exact place of the stream, stays
//! consistent and promotable, and is caught up with by a copy when it has taken what was sent.
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

/// How full the window was, and how often that has ended badly.
#[derive(Default)]
pub(crate) struct Congestion {
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
        full.or_else(|| self.rests_until().filter(|_| ahead))
    }
}
