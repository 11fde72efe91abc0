//! The undo log: the old content of every chunk that a resync overwrites, kept before the first
//! overwriting write is issued.
//!
//! A log of records, one behind the other: a block with a checksum that names a run of chunks, then
//! their content (nothing for zeros). Writes to it are durable one at a time, so that what a crash leaves
//! is a prefix. Each record says how much of the log was durable when it was written: if something
//! below that cannot be read, the log is damaged, and says so instead of ending early.
//!
//! Does not live here: when there is a log ([`super`]), where its bytes are (the shell).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::effect::Effect;
use crate::engine::{Engine, Job};
use crate::event::IoError;
use crate::ids::{Epoch, JobId, NodeId, ResyncId, SnapshotId};
use crate::marks::{Bitmap, chunks_of};
use crate::meta::codec::{Reader, Writer};
use crate::meta::{self, BLOCK, Kind};
use crate::resync::is_zero;
use crate::settings::CHUNK_SHIFT;

/// Chunks of one record.
const RUN_CHUNKS: u64 = 4;

/// Reads of old content under way, or waiting for one write to the log.
const READS_MAX: u32 = 8;

/// Bytes of the log that are looked at together: more than the largest write to it, so that the
/// record after a damaged one is seen.
const WINDOW: usize = 4 << 20;

/// Chunks in a row: first, count.
type Run = (u64, u64);

/// Orders for the log, or because of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UndoJob {
    Make(SnapshotId),
    /// Old content is read.
    Save(SnapshotId, Run),
    /// Old content is written to the log.
    Write(Saved),
    Flush(SnapshotId),
    Drop,
    /// The whole data are copied, for this resync.
    Keep(ResyncId, Epoch),
    /// The log is read from here.
    Scan(SnapshotId, u64),
    /// Old content is written back.
    PutBack,
}

/// What a write to the log holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Saved {
    id: SnapshotId,
    runs: Vec<Run>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// A log of an earlier process is read, up to here.
    Loading {
        at: u64,
        reading: bool,
    },
    /// What was read is being made durable: a process that was killed may have left it in a cache.
    Securing {
        ordered: bool,
    },
    Ready,
    Restoring {
        at: u64,
        reading: bool,
        writes: usize,
    },
    Restored,
    Ended,
    /// The snapshot is given up.
    Closed,
}

/// The log of one snapshot.
#[derive(Clone, Hash)]
pub(super) struct Undo {
    id: SnapshotId,
    phase: Phase,
    saved: Bitmap,
    /// Saved, or on the way.
    asked: Bitmap,
    wanted: VecDeque<Run>,
    reads: u32,
    read: Vec<(Run, Bytes)>,
    writing: bool,
    /// A write has failed: nothing more until a new resync begins.
    stalled: bool,
    /// Bytes that are durable.
    tail: u64,
}

/// A record's header, with what lies behind it.
#[derive(Clone, Hash)]
struct Record {
    run: Run,
    zero: bool,
    data: Bytes,
    /// Bytes of the record in the log.
    bytes: usize,
}

#[derive(Clone, Hash)]
enum Look {
    Record(Record),
    /// It may be whole in the next window.
    Cut,
    End,
}

impl Undo {
    /// Of a snapshot taken now.
    pub(super) fn empty(id: SnapshotId, size: u64) -> Self {
        Self {
            id,
            phase: Phase::Ready,
            saved: Bitmap::new(size),
            asked: Bitmap::new(size),
            wanted: VecDeque::new(),
            reads: 0,
            read: Vec::new(),
            writing: false,
            stalled: false,
            tail: 0,
        }
    }

    /// Of a snapshot that an earlier process took.
    pub(super) fn found(id: SnapshotId, size: u64) -> Self {
        Self {
            phase: Phase::Loading {
                at: 0,
                reading: false,
            },
            ..Self::empty(id, size)
        }
    }

    /// The volume has grown.
    pub(super) fn grow(&mut self, size: u64) {
        self.saved.grow(size);
        self.asked.grow(size);
    }

    pub(super) fn used(&self) -> u64 {
        match self.phase {
            Phase::Loading { at, .. } => at,
            Phase::Securing { .. }
            | Phase::Ready
            | Phase::Restoring { .. }
            | Phase::Restored
            | Phase::Ended
            | Phase::Closed => self.tail,
        }
    }

    pub(super) fn restored(&self) -> u64 {
        match self.phase {
            Phase::Restoring { at, .. } => at,
            Phase::Restored | Phase::Ended => self.tail,
            Phase::Loading { .. } | Phase::Securing { .. } | Phase::Ready | Phase::Closed => 0,
        }
    }

