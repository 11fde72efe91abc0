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

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::compare::{Extent, SentCompletion};
use crate::effect::Effect;
use crate::engine::{Engine, Job};
use crate::event::IoError;
use crate::frame::{Frame, Payload, WireWrite};
use crate::ids::{ResyncId, Seq};
use crate::link::Join;
use crate::marks::Bitmap;
use crate::settings::{CHUNK_SHIFT, RESYNC_RATE_MIN, RESYNC_WINDOW_BYTES};
use crate::superblock::Then;
use crate::time::Mono;
pub(crate) use target::Target;

/// Bytes of one read: a live 4 KiB write waits behind at most one such frame per place in the queue.
const READ_BYTES: u64 = 256 << 10;

/// Reads of a copy under way at once.
const READS_MAX: u32 = 8;

/// How far a copy may be ahead of its rate: enough that reads do not come one by one.
const PACE_AHEAD: Duration = Duration::from_millis(100);

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
    /// When what was read so far would have been read at the rate that is allowed.
    paced: Mono,
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

    /// When the next chunk may be read, at the rate that is allowed: a little may be read ahead.
    fn may_read_from(&self) -> Mono {
        Mono(self.paced.0.saturating_sub(PACE_AHEAD.as_micros() as u64))
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
            pending: self.marks.base().clone(),
            total: 0,
            started: self.now.mono,
            cursor: 0,
            reads: 0,
            paced: self.now.mono,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
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
            s.pending = bits;
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
        while let Some((offset, len)) = self.next_chunk() {
            self.guest.locks.push((offset, len));
            let resync = self.link.source_mut().expect("next_chunk found one").id;
            let job = self.job(Job::ChunkRead {
                resync,
                offset,
                len,
            });
            let s = self.link.source_mut().expect("next_chunk found one");
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
        let Some(s) = self.link.source_mut() else {
            return;
        };
        if s.stage == Stage::Copying && s.pending.count() == 0 && s.reads == 0 && !blocked {
            s.stage = Stage::Flushing;
            let id = s.id;
            self.flush_source(id, out);
            // What waited for a peer that has everything, or soon will.
            self.advance_writes(out);
        }
    }

    /// When a copy that is held back by its rate goes on.
    pub(crate) fn resync_wakeup(&self) -> Option<Mono> {
        self.settings.resync_rate?;
        let copies = |s: &&Source| s.stage == Stage::Copying && s.pending.count() > 0;
        let next = self.link.source().filter(copies)?.may_read_from();
        (next > self.now.mono).then_some(next)
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
        let (now, rate) = (self.now.mono, self.settings.resync_rate);
        let s = self.link.source_mut()?;
        if rate.is_some() && now < s.may_read_from() {
            return None;
        }
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
        if let Some(rate) = rate {
            let takes = Duration::from_micros(len * 1_000_000 / rate.max(RESYNC_RATE_MIN));
            s.paced = s.paced.max(now).after(takes);
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
        let Some(s) = self.link.source_mut().filter(|s| s.id == resync) else {
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
        let s = self.link.source_mut().expect("checked above");
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
        let Some(s) = self.link.source_mut() else {
            return;
        };
        while let Some((seq, len)) = s.outstanding.front().copied()
            && seq <= applied
        {
            s.outstanding.pop_front();
            s.outstanding_bytes -= len;
        }
    }

    pub(crate) fn resync_outstanding(&self) -> bool {
        self.link
            .source()
            .is_some_and(|s| !s.outstanding.is_empty())
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
}

/// Whether all bytes are zero; looks at many at a time.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
