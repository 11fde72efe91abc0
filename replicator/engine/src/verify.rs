//! A verification: the Primary goes through everything, says what it holds in hashes, and the peer compares
//! at the same place of the stream, so that writes under way never look like differences.
//!
//! What differs is marked like any other difference, so that it is copied when the two meet the next time, or
//! right away if that was ordered. A copy that is in doubt after a crash is verified without an order (R-AL6).
//!
//! Does not live here: the comparison ([`crate::replica`]), the copy ([`crate::resync`]).

use bytes::Bytes;

use crate::effect::Effect;
use crate::engine::{AfterPages, Engine, Job};
use crate::event::IoError;
use crate::frame::Frame;
use crate::ids::{Epoch, ResyncId, SessionId};
use crate::link::Join;
use crate::marks::Bitmap;
use crate::report::VerificationReport;
use crate::resync::Walk;
use crate::role::Role;
use crate::settings::{CHUNK_SHIFT, VerifyOrder};
use crate::superblock::Then;
use crate::time::{Mono, Wall};

/// Why the copies are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Order(VerifyOrder),
    /// One of them is in doubt, or both; what is learned later begins anew.
    Doubt {
        ours: bool,
        theirs: bool,
        /// What the peer served last: it comes to another doubt only by serving again.
        served: Epoch,
    },
}

/// One verification.
#[derive(Clone, Hash)]
pub(crate) struct Verification {
    cause: Cause,
    /// Key of the hashes; a new one for each session, so that nothing of an old one counts.
    id: ResyncId,
    walk: Walk,
    started: Wall,
    finished: Option<Wall>,
    differing: u64,
}

impl Verification {
    /// Whether it has ended, and whether it has found differences so far.
    pub(crate) const fn outcome(&self) -> (bool, bool) {
        (self.finished.is_some(), self.differing > 0)
    }
}

impl Engine {
    /// Begins, forgets, or goes on with what the configuration asks for.
    pub(crate) fn advance_verification(&mut self, out: &mut Vec<Effect>) {
        self.follow_order();
        while let Some((offset, len)) = self.next_to_verify() {
            let (now, rate) = (self.now.mono, self.settings.resync_rate);
            let Some(v) = &mut self.verification else {
                return;
            };
            v.walk.read_began((offset, len), now, rate);
            let id = v.id;
            self.guest.locks.push((id, offset, len));
            let job = self.job(Job::VerifyRead { id, offset, len });
            let len = len as u32;
            out.push(Effect::ReadData { job, offset, len });
        }
    }

    fn cause_to_verify(&self) -> Option<Cause> {
        let primary = self.sb.role == Role::Primary;
        // Nobody need be promoted to end a doubt: of two Secondaries, the one whose data were served last.
        let asks =
            primary || self.was_primary_last() && self.link.peer_role() == Some(Role::Secondary);
        if asks && self.is_pair_in_doubt() {
            Some(Cause::Doubt {
                ours: self.sb.in_doubt,
                theirs: self.link.peer_is_in_doubt(),
                served: self.link.theirs().map_or(Epoch::NONE, |f| f.role_epoch),
            })
        } else if primary {
            self.settings.verify.clone().map(Cause::Order)
        } else {
            None
        }
    }

    /// What is in doubt is verified, then what the configuration asks for; another order is another
    /// verification.
    fn follow_order(&mut self) {
        let resolves = |v: &Verification| matches!(v.cause, Cause::Doubt { .. });
        if !self.link.is_joined() && self.verification.as_ref().is_some_and(resolves) {
            // Whose copy is in doubt is known again when the two meet; what has been compared counts.
            return;
        }
        let cause = self.cause_to_verify();
        if self.verification.as_ref().map(|v| &v.cause) == cause.as_ref() {
            return;
        }
        let id = ResyncId(self.draw_id());
        self.verification = cause.map(|cause| Verification {
            cause,
            id,
            walk: Walk::new(Bitmap::full(self.identity.size), self.now.mono),
            started: self.now.wall,
            finished: None,
            differing: 0,
        });
    }

    /// Whether the two are in step, and stay so for now.
    fn may_verify(&self) -> bool {
        matches!(self.link.join(), Some(Join::InOrder))
            && self.change.is_none()
            && self.sb.grant.is_none()
            && !self.stopping
            && self.fault.is_none()
    }

    fn next_to_verify(&mut self) -> Option<(u64, u64)> {
        if !self.may_verify() {
            return None;
        }
        let size = self.identity.size;
        let (now, rate) = (self.now.mono, self.settings.resync_rate);
        let v = self.verification.as_mut()?;
        if !v.walk.may_read(now, rate) {
            return None;
        }
        let guest = &self.guest;
        let is_free = |chunk: u64| guest.is_free(chunk << CHUNK_SHIFT, 1 << CHUNK_SHIFT);
        v.walk.take(size, is_free)
    }

