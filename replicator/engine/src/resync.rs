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

mod target;
mod walk;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::compare::{Disk, Extent, SentCompletion};
use crate::effect::Effect;
use crate::engine::{Engine, Job};
use crate::event::IoError;
use crate::frame::{Frame, Payload, WireWrite};
use crate::hashes;
use crate::ids::{ResyncId, Seq};
use crate::link::Join;
use crate::settings::CHUNK_SHIFT;
use crate::superblock::Then;
use crate::time::Mono;
pub(crate) use target::Target;
pub(crate) use walk::Walk;

/// Runs of a bitmap frame; more are merged, so that a frame stays under its limit.
const RUNS_MAX: usize = 32 << 10;

/// Progress of a copy in bytes.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Copy {
    pub(crate) source: bool,
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) started: Mono,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// What is read next.
#[derive(Clone, Hash)]
struct Wanted {
    offset: u64,
    len: u64,
    /// To send its hashes; otherwise to send it.
    hashed: bool,
}

/// The sending side.
#[derive(Clone, Hash)]
pub(crate) struct Source {
    id: ResyncId,
    extent: Extent,
    stage: Stage,
    /// The target is marked inconsistent and takes data.
    announced: bool,
    pub(crate) walk: Walk,
    /// The target probably holds most of it: hashes first, then what differs.
    hashed: bool,
    /// Ranges that the target says differ.
    wanted: VecDeque<(u64, u64)>,
    total: u64,
    started: Mono,
    outstanding: VecDeque<(Seq, u64)>,
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

    /// Whether everything has left.
    fn is_done(&self) -> bool {
        self.walk.is_done() && self.wanted.is_empty()
    }

    /// The next range to read: what the target asked for first, then what is pending.
    fn next_range(&mut self, size: u64, is_free: impl Fn(u64, u64) -> bool) -> Option<Wanted> {
        let free = self.wanted.iter().position(|(o, l)| is_free(*o, *l));
        if let Some((offset, len)) = free.and_then(|n| self.wanted.remove(n)) {
            return Some(Wanted {
                offset,
                len,
                hashed: false,
            });
        }
        let chunk_is_free = |chunk: u64| is_free(chunk << CHUNK_SHIFT, 1 << CHUNK_SHIFT);
        let (offset, len) = self.walk.take(size, chunk_is_free)?;
        Some(Wanted {
            offset,
            len,
            hashed: self.hashed,
        })
    }

    pub(crate) fn copy(&self) -> Option<Copy> {
        let done = self.total.saturating_sub(self.walk.pending.count());
        (self.total > 0).then_some(Copy {
            source: true,
            done: done << CHUNK_SHIFT,
            total: self.total << CHUNK_SHIFT,
            started: self.started,
        })
    }
}

