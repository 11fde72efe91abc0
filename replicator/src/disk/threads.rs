//! Local I/O by threads, for files whose I/O waits for a device. They come when there is work and go when there has been
//! none for a while: a node has hundreds of volumes, and few of them are busy.
//!
//! Lives here: queues and their threads. Does not live here: the system calls ([`super::calls`]).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drqm_engine::Event;
use tokio::sync::mpsc::UnboundedSender;

use super::calls::{perform, perform_meta};
use super::{Disk, DiskJob, MetaJob, UndoJob, undo};
use crate::pool::VolumeFiles;

/// Data threads of a volume at most: enough that a flush does not stand in the way of reads and writes.
const DATA_THREADS: usize = 4;

/// A thread that had nothing to do for so long ends.
const REST: Duration = Duration::from_secs(10);

/// Nothing here recurses.
const STACK: usize = 128 << 10;

/// The queues of one volume. When this is dropped their threads end, after the jobs that are queued; the channel of
/// their answers ends when the last of them has closed the files.
pub(crate) struct ThreadDisk {
    data: Queue<DiskJob>,
    meta: Queue<MetaJob>,
    undo: Queue<UndoJob>,
}

/// What every thread of a volume holds. The files go first: the end of the answers means that they are free.
#[derive(Clone)]
struct Volume {
    files: Arc<VolumeFiles>,
    answers: UnboundedSender<Event>,
}

impl ThreadDisk {
    /// Answers go to `answers`, which never blocks: what is under way is bounded by the engine.
    ///
    /// # Errors
    /// When the machine gives no thread.
    pub(crate) fn start(files: VolumeFiles, answers: UnboundedSender<Event>) -> io::Result<Self> {
        let volume = Volume {
            files: Arc::new(files),
            answers,
        };
        let (one, two, three) = (volume.clone(), volume.clone(), volume);
        Ok(Self {
            data: Queue::start("disk-data", (DATA_THREADS, REST), Take::One, move |jobs| {
                for job in jobs {
                    let _ = one.answers.send(perform(&one.files, job));
                }
            })?,
            meta: Queue::start("disk-meta", (1, REST), Take::All, move |jobs| {
                for event in perform_meta(&two.files, jobs) {
                    let _ = two.answers.send(event);
                }
            })?,
            undo: Queue::start("disk-undo", (1, REST), Take::One, move |jobs| {
                for job in jobs {
                    let _ = three.answers.send(undo::perform(&three.files, job));
                }
            })?,
        })
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

/// How many jobs a thread takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    One,
    All,
}

/// Jobs, and the threads that perform them.
struct Queue<J>(Arc<Shared<J>>);

struct Shared<J> {
    name: &'static str,
    /// Threads at once.
    most: usize,
    /// How long a thread waits for a job.
    rest: Duration,
    take: Take,
    state: Mutex<State<J>>,
    changed: Condvar,
    perform: Box<dyn Fn(Vec<J>) + Send + Sync>,
}

struct State<J> {
    jobs: VecDeque<J>,
    threads: usize,
    /// Of them those that wait for a job, also if one has been queued for them meanwhile.
    waiting: usize,
    /// It was said that the machine gives no thread.
    complained: bool,
    closed: bool,
}

impl<J: Send + 'static> Queue<J> {
    /// Starts a first thread, so that a machine that gives none says so now.
    fn start(
        name: &'static str,
        (most, rest): (usize, Duration),
        take: Take,
        perform: impl Fn(Vec<J>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name,
            most,
            rest,
            take,
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                threads: 1,
                waiting: 0,
                complained: false,
                closed: false,
            }),
            changed: Condvar::new(),
            perform: Box::new(perform),
        });
        shared.spawn()?;
        Ok(Self(shared))
    }

    fn push(&self, job: J) {
        let mut state = self.0.lock();
        state.jobs.push_back(job);
        let waits = state.jobs.len() <= state.waiting;
        let more = !waits && state.threads < self.0.most;
        state.threads += usize::from(more);
        drop(state);
        if waits {
            self.0.changed.notify_one();
        } else if more && let Err(error) = self.0.spawn() {
            self.0.without_thread(&error);
        }
    }
}