    /// A range has been read, and nobody writes to it.
    pub(crate) fn verify_read(
        &mut self,
        id: ResyncId,
        (offset, len): (u64, u64),
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        self.guest.unlock(id, offset, len);
        let data = match result {
            Ok(data) => data,
            Err(e) => return self.fail(&format!("read of the data: {e}"), out),
        };
        let Some(v) = self.verification.as_mut().filter(|v| v.id == id) else {
            return;
        };
        v.walk.read_ended(offset);
        v.walk.ask(offset, len);
        self.send_hashes(id, offset, &data, out);
    }

    /// The peer has compared a range: what differs is marked, for the next time that the two meet.
    pub(crate) fn verification_answered(
        &mut self,
        key: ResyncId,
        (offset, blocks): (u64, &[(u64, u64)]),
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let now = self.now.wall;
        let Some(v) = self.verification.as_mut().filter(|v| v.id == key) else {
            return Ok(());
        };
        let found = v.walk.answered(offset, blocks)?;
        v.differing += found.iter().map(|(_, len)| len).sum::<u64>();
        if v.walk.is_done() {
            v.finished = Some(now);
        }
        let ended = v.finished.is_some();
        let settles = ended && matches!(v.cause, Cause::Doubt { .. });
        let repairs = matches!(&v.cause, Cause::Order(order) if order.repair);
        let repairs = ended && repairs && v.differing > 0;
        for (offset, len) in &found {
            self.marks.mark(*offset, *len);
        }
        if settles {
            self.store_pages(AfterPages::Compared(self.link.session_id()));
            // The end may come with that, and what it changes is not for the next fact.
            self.write_pages(out);
        } else if !found.is_empty() {
            self.store_pages(AfterPages::Nothing);
        }
        if repairs {
            self.repair(out);
        }
        Ok(())
    }

    fn repair(&mut self, out: &mut Vec<Effect>) {
        self.compare_again("what a verification found is copied", out);
    }

    /// Whether a crashed run of either side may have written where nothing says so.
    pub(crate) fn is_pair_in_doubt(&self) -> bool {
        self.sb.in_doubt || self.link.peer_is_in_doubt()
    }

    /// What differed is marked durably: neither copy is in doubt any more. In a new session everything begins anew.
    pub(crate) fn doubt_ended(&mut self, session: Option<SessionId>, out: &mut Vec<Effect>) {
        if session.is_none() || self.link.session_id() != session {
            return;
        }
        self.no_longer_in_doubt();
        self.send(Frame::Compared, out);
        if self.verification.as_ref().is_some_and(|v| v.differing > 0) {
            self.repair(out);
        }
    }

    /// Both sides know it.
    pub(crate) fn no_longer_in_doubt(&mut self) {
        self.link.peer_was_compared();
        if std::mem::take(&mut self.sb.in_doubt) {
            self.persist(Then::Nothing);
        }
    }

    /// What is under way is asked again when the two are in step again.
    pub(crate) fn verification_lost_session(&mut self) {
        // Whether the end of a doubt had become durable is not known to the peer.
        let asks_anew =
            |v: &Verification| v.finished.is_some() && matches!(v.cause, Cause::Doubt { .. });
        if let Some(mut v) = self.verification.take().filter(|v| !asks_anew(v)) {
            v.id = ResyncId(self.draw_id());
            v.walk.begin_again();
            self.verification = Some(v);
        }
    }

    /// What is new is zeros on both sides, and is not gone through any more.
    pub(crate) fn verification_grows(&mut self, size: u64) {
        if let Some(v) = &mut self.verification {
            v.walk.pending.grow(size);
        }
    }

    pub(crate) fn verification_outstanding(&self) -> bool {
        let walk = self.verification.as_ref().map(|v| &v.walk);
        walk.is_some_and(Walk::awaits_answers)
    }

    pub(crate) fn verification_wakeup(&self) -> Option<Mono> {
        let v = self.verification.as_ref().filter(|_| self.may_verify());
        let v = v.filter(|v| v.walk.pending.count() > 0)?;
        v.walk.wakeup(self.now.mono, self.settings.resync_rate)
    }

    pub(crate) fn verification_report(&self) -> Option<VerificationReport> {
        let v = self.verification.as_ref()?;
        let Cause::Order(order) = &v.cause else {
            return None;
        };
        let left = if v.finished.is_some() {
            0
        } else {
            v.walk.left() << CHUNK_SHIFT
        };
        Some(VerificationReport {
            request: order.request.clone(),
            started: v.started,
            finished: v.finished,
            left: left.min(self.identity.size),
            differing: v.differing,
        })
    }
}