impl Engine {
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
            walk: Walk::new(self.marks.base().clone(), self.now.mono),
            hashed: self.target_holds_most(extent),
            wanted: VecDeque::new(),
            total: 0,
            started: self.now.mono,
            outstanding: VecDeque::new(),
        }
    }

    /// Whether hashes are worth their reads: after a crash most of what is marked was not written, after
    /// an interrupted copy most of it has arrived, and a copy of everything is mostly as it was.
    fn target_holds_most(&self, extent: Extent) -> bool {
        let Some(theirs) = self.link.theirs() else {
            return false;
        };
        let interrupted = match theirs.disk {
            Disk::Inconsistent => true,
            // The union that was stored for a first copy.
            Disk::Empty => theirs.dirty > 0,
            Disk::Consistent => false,
        };
        let crashed = self.sb.crashed || theirs.crashed_primary;
        let whole = extent == Extent::Full && theirs.disk != Disk::Empty;
        interrupted || crashed || whole
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

    /// The target's own bits: the union goes back.
    pub(crate) fn own_bits_heard(
        &mut self,
        runs: &[(u64, u64)],
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let source = self.link.source_mut();
        if !source.is_some_and(|s| s.stage == Stage::AwaitPeerBits) {
            return Err("bits out of turn".to_owned());
        }
        self.add_runs(runs)?;
        let bits = self.marks.base().clone();
        let runs = bits.runs(RUNS_MAX);
        if let Some(s) = self.link.source_mut() {
            s.total = bits.count();
            s.walk.pending = bits;
            s.stage = Stage::AwaitStored;
        }
        self.send(Frame::Bitmap { runs, union: true }, out);
        Ok(())
    }

    pub(crate) fn bitmap_stored(&mut self, out: &mut Vec<Effect>) -> Result<(), String> {
        let Some(s) = self
            .link
            .source_mut()
            .filter(|s| s.stage == Stage::AwaitStored)
        else {
            return Err("a stored bitmap out of turn".to_owned());
        };
        if s.walk.is_done() && s.extent == Extent::Bitmap {
            s.stage = Stage::Copying;
            return Ok(());
        }
        s.stage = Stage::AwaitReady;
        let (id, total_chunks) = (s.id, s.total);
        self.send(Frame::ResyncBegin { id, total_chunks }, out);
        Ok(())
    }

    pub(crate) fn resync_ready(&mut self, id: ResyncId) -> Result<(), String> {
        match self.link.source_mut() {
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
        while let Some(next) = self.next_read() {
            self.read_for_copy(&next, out);
        }
        // E2: no completion while a grant is pending.
        let asked = self
            .change
            .as_ref()
            .is_some_and(crate::transition::Change::asks_grant);
        let blocked = asked || self.sb.grant.is_some();
        let Some(s) = self.link.source_mut() else {
            return;
        };
        if s.stage == Stage::Copying && s.is_done() && !blocked {
            s.stage = Stage::Flushing;
            let id = s.id;
            self.flush_source(id, out);
            // What waited for a peer that has everything, or soon will.
            self.advance_writes(out);
        }
    }

    /// When a copy that is held back by its rate goes on.
    pub(crate) fn resync_wakeup(&self) -> Option<Mono> {
        let more = |s: &&Source| s.walk.pending.count() > 0 || !s.wanted.is_empty();
        let s = self.link.source().filter(|s| s.stage == Stage::Copying);
        s.filter(more)?
            .walk
            .wakeup(self.now.mono, self.settings.resync_rate)
    }

    /// E4: what the peer will take for our head is durable here first.
    fn flush_source(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        let job = self.job(Job::SourceFlush(id));
        out.push(Effect::FlushData { job });
    }

    /// The next range to copy: neither being written nor being read. What is being written is passed
    /// over: a read that races a local write would put old data behind a newer mirrored write.
    fn next_read(&mut self) -> Option<Wanted> {
        let size = self.identity.size;
        let (now, rate) = (self.now.mono, self.settings.resync_rate);
        let s = self.link.source_mut()?;
        if s.stage != Stage::Copying || !s.walk.may_read(now, rate) {
            return None;
        }
        let guest = &self.guest;
        s.next_range(size, |offset, len| guest.is_free(offset, len))
    }

    fn read_for_copy(&mut self, next: &Wanted, out: &mut Vec<Effect>) {
        let Wanted {
            offset,
            len,
            hashed,
        } = *next;
        let (now, rate) = (self.now.mono, self.settings.resync_rate);
        let Some(s) = self.link.source_mut() else {
            return;
        };
        s.walk.read_began((offset, len), now, rate);
        let resync = s.id;
        self.guest.locks.push((resync, offset, len));
        let job = self.job(Job::ChunkRead {
            resync,
            offset,
            len,
            hashed,
        });
        out.push(Effect::ReadData {
            job,
            offset,
            len: len as u32,
        });
    }

    /// A range has been read, and nobody writes to it: what it holds is said at this place of the stream.
    pub(crate) fn chunk_read(
        &mut self,
        resync: ResyncId,
        (offset, len, hashed): (u64, u64, bool),
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        self.guest.unlock(resync, offset, len);
        let data = match result {
            Ok(data) => data,
            Err(e) => return self.fail(&format!("read of the data: {e}"), out),
        };
        // What an earlier session has read may be older than the disk.
        let Some(s) = self.link.source_mut().filter(|s| s.id == resync) else {
            return;
        };
        s.walk.read_ended(offset);
        if hashed {
            s.walk.ask(offset, len);
            return self.send_hashes(resync, offset, &data, out);
        }
        let seq = self.guest.last_seq.next();
        self.guest.last_seq = seq;
        s.outstanding.push_back((seq, len));
        let payload = if is_zero(&data) {
            Payload::Zero { offset, len }
        } else {
            Payload::Data { offset, data }
        };
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

    pub(crate) fn send_hashes(
        &mut self,
        key: ResyncId,
        offset: u64,
        data: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let frame = Frame::Hashes {
            after: self.guest.last_seq,
            offset,
            len: data.len() as u64,
            key,
            hashes: hashes::hashes_of(key, data),
        };
        self.send(frame, out);
    }

    /// The peer has compared what it was asked about: a copy sends what differs, as it is by then. An
    /// answer to a verification that was given up meanwhile is of no interest.
    pub(crate) fn differences_heard(
        &mut self,
        key: ResyncId,
        (offset, blocks): (u64, &[(u64, u64)]),
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        self.progress_heard();
        match self.link.source_mut().filter(|s| s.id == key) {
            Some(s) => {
                s.wanted.extend(s.walk.answered(offset, blocks)?);
                Ok(())
            }
            None => self.verification_answered(key, (offset, blocks), out),
        }
    }

    pub(crate) fn resync_acknowledged(&mut self, applied: Seq) {
        let Some(s) = self.link.source_mut() else {
            return;
        };
        while let Some((seq, len)) = s.outstanding.front().copied()
            && seq <= applied
        {
            s.outstanding.pop_front();
            s.walk.arrived(len);
        }
    }

    pub(crate) fn resync_outstanding(&self) -> bool {
        self.link
            .source()
            .is_some_and(|s| !s.outstanding.is_empty() || s.walk.awaits_answers())
    }

    pub(crate) fn source_flushed(&mut self, id: ResyncId) {
        if let Some(s) = self
            .link
            .source_mut()
            .filter(|s| s.id == id && s.stage == Stage::Flushing)
        {
            s.stage = Stage::Recording;
            self.sb.peer_may_have_head = true;
            self.persist(Then::SendCompletion(id));
        }
    }

    pub(crate) fn send_completion(&mut self, id: ResyncId, out: &mut Vec<Effect>) {
        let Some(s) = self
            .link
            .source_mut()
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
        match self.link.source_mut() {
            Some(s) if s.id == id && s.stage == Stage::Completed => {
                s.stage = Stage::Adopted;
                if s.extent == Extent::Full {
                    self.link.peer_was_compared();
                }
            }
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
}

/// Whether all bytes are zero; looks at many at a time.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
