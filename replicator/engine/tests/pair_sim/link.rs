//! The link: one session at a time, order kept, delays, cuts that each side notices in its own time.

use std::collections::VecDeque;

use drqm_engine::Event;
use drqm_engine::event::LinkFault;
use drqm_engine::frame::Frame;
use drqm_engine::ids::SessionId;

use crate::liar;
use crate::world::{Action, MS, SECOND, World};

/// One connection.
pub(crate) struct Session {
    pub(crate) number: u64,
    /// Frames on their way to each side.
    pub(crate) to: [VecDeque<Frame>; 2],
    last: [u64; 2],
    /// Whether each side still uses it.
    pub(crate) open: [bool; 2],
    dead: bool,
}

impl World {
    pub(crate) fn dial_later(&mut self, n: usize) {
        if !self.nodes[n].dialing {
            self.nodes[n].dialing = true;
            let delay = self.rng.between(100 * MS, 2 * SECOND);
            self.at(delay, n, Action::Dial);
        }
    }

    pub(crate) fn dial(&mut self, n: usize) {
        self.nodes[n].dialing = false;
        if self.nodes[n].session.is_some() {
            return;
        }
        let other = 1 - n;
        if self.cut || !self.is_up(other) || self.rng.chance(5) {
            let fault = LinkFault::Lost("nobody answered".to_owned());
            let delay = self.rng.between(MS, 900 * MS);
            self.at(delay, n, Action::Event(Event::DialFailed { fault }));
            return self.dial_later(n);
        }
        if self.session.as_ref().is_some_and(|s| s.open[n] && !s.dead) {
            return;
        }
        self.sessions += 1;
        let number = self.sessions;
        let mut last = [0; 2];
        for (side, at) in last.iter_mut().enumerate() {
            let delay = self.rng.between(MS, 20 * MS);
            *at = self.now + delay;
            self.at(
                delay,
                side,
                Action::Event(Event::SessionOpened {
                    session: SessionId(number),
                    hello: Self::hello(1 - side),
                    remote: "192.0.2.1:7001".to_owned(),
                }),
            );
            self.nodes[side].session = Some(number);
        }
        self.note(|| format!("session {number} opened by {n}"));
        self.session = Some(Session {
            number,
            to: Default::default(),
            last,
            open: [true; 2],
            dead: false,
        });
    }

    pub(crate) fn sent(&mut self, n: usize, session: SessionId, frame: Frame) {
        self.pings[n] += u64::from(matches!(frame, Frame::Ping { .. }));
        if let Some((sender, which)) = self.swallow
            && sender == n
            && which(&frame)
        {
            self.swallowed += 1;
            self.note(|| format!("{n}: swallowed {frame:?}"));
            return self.break_session();
        }
        if self.stalled == Some(n) {
            return self.held.push((session, frame));
        }
        if self.rng.chance(self.config.lies) {
            self.lies += 1;
            let lies = liar::lie(&mut self.rng, frame, self.config.size + self.config.growth);
            return lies.into_iter().for_each(|lie| self.carry(n, session, lie));
        }
        self.carry(n, session, frame);
    }

    fn carry(&mut self, n: usize, session: SessionId, frame: Frame) {
        let delay = self.rng.between(200, 3 * MS);
        let (now, to) = (self.now, 1 - n);
        let Some(s) = &mut self.session else { return };
        if s.number != session.0 || s.dead || !s.open[n] || !s.open[to] {
            return;
        }
        let at = s.last[to].max(now + delay);
        s.last[to] = at;
        s.to[to].push_back(frame);
        self.at(at - now, to, Action::Frame(session.0));
    }

    /// What a side sends stays on the way until [`World::flows_again`].
    pub(crate) const fn stalls(&mut self, n: usize) {
        self.stalled = Some(n);
    }

    pub(crate) fn flows_again(&mut self) {
        let Some(n) = self.stalled.take() else { return };
        for (session, frame) in std::mem::take(&mut self.held) {
            self.sent(n, session, frame);
        }
    }

    pub(crate) fn frame_due(&mut self, n: usize, session: u64) {
        let Some(s) = self.session.as_mut().filter(|s| s.number == session) else {
            return;
        };
        if !s.open[n] {
            return;
        }
        if let Some(frame) = s.to[n].pop_front() {
            let session = SessionId(session);
            self.step(n, Event::FrameReceived { session, frame });
        }
    }

    /// One side ends the session; what it sent before still arrives.
    pub(crate) fn close_session(&mut self, n: usize, session: u64) {
        self.at(MS, n, Action::Event(Self::lost(session)));
        if self.nodes[n].session == Some(session) {
            self.nodes[n].session = None;
        }
        self.dial_later(n);
        let (now, to) = (self.now, 1 - n);
        let Some(s) = self.session.as_mut().filter(|s| s.number == session) else {
            return;
        };
        s.open[n] = false;
        if !s.dead && s.open[to] {
            let delay = s.last[to].max(now) + MS - now;
            self.notice(to, session, delay);
        }
    }

    fn notice(&mut self, n: usize, session: u64, delay: u64) {
        self.at(delay, n, Action::Event(Self::lost(session)));
        if self.nodes[n].session == Some(session) {
            self.nodes[n].session = None;
        }
        self.dial_later(n);
    }

    /// The connection breaks now; frames on their way are lost.
    pub(crate) fn break_session(&mut self) {
        let Some(s) = &mut self.session else { return };
        if s.dead {
            return;
        }
        s.dead = true;
        let number = s.number;
        let keep = self.rng.below(4) as usize;
        for n in 0..2 {
            let s = self.session.as_mut().expect("looked up above");
            s.to[n].truncate(keep);
            if self.is_up(n) && self.session.as_ref().is_some_and(|s| s.open[n]) {
                // Noticed sooner or later, or only by the heartbeat.
                if self.rng.chance(70) {
                    let delay = self.rng.between(MS, 3 * SECOND);
                    self.notice(n, number, delay);
                }
            }
        }
    }

    /// The connection is replaced by a new one at once.
    pub(crate) fn reconnect(&mut self) {
        self.break_session();
        self.nodes[0].session = None;
        self.dial(0);
    }

    pub(crate) fn cut_link(&mut self) {
        self.note(|| "link cut".to_owned());
        self.cut = true;
        self.break_session();
    }

    pub(crate) fn heal_link(&mut self) {
        self.note(|| "link healed".to_owned());
        self.cut = false;
    }
}
