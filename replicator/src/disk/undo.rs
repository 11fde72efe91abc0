//! The file of the undo log: room is reserved before it is needed, writes are durable, what was never
//! written reads as zeros. Blocking.
//!
//! Does not live here: what the log holds (the engine).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use drqm_engine::{Event, IoError};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::UndoJob;

pub(super) fn perform(file: &File, job: UndoJob) -> Event {
    match job {
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
    let full = [Errno::NOSPC, Errno::DQUOT].map(|e| Some(e.raw_os_error()));
    if full.contains(&error.raw_os_error()) {
        format!(
            "{what}: the pool's file system is full; free space in it, or set \
             spec.snapshots.beforeResync to BestEffort to go on without a way back"
        )
    } else {
        format!("{what}: {error}")
    }
}

/// Empty, with room for so many bytes where the file system can reserve it.
fn make(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(0)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(e) => {
                file.set_len(0)?;
                return Err(e.into());
            }
        }
    }
    file.sync_all()
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
    use drqm_engine::ids::JobId;

    use super::*;

    #[test]
    fn room_reads_as_zeros_and_what_is_dropped_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let job = JobId(1);
        let done = |event| {
            assert!(
                matches!(event, Event::UndoDone { result: Ok(()), .. }),
                "{event:?}"
            )
        };
        let read = |offset, len| super::read(&file, offset, len).unwrap();
        done(perform(
            &file,
            UndoJob::Make {
                job,
                bytes: 1 << 20,
            },
        ));
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        let data = Bytes::from(vec![7; 4096]);
        done(perform(
            &file,
            UndoJob::Write {
                job,
                offset: 4096,
                data,
            },
        ));
        done(perform(&file, UndoJob::Flush { job }));
        assert_eq!(&read(4000, 200)[..], [vec![0; 96], vec![7; 104]].concat());
        assert!(read((1 << 20) - 10, 20).iter().all(|b| *b == 0));
        done(perform(&file, UndoJob::Drop { job }));
        assert!(read(0, 8192).iter().all(|b| *b == 0));
        let huge = perform(
            &file,
            UndoJob::Make {
                job,
                bytes: 1 << 55,
            },
        );
        assert!(
            matches!(huge, Event::UndoDone { result: Err(_), .. }),
            "{huge:?}"
        );
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