    /// See [`super::Snapshots::allow`].
    pub(super) fn allows(&mut self, offset: u64, len: u64) -> bool {
        if self.phase != Phase::Ready || self.stalled {
            return false;
        }
        let mut all = true;
        for chunk in chunks_of(offset, len) {
            all &= self.saved.contains(chunk);
            if self.asked.insert(chunk) {
                self.want(chunk);
            }
        }
        all
    }

    fn want(&mut self, chunk: u64) {
        match self.wanted.back_mut() {
            Some((first, count)) if *first + *count == chunk && *count < RUN_CHUNKS => *count += 1,
            Some(_) | None => self.wanted.push_back((chunk, 1)),
        }
    }

    /// A new resync begins: what failed may be tried again. Whether it may begin: not while reads of the
    /// one before are under way, whose content would be kept twice.
    pub(super) fn go_on(&mut self) -> bool {
        self.stalled &= self.reads > 0;
        !self.stalled
    }

    /// Nothing more is overwritten, kept or put back.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.drop_wishes();
    }

    fn drop_wishes(&mut self) {
        self.wanted.clear();
        self.read.clear();
        self.asked = self.saved.clone();
    }

    pub(super) const fn is_writing(&self) -> bool {
        self.writing
    }

    /// Begins to go back, unless that is under way, or something else has to end first.
    pub(super) fn restore(&mut self) {
        if self.phase == Phase::Ready {
            self.drop_wishes();
        }
        if self.phase == Phase::Ready && self.reads == 0 && !self.writing {
            self.phase = Phase::Restoring {
                at: 0,
                reading: false,
                writes: 0,
            };
        }
    }

    /// Whether everything has been put back; true once.
    pub(super) fn take_end(&mut self) -> bool {
        let ends = self.phase == Phase::Restored;
        if ends {
            self.phase = Phase::Ended;
        }
        ends
    }

    /// A write to the log has ended. `Err` says why nothing more can be kept.
    pub(super) fn saved(&mut self, what: Saved, result: Result<(), String>) -> Result<(), String> {
        if what.id != self.id {
            return Ok(());
        }
        self.writing = false;
        match result {
            Ok(()) => {
                self.tail += what.bytes;
                for (first, count) in what.runs {
                    (first..first + count).for_each(|chunk| {
                        self.saved.insert(chunk);
                    });
                }
                Ok(())
            }
            Err(_) if self.phase == Phase::Closed => Ok(()),
            Err(why) => {
                self.stalled = true;
                self.drop_wishes();
                Err(why)
            }
        }
    }

    /// The bytes of a write that keeps everything that was read.
    fn next_write(&mut self, node: NodeId) -> (Saved, Bytes) {
        let mut log = BytesMut::new();
        let mut runs = Vec::new();
        for (run, data) in self.read.drain(..) {
            let block = (self.tail + log.len() as u64) / BLOCK as u64;
            let zero = is_zero(&data);
            let mut body = Writer::default();
            body.wide(self.id.0).word(run.0).word(run.1).flag(zero);
            body.word(data.len() as u64)
                .word(u64::from(crc32c::crc32c(&data)));
            log.extend_from_slice(&meta::seal(Kind::Undo, node, block, self.tail, &body.0));
            if !zero {
                log.extend_from_slice(&data);
                log.resize(log.len().next_multiple_of(BLOCK), 0);
            }
            runs.push(run);
        }
        let saved = Saved {
            id: self.id,
            runs,
            bytes: log.len() as u64,
        };
        (saved, log.freeze())
    }

    /// What stands at `pos` of a window that begins at `at`.
    fn look(&self, node: NodeId, window: &Bytes, at: u64, pos: usize) -> Look {
        let Some(raw) = window.get(pos..pos + BLOCK) else {
            return Look::Cut;
        };
        let block = (at + pos as u64) / BLOCK as u64;
        let header = meta::unseal_block(raw, Kind::Undo, Some(node), block);
        let Some((run, zero, len, crc)) = header.and_then(|(_, body)| self.header(body)) else {
            return Look::End;
        };
        if zero {
            return Look::Record(Record {
                run,
                zero,
                data: Bytes::new(),
                bytes: BLOCK,
            });
        }
        let from = pos + BLOCK;
        if from + len > window.len() {
            return if pos == 0 { Look::End } else { Look::Cut };
        }
        let data = window.slice(from..from + len);
        if crc32c::crc32c(&data) != crc {
            return Look::End;
        }
        Look::Record(Record {
            run,
            zero,
            data,
            bytes: BLOCK + len.next_multiple_of(BLOCK),
        })
    }

    fn header(&self, body: &[u8]) -> Option<(Run, bool, usize, u32)> {
        let r = &mut Reader(body);
        let id = SnapshotId(r.wide()?);
        let run = (r.word()?, r.word()?);
        let zero = r.flag()?;
        let len = usize::try_from(r.word()?).ok()?;
        let crc = u32::try_from(r.word()?).ok()?;
        let inside = run.0.checked_add(run.1)? <= self.saved.chunks() && run.1 <= RUN_CHUNKS;
        let fits = len as u64 <= RUN_CHUNKS << CHUNK_SHIFT;
        (id == self.id && inside && fits).then_some((run, zero, len, crc))
    }

    /// Whether a record in this window was written when more than `end` was durable.
    fn is_followed(&self, node: NodeId, window: &Bytes, end: u64) -> bool {
        (0..window.len() / BLOCK).any(|n| {
            let raw = &window[n * BLOCK..(n + 1) * BLOCK];
            let block = end / BLOCK as u64 + n as u64;
            let header = meta::unseal_block(raw, Kind::Undo, Some(node), block);
            header.is_some_and(|(durable, body)| durable > end && self.header(body).is_some())
        })
    }
}

