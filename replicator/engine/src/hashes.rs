//! What one side says of its blocks without sending them, and what the other finds.
//!
//! 16 bytes of keyed BLAKE3 for each 4 KiB: nobody finds two blocks that look alike under a key that is
//! drawn for the occasion, so equal hashes are equal blocks.
//!
//! Does not live here: who asks, and what follows ([`crate::resync`], [`crate::verify`]).

use bytes::Bytes;

use crate::ids::ResyncId;
use crate::settings::HASHED_BLOCK;

/// Bytes of one hash.
pub const HASH_LEN: usize = 16;

/// Bytes of the hashes of so many bytes; a volume has whole blocks.
#[must_use]
pub const fn hashes_len(len: u64) -> usize {
    len.div_ceil(HASHED_BLOCK) as usize * HASH_LEN
}

/// The hashes of whole blocks, one after the other.
pub(crate) fn hashes_of(key: ResyncId, data: &[u8]) -> Bytes {
    data.chunks(HASHED_BLOCK as usize)
        .flat_map(|block| hash(key, block))
        .collect()
}

/// Runs of blocks `(first, length)`, ascending, that are not what the hashes say.
pub(crate) fn differing(key: ResyncId, data: &[u8], hashes: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let blocks = data.chunks(HASHED_BLOCK as usize);
    for (n, (block, said)) in blocks.zip(hashes.chunks(HASH_LEN)).enumerate() {
        if hash(key, block) == said {
            continue;
        }
        let n = n as u64;
        match runs.last_mut() {
            Some((first, len)) if *first + *len == n => *len += 1,
            Some(_) | None => runs.push((n, 1)),
        }
    }
    runs
}

fn hash(key: ResyncId, block: &[u8]) -> [u8; HASH_LEN] {
    let mut wide = [0; 32];
    wide[..16].copy_from_slice(&key.0.to_be_bytes());
    let mut short = [0; HASH_LEN];
    short.copy_from_slice(&blake3::keyed_hash(&wide, block).as_bytes()[..HASH_LEN]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_changed_blocks_differ() {
        let block = HASHED_BLOCK as usize;
        let data = vec![7; 6 * block];
        let said = hashes_of(ResyncId(1), &data);
        assert_eq!(said.len(), 6 * HASH_LEN);
        assert_eq!(differing(ResyncId(1), &data, &said), []);
        let mut other = data;
        other[block - 1] = 8;
        other[3 * block] = 8;
        other[5 * block - 1] = 8;
        assert_eq!(differing(ResyncId(1), &other, &said), [(0, 1), (3, 2)]);
        // Another key, another occasion.
        assert_eq!(differing(ResyncId(2), &other, &said), [(0, 6)]);
    }
}
