//! Layout of the metadata: which block holds what, and how blocks are checked.
//!
//! Metadata live outside the volume, so that the data of both sides are byte-identical and reverting
//! the data does not revert what is known of them. Little-endian, blocks of 4 KiB, each with a header:
//!
//! | offset | size | meaning |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 4 | kind of block |
//! | 12 | 4 | CRC32C of the block with this field zero |
//! | 16 | 16 | node id: whose metadata these are (a copied block of another volume is invalid) |
//! | 32 | 8 | block address: a misplaced block is invalid |
//! | 40 | 8 | sequence number; the highest valid one of a ring counts |
//! | 48 | 16 | zero |
//!
//! | block | content |
//! |---|---|
//! | 0 | label |
//! | 1..=8, 9..=16 | superblock rings A and B |
//! | 32..=95 | position ring |
//! | 128.. | activity log, 64 slots of up to four blocks, of which version 1 uses the first |
//! | 512.. | bitmap pages |
//!
//! Does not live here: what the contents mean ([`crate::superblock`], [`crate::marks`]).

pub(crate) mod codec;

use bytes::Bytes;

use crate::ids::NodeId;

/// Bytes of a block, and the unit of every metadata write.
pub(crate) const BLOCK: usize = 4096;
const HEADER: usize = 64;
/// Bytes of a block after its header.
pub(crate) const BODY: usize = BLOCK - HEADER;
const MAGIC: u64 = 0x6174_654d_6d71_7264; // "drqmMeta"

/// Kinds of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Label = 1,
    Superblock = 2,
    Position = 3,
    ActivityLog = 4,
    Bitmap = 5,
    /// Not among the metadata: a record of the undo log.
    Undo = 6,
}

pub(crate) const LABEL: u64 = 0;
pub(crate) const RING_A: u64 = 1;
pub(crate) const RING_B: u64 = 9;
pub(crate) const RING_SLOTS: u64 = 8;
pub(crate) const POSITIONS: u64 = 32;
pub(crate) const POSITION_SLOTS: u64 = 64;
pub(crate) const ACTIVITY: u64 = 128;
pub(crate) const ACTIVITY_SLOTS: u64 = 64;
pub(crate) const ACTIVITY_STRIDE: u64 = 4;
pub(crate) const BITMAP: u64 = 512;
/// Dirty bits of one page.
pub(crate) const BITS_PER_PAGE: u64 = (BODY * 8) as u64;

/// Builds a block; `body` is padded with zeros.
pub(crate) fn seal(kind: Kind, node: NodeId, block: u64, seq: u64, body: &[u8]) -> Bytes {
    assert!(
        body.len() <= BODY,
        "a metadata block holds {BODY} bytes, not {}",
        body.len()
    );
    let mut out = vec![0_u8; BLOCK];
    out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&(kind as u32).to_le_bytes());
    out[16..32].copy_from_slice(&node.0.to_le_bytes());
    out[32..40].copy_from_slice(&block.to_le_bytes());
    out[40..48].copy_from_slice(&seq.to_le_bytes());
    out[HEADER..HEADER + body.len()].copy_from_slice(body);
    let crc = crc32c::crc32c(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(out)
}

/// The sequence number and body of a block, if it is valid there.
pub(crate) fn unseal(
    meta: &[u8],
    kind: Kind,
    node: Option<NodeId>,
    block: u64,
) -> Option<(u64, &[u8])> {
    unseal_block(self::block(meta, block)?, kind, node, block)
}

/// The bytes of a block, if the metadata reach so far.
pub(crate) fn block(meta: &[u8], block: u64) -> Option<&[u8]> {
    let start = usize::try_from(block).ok()?.checked_mul(BLOCK)?;
    meta.get(start..start.checked_add(BLOCK)?)
}

/// The sequence number and body of a block that was read at the address `block`, if it is valid there.
pub(crate) fn unseal_block(
    raw: &[u8],
    kind: Kind,
    node: Option<NodeId>,
    block: u64,
) -> Option<(u64, &[u8])> {
    let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"));
    let crc = crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(&raw[..12]), &[0; 4]),
        &raw[16..],
    );
    let owner = u128::from_le_bytes(raw[16..32].try_into().expect("sixteen bytes"));
    let valid = word(0) == MAGIC
        && half(8) == kind as u32
        && half(12) == crc
        && word(32) == block
        && node.is_none_or(|n| n.0 == owner);
    valid.then(|| (word(40), &raw[HEADER..]))
}

/// The valid block with the highest sequence number of a ring.
pub(crate) fn newest(
    meta: &[u8],
    kind: Kind,
    node: NodeId,
    blocks: impl Iterator<Item = u64>,
) -> Option<(u64, &[u8])> {
    blocks
        .filter_map(|b| unseal(meta, kind, Some(node), b))
        .max_by_key(|(seq, _)| *seq)
}
