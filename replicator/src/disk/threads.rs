//! Local I/O by a small pool of threads per volume: pread, pwrite, fdatasync, fallocate.
//!
//! Guarantees: a read returns exactly what was asked; a write that is reported done was written
//! whole, and durably if that was asked; a failed flush is reported once and never repeated.
//!
//! Page-aligned requests go past the page cache when the file system can, all others through it.
//! The engine never lets two requests of one page overlap in time, and the kernel writes a page
//! back before a direct request touches it, so that both ways see the same bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use drqm_engine::ids::JobId;
use drqm_engine::{Event, IoError};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::sync::mpsc::UnboundedSender;

use super::buffer::{AlignedBuf, direct_fits, place_fits};
use super::{Disk, DiskJob, MetaJob};
use crate::pool::VolumeFiles;

/// Data threads of a volume: enough that a flush does not stand in the way of reads and writes.
const DATA_THREADS: usize = 4;

/// Bytes written at once where a file system cannot punch holes.
const ZERO_CHUNK: usize = 256 << 10;

/// The threads of one volume. When this is dropped they end, after the jobs under way; the channel of
/// their answers ends when the last of them has closed the files.
pub(crate) struct ThreadDisk {
    data: Arc<Queue<DiskJob>>,
    meta: Arc<Queue<MetaJob>>,
}

struct Queue<J> {
    state: Mutex<QueueState<J>>,
    changed: Condvar,
}

struct QueueState<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl ThreadDisk {
    /// Starts the threads. Answers go to `answers`, which never blocks them: what is under way is
    /// bounded by the engine.
    pub(crate) fn start(files: VolumeFiles, answers: UnboundedSender<Event>) -> io::Result<Self> {
        let files = Arc::new(files);
        let (data, meta) = (Arc::new(Queue::new()), Arc::new(Queue::new()));
        let disk = Self { data, meta };
        for number in 0..DATA_THREADS {
            let (files, queue, answers) = (files.clone(), disk.data.clone(), answers.clone());
            spawn(format!("disk-{number}"), move || {
                while let Some(job) = queue.next() {
                    let _ = answers.send(perform(&files, job));
                }
                // Closed first: the end of the answers means that the files are free.
                drop(files);
                drop(answers);
            })?;
        }
        let (queue, answers) = (disk.meta.clone(), answers.clone());
        spawn("disk-meta".to_owned(), move || {
            while let Some(jobs) = queue.all() {
                for event in perform_meta(&files, jobs) {
                    let _ = answers.send(event);
                }
            }
            drop(files);
            drop(answers);
        })?;
        Ok(disk)
    }
}

impl Disk for ThreadDisk {
    fn submit(&self, job: DiskJob) {
        self.data.push(job);
    }

    fn write_meta(&self, job: MetaJob) {
        self.meta.push(job);
    }
}