impl Engine {
    /// Orders what the log needs next.
    pub(super) fn advance_undo(&mut self, out: &mut Vec<Effect>) {
        let (size, node) = (self.identity.size, self.identity.node);
        let Some(undo) = &mut self.snapshots.undo else {
            return;
        };
        let id = undo.id;
        let stops = self.stopping;
        match &mut undo.phase {
            Phase::Restoring { .. } if stops => {}
            Phase::Loading { at, reading }
            | Phase::Restoring {
                at,
                reading,
                writes: 0,
            } if !*reading => {
                *reading = true;
                let offset = *at;
                let job = self.job(Job::Undo(UndoJob::Scan(id, offset)));
                let len = WINDOW as u32;
                out.push(Effect::ReadUndo { job, offset, len });
            }
            Phase::Securing { ordered } if !*ordered => {
                *ordered = true;
                let job = self.job(Job::Undo(UndoJob::Flush(id)));
                out.push(Effect::FlushUndo { job });
            }
            Phase::Ready => self.keep(id, size, node, out),
            Phase::Loading { .. }
            | Phase::Securing { .. }
            | Phase::Restoring { .. }
            | Phase::Restored
            | Phase::Ended
            | Phase::Closed => {}
        }
    }

    /// Writes what was read to the log, and reads what is about to be overwritten.
    fn keep(&mut self, id: SnapshotId, size: u64, node: NodeId, out: &mut Vec<Effect>) {
        let Some(undo) = &mut self.snapshots.undo else {
            return;
        };
        if !undo.writing && !undo.read.is_empty() {
            undo.writing = true;
            let offset = undo.tail;
            let (saved, data) = undo.next_write(node);
            let job = self.job(Job::Undo(UndoJob::Write(saved)));
            out.push(Effect::WriteUndo { job, offset, data });
        }
        while let Some(undo) = &mut self.snapshots.undo
            && undo.reads + (undo.read.len() as u32) < READS_MAX
            && let Some(run) = undo.wanted.pop_front()
        {
            undo.reads += 1;
            let offset = run.0 << CHUNK_SHIFT;
            let len = (((run.0 + run.1) << CHUNK_SHIFT).min(size) - offset) as u32;
            let job = self.job(Job::Undo(UndoJob::Save(id, run)));
            out.push(Effect::ReadData { job, offset, len });
        }
    }

    pub(crate) fn old_content_read(
        &mut self,
        (id, run): (SnapshotId, Run),
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let data = match result {
            Ok(data) => data,
            Err(e) => return self.fail(&format!("read of the data: {e}"), out),
        };
        let Some(undo) = self.snapshots.undo.as_mut().filter(|u| u.id == id) else {
            return;
        };
        undo.reads -= 1;
        // Nobody waits for it any more after a failure, or while the copy goes back.
        if undo.phase == Phase::Ready && (run.0..run.0 + run.1).all(|c| undo.asked.contains(c)) {
            undo.read.push((run, data));
        }
    }

    pub(crate) fn undo_done(
        &mut self,
        job: JobId,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        match self.undo_job(job) {
            UndoJob::Make(id) => self.snapshot_made(id, result, out),
            UndoJob::Write(saved) => self.content_kept(saved, result, out),
            UndoJob::Flush(id) => self.log_secured(id, result),
            UndoJob::Keep(resync, epoch) => self.copy_kept((resync, epoch), result, out),
            // What is left over is emptied by the next snapshot.
            UndoJob::Drop => self.snapshots.room = super::Room::Free,
            other @ (UndoJob::Save(..) | UndoJob::Scan(..) | UndoJob::PutBack) => {
                unreachable!("an order to the undo log ended that was {other:?}")
            }
        }
    }

