//! Page-aligned buffers as [`Bytes`], without unsafe code: one page more is allocated and the
//! aligned part is handed out.

use bytes::{Buf, Bytes, BytesMut};

/// Alignment that direct I/O is happy with everywhere.
pub(crate) const PAGE: usize = 4096;

/// A zeroed buffer whose byte `anchor` lies on a page boundary.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    pub(crate) fn new(len: usize) -> Self {
        Self::anchored(len, 0)
    }

    pub(crate) fn anchored(len: usize, anchor: usize) -> Self {
        let bytes = vec![0; len + PAGE];
        let misfit = (bytes.as_ptr() as usize + anchor) % PAGE;
        Self {
            bytes,
            start: (PAGE - misfit) % PAGE,
            len,
        }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The part as shared bytes; the buffer lives as long as they do.
    pub(crate) fn freeze(self, range: std::ops::Range<usize>) -> Bytes {
        let start = self.start;
        Bytes::from(self.bytes).slice(start + range.start..start + range.end)
    }

    /// An aligned copy.
    pub(crate) fn copy_of(from: &[u8]) -> Bytes {
        let mut bytes = aligned_room(from.len());
        bytes.extend_from_slice(from);
        bytes.freeze()
    }
}

/// An empty buffer on a page boundary with room for `len` bytes, which are not zeroed.
pub(crate) fn aligned_room(len: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(len + PAGE);
    let start = (bytes.as_ptr() as usize).next_multiple_of(PAGE) - bytes.as_ptr() as usize;
    // Stays where it is: the room is there.
    bytes.resize(start, 0);
    bytes.advance(start);
    bytes
}

/// Whether direct I/O may use this memory at this place of a file.
pub(crate) fn direct_fits(address: *const u8, offset: u64, len: usize) -> bool {
    (address as usize).is_multiple_of(PAGE) && place_fits(offset, len)
}

/// Whether direct I/O may use this place of a file, from memory that is aligned.
pub(crate) fn place_fits(offset: u64, len: usize) -> bool {
    len > 0 && offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anchor_is_aligned() {
        for anchor in [0, 80, 4095, 5000] {
            let buffer = AlignedBuf::anchored(10_000, anchor);
            assert_eq!(
                (buffer.as_slice().as_ptr() as usize + anchor) % PAGE,
                0,
                "{anchor}"
            );
        }
    }

    #[test]
    fn a_copy_is_aligned_and_equal() {
        for len in [1, 512, 4096, 70_000] {
            let source: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let copy = AlignedBuf::copy_of(&source);
            assert!((copy.as_ptr() as usize).is_multiple_of(PAGE));
            assert_eq!(copy, source);
        }
    }

    #[test]
    fn a_frozen_part_keeps_its_place() {
        let mut buffer = AlignedBuf::anchored(PAGE + 80, 80);
        buffer.as_mut()[80..].fill(7);
        let part = buffer.freeze(80..80 + PAGE);
        assert!(part.iter().all(|b| *b == 7));
        assert!(direct_fits(part.as_ptr(), 8192, part.len()));
        assert!(!direct_fits(part.as_ptr(), 512, part.len()));
    }
}
