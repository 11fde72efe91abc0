//! Copying what differs, from the side that counts to the other.
//!
//! ```text
//!  source                                        target
//!            ◄── Bitmap (its own bits) ──────────
//!  union     ─── Bitmap (union) ────────────────►  union durable
//!            ◄── BitmapStored ───────────────────
//!  (empty union: straight to the completion)
//!            ─── ResyncBegin ───────────────────►  Inconsistent, durable
//!            ◄── ResyncReady ────────────────────
//!            ─── chunks and live writes, in order ►
//!  (from the retained log: only the writes after the target's position, in order)
//!  fdatasync, "the peer may have our head" durable (E4)
//!            ─── ResyncComplete{lineage} ───────►  applied, fdatasync, lineage durable
//!            ◄── ResyncAdopted ──────────────────
//!  base index 0 durable, then the bits are cleared
//! ```
//! The base bits of the source are only added to until the adoption arrives: the target may lose its
//! cache, so what was sent proves nothing. Progress lives in `pending`, in memory.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::compare::{Disk, Extent, SentCompletion};
use crate::effect::Effect;
use crate::engine::{AfterPages, Engine, Job};
use crate::event::IoError;
use crate::frame::{Frame, Payload, WireWrite};
use crate::ids::{Epoch, ResyncId, Seq, SessionId, VolumeId};
use crate::link::Join;
use crate::marks::Bitmap;
use crate::role::Role;
use crate::settings::{CHUNK_SHIFT, RESYNC_WINDOW_BYTES};
use crate::superblock::Then;
use crate::time::Mono;

/// Bytes of one read: a live 4 KiB write waits behind at most one such frame per place in the queue.
const READ_BYTES: u64 = 256 << 10;

/// Reads of a copy under way at once.
const READS_MAX: u32 = 8;

/// Runs of a bitmap frame; more are merged, so that a frame stays under its limit.
const RUNS_MAX: usize = 32 << 10;

/// Progress of a copy in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) source: bool,
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) started: Mono,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AwaitPeerBits,
    AwaitStored,
    AwaitReady,
    Copying,
    /// Everything has left; flush, then "the peer may have our head".
    Flushing,
    Recording,
    Completed,
    Adopted,
}

/// The sending side.
pub(crate) struct Source {
    id: ResyncId,
    extent: Extent,
    stage: Stage,
    /// The target is marked inconsistent and takes data.
    announced: bool,
    pub(crate) pending: Bitmap,
    total: u64,
    started: Mono,
    cursor: u64,
    reads: u32,
    outstanding: VecDeque<(Seq, u64)>,
    outstanding_bytes: u64,
}

impl Source {
    pub(crate) fn is_completing(&self) -> bool {
        matches!(self.stage, Stage::Flushing | Stage::Recording)
    }

    pub(crate) fn is_completion_sent(&self) -> bool {
        matches!(self.stage, Stage::Completed | Stage::Adopted)
    }

    pub(crate) fn awaits_adoption(&self) -> bool {
        self.is_completing() || self.stage == Stage::Completed
    }

    /// Whether an empty union is being completed: the target was told of no resync.
    pub(crate) fn completes_unannounced(&self) -> bool {
        !self.announced && self.copies()
    }

    /// Whether the peer is served from the retained log.
    pub(crate) fn replays(&self) -> bool {
        self.extent == Extent::Log
    }

    /// Whether writes to copied chunks are mirrored.
    pub(crate) fn copies(&self) -> bool {
        matches!(
            self.stage,
            Stage::Copying | Stage::Flushing | Stage::Recording
        )
    }

    /// Free pending chunks in a row, at most one read's worth, from where the last call ended, around.
    fn next_run(&mut self, is_free: impl Fn(u64) -> bool) -> Option<Range<u64>> {
        let ahead = self.pending.iter_from(self.cursor);
        let behind = self.pending.iter_from(0).take_while(|c| *c < self.cursor);
        let first = ahead.chain(behind).find(|c| is_free(*c))?;
        let mut end = first + 1;
        while (end + 1 - first) << CHUNK_SHIFT <= READ_BYTES
            && end < self.pending.chunks()
            && self.pending.contains(end)
            && is_free(end)
        {
            end += 1;
        }
        self.cursor = end;
        Some(first..end)
    }

