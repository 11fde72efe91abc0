//! Local I/O in the caller's thread, for files that live in memory (tmpfs): there no call waits for a
//! device, and handing it to another thread would only add two switches.
//!
//! Does not live here: the system calls ([`super::calls`]).

use drqm_engine::Event;
use tokio::sync::mpsc::UnboundedSender;

use super::calls::{perform, perform_meta};
use super::{Disk, DiskJob, MetaJob};
use crate::pool::VolumeFiles;

/// The files of one volume; the channel of the answers ends when this is dropped.
pub(crate) struct InlineDisk {
    files: VolumeFiles,
    answers: UnboundedSender<Event>,
}

impl InlineDisk {
    /// Takes files that never wait ([`VolumeFiles::is_in_memory`]).
    pub(crate) fn new(files: VolumeFiles, answers: UnboundedSender<Event>) -> Self {
        // Past the page cache is not past anything here, but wants aligned memory.
        let files = VolumeFiles {
            direct: None,
            ..files
        };
        Self { files, answers }
    }
}

impl Disk for InlineDisk {
    fn submit(&self, job: DiskJob) {
        let _ = self.answers.send(perform(&self.files, job));
    }

    fn write_meta(&self, job: MetaJob) {
        for event in perform_meta(&self.files, [job]) {
            let _ = self.answers.send(event);
        }
    }
}
