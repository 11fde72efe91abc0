//! The file of the undo log: room is reserved before it is needed, writes are durable, what was never
//! written reads as zeros. And the copy of data that are given up. Blocking.
//!
//! Does not live here: what the log holds (the engine).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bytes::{Bytes, BytesMut};
use drqm_engine::{Event, IoError};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::UndoJob;
use crate::pool::{KEPT_PREFIX, VolumeFiles, room};

/// Copied at once.
const COPY_BYTES: u64 = 1 << 20;

pub(super) fn perform(files: &VolumeFiles, job: UndoJob) -> Event {
    let file = &files.undo;
    match job {
        UndoJob::Keep { job, epoch } => {
            let result = keep(files, &format!("{KEPT_PREFIX}{epoch}"));
            let result = result.map_err(|e| explained("no room to keep what is given up", &e));
            Event::UndoDone { job, result }
        }
        UndoJob::Make { job, bytes } => {
            let what = format!("no room for a snapshot of {} MiB", bytes.div_ceil(1 << 20));
            let result = make(file, bytes).map_err(|e| explained(&what, &e));
            Event::UndoDone { job, result }
        }
        UndoJob::Write { job, offset, data } => {
            let written = file.write_all_at(&data, offset);
            let result = written.and_then(|()| file.sync_data());
            let result = result.map_err(|e| explained("the snapshot cannot be added to", &e));
            Event::UndoDone { job, result }
        }
        UndoJob::Flush { job } => {
            let result = file.sync_all();
            let result = result.map_err(|e| explained("the snapshot cannot be made durable", &e));
            Event::UndoDone { job, result }
        }
        UndoJob::Read { job, offset, len } => {
            let result = read(file, offset, len as usize).map_err(|error| {
                tracing::error!(job = job.0, %error, "read of the undo log");
                IoError::Failed
            });
            Event::UndoRead { job, result }
        }
        UndoJob::Drop { job } => {
            let result = file.set_len(0);
            let result = result.map_err(|e| explained("the snapshot's room stays taken", &e));
            Event::UndoDone { job, result }
        }
    }
}

fn explained(what: &str, error: &io::Error) -> String {
    if room::is_full(error) {
        format!(
            "{what}: the pool's file system is full; free space in it (snapshots can be done without: \
             spec.snapshots.beforeResync)"
        )
    } else {
        format!("{what}: {error}")
    }
}

/// Empty, with room for so many bytes where the file system can reserve it.
fn make(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(0)?;
    if let Err(error) = room::reserve(file, bytes) {
        file.set_len(0)?;
        return Err(error);
    }
    file.sync_all()
}

/// Shares blocks with the data where the file system can, else copies what is not a hole. Whole or not
/// there at all.
fn keep(files: &VolumeFiles, name: &str) -> io::Result<()> {
    let building = files.dir.join(format!(".{name}"));
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let copied = options.open(&building).and_then(|copy| {
        match rustix::fs::ioctl_ficlone(&copy, &files.data) {
            Ok(()) => {}
            Err(_) => copy_data(&files.data, &copy, files.data.metadata()?.len())?,
        }
        copy.sync_all()?;
        std::fs::rename(&building, files.dir.join(name))?;
        File::open(&files.dir)?.sync_all()
    });
    copied.inspect_err(|_| {
        let _ = std::fs::remove_file(&building);
    })
}

fn copy_data(from: &File, to: &File, size: u64) -> io::Result<()> {
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let len = (end - at).min(COPY_BYTES) as usize;
            to.write_all_at(&read(from, at, len)?, at)?;
            at += len as u64;
        }
    }
    Ok(())
}

fn read(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(len);
    let mut done = 0;
    while done < len {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use drqm_engine::ids::{Epoch, JobId};

    use super::*;
    use crate::pool::testing::scratch_files;

    const JOB: JobId = JobId(1);

    fn done(event: Event) {
        let ok = matches!(event, Event::UndoDone { result: Ok(()), .. });
        assert!(ok, "{event:?}");
    }

    #[test]
    fn room_reads_as_zeros_and_what_is_dropped_is_gone() {
        let (_dir, files) = scratch_files(1 << 20);
        let len = || files.undo.metadata().unwrap().len();
        let read = |offset, len| super::read(&files.undo, offset, len).unwrap();
        let (job, bytes, offset) = (JOB, 1 << 20, 4096);
        done(perform(&files, UndoJob::Make { job, bytes }));
        assert_eq!(len(), 1 << 20);
        let data = Bytes::from(vec![7; 4096]);
        done(perform(&files, UndoJob::Write { job, offset, data }));
        done(perform(&files, UndoJob::Flush { job }));
        assert_eq!(&read(4000, 200)[..], [vec![0; 96], vec![7; 104]].concat());
        assert!(read((1 << 20) - 10, 20).iter().all(|b| *b == 0));
        done(perform(&files, UndoJob::Drop { job }));
        assert!(read(0, 8192).iter().all(|b| *b == 0));
        let bytes = 1 << 55;
        let huge = perform(&files, UndoJob::Make { job, bytes });
        let refused = matches!(huge, Event::UndoDone { result: Err(_), .. });
        assert!(refused && len() == 0, "{huge:?}");
    }

    #[test]
    fn a_copy_that_is_kept_has_every_byte_and_no_more_room_than_the_data() {
        let (_dir, files) = scratch_files(8 << 20);
        files.data.write_all_at(&[5; 5000], 3 << 20).unwrap();
        files.data.write_all_at(b"end", (8 << 20) - 3).unwrap();
        for epoch in [Epoch(0xab), Epoch(0xab)] {
            done(perform(&files, UndoJob::Keep { job: JOB, epoch }));
        }
        let path = files.dir.join(format!("{KEPT_PREFIX}{}", Epoch(0xab)));
        let all = super::read(&files.data, 0, 8 << 20).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), all);
        let copy = File::create(files.dir.join("copy")).unwrap();
        copy_data(&files.data, &copy, 8 << 20).unwrap();
        let copied = File::open(files.dir.join("copy")).unwrap();
        assert_eq!(super::read(&copied, 0, 8 << 20).unwrap(), all);
        let blocks = |f: &File| std::os::unix::fs::MetadataExt::blocks(&f.metadata().unwrap());
        assert!(blocks(&copied) * 512 < 1 << 20);
    }
}
