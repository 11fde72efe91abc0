//! Disks in memory with a volatile cache: a write is visible at once and durable only after a flush
//! that was ordered after its answer. A power cut keeps an arbitrary version of every 4 KiB block.
//!
//! Does not live here: latencies and errors (the world decides them).

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use crate::rng::Rng;

const BLOCK: u64 = 4096;
type Page = Rc<[u8; BLOCK as usize]>;

struct Version {
    write: u64,
    answered: bool,
    page: Page,
}

#[derive(Default)]
struct Block {
    durable: Option<Page>,
    cached: Vec<Version>,
}

impl Block {
    fn visible(&self) -> Option<&Page> {
        self.cached
            .last()
            .map(|v| &v.page)
            .or(self.durable.as_ref())
    }
}

/// What a flush that was ordered at some moment makes durable.
pub(crate) type Cover = Vec<(u64, u64)>;

/// The data of one side.
#[derive(Default)]
pub(crate) struct DataDisk {
    blocks: BTreeMap<u64, Block>,
    writes: u64,
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |b| {
        let from = offset.max(b * BLOCK) - b * BLOCK;
        let to = end.min((b + 1) * BLOCK) - b * BLOCK;
        (b, from as usize, to as usize)
    })
}

impl DataDisk {
    /// Writes `data`, or zeros; the number names the write.
    pub(crate) fn write(&mut self, offset: u64, len: u64, data: Option<&[u8]>) -> u64 {
        self.writes += 1;
        let write = self.writes;
        let mut done = 0;
        for (b, from, to) in pieces(offset, len) {
            if data.is_none() && !self.blocks.contains_key(&b) {
                continue;
            }
            let block = self.blocks.entry(b).or_default();
            let mut page = block.visible().map_or([0; BLOCK as usize], |p| **p);
            match data {
                Some(data) => page[from..to].copy_from_slice(&data[done..done + to - from]),
                None => page[from..to].fill(0),
            }
            done += to - from;
            if block.cached.len() >= 8 {
                block.cached.remove(0);
            }
            block.cached.push(Version {
                write,
                answered: false,
                page: Rc::new(page),
            });
        }
        write
    }

    /// The write is answered; a durable one is on the medium with it.
    pub(crate) fn answer(&mut self, write: u64, offset: u64, len: u64, durable: bool) {
        for (b, _, _) in pieces(offset, len) {
            let Some(block) = self.blocks.get_mut(&b) else {
                continue;
            };
            for v in block.cached.iter_mut().filter(|v| v.write == write) {
                v.answered = true;
            }
        }
        if durable {
            self.force(write, offset, len);
        }
    }

    fn force(&mut self, write: u64, offset: u64, len: u64) {
        for (b, from, to) in pieces(offset, len) {
            let Some(block) = self.blocks.get_mut(&b) else {
                continue;
            };
            let Some(at) = block.cached.iter().position(|v| v.write >= write) else {
                continue;
            };
            let new = block.cached[at].page.clone();
            let patch = |page: &mut Page| {
                let mut copy = **page;
                copy[from..to].copy_from_slice(&new[from..to]);
                *page = Rc::new(copy);
            };
            for older in &mut block.cached[..at] {
                patch(&mut older.page);
            }
            patch(
                block
                    .durable
                    .get_or_insert_with(|| Rc::new([0; BLOCK as usize])),
            );
        }
    }

    /// A flush is ordered now: this is what it will have made durable.
    pub(crate) fn cover(&self) -> Cover {
        let last = |b: &Block| b.cached.iter().rev().find(|v| v.answered).map(|v| v.write);
        self.blocks
            .iter()
            .filter_map(|(at, b)| last(b).map(|w| (*at, w)))
            .collect()
    }

    /// The flush has ended.
    pub(crate) fn flushed(&mut self, cover: &Cover) {
        for (at, write) in cover {
            let Some(block) = self.blocks.get_mut(at) else {
                continue;
            };
            if let Some(n) = block.cached.iter().position(|v| v.write >= *write) {
                block.durable = Some(block.cached[n].page.clone());
                block.cached.drain(..=n);
            }
        }
    }

    /// Power is cut: of every block some version stays.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        let kept = rng.below(4);
        for block in self.blocks.values_mut() {
            let n = block.cached.len() as u64;
            let stays = match kept {
                0 => 0,
                1 => n,
                _ => rng.between(0, n),
            };
            if stays > 0 {
                block.durable = Some(block.cached[stays as usize - 1].page.clone());
            }
            block.cached.clear();
        }
    }

    /// The process died, the kernel did not: everything stays visible, nothing new is durable.
    pub(crate) fn process_died(&mut self) {
        for v in self.blocks.values_mut().flat_map(|b| &mut b.cached) {
            v.answered = true;
        }
    }

    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len as usize);
        for (b, from, to) in pieces(offset, len) {
            match self.blocks.get(&b).and_then(Block::visible) {
                Some(page) => out.extend_from_slice(&page[from..to]),
                None => out.resize(out.len() + to - from, 0),
            }
        }
        out
    }

    /// First block whose visible content differs.
    pub(crate) fn difference(&self, other: &Self) -> Option<u64> {
        let zero = [0; BLOCK as usize];
        let keys = self.blocks.keys().chain(other.blocks.keys());
        let page = |d: &Self, b: u64| {
            let p = d.blocks.get(&b).and_then(Block::visible);
            p.map_or(zero, |p| **p)
        };
        keys.copied().find(|b| page(self, *b) != page(other, *b))
    }
}

/// The metadata of one side.
pub(crate) struct MetaDisk {
    pub(crate) raw: Vec<u8>,
    pending: Vec<(u64, u64, Bytes)>,
}

impl MetaDisk {
    pub(crate) fn new(len: u64) -> Self {
        Self {
            raw: vec![0; len as usize],
            pending: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, offset: u64, data: &[u8]) {
        self.raw[offset as usize..offset as usize + data.len()].copy_from_slice(data);
    }

    pub(crate) fn begin(&mut self, job: u64, offset: u64, data: Bytes) {
        self.pending.push((job, offset, data));
    }

    pub(crate) fn end(&mut self, job: u64) {
        if let Some(n) = self.pending.iter().position(|(j, ..)| *j == job) {
            let (_, offset, data) = self.pending.remove(n);
            self.put(offset, &data);
        }
    }

    /// The process ended in order: what it had ordered reaches the medium.
    pub(crate) fn settle(&mut self) {
        for (_, offset, data) in std::mem::take(&mut self.pending) {
            self.put(offset, &data);
        }
    }

    /// What is under way is old, new or torn afterwards.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        for (_, offset, data) in std::mem::take(&mut self.pending) {
            match rng.below(3) {
                0 => {}
                1 => self.put(offset, &data),
                _ => {
                    let cut = rng.between(1, data.len() as u64 - 1) as usize;
                    self.put(offset, &data[..cut]);
                    self.raw[offset as usize + rng.below(4096) as usize] ^= 0x5a;
                }
            }
        }
    }
}
