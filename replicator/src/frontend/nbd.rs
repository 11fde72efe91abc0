//! An NBD server (fixed newstyle, simple replies) on a unix socket, for tools and tests.
//!
//! Lives here: the transmission phase. The handshake is in [`negotiate`]. Does not live here: who may
//! connect (the socket's directory is private).

mod negotiate;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use drqm_engine::{Completion, GuestRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{GuestCall, Guests, MAX_WRITE, Reply, range_fits};
use crate::disk::buffer::aligned_room;

/// Clients at once.
const CONNECTIONS: usize = 16;

/// Answers to one client that wait for its socket; a client that does not read is not served further.
const ANSWERS: usize = 512;

/// Bytes of a request without its payload.
const HEADER: usize = 28;

/// Bytes read at once.
const PIECE: usize = 128 << 10;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FLAG_FUA: u16 = 1;

const EINVAL: u32 = 22;
const EIO: u32 = 5;

/// What is exported.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// Makes the socket; one that a dead process left is replaced.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path)
}

/// Serves clients until aborted; their connections end with it.
pub(crate) async fn serve(listener: UnixListener, export: Export, guests: Guests) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(client(stream, export.clone(), guests.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "NBD accept failed");
                    return;
                }
            },
            Some(ended) = clients.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "NBD client ended");
                }
            }
        }
    }
}

