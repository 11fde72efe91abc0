//! How a request of the device's user ends: done here, acknowledged there, failed, or on its own.
//!
//! Does not live here: when a request may start ([`super`]).

use bytes::Bytes;

use super::{InFlight, Route, UNSENT, complete};
use crate::effect::{Completion, Effect};
use crate::engine::Engine;
use crate::event::IoError;
use crate::ids::{GuestId, JobId, Position, Seq};
use crate::settings::Mode;

impl Engine {
    pub(crate) fn guest_read(
        &mut self,
        id: GuestId,
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        out.push(complete(
            id,
            result.map_or(Completion::Error, Completion::Data),
        ));
    }

    pub(crate) fn guest_written(
        &mut self,
        job: JobId,
        seq: Seq,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        self.guest.local.remove(&job);
        match result {
            Ok(()) => self.locally_done(seq, out),
            Err(e) => self.fail(&format!("write of the data: {e}"), out),
        }
    }

    pub(crate) fn guest_flushed(
        &mut self,
        seq: Seq,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        if result.is_ok() {
            self.locally_done(seq, out);
        }
    }

    pub(super) fn locally_done(&mut self, seq: Seq, out: &mut Vec<Effect>) {
        if let Some(w) = self.guest.writes.get_mut(&seq) {
            w.local = true;
        }
        self.complete_one(seq, out);
        self.retire_write(seq);
    }

    /// The acknowledgement rule, in one place.
    pub(super) fn may_complete(&self, seq: Seq, w: &InFlight) -> bool {
        if !w.local {
            return false;
        }
        if w.on_session {
            let asks = match self.effective_mode() {
                Mode::Asynchronous => false,
                Mode::FlushSynchronous => w.is_flush || w.fua,
                Mode::Synchronous => true,
            };
            let waits = asks && w.route == Route::InOrder;
            let reached = if w.is_flush {
                self.guest.peer_durable
            } else {
                self.guest.peer_applied
            };
            return !waits || reached >= seq;
        }
        // Alone: the peer must not be able to take our head for its own any more. A flush with
        // nothing outstanding promises nothing about the peer.
        let promises_nothing = w.is_flush && self.guest.tail.is_none();
        promises_nothing || w.covered || !self.sb.peer_may_have_head && !self.guest.bumping
    }

    pub(super) fn complete_one(&mut self, seq: Seq, out: &mut Vec<Effect>) {
        let Some(w) = self.guest.writes.get(&seq) else {
            return;
        };
        if w.guest.is_none() || !self.may_complete(seq, w) {
            return;
        }
        let w = self.guest.writes.get_mut(&seq).expect("looked up above");
        let id = w.guest.take().expect("checked above");
        self.guest.completed_bytes += w.len;
        let is_flush = w.is_flush;
        if seq < UNSENT {
            self.guest.completed_seq = self.guest.completed_seq.max(seq);
            if is_flush {
                self.guest.completed_flush = self.guest.completed_flush.max(seq);
            }
        }
        self.piece_done(id, false, out);
    }

    /// Looks at every write again: the mode's rule or the session changed.
    pub(crate) fn complete_ready(&mut self, out: &mut Vec<Effect>) {
        for seq in self.guest.writes.keys().copied().collect::<Vec<_>>() {
            self.complete_one(seq, out);
            self.retire_write(seq);
        }
    }

    /// Forgets a write that nobody waits for any more.
    pub(super) fn retire_write(&mut self, seq: Seq) {
        let Some(w) = self.guest.writes.get(&seq) else {
            return;
        };
        if w.local && w.guest.is_none() && (!w.is_counted() || self.guest.peer_durable >= seq) {
            let w = self.guest.writes.remove(&seq).expect("looked up above");
            self.guest.off_session -= usize::from(!w.on_session);
            if w.is_counted() {
                self.guest.window_bytes -= w.len;
                self.guest.window_count -= 1;
            }
        }
    }

    pub(super) fn piece_done(&mut self, id: GuestId, failed: bool, out: &mut Vec<Effect>) {
        let Some(pieces) = self.guest.pieces.get_mut(&id) else {
            return;
        };
        pieces.left -= 1;
        pieces.failed |= failed;
        if pieces.left == 0 {
            let failed = pieces.failed;
            self.guest.pieces.remove(&id);
            let completion = if failed {
                Completion::Error
            } else {
                Completion::Done
            };
            out.push(complete(id, completion));
        }
    }

    /// The peer's cumulative acknowledgement. Looks only at what it is news for: a write that was not
    /// done here when its acknowledgement came is completed and forgotten when it is.
    pub(crate) fn acknowledged(&mut self, applied: Seq, durable: Seq, out: &mut Vec<Effect>) {
        let before = (self.guest.peer_applied, self.guest.peer_durable);
        let now = (before.0.max(applied), before.1.max(durable));
        (self.guest.peer_applied, self.guest.peer_durable) = now;
        self.guest.promised = self.guest.promised.max(now.0);
        for seq in self.sent_between(before.0, now.0) {
            self.complete_one(seq, out);
        }
        for seq in self.sent_between(before.1, now.1) {
            self.complete_one(seq, out);
            self.retire_write(seq);
        }
    }

    /// Writes under way after the one and up to the other place in the stream.
    pub(super) fn sent_between(&self, after: Seq, upto: Seq) -> Vec<Seq> {
        if upto <= after {
            return Vec::new();
        }
        let range = self.guest.writes.range(after.next()..=upto);
        range.map(|(seq, _)| *seq).collect()
    }

    /// The session is gone: what of it was completed and not durably acknowledged is remembered as the
    /// tail (E1). It stays in the log, or becomes dirty (ruling 7).
    pub(crate) fn writes_lost_session(&mut self, out: &mut Vec<Effect>) {
        let (epoch, run, wall) = (self.sb.head(), self.run, self.now.wall);
        let logs = self.guest.log_from.is_some();
        for (seq, w) in &mut self.guest.writes {
            if !w.on_session {
                continue;
            }
            w.on_session = false;
            self.guest.off_session += 1;
            if w.guest.is_none() && !w.is_flush {
                self.guest.tail = Some(Position {
                    epoch,
                    run,
                    seq: *seq,
                    wall,
                });
            }
            w.kept = w.kept.take().filter(|_| logs);
            if w.kept.is_some() {
                continue;
            }
            self.guest.window_bytes -= w.len;
            self.guest.window_count -= 1;
            if !w.is_flush {
                self.marks.mark(w.offset, w.len);
            }
        }
        self.guest.mode_from = Seq(0);
        self.complete_ready(out);
    }

    /// Fails everything that waits, and everything under way that was not answered.
    pub(crate) fn fail_guest(&mut self, out: &mut Vec<Effect>) {
        for (id, _) in std::mem::take(&mut self.guest.parked) {
            self.piece_done(id, true, out);
        }
        for seq in self.guest.writes.keys().copied().collect::<Vec<_>>() {
            let id = self.guest.writes.get_mut(&seq).and_then(|w| w.guest.take());
            if let Some(id) = id {
                self.piece_done(id, true, out);
            }
            self.retire_write(seq);
        }
    }

    /// Answers what the format guard refused.
    pub(crate) fn answer_refused(&mut self, out: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.device.refused) {
            self.piece_done(id, true, out);
        }
    }
}
