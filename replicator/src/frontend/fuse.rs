//! A FUSE file system of one file, `vol`, whose content is the volume. A loop device makes a block
//! device of it ([`super::loopdev`]).
//!
//! Lives here: the mount, the serving loop on the data thread, the answers. Does not live here: the
//! messages' layout ([`wire`]). Node ids and handles carry no state.

mod wire;

use std::cell::Cell;
use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use drqm_engine::{Completion, GuestRequest};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{GuestCall, Guests, MAX_WRITE, Reply, range_fits};
use crate::disk::buffer::AlignedBuf;
use wire::{Operation, ROOT, Request, VOLUME};

/// Name of the one file.
pub(crate) const FILE: &str = "vol";

/// Headers of a write request: its data begin here, and this place is put on a page boundary.
const WRITE_DATA: usize = wire::IN_HEADER + wire::WRITE_IN;

/// Writes of this size and more keep the buffer they were read into; smaller ones are copied: what is
/// kept for the peer, for seconds, holds at most twice its own size.
const KEEP_BUFFER: usize = MAX_WRITE / 2;

/// The open connection to the kernel.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: AsyncFd<OwnedFd>,
    size: AtomicU64,
    /// Something was written through this mount.
    written: AtomicBool,
}

/// A mounted file system and its serving task.
#[derive(Debug)]
pub(crate) struct FuseMount {
    mount_point: PathBuf,
    connection: Arc<Connection>,
    closing: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl FuseMount {
    /// Mounts at `mount_point` (an existing directory) and starts serving.
    ///
    /// Must run on the data thread's runtime; the mount system call itself does not wait for us.
    pub(crate) fn start(
        mount_point: &Path,
        size: u64,
        guests: Guests,
        died: mpsc::UnboundedSender<()>,
    ) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other");
        let options = CString::new(options).map_err(io::Error::other)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        rustix::mount::mount("drqm", mount_point, "fuse.drqm", flags, options.as_c_str())?;
        let connection = match crate::sys::watch(fd) {
            Ok(fd) => Arc::new(Connection {
                fd,
                size: AtomicU64::new(size),
                written: AtomicBool::new(false),
            }),
            Err(error) => {
                let _ = rustix::mount::unmount(mount_point, UnmountFlags::DETACH);
                return Err(error);
            }
        };
        let closing = Arc::new(AtomicBool::new(false));
        let (expected, served) = (closing.clone(), connection.clone());
        let task = tokio::spawn(async move {
            let end = serve(&served, &guests).await;
            if !expected.load(Ordering::Relaxed) {
                tracing::error!(error = %end, "the FUSE connection ended by itself");
                let _ = died.send(());
            }
        });
        Ok(Self {
            mount_point: mount_point.to_owned(),
            connection,
            closing,
            task,
        })
    }

    /// The file is so large from now on.
    pub(crate) fn grow(&self, size: u64) {
        self.connection.size.store(size, Ordering::Relaxed);
    }

    /// Unmounts and stops serving. What is still asked gets an error from the kernel.
    pub(crate) async fn stop(self) {
        self.closing.store(true, Ordering::Relaxed);
        let mount_point = self.mount_point.clone();
        let unmounted = tokio::task::spawn_blocking(move || {
            rustix::mount::unmount(&mount_point, UnmountFlags::DETACH)
        });
        if let Ok(Err(error)) = unmounted.await {
            tracing::warn!(%error, "unmounting the FUSE file system");
        }
        self.task.abort();
        let _ = self.task.await;
    }
}

thread_local! {
    /// What the next request is read into, on whichever connection it comes: while a connection is silent it needs none,
    /// and there may be hundreds.
    static SPARE: Cell<Option<AlignedBuf>> = const { Cell::new(None) };
}

/// Reads and forwards requests until the connection ends; returns why it did.
async fn serve(connection: &Arc<Connection>, guests: &Guests) -> io::Error {
    loop {
        let mut ready = match connection.fd.readable().await {
            Ok(ready) => ready,
            Err(e) => return e,
        };
        let mut current = SPARE.take().unwrap_or_else(new_buffer);
        let read =
            ready.try_io(|fd| rustix::io::read(fd, current.as_mut()).map_err(io::Error::from));
        let len = match read {
            Ok(Ok(len)) => len,
            Ok(Err(e)) if !retry(&e) => return e,
            Ok(Err(_)) | Err(_) => {
                SPARE.set(Some(current));
                continue;
            }
        };
        let Some(request) = Request::parse(&current.as_slice()[..len]) else {
            return io::Error::other("a request that cannot be read");
        };
        let unique = request.unique;
        let reply = FuseReply {
            connection: connection.clone(),
            unique,
            write: 0,
        };
        let forwarded = if let Operation::Write { offset, size } = request.operation {
            let data_len = size as usize;
            if len < WRITE_DATA + data_len || data_len > MAX_WRITE {
                return io::Error::other("a write request with less data than it says");
            }
            let range = WRITE_DATA..WRITE_DATA + data_len;
            let data = if data_len >= KEEP_BUFFER {
                current.freeze(range)
            } else {
                let copy = AlignedBuf::copy_of(&current.as_slice()[range]);
                SPARE.set(Some(current));
                copy
            };
            write_request(
                FuseReply {
                    write: size,
                    ..reply
                },
                offset,
                data,
            )
        } else {
            let wanted = answer_or_forward(connection, &reply, &request.operation);
            SPARE.set(Some(current));
            wanted.map(|request| GuestCall {
                request,
                reply: Reply::Fuse(reply),
            })
        };
        if let Some(call) = forwarded
            && guests.send(call).await.is_err()
        {
            return io::Error::other("the volume stopped");
        }
    }
}

