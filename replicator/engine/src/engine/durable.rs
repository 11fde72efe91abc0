//! What is on its way to the metadata, and what follows when it is durable: changes of the
//! superblock, bitmap pages, transactions of the activity log.
//!
//! Does not live here: what the blocks hold ([`crate::superblock`], [`crate::marks`],
//! [`crate::activity`]).

use std::collections::VecDeque;

use bytes::Bytes;

use super::{AfterFlush, AfterPages, Engine, Job};
use crate::Effect;
use crate::meta::{self, BLOCK, Kind, RING_A, RING_B, RING_SLOTS};
use crate::role::Role;
use crate::superblock::Then;

/// The transaction with nobody in it that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Emptying {
    No,
    Wanted,
    UnderWay,
}

/// Superblock writes: at most one change set on its way.
#[derive(Clone, Hash, Default)]
pub(super) struct Keeper {
    seq: u64,
    pending: Vec<Then>,
    in_flight: Option<Vec<Then>>,
    /// Ring B's block of the change set, until ring A's is durable: (offset, content).
    copy: Option<(u64, Bytes)>,
    copying: bool,
}

impl Keeper {
    /// After the newest block that was found.
    pub(super) fn after(seq: u64) -> Self {
        Self {
            seq,
            ..Self::default()
        }
    }

    /// The copy of a change set is on disk.
    pub(super) const fn copied(&mut self) {
        self.copying = false;
    }
}

/// Page writes: at most one batch on its way, so that no page is written twice at once.
#[derive(Clone, Hash, Default)]
pub(super) struct Pages {
    left: usize,
    running: Vec<AfterPages>,
    waiting: VecDeque<AfterPages>,
}

impl Engine {
    // === superblock ===

    /// The superblock has changed: write it, and do `then` when it is durable.
    pub(crate) fn persist(&mut self, then: Then) {
        self.keeper.pending.push(then);
    }

    /// Whether every change of the superblock is durable.
    pub(crate) fn is_persisted(&self) -> bool {
        self.keeper.pending.is_empty() && self.keeper.in_flight.is_none()
    }

    pub(super) fn write_superblock(&mut self, out: &mut Vec<Effect>) {
        let busy = self.keeper.in_flight.is_some() || self.keeper.copying;
        if busy || self.keeper.pending.is_empty() || self.fault.is_some() {
            return;
        }
        self.keeper.in_flight = Some(std::mem::take(&mut self.keeper.pending));
        self.keeper.seq += 1;
        let (seq, node) = (self.keeper.seq, self.identity.node);
        let body = self.sb.encode();
        let (a, b) = (RING_A + seq % RING_SLOTS, RING_B + seq % RING_SLOTS);
        let job = self.job(Job::Superblock);
        let data = meta::seal(Kind::Superblock, node, a, seq, &body);
        out.push(Effect::WriteMeta {
            job,
            offset: a * BLOCK as u64,
            data,
        });
        let copy = meta::seal(Kind::Superblock, node, b, seq, &body);
        self.keeper.copy = Some((b * BLOCK as u64, copy));
        self.keeper.copying = true;
    }

    pub(super) fn superblock_written(&mut self, out: &mut Vec<Effect>) {
        if let Some((offset, data)) = self.keeper.copy.take() {
            let job = self.job(Job::SuperblockCopy);
            out.push(Effect::WriteMeta { job, offset, data });
        }
        for then in self.keeper.in_flight.take().into_iter().flatten() {
            match then {
                Then::Nothing => {}
                Then::ResumeWrites => self.bump_durable(out),
                Then::BecamePrimary => self.became_primary(out),
                Then::BecameSecondary => self.became_secondary(out),
                Then::Answer(id) => out.push(Effect::Answer { id, result: Ok(()) }),
                Then::Granted(epoch, asked) => self.grant_durable(epoch, asked, out),
                Then::GrantAdopted(epoch, told) => self.grant_adopted(epoch, told, out),
                Then::ResyncReady(id) => self.resync_marked(id, out),
                Then::SendCompletion(id) => self.send_completion(id, out),
                Then::Adopted(id) => self.adoption_durable(id, out),
                Then::ClearBase => {
                    self.marks.completed();
                    self.store_pages(AfterPages::Nothing);
                }
                Then::SendGrown(session) => self.growth_durable(session, out),
                Then::SendDecision => self.decision_durable(out),
                Then::PublishDevice => self.publish_device(out),
                Then::MakeSnapshot(id) => self.make_snapshot(id, out),
                Then::SnapshotGone => self.snapshot_gone(out),
                Then::Stop => out.push(Effect::Stopped),
            }
        }
    }