    pub(crate) fn copy(&self) -> Option<Copy> {
        let done = self.total.saturating_sub(self.pending.count());
        (self.total > 0).then_some(Copy {
            source: true,
            done: done << CHUNK_SHIFT,
            total: self.total << CHUNK_SHIFT,
            started: self.started,
        })
    }
}

/// The receiving side.
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
    // === source ===

    pub(crate) fn begin_source(&mut self, extent: Extent, out: &mut Vec<Effect>) -> Source {
        self.marks.resync_began();
        self.forget_completion();
        let id = ResyncId(self.draw_id());
        match extent {
            Extent::Full => self.marks.mark_all(),
            Extent::Bitmap => {}
            // The log leaves at once, the completion right behind it.
            Extent::Log => self.flush_source(id, out),
        }
        let stage = if extent == Extent::Log {
            Stage::Flushing
        } else {
            Stage::AwaitPeerBits
        };
        Source {
            id,
            extent,
            stage,
            announced: false,
            pending: self.marks.base().clone(),
            total: 0,
            started: self.now.mono,
            cursor: 0,
            reads: 0,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
        }
    }

    fn source(&mut self) -> Option<&mut Source> {
        match self.link.join_mut() {
            Some(Join::Source(s)) => Some(s),
            Some(
                Join::Idle
                | Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Target(_)
                | Join::Blocked(_),
            )
            | None => None,
        }
    }

    fn target(&mut self) -> Option<&mut Target> {
        match self.link.join_mut() {
            Some(Join::Target(t)) => Some(t),
            Some(
                Join::Idle
                | Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Source(_)
                | Join::Blocked(_),
            )
            | None => None,
        }
    }

    /// Adds the runs of the peer to our bits.
    fn add_runs(&mut self, runs: &[(u64, u64)]) -> Result<(), String> {
        let chunks = self.marks.base().chunks();
        for (first, len) in runs {
            if first.checked_add(*len).is_none_or(|end| end > chunks) {
                return Err(format!("chunks {first}+{len} are outside the volume"));
            }
            for chunk in *first..first + len {
                self.marks.mark_chunk(chunk);
            }
        }
        Ok(())
    }

    pub(crate) fn bitmap_heard(
        &mut self,
        runs: &[(u64, u64)],
        union: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let waits = self
            .source()
            .is_some_and(|s| s.stage == Stage::AwaitPeerBits);
        let stores = self.target().is_some_and(|t| !t.began && !t.stored);
        if waits && !union {
            self.add_runs(runs)?;
            let bits = self.marks.base().clone();
            let runs = bits.runs(RUNS_MAX);
            let s = self.source().expect("checked above");
            s.total = bits.count();
            s.pending = bits;
            s.stage = Stage::AwaitStored;
            self.send(Frame::Bitmap { runs, union: true }, out);
            Ok(())
        } else if stores && union {
            self.add_runs(runs)?;
            self.target().expect("checked above").stored = true;
            let session = self.link.session_id();
            self.store_pages(AfterPages::UnionStored(session));
            Ok(())
        } else {
            Err("a bitmap out of turn".to_owned())
        }
    }

    pub(crate) fn union_stored(&mut self, session: Option<SessionId>, out: &mut Vec<Effect>) {
        if self.link.is_target() && self.link.session_id() == session {
            self.send(Frame::BitmapStored, out);
        }
    }

    pub(crate) fn bitmap_stored(&mut self, out: &mut Vec<Effect>) -> Result<(), String> {
        let Some(s) = self.source().filter(|s| s.stage == Stage::AwaitStored) else {
            return Err("a stored bitmap out of turn".to_owned());
        };
        if s.pending.count() == 0 && s.extent == Extent::Bitmap {
            s.stage = Stage::Copying;
            return Ok(());
        }
        s.stage = Stage::AwaitReady;
        let (id, total_chunks) = (s.id, s.total);
        self.send(Frame::ResyncBegin { id, total_chunks }, out);
        Ok(())
    }

    pub(crate) fn resync_ready(&mut self, id: ResyncId) -> Result<(), String> {
        match self.source() {
            Some(s) if s.id == id && s.stage == Stage::AwaitReady => {
                s.stage = Stage::Copying;
                s.announced = true;
                Ok(())
            }
            Some(_) | None => Err("a resync that did not begin is ready".to_owned()),
        }
    }

    /// Reads and sends chunks while the window has room; ends the copy when nothing is pending.
    pub(crate) fn advance_resync(&mut self, out: &mut Vec<Effect>) {
        self.advance_target();
        // An adoption may have placed the copy in the stream.
        self.acknowledge(out);
        if self.fault.is_some() {
            return;
        }
        while let Some((offset, len)) = self.next_chunk() {
            self.guest.locks.push((offset, len));
            let resync = self.source().expect("next_chunk found one").id;
            let job = self.job(Job::ChunkRead {
                resync,
                offset,
                len,
            });
            let s = self.source().expect("next_chunk found one");
            s.reads += 1;
            s.outstanding_bytes += len;
            out.push(Effect::ReadData {
                job,
                offset,
                len: len as u32,
            });
        }
        // E2: no completion while a grant is pending.
        let asked = self
            .change
            .as_ref()
            .is_some_and(crate::transition::Change::asks_grant);
        let blocked = asked || self.sb.grant.is_some();
        let Some(s) = self.source() else { return };
        if s.stage == Stage::Copying && s.pending.count() == 0 && s.reads == 0 && !blocked {
            s.stage = Stage::Flushing;
            let id = s.id;
            self.flush_source(id, out);
            // What waited for a peer that has everything, or soon will.
            self.advance_writes(out);
        }
    }

    /// E4: what the peer will take for our head is durable here first.
    fn flush_source(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        let job = self.job(Job::SourceFlush(id));
        out.push(Effect::FlushData { job });
    }

    /// The next range to copy: pending, and neither being written nor being read. What is being written
    /// is passed over: a read that races a local write would put old data behind a newer mirrored write.
    fn next_chunk(&mut self) -> Option<(u64, u64)> {
        let size = self.identity.size;
        let Some(Join::Source(s)) = self.link.join_mut() else {
            return None;
        };
        let full = s.outstanding_bytes >= RESYNC_WINDOW_BYTES || s.reads >= READS_MAX;
        if s.stage != Stage::Copying || full {
            return None;
        }
        let guest = &self.guest;
        let is_free = |chunk: u64| !guest.overlaps_local(chunk << CHUNK_SHIFT, 1 << CHUNK_SHIFT);
        let chunks = s.next_run(is_free)?;
        let offset = chunks.start << CHUNK_SHIFT;
        let len = (chunks.end << CHUNK_SHIFT).min(size) - offset;
        for chunk in chunks {
            s.pending.remove(chunk);
        }
        Some((offset, len))
    }

    pub(crate) fn chunk_read(
        &mut self,
        resync: ResyncId,
        (offset, len): (u64, u64),
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let data = match result {
            Ok(data) => data,
            Err(e) => return self.fail(&format!("read of the data: {e}"), out),
        };
        // A read of an earlier session holds no lock any more: its data may be older than the disk.
        let Some(s) = self.source().filter(|s| s.id == resync) else {
            return;
        };
        s.reads -= 1;
        self.guest.locks.retain(|l| *l != (offset, len));
        let seq = self.guest.last_seq.next();
        self.guest.last_seq = seq;
        let payload = if is_zero(&data) {
            Payload::Zero { offset, len }
        } else {
            Payload::Data { offset, data }
        };
        let s = self.source().expect("checked above");
        s.outstanding.push_back((seq, len));
        let write = WireWrite {
            seq,
            dep_seq: Seq(0),
            dep_flush: Seq(0),
            fua: false,
            resync: true,
            payload,
        };
        self.send_write(write, out);
    }

    pub(crate) fn resync_acknowledged(&mut self, applied: Seq) {
        let Some(s) = self.source() else { return };
        while let Some((seq, len)) = s.outstanding.front().copied()
            && seq <= applied
        {
            s.outstanding.pop_front();
            s.outstanding_bytes -= len;
        }
    }

    pub(crate) fn resync_outstanding(&self) -> bool {
        matches!(self.link.join(), Some(Join::Source(s)) if !s.outstanding.is_empty())
    }

    pub(crate) fn source_flushed(&mut self, id: ResyncId) {
        if let Some(s) = self
            .source()
            .filter(|s| s.id == id && s.stage == Stage::Flushing)
        {
            s.stage = Stage::Recording;
            self.sb.peer_may_have_head = true;
            self.persist(Then::SendCompletion(id));
        }
    }

    pub(crate) fn send_completion(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        let Some(s) = self
            .source()
            .filter(|s| s.id == id && s.stage == Stage::Recording)
        else {
            return;
        };
        s.stage = Stage::Completed;
        self.marks.completion_sent();
        self.completion = Some(SentCompletion {
            id,
            epoch: self.sb.head(),
        });
        let (lineage, seq, volume) = (self.sb.lineage.clone(), self.guest.last_seq, self.sb.volume);
        self.send(
            Frame::ResyncComplete {
                id,
                lineage,
                seq,
                volume,
            },
            out,
        );
    }

    pub(crate) fn adopted_heard(
        &mut self,
        id: ResyncId,
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        match self.source() {
            Some(s) if s.id == id && s.stage == Stage::Completed => s.stage = Stage::Adopted,
            Some(_) | None => return Err("an adoption of nothing".to_owned()),
        }
        self.forget_completion();
        self.peer_has_everything();
        // Generation first, clean second: a crash between the two only copies too much.
        self.persist(Then::ClearBase);
        self.link.set_join(Join::InOrder);
        self.alone_writes_covered(out);
        Ok(())
    }

    pub(crate) const fn link_completion(&self) -> Option<SentCompletion> {
        self.completion
    }

    /// No completion of ours is unanswered any more.
    pub(crate) const fn forget_completion(&mut self) {
        self.completion = None;
    }

    pub(crate) fn sync_done_chunks(&self) -> u64 {
        self.copy()
            .filter(|c| c.source)
            .map_or(0, |c| c.done >> CHUNK_SHIFT)
    }

    // === target ===

    pub(crate) fn send_own_bits(&mut self, out: &mut Vec<Effect>) {
        let runs = self.marks.base().runs(RUNS_MAX);
        self.send(Frame::Bitmap { runs, union: false }, out);
    }

    pub(crate) fn sync_progress_heard(&mut self, done: u64) {
        if let Some(t) = self.target() {
            t.done = done;
        }
    }

    pub(crate) fn resync_began(&mut self, id: ResyncId, total: u64) -> Result<(), String> {
        let now = self.now.mono;
        let role = self.sb.role;
        let Some(t) = self
            .target()
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
        match self.link.join() {
            Some(Join::Target(t)) if !t.marking => t.id,
            Some(
                Join::Idle
                | Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Source(_)
                | Join::Target(_)
                | Join::Blocked(_),
            )
            | None => None,
        }
    }

    /// From now on the copy is something between two states.
    pub(crate) fn mark_inconsistent(&mut self, id: ResyncId) {
        if let Some(t) = self.target() {
            t.marking = true;
        }
        if self.sb.disk == Disk::Consistent {
            self.sb.disk = Disk::Inconsistent;
        }
        self.sb.sealed = false;
        self.persist(Then::ResyncReady(id));
    }

    pub(crate) fn resync_marked(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        if let Some(t) = self.target().filter(|t| t.id == Some(id)) {
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
        let Some(t) = self.target().filter(|t| t.stored && t.completion.is_none()) else {
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
        let completes = matches!(self.link.join(), Some(Join::Target(t)) if t.completion.is_some());
        completes
            || self
                .change
                .as_ref()
                .is_some_and(crate::transition::Change::wants_durable)
    }

    /// Adopts the source's lineage once everything before the completion is durable here.
    fn advance_target(&mut self) {
        let (anchored, durable) = (self.replica.anchored, self.replica.durable);
        let Some(t) = self.target() else { return };
        let Some((id, lineage, seq, volume)) = &t.completion else {
            return;
        };
        if t.adopting || (anchored && durable < *seq) {
            return;
        }
        t.adopting = true;
        let (id, lineage, seq, volume) = (*id, lineage.clone(), *seq, *volume);
        self.name_volume(volume);
        self.sb.lineage = lineage;
        self.sb.disk = Disk::Consistent;
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
        self.sb.given_up_for = Epoch::NONE;
        self.sb.kept = false;
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
            .target()
            .is_some_and(|t| t.completion.as_ref().is_some_and(|c| c.0 == id))
        {
            self.send(Frame::ResyncAdopted { id }, out);
            self.link.set_join(Join::InOrder);
        }
    }
}

/// Whether all bytes are zero; looks at many at a time.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
