//! Local I/O in the caller's thread, for files that live in memory (tmpfs): there no call waits for a
//! device, and handing it to another thread would only add two switches.
//!
//! Does not live here: the system calls ([`super::calls`]).

use std::collections::VecDeque;

use drqm_engine::Event;
use tokio::sync::mpsc::UnboundedSender;

use super::calls::{perform, perform_meta};
use super::{Disk, DiskJob, MetaJob, UndoJob, undo};
use crate::pool::VolumeFiles;

/// The files of one volume; the channel of the answers ends when this is dropped.
///
/// Data are put off, so that what goes to the peer leaves first; metadata, which others wait for, are
/// written at once.
pub(crate) struct InlineDisk {
    files: VolumeFiles,
    answers: UnboundedSender<Event>,
    queued: VecDeque<DiskJob>,
}

impl InlineDisk {
    /// Takes files that never wait ([`VolumeFiles::is_in_memory`]).
    pub(crate) fn new(files: VolumeFiles, answers: UnboundedSender<Event>) -> Self {
        // Past the page cache is not past anything here, but wants aligned memory.
        let files = VolumeFiles {
            direct: None,
            ..files
        };
        Self {
            files,
            answers,
            queued: VecDeque::new(),
        }
    }
}

impl Disk for InlineDisk {
    fn submit(&mut self, job: DiskJob) {
        self.queued.push_back(job);
    }

    fn write_meta(&mut self, job: MetaJob) {
        for event in perform_meta(&self.files, [job]) {
            let _ = self.answers.send(event);
        }
    }

    fn undo(&mut self, job: UndoJob) {
        let _ = self.answers.send(undo::perform(&self.files, job));
    }

    fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    fn perform_queued(&mut self) {
        for job in self.queued.drain(..) {
            let _ = self.answers.send(perform(&self.files, job));
        }
    }
}
