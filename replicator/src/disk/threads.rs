//! Local I/O by a small pool of threads per volume, for files whose I/O waits for a device.
//!
//! Does not live here: the system calls ([`super::calls`]).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use drqm_engine::Event;
use tokio::sync::mpsc::UnboundedSender;

use super::calls::{perform, perform_meta};
use super::{Disk, DiskJob, MetaJob, UndoJob, undo};
use crate::pool::VolumeFiles;

/// Data threads of a volume: enough that a flush does not stand in the way of reads and writes.
const DATA_THREADS: usize = 4;

/// The threads of one volume. When this is dropped they end, after the jobs under way; the channel of
/// their answers ends when the last of them has closed the files.
pub(crate) struct ThreadDisk {
    data: Arc<Queue<DiskJob>>,
    meta: Arc<Queue<MetaJob>>,
    undo: Arc<Queue<UndoJob>>,
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
        let undo = Arc::new(Queue::new());
        let disk = Self { data, meta, undo };
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
        let (shared, queue, told) = (files.clone(), disk.undo.clone(), answers.clone());
        spawn("disk-undo".to_owned(), move || {
            while let Some(job) = queue.next() {
                let _ = told.send(undo::perform(&shared, job));
            }
            drop(shared);
            drop(told);
        })?;
        let queue = disk.meta.clone();
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
    fn submit(&mut self, job: DiskJob) {
        self.data.push(job);
    }

    fn write_meta(&mut self, job: MetaJob) {
        self.meta.push(job);
    }

    fn undo(&mut self, job: UndoJob) {
        self.undo.push(job);
    }
}

impl Drop for ThreadDisk {
    fn drop(&mut self) {
        self.data.close();
        self.meta.close();
        self.undo.close();
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Small stacks: nothing here recurses, and a volume has six of them.
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use drqm_engine::IoError;
    use drqm_engine::ids::JobId;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::disk::buffer::AlignedBuf;
    use crate::pool::testing::scratch_files;

    fn disk() -> (tempfile::TempDir, ThreadDisk, UnboundedReceiver<Event>) {
        let (dir, files) = scratch_files(1 << 20);
        let (answers, events) = unbounded_channel();
        let disk = ThreadDisk::start(files, answers).unwrap();
        (dir, disk, events)
    }

    fn read_back(
        disk: &mut ThreadDisk,
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
        let (_dir, mut disk, mut events) = disk();
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
            let whole = read_back(&mut disk, &mut events, 4096, 8192);
            assert!(whole[..512].iter().all(|b| *b == number));
            assert!(whole[512..1024].iter().all(|b| *b == number + 100));
            assert!(whole[1024..].iter().all(|b| *b == number));
        }
    }

    #[test]
    fn a_zeroed_range_reads_as_zeros_and_its_neighbours_stay() {
        let (_dir, mut disk, mut events) = disk();
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
        let whole = read_back(&mut disk, &mut events, 0, 65536);
        assert!(whole[..512].iter().all(|b| *b == 9));
        assert!(whole[512..40_960].iter().all(|b| *b == 0));
        assert!(whole[40_960..].iter().all(|b| *b == 9));
    }

    #[test]
    fn a_read_beyond_the_end_fails_instead_of_returning_less() {
        let (_dir, mut disk, mut events) = disk();
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
        let (dir, mut disk, mut events) = disk();
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
