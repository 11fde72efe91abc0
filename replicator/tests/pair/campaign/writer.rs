//! Writers of a device: threads with direct I/O, each with blocks of its own, until they are told to stop or
//! the device fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::book::{BLOCK, Book, content};
use super::rng::Rng;

/// Writes at a time.
const THREADS: u32 = 4;

/// One in so many requests is a flush.
const FLUSH_ONE_IN: u64 = 12;

/// The book, shared by the threads.
pub(crate) type SharedBook = Arc<Mutex<Book>>;

/// Running writers.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Writer {
    /// Writes to the book's blocks, the first of which begins at `start` bytes.
    pub(crate) fn start(device: &Path, start: u64, book: &SharedBook, rng: &mut Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..THREADS).map(|n| {
            let file = open(device).unwrap();
            let (stop, book) = (stop.clone(), book.clone());
            let rng = Rng::new(rng.next());
            std::thread::spawn(move || write(&file, start, n, &stop, &book, rng))
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Whether all have ended; each ends with the request that it waits for.
    pub(crate) fn has_ended(&self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether one of them met an error. Ask when all have ended.
    pub(crate) fn has_failed(self) -> bool {
        let ends = self.threads.into_iter().map(|t| t.join().unwrap());
        ends.filter(io::Result::is_err).count() > 0
    }
}

fn open(device: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(device)
}

/// Direct I/O wants this.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn write(
    device: &File,
    start: u64,
    n: u32,
    stop: &AtomicBool,
    book: &Mutex<Book>,
    mut rng: Rng,
) -> io::Result<()> {
    let own = book.lock().unwrap().blocks() / THREADS;
    let mut buffer = Box::new(Aligned([0; BLOCK]));
    while !stop.load(Ordering::Relaxed) {
        if rng.below(FLUSH_ONE_IN) == 0 {
            let covered = book.lock().unwrap().flush_begins();
            device.sync_data()?;
            book.lock().unwrap().flush_completed(covered, now());
            continue;
        }
        let block = rng.below(u64::from(own)) as u32 * THREADS + n;
        let (number, depends_on) = book.lock().unwrap().begins(block);
        buffer
            .0
            .copy_from_slice(&content(number, block, depends_on));
        let offset = start + u64::from(block) * BLOCK as u64;
        device.write_all_at(&buffer.0, offset)?;
        book.lock().unwrap().completed(number, now());
    }
    Ok(())
}
