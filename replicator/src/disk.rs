//! Local I/O of one volume behind one trait: orders in, the engine's events out.
//!
//! Lives here: the trait, the choice of its implementation ([`threads`], [`inline`]) and the aligned
//! buffers. Does not live here: acknowledgement rules, what a failure means (the engine decides).

pub(crate) mod buffer;
mod calls;
mod inline;
mod threads;
mod undo;

use std::io;

use bytes::Bytes;
use drqm_engine::Event;
use drqm_engine::ids::{Epoch, JobId};
use tokio::sync::mpsc::UnboundedSender;

use crate::pool::VolumeFiles;

/// One order to the local files.
#[derive(Debug)]
pub(crate) enum DiskJob {
    Read {
        job: JobId,
        offset: u64,
        len: u32,
    },
    Write {
        job: JobId,
        offset: u64,
        data: Bytes,
        fua: bool,
    },
    Zero {
        job: JobId,
        offset: u64,
        len: u64,
    },
    /// Makes durable every write that was answered before this order was submitted.
    Flush {
        job: JobId,
    },
}

/// Blocks of metadata to be written, durably.
#[derive(Debug)]
pub(crate) struct MetaJob {
    pub(crate) job: JobId,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

/// One order to the undo log. They are performed one after the other.
#[derive(Debug)]
pub(crate) enum UndoJob {
    /// Empties it and reserves room.
    Make {
        job: JobId,
        bytes: u64,
    },
    /// Durably.
    Write {
        job: JobId,
        offset: u64,
        data: Bytes,
    },
    Flush {
        job: JobId,
    },
    Read {
        job: JobId,
        offset: u64,
        len: u32,
    },
    /// Empties it.
    Drop {
        job: JobId,
    },
    /// Not to the log: copies the data into a file that is called after an epoch.
    Keep {
        job: JobId,
        epoch: Epoch,
    },
}

/// A place that performs [`DiskJob`]s, [`MetaJob`]s and [`UndoJob`]s.
///
/// Each job is answered by exactly one event on the channel that the implementation was built with;
/// jobs may end in any order, but for those of the undo log. Handing a job over never blocks and never fails: the number of jobs under way is
/// bounded by the engine's windows.
pub(crate) trait Disk: Send + 'static {
    fn submit(&mut self, job: DiskJob);
    fn write_meta(&mut self, job: MetaJob);
    fn undo(&mut self, job: UndoJob);

    /// Whether something was put off until the caller has nothing more urgent to do. Where threads do
    /// the work, nothing ever is.
    fn has_queued(&self) -> bool {
        false
    }

    /// Performs that, in the caller's thread.
    fn perform_queued(&mut self) {}
}

/// The way that suits the files. Answers go to `answers`, which never blocks: what is under way is
/// bounded by the engine.
///
/// # Errors
/// When the threads cannot be started.
pub(crate) fn start(
    files: VolumeFiles,
    answers: UnboundedSender<Event>,
) -> io::Result<Box<dyn Disk>> {
    if files.is_in_memory()? {
        Ok(Box::new(inline::InlineDisk::new(files, answers)))
    } else {
        Ok(Box::new(threads::ThreadDisk::start(files, answers)?))
    }
}
