//! The receiving side of a copy: its bits, the mark, the adoption of the source's lineage.
//!
//! Does not live here: applying what arrives ([`crate::replica`]), what is kept before the first change
//! ([`crate::snapshot`]).

use super::{Copy, RUNS_MAX};
use crate::compare::{Disk, Extent};
use crate::effect::Effect;
use crate::engine::{AfterPages, Engine};
use crate::frame::Frame;
use crate::ids::{Epoch, ResyncId, Seq, SessionId, VolumeId};
use crate::link::Join;
use crate::role::Role;
use crate::settings::CHUNK_SHIFT;
use crate::superblock::Then;
use crate::time::Mono;

/// The receiving side.
#[derive(Clone, Hash)]
pub(crate) struct Target {
    extent: Extent,
    id: Option<ResyncId>,
    /// The mark is on its way to disk.
    marking: bool,
    began: bool,
    stored: bool,
    total: u64,
    done: u64,
    started: Mono,
    completion: Option<(ResyncId, Vec<Epoch>, Seq, VolumeId)>,
    adopting: bool,
}

impl Target {
    pub(crate) fn new(extent: Extent, now: Mono) -> Self {
        Self {
            extent,
            id: None,
            marking: false,
            began: false,
            stored: extent == Extent::Log,
            total: 0,
            done: 0,
            started: now,
            completion: None,
            adopting: false,
        }
    }

    /// Whether the copy is marked, so that data may come. After an empty union, writes follow the
    /// completion; those of a log come in order.
    pub(crate) fn receives(&self) -> bool {
        self.began || self.completion.is_some() || self.replays()
    }

    /// Whether the copy stays what it is, an earlier state, until it has caught up.
    pub(crate) fn replays(&self) -> bool {
        self.extent == Extent::Log
    }

    pub(crate) fn copy(&self) -> Option<Copy> {
        (self.total > 0).then_some(Copy {
            source: false,
            done: self.done.min(self.total) << CHUNK_SHIFT,
            total: self.total << CHUNK_SHIFT,
            started: self.started,
        })
    }
}

impl Engine {
    pub(crate) fn send_own_bits(&mut self, out: &mut Vec<Effect>) {
        let runs = self.marks.base().runs(RUNS_MAX);
        self.send(Frame::Bitmap { runs, union: false }, out);
    }

    /// The union of both sides' bits: durable here before anything is overwritten.
    pub(crate) fn union_heard(&mut self, runs: &[(u64, u64)]) -> Result<(), String> {
        let target = self.link.target_mut();
        if !target.is_some_and(|t| !t.began && !t.stored) {
            return Err("a union out of turn".to_owned());
        }
        self.add_runs(runs)?;
        if let Some(t) = self.link.target_mut() {
            t.stored = true;
        }
        let session = self.link.session_id();
        self.store_pages(AfterPages::UnionStored(session));
        Ok(())
    }

    pub(crate) fn union_stored(&mut self, session: Option<SessionId>, out: &mut Vec<Effect>) {
        if self.link.is_target() && self.link.session_id() == session {
            self.send(Frame::BitmapStored, out);
        }
    }

    pub(crate) fn sync_progress_heard(&mut self, done: u64) {
        if let Some(t) = self.link.target_mut() {
            t.done = done;
        }
    }

    pub(crate) fn resync_began(&mut self, id: ResyncId, total: u64) -> Result<(), String> {
        let now = self.now.mono;
        let role = self.sb.role;
        let Some(t) = self
            .link
            .target_mut()
            .filter(|t| t.id.is_none() && t.stored && !t.replays() && role == Role::Secondary)
        else {
            return Err("a resync that may not begin".to_owned());
        };
        t.id = Some(id);
        t.total = total;
        t.started = now;
        Ok(())
    }

    /// The resync that waits for the copy to be marked.
    pub(crate) fn resync_to_mark(&self) -> Option<ResyncId> {
        let target = self.link.target().filter(|t| !t.marking)?;
        target.id
    }

    /// From now on the copy is something between two states.
    pub(crate) fn mark_inconsistent(&mut self, id: ResyncId) {
        if let Some(t) = self.link.target_mut() {
            t.marking = true;
        }
        if self.sb.disk == Disk::Consistent {
            self.sb.disk = Disk::Inconsistent;
        }
        self.sb.sealed = false;
        self.persist(Then::ResyncReady(id));
    }

    pub(crate) fn resync_marked(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        if let Some(t) = self.link.target_mut().filter(|t| t.id == Some(id)) {
            t.began = true;
            self.send(Frame::ResyncReady { id }, out);
        }
    }

    pub(crate) fn completion_heard(
        &mut self,
        id: ResyncId,
        lineage: Vec<Epoch>,
        seq: Seq,
        volume: VolumeId,
    ) -> Result<(), String> {
        let unnamed = self.sb.volume.is_none() || self.sb.volume == volume;
        let Some(t) = self
            .link
            .target_mut()
            .filter(|t| t.stored && t.completion.is_none())
        else {
            return Err("a completion out of turn".to_owned());
        };
        if seq >= Seq::NEVER {
            return Err("a completion at no place of a stream".to_owned());
        }
        if lineage.is_empty() || lineage.len() > crate::superblock::LINEAGE_MAX || !unnamed {
            return Err("a completion without a lineage of this volume".to_owned());
        }
        t.completion = Some((id, lineage, seq, volume));
        Ok(())
    }

    /// Whether an own flush is due although neither time nor bytes say so.
    pub(crate) fn wants_durable(&self) -> bool {
        let completes = self.link.target().is_some_and(|t| t.completion.is_some());
        completes
            || self
                .change
                .as_ref()
                .is_some_and(crate::transition::Change::wants_durable)
    }

    /// Adopts the source's lineage once everything before the completion is durable here.
    pub(super) fn advance_target(&mut self) {
        let (anchored, durable) = (self.replica.anchored, self.replica.durable);
        let Some(t) = self.link.target_mut() else {
            return;
        };
        let Some((id, lineage, seq, volume)) = &t.completion else {
            return;
        };
        if t.adopting || (anchored && durable < *seq) {
            return;
        }
        t.adopting = true;
        let is_whole = t.extent == Extent::Full;
        let (id, lineage, seq, volume) = (*id, lineage.clone(), *seq, *volume);
        self.name_volume(volume);
        self.sb.lineage = lineage;
        self.sb.disk = Disk::Consistent;
        self.sb.in_doubt &= !is_whole;
        self.sb.bits_void = true;
        self.sb.adopted = id;
        self.sb.grant = None;
        self.sb.superseded_by = Epoch::NONE;
        let tail = self.sb.crashed_tail_bytes;
        self.peer_has_everything();
        self.sb.crashed_tail_bytes = tail;
        self.forget_completion();
        self.replica.epoch = self.sb.head();
        self.snapshot_served();
        self.sb.parted_from = Epoch::NONE;
        self.nothing_given_up();
        // Where nothing was copied, the position is the completion's.
        self.replica.anchor(seq);
        self.persist(Then::Adopted(id));
    }

    pub(crate) fn adoption_durable(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        self.marks.voided();
        self.store_pages(AfterPages::Voided);
        self.replica.trust(self.now.wall);
        self.replica.record_now();
        if self
            .link
            .target_mut()
            .is_some_and(|t| t.completion.as_ref().is_some_and(|c| c.0 == id))
        {
            self.send(Frame::ResyncAdopted { id }, out);
            self.link.set_join(Join::InOrder);
        }
    }
}
