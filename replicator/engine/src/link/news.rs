//! Heartbeats, and what the two sides tell each other of themselves.
//!
//! Does not live here: what silence means ([`super`]).

use super::Join;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::frame::{Frame, Payload, PeerReport, PrimaryClock, WireWrite};
use crate::ids::{CommandId, Seq};
use crate::role::Role;
use crate::settings::{ANSWER_LIMIT, ASK_AFTER, HEARTBEAT, HEARTBEAT_LOST, IDLE_HEARTBEAT, Mode};
use crate::time::Mono;

impl Engine {
    /// Asks the peer when it is time.
    pub(crate) fn heartbeat(&mut self, out: &mut Vec<Effect>) {
        let due = self
            .next_heartbeat()
            .is_some_and(|due| self.now.mono >= due);
        if due && self.link.is_joined() {
            self.ping(out);
        }
    }

    /// When this side asks again. Of two in step the Primary does, less often while nothing is written, and the
    /// other by itself only when it hears nothing: there may be hundreds of idle pairs.
    pub(super) fn next_heartbeat(&self) -> Option<Mono> {
        let s = self.link.session.as_ref()?;
        let in_step = self.link.is_in_order();
        Some(match self.sb.role {
            Role::Secondary if in_step => s.pinged.max(s.heard).after(ASK_AFTER),
            Role::Primary if in_step && s.pinged_seq == self.guest.last_seq => {
                s.pinged.after(IDLE_HEARTBEAT)
            }
            Role::Primary | Role::Secondary => s.pinged.after(HEARTBEAT),
        })
    }

    /// When the session is lost if nothing is heard before: once there was time to answer what was asked.
    pub(super) fn lost_at(&self) -> Option<Mono> {
        let s = self.link.session.as_ref()?;
        let silent = s.heard.after(HEARTBEAT_LOST);
        if self.link.is_joined() {
            s.asked.map(|at| silent.max(at.after(ANSWER_LIMIT)))
        } else {
            Some(silent)
        }
    }

    /// Something was heard.
    pub(super) fn peer_heard(&mut self, now: Mono) {
        if let Some(s) = &mut self.link.session {
            (s.heard, s.asked) = (now, None);
        }
    }

    pub(super) fn ping(&mut self, out: &mut Vec<Effect>) -> u64 {
        let sends = self.sb.role == Role::Primary && !self.link.is_comparing();
        let clock = if sends && self.link.is_ahead() {
            // More was completed than the peer will get: it learns how much, and passes nothing.
            PrimaryClock {
                last_seq: Seq::NEVER,
                ..self.primary_clock()
            }
        } else if sends {
            self.primary_clock()
        } else {
            Default::default()
        };
        let (report, sync_done_chunks) = (self.own_report(), self.sync_done_chunks());
        let Some(s) = &mut self.link.session else {
            return 0;
        };
        s.nonce += 1;
        (s.pinged, s.pinged_seq) = (self.now.mono, self.guest.last_seq);
        let nonce = s.nonce;
        s.ping_sent = Some((nonce, self.now.mono));
        s.asked.get_or_insert(self.now.mono);
        self.send(
            Frame::Ping {
                nonce,
                clock,
                report,
                sync_done_chunks,
            },
            out,
        );
        nonce
    }

    pub(super) fn pong_heard(&mut self, nonce: u64, out: &mut Vec<Effect>) {
        let Some(s) = &mut self.link.session else {
            return;
        };
        if let Some((sent, at)) = s.ping_sent
            && sent == nonce
        {
            self.link.rtt_micros = self.now.mono.0.saturating_sub(at.0);
            s.ping_sent = None;
        }
        s.refreshes.retain(|(asked, id)| {
            let done = *asked <= nonce;
            if done {
                out.push(Effect::Answer {
                    id: *id,
                    result: Ok(()),
                });
            }
            !done
        });
    }

    /// Answer `id` once there is news of the peer that is newer than now, or the link is down.
    pub(crate) fn refresh(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        if !self.settings.has_peer {
            return out.push(Effect::Answer { id, result: Ok(()) });
        }
        if self.link.is_joined() {
            let nonce = self.ping(out);
            if let Some(s) = &mut self.link.session {
                s.refreshes.push((nonce, id));
            }
            return;
        }
        self.link.waiting.push(id);
        if self.link.session.is_none() {
            out.push(Effect::DialNow);
        }
    }

    pub(super) fn answer_waiting(&mut self, out: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.link.waiting) {
            out.push(Effect::Answer { id, result: Ok(()) });
        }
    }

    /// Tells the peer when our own summary has changed.
    pub(crate) fn announce(&mut self, out: &mut Vec<Effect>) {
        if self.link.is_joined() {
            let report = self.own_report();
            self.send(Frame::Report(report), out);
        }
    }

    pub(crate) fn own_report(&self) -> PeerReport {
        PeerReport {
            role: self.sb.role,
            data: self.data(),
            epoch: self.sb.head(),
            sealed: self.sb.sealed,
            mode: self.settings.mode,
        }
    }

    /// Whether somebody waits for what a frame brings. What nobody waits for may leave a moment later, with more.
    #[must_use]
    pub fn is_awaited(&self, frame: &Frame) -> bool {
        if let Frame::Writes { writes, .. } = frame {
            let is_flush = |w: &WireWrite| w.fua || matches!(w.payload, Payload::FlushMark);
            match self.effective_mode() {
                Mode::Asynchronous => false,
                Mode::FlushSynchronous => writes.iter().any(is_flush),
                Mode::Synchronous => true,
            }
        } else if let Frame::Ack { .. } = frame {
            self.link.peer_waits_for_acks()
        } else {
            true
        }
    }

    /// What is true of writes on this session.
    pub(crate) fn effective_mode(&self) -> Mode {
        match self.link.join() {
            Some(Join::InOrder) => self.settings.mode,
            Some(Join::Source(s)) if s.is_completion_sent() => self.settings.mode,
            Some(
                Join::Idle
                | Join::Ahead
                | Join::Behind
                | Join::Source(_)
                | Join::Target(_)
                | Join::Blocked(_),
            )
            | None => Mode::Asynchronous,
        }
    }
}
