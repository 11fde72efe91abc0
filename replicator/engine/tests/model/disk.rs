//! Disks of the model: of each chunk, one block has a content, a number; a write is visible when it has ended
//! and durable after a flush that was ordered after its end. Requests of one kind end in order.
//!
//! Does not live here: when a request ends, and what a crash keeps of those under way ([`crate::action`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drqm_engine::ids::JobId;

/// Chunks of the volume.
pub(crate) const CHUNKS: usize = 2;
const CHUNK: u64 = 1 << 16;
pub(crate) const BLOCK: u64 = 4096;

/// Bytes of the volume.
pub(crate) const SIZE: u64 = CHUNK * CHUNKS as u64;

/// What the blocks of a copy hold, one number per chunk.
pub(crate) type Image = [u8; CHUNKS];

/// Where the block of a chunk begins: clear of the file system's name.
pub(crate) const fn place(chunk: usize) -> u64 {
    chunk as u64 * CHUNK + 2 * BLOCK
}

/// A block with this number in it.
pub(crate) fn block(value: u8) -> Bytes {
    let mut block = vec![0; BLOCK as usize];
    block[0] = value;
    block.into()
}

/// The numbers that so many bytes hold.
fn values(offset: u64, len: u64) -> impl Iterator<Item = (usize, usize)> {
    let inside = move |c: &usize| offset <= place(*c) && place(*c) + BLOCK <= offset + len;
    (0..CHUNKS)
        .filter(inside)
        .map(move |c| (c, (place(c) - offset) as usize))
}

/// A write of numbers.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Change(pub(crate) Vec<(usize, u8)>);

impl Change {
    pub(crate) fn of(offset: u64, data: &[u8]) -> Self {
        let found = values(offset, data.len() as u64);
        Self(found.map(|(c, at)| (c, data[at])).collect())
    }

    pub(crate) fn zero(offset: u64, len: u64) -> Self {
        Self(values(offset, len).map(|(c, _)| (c, 0)).collect())
    }
}

#[derive(Clone, Debug, Default, Hash)]
struct Chunk {
    durable: u8,
    /// Written since, in order.
    cached: Vec<u8>,
}

impl Chunk {
    fn visible(&self) -> u8 {
        self.cached.last().copied().unwrap_or(self.durable)
    }
}

/// The data of one side.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Data([Chunk; CHUNKS]);

/// What a flush will have made durable: the last number of every chunk that was not.
pub(crate) type Cover = [Option<u8>; CHUNKS];

impl Data {
    pub(crate) fn read(&self, offset: u64, len: u64) -> Bytes {
        let mut bytes = vec![0; len as usize];
        for (c, at) in values(offset, len) {
            bytes[at] = self.0[c].visible();
        }
        bytes.into()
    }

    pub(crate) fn image(&self) -> Image {
        [0, 1].map(|c: usize| self.0[c].visible())
    }

    pub(crate) fn write(&mut self, change: &Change, durable: bool) {
        for (c, value) in &change.0 {
            let chunk = &mut self.0[*c];
            if durable {
                (chunk.durable, chunk.cached) = (*value, Vec::new());
            } else if chunk.cached.last().unwrap_or(&chunk.durable) != value {
                chunk.cached.push(*value);
            }
        }
    }

    pub(crate) fn cover(&self) -> Cover {
        [0, 1].map(|c: usize| self.0[c].cached.last().copied())
    }

    pub(crate) fn flushed(&mut self, cover: &Cover) {
        for (chunk, covered) in self.0.iter_mut().zip(cover) {
            let Some(value) = covered else { continue };
            if let Some(at) = chunk.cached.iter().position(|v| v == value) {
                chunk.durable = *value;
                chunk.cached.drain(..=at);
            }
        }
    }

    /// Chunks whose visible content is not durable, as bits.
    pub(crate) fn unsure(&self) -> u8 {
        (0..CHUNKS)
            .filter(|c| !self.0[*c].cached.is_empty())
            .fold(0, |mask, c| mask | 1 << c)
    }

    /// Power is cut; the chunks in `kept` stay as they were seen.
    pub(crate) fn power_cut(&mut self, kept: u8) {
        for (c, chunk) in self.0.iter_mut().enumerate() {
            if kept >> c & 1 == 1 {
                chunk.durable = chunk.visible();
            }
            chunk.cached.clear();
        }
    }
}

/// A file of whole blocks, each with the hash of its content.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Blocks(Arc<BTreeMap<u64, Sealed>>);

/// Bytes, hashed by a hash that was computed once.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) bytes: Bytes,
    hash: [u8; 16],
}

impl Sealed {
    pub(crate) fn new(bytes: Bytes) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        Self { bytes, hash }
    }
}

impl std::hash::Hash for Sealed {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Blocks {
    pub(crate) fn put(&mut self, offset: u64, data: &Sealed) {
        let blocks = Arc::make_mut(&mut self.0);
        if data.bytes.len() as u64 == BLOCK {
            blocks.insert(offset, data.clone());
            return;
        }
        for (n, at) in (offset..).step_by(BLOCK as usize).enumerate() {
            let from = n * BLOCK as usize;
            if from >= data.bytes.len() {
                return;
            }
            let to = data.bytes.len().min(from + BLOCK as usize);
            blocks.insert(at, Sealed::new(data.bytes.slice(from..to)));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0 = Arc::default();
    }

    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        for (at, block) in self.0.range(offset..offset + len) {
            let from = (at - offset) as usize;
            bytes[from..from + block.bytes.len()].copy_from_slice(&block.bytes);
        }
        bytes
    }
}

/// A request to the data or the undo log.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Request {
    Write(JobId, Change, bool),
    Flush(JobId, Cover),
    UndoWrite(JobId, u64, Sealed),
    UndoFlush(JobId),
    UndoEmpty(JobId),
    Keep(JobId),
}

/// What a side's disks are doing.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Queues {
    pub(crate) data: VecDeque<Request>,
    pub(crate) meta: VecDeque<(JobId, u64, Sealed)>,
}
