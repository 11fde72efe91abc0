//! Dirty bits: where the copies may differ.
//!
//! Rules that this module keeps, whatever the callers do:
//! - Marking rounds out, clearing happens only whole: bits are cleared by [`Marks::completed`] (the
//!   peer has durably adopted) and by [`Marks::voided`] (we have), and by nothing else.
//! - Bits set after a completion was sent are kept apart, so that clearing the base never takes them.
//!
//! Does not live here: when pages are written ([`crate::engine`]), what a bit means for a resync.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::ids::NodeId;
use crate::meta::{self, BITMAP, BITS_PER_PAGE, BLOCK, Kind};
use crate::settings::CHUNK_SHIFT;

/// A set of chunks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    chunks: u64,
    count: u64,
}

impl Bitmap {
    /// The empty set over a volume of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let chunks = size.div_ceil(1 << CHUNK_SHIFT);
        Self {
            words: vec![0; chunks.div_ceil(64) as usize],
            chunks,
            count: 0,
        }
    }

    /// All chunks of a volume of `size` bytes.
    pub(crate) fn full(size: u64) -> Self {
        let mut all = Self::new(size);
        all.words.fill(u64::MAX);
        if let (Some(last), rest @ 1..) = (all.words.last_mut(), all.chunks % 64) {
            *last = (1 << rest) - 1;
        }
        all.count = all.chunks;
        all
    }

    /// Makes room for a larger volume; what is new is not in the set.
    pub(crate) fn grow(&mut self, size: u64) {
        self.chunks = size.div_ceil(1 << CHUNK_SHIFT).max(self.chunks);
        self.words.resize(self.chunks.div_ceil(64) as usize, 0);
    }

    pub(crate) const fn chunks(&self) -> u64 {
        self.chunks
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, chunk: u64) -> bool {
        self.words[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1
    }

    /// Adds one chunk; whether it was new.
    pub(crate) fn insert(&mut self, chunk: u64) -> bool {
        assert!(chunk < self.chunks, "chunk inside the volume");
        let word = &mut self.words[(chunk / 64) as usize];
        let new = *word >> (chunk % 64) & 1 == 0;
        *word |= 1 << (chunk % 64);
        self.count += u64::from(new);
        new
    }

    pub(crate) fn remove(&mut self, chunk: u64) {
        let word = &mut self.words[(chunk / 64) as usize];
        self.count -= *word >> (chunk % 64) & 1;
        *word &= !(1 << (chunk % 64));
    }

    /// First member at or after `from`.
    pub(crate) fn next(&self, from: u64) -> Option<u64> {
        let mut chunk = from;
        while chunk < self.chunks {
            let word = self.words[(chunk / 64) as usize] >> (chunk % 64);
            if word != 0 {
                return Some(chunk + u64::from(word.trailing_zeros()));
            }
            chunk = (chunk / 64 + 1) * 64;
        }
        None
    }

    /// Members at or after `from`, in order.
    pub(crate) fn iter_from(&self, from: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(self.next(from), |chunk| self.next(chunk + 1))
    }

    /// Members as `(first, length)` runs. With more than `limit` runs, small gaps are closed until
    /// it fits: a superset of the differences is always safe.
    pub(crate) fn runs(&self, limit: usize) -> Vec<(u64, u64)> {
        let mut gap = 0;
        loop {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            let mut at = self.next(0);
            while let Some(chunk) = at {
                match runs.last_mut() {
                    Some((first, len)) if chunk <= *first + *len + gap => *len = chunk + 1 - *first,
                    Some(_) | None => runs.push((chunk, 1)),
                }
                at = self.next(chunk + 1);
            }
            if runs.len() <= limit {
                return runs;
            }
            gap = gap * 2 + 1;
        }
    }
}

/// Chunks that a byte range touches.
pub(crate) fn chunks_of(offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
    offset >> CHUNK_SHIFT..=(offset + len.max(1) - 1) >> CHUNK_SHIFT
}

/// The dirty bits of one side and the state of their pages.
#[derive(Clone, Hash)]
pub(crate) struct Marks {
    base: Bitmap,
    after: Option<Bitmap>,
    /// Pages whose content on disk differs from the base.
    stale: BTreeSet<u64>,
    /// Pages that are not zero on disk.
    stored: BTreeSet<u64>,
    seq: u64,
}

impl Marks {
    /// From the metadata; a page that cannot be read is all dirty.
    pub(crate) fn load(raw: &[u8], node: NodeId, size: u64, void: bool) -> Self {
        let mut marks = Self {
            base: Bitmap::new(size),
            after: None,
            stale: BTreeSet::new(),
            stored: BTreeSet::new(),
            seq: 0,
        };
        for page in 0..marks.pages() {
            let first = page * BITS_PER_PAGE;
            let last = (first + BITS_PER_PAGE).min(marks.base.chunks());
            let block = BITMAP + page;
            let start = block as usize * BLOCK;
            let blank = raw
                .get(start..start + BLOCK)
                .is_none_or(|b| b.iter().all(|x| *x == 0));
            if blank {
                continue;
            }
            marks.stored.insert(page);
            if void {
                marks.stale.insert(page);
                continue;
            }
            match meta::unseal(raw, Kind::Bitmap, Some(node), block) {
                Some((seq, body)) => {
                    marks.seq = marks.seq.max(seq);
                    for chunk in first..last {
                        let bit = (chunk - first) as usize;
                        if body[bit / 8] >> (bit % 8) & 1 == 1 {
                            marks.base.insert(chunk);
                        }
                    }
                }
                None => {
                    for chunk in first..last {
                        marks.base.insert(chunk);
                    }
                    marks.stale.insert(page);
                }
            }
        }
        marks
    }

    fn pages(&self) -> u64 {
        self.base.chunks().div_ceil(BITS_PER_PAGE)
    }

