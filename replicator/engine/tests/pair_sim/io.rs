//! What the engines order their disks to do: it takes its time, may fail, and is seen at once or only when it
//! ends.
//!
//! Does not live here: what a disk keeps ([`crate::disk`]), when a request is due ([`crate::world`]).

use bytes::Bytes;
use drqm_engine::ids::JobId;
use drqm_engine::{Effect, Event, IoError};

use crate::disk::{Cover, DataDisk};
use crate::world::{Action, MS, World};

/// A write: visible at once, or only when it ends. Two that overlap and are under way together may
/// land in either order.
pub(crate) struct Change {
    offset: u64,
    len: u64,
    data: Option<Bytes>,
    /// The number on the disk, once visible.
    seen: Option<u64>,
}

pub(crate) enum Io {
    /// With what it saw at once; else it sees what is there when it ends.
    Read(JobId, u64, u64, Option<Vec<u8>>),
    Write(JobId, Change, bool),
    Flush(JobId, Cover),
    Meta(JobId),
    UndoRead(JobId, u64, u32),
    UndoWrite(JobId, Change),
    UndoFlush(JobId, Cover),
    /// The undo log is emptied.
    UndoEmpty(JobId),
    Keep(JobId),
}

impl World {
    pub(crate) fn latency(&mut self) -> u64 {
        if self.rng.chance(self.config.slow) {
            self.rng.between(5 * MS, 120 * MS)
        } else {
            self.rng.between(30, 700)
        }
    }

    fn io(&mut self, n: usize, io: Io) {
        let delay = self.latency() + self.drag[n];
        self.at(delay, n, Action::Io(io));
    }

    fn change(
        &mut self,
        n: usize,
        job: JobId,
        (offset, len): (u64, u64),
        data: Option<Bytes>,
        fua: bool,
    ) {
        let seen = self
            .rng
            .chance(50)
            .then(|| self.nodes[n].data.write(offset, len, data.as_deref()));
        let change = Change {
            offset,
            len,
            data,
            seen,
        };
        self.io(n, Io::Write(job, change, fua));
    }

    /// Begins what a disk was ordered to do.
    pub(crate) fn begin_io(&mut self, n: usize, order: Effect) {
        match order {
            Effect::ReadData { job, offset, len } => {
                let now = self.rng.chance(50);
                let seen = now.then(|| self.nodes[n].data.read(offset, len.into()));
                self.io(n, Io::Read(job, offset, len.into(), seen));
            }
            Effect::WriteData {
                job,
                offset,
                data,
                fua,
            } => {
                let len = data.len() as u64;
                self.change(n, job, (offset, len), Some(data), fua);
            }
            Effect::ZeroData { job, offset, len } => {
                self.change(n, job, (offset, len), None, false);
            }
            Effect::FlushData { job } => {
                let cover = self.nodes[n].data.cover();
                self.io(n, Io::Flush(job, cover));
            }
            Effect::WriteMeta { job, offset, data } => {
                self.nodes[n].meta.begin(job.0, offset, data);
                self.io(n, Io::Meta(job));
            }
            Effect::ReadUndo { job, offset, len } => self.io(n, Io::UndoRead(job, offset, len)),
            Effect::WriteUndo { job, offset, data } => {
                let len = data.len() as u64;
                let now = self.rng.chance(50);
                let undo = &mut self.nodes[n].undo;
                let seen = now.then(|| undo.write(offset, len, Some(&data)));
                let change = Change {
                    offset,
                    len,
                    data: Some(data),
                    seen,
                };
                self.io(n, Io::UndoWrite(job, change));
            }
            Effect::FlushUndo { job } => {
                let cover = self.nodes[n].undo.cover();
                self.io(n, Io::UndoFlush(job, cover));
            }
            Effect::MakeUndo { job, .. } | Effect::DropUndo { job } => {
                self.io(n, Io::UndoEmpty(job));
            }
            Effect::KeepCopy { job, .. } => self.io(n, Io::Keep(job)),
            Effect::CompleteGuest { .. }
            | Effect::OpenDevice { .. }
            | Effect::ResizeDevice { .. }
            | Effect::PublishDevice
            | Effect::CloseDevice
            | Effect::Send { .. }
            | Effect::CloseSession { .. }
            | Effect::DialNow
            | Effect::Answer { .. }
            | Effect::Notify
            | Effect::Stopped => unreachable!("no order to a disk"),
        }
    }

    pub(crate) fn io_ended(&mut self, n: usize, io: Io) {
        let odds = match io {
            Io::UndoRead(..)
            | Io::UndoWrite(..)
            | Io::UndoFlush(..)
            | Io::UndoEmpty(..)
            | Io::Keep(..) => self.config.undo_errors,
            Io::Read(..) | Io::Write(..) | Io::Flush(..) | Io::Meta(..) => self.config.errors,
        };
        let told = self.fail_next == Some(n) && matches!(io, Io::Write(..) | Io::Flush(..));
        if told {
            self.fail_next = None;
        }
        let fails = told || self.errors_on && odds > 0 && self.rng.below(odds) == 0;
        let result = if fails { Err(IoError::Failed) } else { Ok(()) };
        if fails {
            self.note(|| format!("{n}: I/O error"));
        }
        let node = &mut self.nodes[n];
        let event = match io {
            Io::Read(job, offset, len, seen) => Event::DataRead {
                job,
                result: result.map(|()| {
                    let late = || node.data.read(offset, len);
                    seen.unwrap_or_else(late).into()
                }),
            },
            Io::Write(job, change, fua) => {
                if !fails {
                    let (offset, len) = (change.offset, change.len);
                    let late = || node.data.write(offset, len, change.data.as_deref());
                    let write = change.seen.unwrap_or_else(late);
                    node.data.answer(write, offset, len, fua);
                }
                Event::DataWritten { job, result }
            }
            Io::Flush(job, cover) => {
                if !fails {
                    node.data.flushed(&cover);
                }
                Event::DataFlushed { job, result }
            }
            Io::Meta(job) => {
                if !fails {
                    node.meta.end(job.0);
                }
                Event::MetaWritten { job, result }
            }
            Io::UndoRead(job, offset, len) => {
                let read = || Bytes::from(node.undo.read(offset, len.into()));
                let result = result.map(|()| read());
                Event::UndoRead { job, result }
            }
            Io::UndoWrite(job, change) => {
                if !fails {
                    let (offset, len) = (change.offset, change.len);
                    let late = || node.undo.write(offset, len, change.data.as_deref());
                    let write = change.seen.unwrap_or_else(late);
                    node.undo.answer(write, offset, len, true);
                }
                undo_done(job, fails)
            }
            Io::UndoFlush(job, cover) => {
                if !fails {
                    node.undo.flushed(&cover);
                }
                undo_done(job, fails)
            }
            Io::UndoEmpty(job) => {
                if !fails {
                    node.undo = DataDisk::default();
                }
                undo_done(job, fails)
            }
            Io::Keep(job) => {
                if !fails {
                    node.kept = Some(node.data.read(0, self.config.size + self.config.growth));
                }
                undo_done(job, fails)
            }
        };
        self.step(n, event);
    }
}

fn undo_done(job: JobId, fails: bool) -> Event {
    let result = if fails {
        Err("no space left in the pool".to_owned())
    } else {
        Ok(())
    };
    Event::UndoDone { job, result }
}