    // === bitmap pages ===

    /// Write what differs from disk, and do `then` when it is durable.
    pub(crate) fn store_pages(&mut self, then: AfterPages) {
        self.pages.waiting.push_back(then);
    }

    pub(crate) fn write_pages(&mut self, out: &mut Vec<Effect>) {
        while self.pages.left == 0 && !self.pages.waiting.is_empty() && self.fault.is_none() {
            self.pages.running = self.pages.waiting.drain(..).collect();
            let stale = self.marks.take_stale(self.identity.node);
            self.pages.left = stale.len();
            for (offset, data) in stale {
                let job = self.job(Job::Page);
                out.push(Effect::WriteMeta { job, offset, data });
            }
            if self.pages.left == 0 {
                self.pages_durable(out);
            }
        }
    }

    pub(super) fn page_written(&mut self, out: &mut Vec<Effect>) {
        self.pages.left -= 1;
        if self.pages.left == 0 {
            self.pages_durable(out);
            self.write_pages(out);
        }
    }

    pub(super) fn pages_durable(&mut self, out: &mut Vec<Effect>) {
        for then in std::mem::take(&mut self.pages.running) {
            match then {
                AfterPages::Evict => self.evict(out),
                AfterPages::UnionStored(session) => self.union_stored(session, out),
                AfterPages::Demote => self.demotion_stored(),
                AfterPages::Stop => self.stop_stored(),
                AfterPages::Voided => {
                    self.sb.bits_void = false;
                    self.persist(Then::Nothing);
                }
                AfterPages::Compared(session) => self.doubt_ended(session, out),
                AfterPages::Nothing => {}
            }
        }
    }

    // === activity log ===

    pub(super) fn advance_activity(&mut self, out: &mut Vec<Effect>) {
        if self.fault.is_some() || self.activity.is_under_way() {
            return;
        }
        // The block that this would overwrite is what tells of the doubt (R-AL6).
        if self.sb.in_doubt && !self.is_persisted() {
            return;
        }
        if self.emptying == Emptying::Wanted {
            self.emptying = Emptying::UnderWay;
            let (offset, data) = self.activity.begin_empty(self.identity.node);
            let job = self.job(Job::ActivityLog);
            return out.push(Effect::WriteMeta { job, offset, data });
        }
        if !self.activity.is_due() && !self.covers_unreadable() || self.evicting.is_some() {
            return;
        }
        let idle = |s: &Self| s.activity.victims(|e| s.guest.uses_extent(e));
        let victims = idle(self).or_else(|| {
            self.log_yields_extents();
            idle(self)
        });
        let Some(victims) = victims else {
            return;
        };
        if victims.is_empty() {
            self.begin_transaction(&[], out);
        } else {
            // R-AL2: data durable, then bits durable, then they may leave.
            self.evicting = Some((victims, self.activity.moment()));
            self.flush_data(AfterFlush::Evict, out);
        }
    }

    /// A block that cannot be read, after a doubt that is resolved, would bring the doubt back with the
    /// next crash: the set is written once more, in its place.
    fn covers_unreadable(&self) -> bool {
        self.sb.role == Role::Primary && !self.sb.in_doubt && self.activity.may_be_incomplete()
    }

    pub(super) fn evict(&mut self, out: &mut Vec<Effect>) {
        let Some((victims, since)) = self.evicting.take() else {
            return;
        };
        // A victim that was used meanwhile stays, even if that write has ended: it came after the
        // flush. The room is found in the next round.
        let used = self.activity.used_since(&victims, since)
            || victims.iter().any(|e| self.guest.uses_extent(*e));
        // Pages that are still void on disk hold nothing for a victim.
        let stays = used || self.sb.bits_void || !self.is_persisted();
        if !stays && self.emptying == Emptying::No && !self.activity.is_under_way() {
            self.begin_transaction(&victims, out);
        }
    }

    pub(super) fn begin_transaction(&mut self, victims: &[u64], out: &mut Vec<Effect>) {
        let (offset, data) = self.activity.begin(self.identity.node, victims);
        let job = self.job(Job::ActivityLog);
        out.push(Effect::WriteMeta { job, offset, data });
    }

    /// Asks for a transaction with nobody in it; part of demotion and stop.
    pub(crate) fn empty_activity(&mut self) {
        self.emptying = Emptying::Wanted;
    }

    pub(super) fn activity_written(&mut self) {
        self.activity.ended();
        if self.emptying == Emptying::UnderWay {
            self.emptying = Emptying::No;
            self.activity_emptied();
        }
    }
}