impl Drop for ThreadDisk {
    fn drop(&mut self) {
        self.data.close();
        self.meta.close();
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Small stacks: nothing here recurses, and a volume has five of them.
    std::thread::Builder::new()
        .name(name)
        .stack_size(128 << 10)
        .spawn(body)
        .map(drop)
}

impl<J> Queue<J> {
    const fn new() -> Self {
        let state = QueueState {
            jobs: VecDeque::new(),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: J) {
        self.lock().jobs.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until there is a job, or until the queue is closed and empty.
    fn wait(&self) -> MutexGuard<'_, QueueState<J>> {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    fn next(&self) -> Option<J> {
        self.wait().jobs.pop_front()
    }

    fn all(&self) -> Option<VecDeque<J>> {
        let jobs = std::mem::take(&mut self.wait().jobs);
        (!jobs.is_empty()).then_some(jobs)
    }
}

fn perform(files: &VolumeFiles, job: DiskJob) -> Event {
    match job {
        DiskJob::Read { job, offset, len } => {
            let result = read(files, offset, len as usize).map_err(|e| log(job, "read", &e));
            Event::DataRead { job, result }
        }
        DiskJob::Write {
            job,
            offset,
            data,
            fua,
        } => {
            let result = write(files, offset, &data, fua).map_err(|e| log(job, "write", &e));
            Event::DataWritten { job, result }
        }
        DiskJob::Zero { job, offset, len } => {
            let result = zero(files, offset, len).map_err(|e| log(job, "zero", &e));
            Event::DataWritten { job, result }
        }
        DiskJob::Flush { job } => {
            let result = files.data.sync_data().map_err(|e| log(job, "flush", &e));
            Event::DataFlushed { job, result }
        }
    }
}

/// Writes a group of metadata blocks and makes them durable with one flush.
fn perform_meta(files: &VolumeFiles, jobs: VecDeque<MetaJob>) -> Vec<Event> {
    let write = |m: MetaJob| (m.job, files.meta.write_all_at(&m.data, m.offset));
    let written: Vec<_> = jobs.into_iter().map(write).collect();
    let flushed = files.meta.sync_data();
    let end = |(job, result): (JobId, io::Result<()>)| {
        let flushed = match &flushed {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::from(e.kind())),
        };
        let result = result.and(flushed).map_err(|e| log(job, "metadata", &e));
        Event::MetaWritten { job, result }
    };
    written.into_iter().map(end).collect()
}

fn log(job: JobId, what: &'static str, error: &io::Error) -> IoError {
    tracing::error!(job = job.0, what, %error, "local I/O failed");
    let full = [Errno::NOSPC, Errno::DQUOT].map(|e| e.raw_os_error());
    match error.raw_os_error() {
        Some(number) if full.contains(&number) => IoError::NoSpace,
        Some(_) | None => IoError::Failed,
    }
}

fn read(files: &VolumeFiles, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = AlignedBuf::new(len);
    let file = match &files.direct {
        Some(direct) if direct_fits(buffer.as_slice().as_ptr(), offset, len) => direct,
        Some(_) | None => &files.data,
    };
    file.read_exact_at(buffer.as_mut(), offset)?;
    Ok(buffer.freeze(0..len))
}

fn write(files: &VolumeFiles, offset: u64, data: &Bytes, fua: bool) -> io::Result<()> {
    let (file, data) = placed(files, offset, data);
    if !fua {
        return file.write_all_at(&data, offset);
    }
    let mut done = 0;
    while done < data.len() {
        let rest = [IoSlice::new(&data[done..])];
        match pwritev2(file, &rest, offset + done as u64, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all_at(&data[done..], offset + done as u64)?;
                return file.sync_data();
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The way past the page cache if there is one. A peer's payload lies where HTTP/2 has put it, so
/// that it is copied once; where there is no such way, never.
fn placed<'a>(files: &'a VolumeFiles, offset: u64, data: &Bytes) -> (&'a File, Bytes) {
    match &files.direct {
        Some(direct) if direct_fits(data.as_ptr(), offset, data.len()) => (direct, data.clone()),
        Some(direct) if place_fits(offset, data.len()) => (direct, AlignedBuf::copy_of(data)),
        Some(_) | None => (&files.data, data.clone()),
    }
}

fn zero(files: &VolumeFiles, offset: u64, len: u64) -> io::Result<()> {
    for mode in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
        loop {
            match fallocate(&files.data, mode | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    let zeros = vec![0; ZERO_CHUNK];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(ZERO_CHUNK as u64);
        files
            .data
            .write_all_at(&zeros[..part as usize], offset + done)?;
        done += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::pool::testing::scratch_files;

    fn disk() -> (tempfile::TempDir, ThreadDisk, UnboundedReceiver<Event>) {
        let (dir, files) = scratch_files(1 << 20);
        let (answers, events) = unbounded_channel();
        let disk = ThreadDisk::start(files, answers).unwrap();
        (dir, disk, events)
    }

    fn read_back(
        disk: &ThreadDisk,
        events: &mut UnboundedReceiver<Event>,
        at: u64,
        len: u32,
    ) -> Bytes {
        disk.submit(DiskJob::Read {
            job: JobId(99),
            offset: at,
            len,
        });
        let event = events.blocking_recv().unwrap();
        let Event::DataRead {
            job: JobId(99),
            result,
        } = event
        else {
            panic!("{event:?}")
        };
        result.unwrap()
    }

    #[test]
    fn direct_and_buffered_requests_see_the_same_bytes() {
        let (_dir, disk, mut events) = disk();
        for (number, fua) in [(1, false), (2, true), (3, false), (4, true)] {
            let aligned = AlignedBuf::copy_of(&vec![number; 8192]);
            disk.submit(DiskJob::Write {
                job: JobId(1),
                offset: 4096,
                data: aligned,
                fua,
            });
            assert!(matches!(
                events.blocking_recv(),
                Some(Event::DataWritten { result: Ok(()), .. })
            ));
            let odd = Bytes::from(vec![number + 100; 1024]).slice(512..);
            disk.submit(DiskJob::Write {
                job: JobId(2),
                offset: 4608,
                data: odd,
                fua,
            });
            assert!(matches!(
                events.blocking_recv(),
                Some(Event::DataWritten { result: Ok(()), .. })
            ));
            let whole = read_back(&disk, &mut events, 4096, 8192);
            assert!(whole[..512].iter().all(|b| *b == number));
            assert!(whole[512..1024].iter().all(|b| *b == number + 100));
            assert!(whole[1024..].iter().all(|b| *b == number));
        }
    }

    #[test]
    fn a_payload_is_copied_only_for_direct_writes() {
        let (_dir, mut files) = scratch_files(1 << 20);
        let odd = Bytes::from(vec![7; 8192 + 13]).slice(13..);
        let own = Some(files.data.try_clone().unwrap());
        for (direct, offset, len, copied) in [
            (own.as_ref(), 4096, 8192, true),
            (own.as_ref(), 512, 8192, false),
            (own.as_ref(), 4096, 512, false),
            (None, 4096, 8192, false),
        ] {
            files.direct = direct.map(|f| f.try_clone().unwrap());
            let data = odd.slice(..len);
            let (file, placed) = placed(&files, offset, &data);
            assert_eq!(placed, data);
            assert_eq!(placed.as_ptr() != data.as_ptr(), copied);
            assert_eq!(!std::ptr::eq(file, &raw const files.data), copied);
        }
        // Memory that is aligned already is used as it is.
        let data = AlignedBuf::copy_of(&odd);
        files.direct = own;
        assert_eq!(placed(&files, 0, &data).1.as_ptr(), data.as_ptr());
    }

    #[test]
    fn a_zeroed_range_reads_as_zeros_and_its_neighbours_stay() {
        let (_dir, disk, mut events) = disk();
        disk.submit(DiskJob::Write {
            job: JobId(1),
            offset: 0,
            data: Bytes::from(vec![9; 65536]),
            fua: false,
        });
        events.blocking_recv().unwrap();
        disk.submit(DiskJob::Zero {
            job: JobId(2),
            offset: 512,
            len: 40_448,
        });
        assert!(matches!(
            events.blocking_recv(),
            Some(Event::DataWritten { result: Ok(()), .. })
        ));
        let whole = read_back(&disk, &mut events, 0, 65536);
        assert!(whole[..512].iter().all(|b| *b == 9));
        assert!(whole[512..40_960].iter().all(|b| *b == 0));
        assert!(whole[40_960..].iter().all(|b| *b == 9));
    }

    #[test]
    fn a_read_beyond_the_end_fails_instead_of_returning_less() {
        let (_dir, disk, mut events) = disk();
        disk.submit(DiskJob::Read {
            job: JobId(1),
            offset: (1 << 20) - 512,
            len: 4096,
        });
        let event = events.blocking_recv().unwrap();
        assert!(matches!(
            event,
            Event::DataRead {
                result: Err(IoError::Failed),
                ..
            }
        ));
    }

    #[test]
    fn metadata_blocks_are_answered_one_by_one() {
        let (dir, disk, mut events) = disk();
        for block in 0..5 {
            let data = Bytes::from(vec![block as u8 + 1; 4096]);
            disk.write_meta(MetaJob {
                job: JobId(block),
                offset: block * 4096,
                data,
            });
        }
        for _ in 0..5 {
            let event = events.blocking_recv().unwrap();
            assert!(matches!(event, Event::MetaWritten { result: Ok(()), .. }));
        }
        drop(disk);
        assert!(events.blocking_recv().is_none(), "the files are closed");
        let meta = std::fs::read(dir.path().join("meta")).unwrap();
        assert!((0..5).all(|b| meta[b * 4096] == b as u8 + 1));
    }
}