impl<J> Drop for Queue<J> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` when there has been none for a while, or none will come. The thread is not counted then.
    fn next(&self) -> Option<Vec<J>> {
        let mut state = self.lock();
        let mut rested = false;
        while state.jobs.is_empty() {
            if state.closed || rested {
                state.threads -= 1;
                return None;
            }
            state.waiting += 1;
            let (after, timeout) = self
                .changed
                .wait_timeout(state, self.rest)
                .unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.waiting -= 1;
            rested = timeout.timed_out();
        }
        let count = match self.take {
            Take::One => 1,
            Take::All => state.jobs.len(),
        };
        Some(state.jobs.drain(..count).collect())
    }

    /// A thread that was counted did not come to be: its job is left to the others. Without any it is done here.
    fn without_thread(&self, error: &io::Error) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.complained, true) {
            tracing::warn!(thread = self.name, %error, "the machine gives no thread");
        }
        state.threads -= 1;
        let jobs: Vec<J> = if state.threads == 0 {
            state.jobs.drain(..).collect()
        } else {
            Vec::new()
        };
        drop(state);
        if !jobs.is_empty() {
            (self.perform)(jobs);
        }
    }
}

impl<J: Send + 'static> Shared<J> {
    /// Starts a thread that is counted already.
    fn spawn(self: &Arc<Self>) -> io::Result<()> {
        let shared = self.clone();
        std::thread::Builder::new()
            .name(self.name.to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while let Some(jobs) = shared.next() {
                    (shared.perform)(jobs);
                }
            })
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

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

    /// Each job says that it has begun, and ends when it is told to.
    fn held(most: usize) -> (Queue<u32>, mpsc::Receiver<u32>, mpsc::Sender<()>) {
        let (begins, begun) = mpsc::channel();
        let (ends, end) = mpsc::channel();
        let end = Mutex::new(end);
        let perform = move |jobs: Vec<u32>| {
            for job in jobs {
                begins.send(job).unwrap();
                end.lock().unwrap().recv().unwrap();
            }
        };
        let rest = Duration::from_millis(5);
        let queue = Queue::start("test", (most, rest), Take::One, perform).unwrap();
        (queue, begun, ends)
    }

    fn wait_for_threads(queue: &Queue<u32>, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while queue.0.lock().threads != count {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn threads_come_with_the_work_up_to_so_many_and_go_without_it() {
        let (queue, begun, end) = held(2);
        for _ in 0..3 {
            (0..3).for_each(|job| queue.push(job));
            let mut first = [begun.recv().unwrap(), begun.recv().unwrap()];
            first.sort_unstable();
            assert_eq!(first, [0, 1], "two at once");
            assert!(begun.try_recv().is_err() && queue.0.lock().threads == 2);
            (0..3).for_each(|_| end.send(()).unwrap());
            assert_eq!(begun.recv(), Ok(2));
            wait_for_threads(&queue, 0);
        }
    }

    #[test]
    fn what_is_queued_is_done_before_the_threads_end() {
        let (queue, begun, end) = held(1);
        (0..3).for_each(|job| queue.push(job));
        drop(queue);
        (0..3).for_each(|_| end.send(()).unwrap());
        assert_eq!(begun.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn without_a_thread_the_jobs_are_done_by_who_queues_them() {
        let (queue, begun, end) = held(1);
        wait_for_threads(&queue, 0);
        {
            let mut state = queue.0.lock();
            state.jobs.extend([7, 8]);
            state.threads = 1;
        }
        (0..2).for_each(|_| end.send(()).unwrap());
        queue.0.without_thread(&io::Error::other("none"));
        assert_eq!([begun.recv(), begun.recv()], [Ok(7), Ok(8)]);
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