    pub(crate) const fn base(&self) -> &Bitmap {
        &self.base
    }

    /// The volume has grown: both copies hold zeros where it is new.
    pub(crate) fn grow(&mut self, size: u64) {
        self.base.grow(size);
        if let Some(after) = &mut self.after {
            after.grow(size);
        }
    }

    /// Chunks marked since the completion that was sent; 0 when none was.
    pub(crate) fn after_count(&self) -> u64 {
        self.after.as_ref().map_or(0, Bitmap::count)
    }

    /// Marks a byte range as possibly different.
    pub(crate) fn mark(&mut self, offset: u64, len: u64) {
        for chunk in chunks_of(offset, len) {
            self.mark_chunk(chunk);
        }
    }

    /// Marks one chunk.
    pub(crate) fn mark_chunk(&mut self, chunk: u64) {
        if self.base.insert(chunk) {
            self.stale.insert(chunk / BITS_PER_PAGE);
        }
        if let Some(after) = &mut self.after {
            after.insert(chunk);
        }
    }

    /// Marks everything.
    pub(crate) fn mark_all(&mut self) {
        for chunk in 0..self.base.chunks() {
            self.mark_chunk(chunk);
        }
    }

    /// A completion leaves for the peer: what is marked from now on is not part of it.
    pub(crate) fn completion_sent(&mut self) {
        let size = self.base.chunks() << CHUNK_SHIFT;
        self.after = Some(Bitmap::new(size));
    }

    /// A new resync begins: everything counts again.
    pub(crate) fn resync_began(&mut self) {
        self.after = None;
    }

    /// The peer has durably adopted what the last completion stood for.
    pub(crate) fn completed(&mut self) {
        let size = self.base.chunks() << CHUNK_SHIFT;
        self.replace(self.after.clone().unwrap_or_else(|| Bitmap::new(size)));
        self.after = None;
    }

    /// We have durably adopted the peer's lineage: our own bits mean nothing any more.
    pub(crate) fn voided(&mut self) {
        let size = self.base.chunks() << CHUNK_SHIFT;
        self.replace(Bitmap::new(size));
        self.after = None;
    }

    fn replace(&mut self, bits: Bitmap) {
        self.base = bits;
        self.stale.extend(self.stored.iter().copied());
    }

    /// Takes the pages that must be written: `(page, offset in the metadata, content)`.
    pub(crate) fn take_stale(&mut self, node: NodeId) -> Vec<(u64, Bytes)> {
        let pages = std::mem::take(&mut self.stale);
        pages
            .into_iter()
            .map(|page| ((BITMAP + page) * BLOCK as u64, self.page(node, page)))
            .collect()
    }

    fn page(&mut self, node: NodeId, page: u64) -> Bytes {
        let first = page * BITS_PER_PAGE;
        let last = (first + BITS_PER_PAGE).min(self.base.chunks());
        let mut body = vec![0_u8; crate::meta::BODY];
        let mut at = self.base.next(first).filter(|c| *c < last);
        if at.is_none() {
            self.stored.remove(&page);
            return Bytes::from(vec![0; BLOCK]);
        }
        while let Some(chunk) = at {
            let bit = (chunk - first) as usize;
            body[bit / 8] |= 1 << (bit % 8);
            at = self.base.next(chunk + 1).filter(|c| *c < last);
        }
        self.stored.insert(page);
        self.seq += 1;
        meta::seal(Kind::Bitmap, node, BITMAP + page, self.seq, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 70_000 << CHUNK_SHIFT;

    #[test]
    fn unaligned_ranges_round_out_and_runs_name_them() {
        let mut bits = Bitmap::new(SIZE);
        for chunk in chunks_of((1 << CHUNK_SHIFT) - 1, 2) {
            bits.insert(chunk);
        }
        for chunk in chunks_of(5 << CHUNK_SHIFT, 1 << CHUNK_SHIFT) {
            bits.insert(chunk);
        }
        assert_eq!(bits.runs(10), [(0, 2), (5, 1)]);
        assert_eq!(bits.runs(1), [(0, 6)]);
        bits.remove(5);
        assert_eq!((bits.count(), bits.next(2)), (2, None));
    }

    #[test]
    fn pages_come_back_and_a_damaged_one_is_all_dirty() {
        let node = NodeId(3);
        let mut marks = Marks::load(&[], node, SIZE, false);
        for chunk in [0, 7, 40_000, 69_999] {
            marks.mark_chunk(chunk);
        }
        let mut raw = vec![0; ((BITMAP + 3) as usize) * BLOCK];
        for (offset, page) in marks.take_stale(node) {
            raw[offset as usize..offset as usize + BLOCK].copy_from_slice(&page);
        }
        assert!(marks.stale.is_empty());
        assert_eq!(Marks::load(&raw, node, SIZE, false).base, marks.base);
        assert_eq!(Marks::load(&raw, node, SIZE, true).base.count(), 0);
        raw[(BITMAP as usize) * BLOCK + 70] ^= 1;
        let damaged = Marks::load(&raw, node, SIZE, false);
        assert_eq!(damaged.base.count(), BITS_PER_PAGE + 2);
        marks.voided();
        assert!(
            marks
                .take_stale(node)
                .iter()
                .all(|(_, page)| page.iter().all(|b| *b == 0))
        );
    }

    #[test]
    fn clearing_keeps_what_came_after_the_completion() {
        let mut marks = Marks::load(&[], NodeId(1), SIZE, false);
        marks.mark_chunk(1);
        marks.completion_sent();
        marks.mark_chunk(2);
        assert_eq!((marks.base.count(), marks.after_count()), (2, 1));
        marks.completed();
        assert_eq!(marks.base.runs(9), [(2, 1)]);
    }
}
