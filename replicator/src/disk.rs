//! Local I/O of one volume behind one trait: orders in, the engine's events out.
//!
//! Lives here: the trait and the aligned buffers. Does not live here: acknowledgement rules, what a
//! failure means (the engine decides). Implementation: [`threads`].

pub(crate) mod buffer;
pub(crate) mod threads;

use bytes::Bytes;
use drqm_engine::ids::JobId;

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

/// A place that performs [`DiskJob`]s and [`MetaJob`]s.
///
/// Each job is answered by exactly one event on the channel that the implementation was built with;
/// jobs may end in any order. Handing a job over never blocks and never fails: the number of jobs under way is
/// bounded by the engine's windows.
pub(crate) trait Disk: Send + 'static {
    fn submit(&self, job: DiskJob);
    fn write_meta(&self, job: MetaJob);
}
