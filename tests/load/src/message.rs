//! A message: its number, padding, and a checksum over both.
//!
//! ```text
//! 0        8                         n-4     n
//! | number | padding, 256 to 2047    | crc32c |     all big-endian
//! ```
//! Length and padding come from the number alone, so that a message sent twice is the same twice, and
//! sizes vary over the blocks of the server's store.

const SHORTEST: u64 = 256;
const SIZES: u64 = 1_792;

/// The bytes of a message.
pub(crate) fn encode(number: u64) -> Vec<u8> {
    let mut noise = Noise(number);
    let padding = SHORTEST + noise.next() % SIZES;
    let mut bytes = number.to_be_bytes().to_vec();
    while (bytes.len() as u64) < 8 + padding {
        bytes.extend_from_slice(&noise.next().to_be_bytes());
    }
    bytes.truncate(8 + usize::try_from(padding).expect("less than 2048"));
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The number of an intact message; `None` for anything else.
pub(crate) fn decode(bytes: &[u8]) -> Option<u64> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    let number = body.first_chunk::<8>()?;
    (crc32c::crc32c(body) == u32::from_be_bytes(*checksum)).then(|| u64::from_be_bytes(*number))
}

/// SplitMix64: noise that does not compress, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_sizes_vary_within_bounds() {
        let mut sizes = std::collections::BTreeSet::new();
        for number in (0..500).chain([u64::MAX]) {
            let bytes = encode(number);
            assert_eq!(decode(&bytes), Some(number));
            assert_eq!(bytes, encode(number));
            assert!((268..2_060).contains(&bytes.len()), "{}", bytes.len());
            sizes.insert(bytes.len());
        }
        assert!(sizes.len() > 300, "{} sizes", sizes.len());
    }

    #[test]
    fn one_changed_bit_is_noticed() {
        let bytes = encode(7);
        for position in [0, 9, bytes.len() / 2, bytes.len() - 1] {
            let mut broken = bytes.clone();
            broken[position] ^= 1;
            assert_eq!(decode(&broken), None, "bit at {position}");
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(b"short"), None);
        assert_eq!(decode(b""), None);
    }
}