async fn client(mut stream: UnixStream, export: Export, guests: Guests) -> io::Result<()> {
    if !negotiate::negotiate(&mut stream, &export).await? {
        return Ok(());
    }
    let (reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel(ANSWERS);
    // Both halves are one future: the client ends when either does.
    tokio::select! {
        read = transmit(reader, export.size, guests, answers) => read,
        written = answer(writer, queue) => written,
    }
}

/// What a client sends, read in large pieces: a small write is a part of one, not a copy.
struct Requests {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Requests {
    fn new(reader: OwnedReadHalf) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
        }
    }

    /// Reads until there are `len` bytes; false if the client has ended before the first.
    async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            if self.buffer.capacity() < len {
                self.buffer.reserve(PIECE);
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(false),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        Ok(true)
    }

    /// The payload of a write; none if it is larger than allowed (it is read and dropped).
    async fn payload(&mut self, len: u32) -> io::Result<Option<Bytes>> {
        let len = len as usize;
        if len > MAX_WRITE {
            let rest = len - self.buffer.len().min(len);
            self.buffer.advance(len - rest);
            let dropped = &mut (&mut self.reader).take(rest as u64);
            tokio::io::copy(dropped, &mut tokio::io::sink()).await?;
            return Ok(None);
        }
        if len <= PIECE {
            return match self.fill(len).await? {
                true => Ok(Some(self.buffer.split_to(len).freeze())),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        // Large ones have a page-aligned buffer of their own.
        let mut whole = aligned_room(len);
        let here = self.buffer.len().min(len);
        whole.extend_from_slice(&self.buffer.split_to(here));
        while whole.len() < len {
            let missing = len - whole.len();
            if self
                .reader
                .read_buf(&mut (&mut whole).limit(missing))
                .await?
                == 0
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Some(whole.freeze()))
    }
}

struct Command {
    fua: bool,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

impl Command {
    /// Cancel safe: no. The reader is never cancelled but by the client's end.
    async fn read(requests: &mut Requests) -> io::Result<Option<Self>> {
        if !requests.fill(HEADER).await? {
            return Ok(None);
        }
        let mut header = requests.buffer.split_to(HEADER);
        match header.get_u32() {
            REQUEST_MAGIC => {}
            other => return Err(io::Error::other(format!("bad request magic {other:#x}"))),
        }
        let (flags, kind) = (header.get_u16(), header.get_u16());
        let (cookie, offset) = (header.get_u64(), header.get_u64());
        let len = header.get_u32();
        Ok(Some(Self {
            fua: flags & FLAG_FUA != 0,
            kind,
            cookie,
            offset,
            len,
        }))
    }
}

async fn transmit(
    reader: OwnedReadHalf,
    size: u64,
    guests: Guests,
    answers: mpsc::Sender<Answer>,
) -> io::Result<()> {
    let mut requests = Requests::new(reader);
    while let Some(command) = Command::read(&mut requests).await? {
        // A place for the answer before the request goes on: the answer then never waits.
        let Ok(slot) = answers.clone().reserve_owned().await else {
            return Ok(());
        };
        let reply = NbdReply {
            cookie: command.cookie,
            sink: Sink::Client(slot),
        };
        let range = (command.offset, u64::from(command.len));
        let fits = range_fits(range.0, range.1, size);
        let request = match command.kind {
            0 if fits && command.len as usize <= MAX_WRITE => GuestRequest::Read {
                offset: range.0,
                len: command.len,
            },
            1 => match requests.payload(command.len).await? {
                Some(data) if fits => GuestRequest::Write {
                    offset: range.0,
                    data,
                    fua: command.fua,
                },
                Some(_) | None => {
                    reply.error(EINVAL);
                    continue;
                }
            },
            2 => return Ok(()),
            3 => GuestRequest::Flush,
            4 | 6 if fits => {
                let zero = GuestRequest::Zero {
                    offset: range.0,
                    len: range.1,
                };
                if command.fua && !zero_first(&guests, &zero).await {
                    reply.error(EIO);
                    continue;
                }
                if command.fua {
                    GuestRequest::Flush
                } else {
                    zero
                }
            }
            _ => {
                reply.error(EINVAL);
                continue;
            }
        };
        if guests
            .send(GuestCall {
                request,
                reply: Reply::Nbd(reply),
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Zeros have no FUA of their own: they are carried out here and a flush follows.
async fn zero_first(guests: &Guests, zero: &GuestRequest) -> bool {
    let (done, wait) = oneshot::channel();
    let reply = Reply::Nbd(NbdReply {
        cookie: 0,
        sink: Sink::Step(done),
    });
    let sent = guests
        .send(GuestCall {
            request: zero.clone(),
            reply,
        })
        .await;
    sent.is_ok() && matches!(wait.await, Ok(Completion::Done))
}

/// The way back to one client for one request.
#[derive(Debug)]
pub(crate) struct NbdReply {
    cookie: u64,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Client(mpsc::OwnedPermit<Answer>),
    Step(oneshot::Sender<Completion>),
}

#[derive(Debug)]
struct Answer {
    error: u32,
    cookie: u64,
    data: Bytes,
}

impl NbdReply {
    pub(super) fn complete(self, completion: Completion) {
        match (self.sink, completion) {
            (Sink::Step(done), completion) => {
                let _ = done.send(completion);
            }
            (Sink::Client(slot), Completion::Done) => put(slot, self.cookie, 0, Bytes::new()),
            (Sink::Client(slot), Completion::Data(data)) => put(slot, self.cookie, 0, data),
            (Sink::Client(slot), Completion::Error) => put(slot, self.cookie, EIO, Bytes::new()),
        }
    }

    fn error(self, error: u32) {
        if let Sink::Client(slot) = self.sink {
            put(slot, self.cookie, error, Bytes::new());
        }
    }
}

fn put(slot: mpsc::OwnedPermit<Answer>, cookie: u64, error: u32, data: Bytes) {
    slot.send(Answer {
        error,
        cookie,
        data,
    });
}

async fn answer(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Answer>) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(64 << 10);
    while let Some(mut next) = queue.recv().await {
        loop {
            out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
            out.extend_from_slice(&next.error.to_be_bytes());
            out.extend_from_slice(&next.cookie.to_be_bytes());
            out.extend_from_slice(&next.data);
            // Answers that are ready leave in one system call.
            match queue.try_recv() {
                Ok(more) if out.len() < 64 << 10 => next = more,
                Ok(more) => {
                    writer.write_all(&out).await?;
                    out.clear();
                    next = more;
                }
                Err(_) => break,
            }
        }
        writer.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}