fn new_buffer() -> AlignedBuf {
    AlignedBuf::anchored(WRITE_DATA + MAX_WRITE + 4096, WRITE_DATA)
}

/// Errors of a read from the kernel after which the next read may work.
fn retry(error: &io::Error) -> bool {
    // ENOENT: the request was interrupted before it was read.
    [Errno::INTR, Errno::AGAIN, Errno::NOENT]
        .iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// A write on its way to the driver; answered here if it does not fit.
fn write_request(reply: FuseReply, offset: u64, data: Bytes) -> Option<GuestCall> {
    if !range_fits(
        offset,
        data.len() as u64,
        reply.connection.size.load(Ordering::Relaxed),
    ) {
        reply.error(Errno::INVAL);
        return None;
    }
    reply.connection.written.store(true, Ordering::Relaxed);
    let request = GuestRequest::Write {
        offset,
        data,
        fua: false,
    };
    Some(GuestCall {
        request,
        reply: Reply::Fuse(reply),
    })
}

/// Answers what needs no volume; returns what does.
fn answer_or_forward(
    connection: &Connection,
    reply: &FuseReply,
    operation: &Operation<'_>,
) -> Option<GuestRequest> {
    let size = connection.size.load(Ordering::Relaxed);
    match *operation {
        Operation::Init {
            flags,
            max_readahead,
        } => {
            reply.data(&wire::init_reply(flags, max_readahead, MAX_WRITE as u32));
        }
        Operation::Lookup { parent: ROOT, name } if name == FILE.as_bytes() => {
            reply.data(&wire::entry_reply(size));
        }
        Operation::Lookup { .. } => reply.error(Errno::NOENT),
        Operation::GetAttr { node } => reply.data(&wire::attr_reply(node, size)),
        Operation::Open { node: VOLUME } => reply.data(&wire::open_reply(true)),
        Operation::Open { .. } | Operation::OpenDir => reply.data(&wire::open_reply(false)),
        Operation::StatFs => reply.data(&wire::statfs_reply(size)),
        Operation::ReadDir | Operation::Release | Operation::Destroy => reply.data(&[]),
        Operation::Forget => {}
        Operation::Read { offset, size: len } if len as usize <= MAX_WRITE => {
            if range_fits(offset, len.into(), size) {
                return Some(GuestRequest::Read { offset, len });
            }
            reply.error(Errno::INVAL);
        }
        Operation::Read { .. } | Operation::Write { .. } => reply.error(Errno::INVAL),
        // The loop driver sends FSYNC for a flush, and after the data for FUA.
        // While nothing was written there is nothing to flush: binding the loop device, which flushes
        // under a lock of the kernel that others need, then depends on nobody.
        Operation::Fsync if !connection.written.load(Ordering::Relaxed) => reply.data(&[]),
        Operation::Fsync => return Some(GuestRequest::Flush),
        Operation::Allocate { offset, len, mode } => {
            // Discard and write-zeroes of the loop driver: both must read as zeros on both sides.
            if !wire::makes_zeros(mode) {
                reply.error(Errno::OPNOTSUPP);
            } else if range_fits(offset, len, size) {
                connection.written.store(true, Ordering::Relaxed);
                return Some(GuestRequest::Zero { offset, len });
            } else {
                reply.error(Errno::INVAL);
            }
        }
        // FLUSH is what a close sends; refused once, the kernel never asks again, and no close of the
        // file ever waits for us.
        Operation::Flush | Operation::Unknown => reply.error(Errno::NOSYS),
    }
    None
}

/// The way back to the kernel for one request.
#[derive(Debug)]
pub(crate) struct FuseReply {
    connection: Arc<Connection>,
    unique: u64,
    /// Bytes of a write, which its answer repeats.
    write: u32,
}

impl FuseReply {
    pub(super) fn complete(self, completion: Completion) {
        match completion {
            Completion::Done if self.write > 0 => self.data(&wire::write_reply(self.write)),
            Completion::Done => self.data(&[]),
            Completion::Data(bytes) => self.data(&bytes),
            Completion::Error => self.error(Errno::IO),
        }
    }

    fn data(&self, body: &[u8]) {
        self.send(0, body);
    }

    fn error(&self, error: Errno) {
        self.send(-error.raw_os_error(), &[]);
    }

    fn send(&self, error: i32, body: &[u8]) {
        let header = wire::out_header(body.len(), error, self.unique);
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        // A write to /dev/fuse never waits. ENOENT: the request was given up; others: unmounted.
        match rustix::io::writev(self.connection.fd.get_ref().as_fd(), &parts) {
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(e) => tracing::warn!(unique = self.unique, error = %e, "FUSE answer refused"),
        }
    }
}