    fn log_secured(&mut self, id: SnapshotId, result: Result<(), String>) {
        let Some(undo) = self.snapshots.undo.as_mut().filter(|u| u.id == id) else {
            return;
        };
        if !matches!(undo.phase, Phase::Securing { .. }) {
            return;
        }
        match result {
            Ok(()) => undo.phase = Phase::Ready,
            Err(why) => self.snapshot_damaged(&why),
        }
    }

    // === reading the log ===

    pub(crate) fn undo_read(
        &mut self,
        job: JobId,
        result: Result<Bytes, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let UndoJob::Scan(id, at) = self.undo_job(job) else {
            unreachable!("a read of the undo log ended that was something else")
        };
        let Some(undo) = self.snapshots.undo.as_mut().filter(|u| u.id == id) else {
            return;
        };
        let window = match result {
            Ok(window) => window,
            Err(e) => return self.snapshot_damaged(&format!("read of the undo log: {e}")),
        };
        match undo.phase {
            Phase::Loading { .. } => self.load(at, &window),
            Phase::Restoring { .. } => self.put_window_back(at, &window, out),
            Phase::Securing { .. }
            | Phase::Ready
            | Phase::Restored
            | Phase::Ended
            | Phase::Closed => {}
        }
    }

    fn load(&mut self, at: u64, window: &Bytes) {
        let node = self.identity.node;
        let Some(undo) = &mut self.snapshots.undo else {
            return;
        };
        let mut pos = 0;
        let ends = loop {
            match undo.look(node, window, at, pos) {
                Look::Record(record) => {
                    let (first, count) = record.run;
                    (first..first + count).for_each(|chunk| {
                        undo.saved.insert(chunk);
                    });
                    pos += record.bytes;
                }
                Look::Cut => break false,
                Look::End => break true,
            }
        };
        let at = at + pos as u64;
        // The end is looked at from a window of its own.
        if !ends || pos > 0 {
            undo.phase = Phase::Loading { at, reading: false };
        } else if undo.is_followed(node, window, at) {
            self.snapshot_damaged(&format!("the undo log cannot be read at {at}"));
        } else {
            undo.tail = at;
            undo.asked = undo.saved.clone();
            undo.phase = Phase::Securing { ordered: false };
        }
    }

    fn put_window_back(&mut self, at: u64, window: &Bytes, out: &mut Vec<Effect>) {
        let (node, size) = (self.identity.node, self.identity.size);
        let Some(undo) = &self.snapshots.undo else {
            return;
        };
        let (mut pos, mut records) = (0, Vec::new());
        while at + (pos as u64) < undo.tail
            && let Look::Record(record) = undo.look(node, window, at, pos)
        {
            pos += record.bytes;
            records.push(record);
        }
        let next = at + pos as u64;
        if pos == 0 && next < undo.tail {
            return self.snapshot_damaged(&format!("the undo log cannot be read at {next}"));
        }
        let writes = records.len();
        for Record {
            run, zero, data, ..
        } in records
        {
            let job = self.job(Job::Undo(UndoJob::PutBack));
            let offset = run.0 << CHUNK_SHIFT;
            let len = ((run.0 + run.1) << CHUNK_SHIFT).min(size) - offset;
            out.push(if zero {
                Effect::ZeroData { job, offset, len }
            } else {
                let fua = false;
                Effect::WriteData {
                    job,
                    offset,
                    data,
                    fua,
                }
            });
        }
        if let Some(undo) = &mut self.snapshots.undo {
            undo.phase = Phase::Restoring {
                at: next,
                reading: false,
                writes,
            };
            undo.end_restoring();
        }
    }

    /// One record is back in place.
    pub(crate) fn put_back(&mut self, result: Result<(), IoError>, out: &mut Vec<Effect>) {
        if let Err(e) = result {
            return self.fail(&format!("write of the data: {e}"), out);
        }
        if let Some(undo) = &mut self.snapshots.undo
            && let Phase::Restoring { writes, .. } = &mut undo.phase
        {
            *writes -= 1;
            undo.end_restoring();
        }
    }
}

impl Undo {
    fn end_restoring(&mut self) {
        if let Phase::Restoring { at, writes: 0, .. } = self.phase
            && at >= self.tail
        {
            self.phase = Phase::Restored;
        }
    }
}
