//! The format guard: writes that would destroy a file system's name are refused (ruling 5).
//!
//! Kubelet formats what looks blank to it, and a device whose reads fail for a moment looks blank.
//! Lives here: where XFS and ext4 keep magic and UUID, and whether a write keeps them.

use crate::event::{FsKind, FsSignature};

struct Field {
    offset: u64,
    bytes: Vec<u8>,
}

/// What must stay as it is.
fn fields(fs: &FsSignature) -> [Field; 2] {
    match fs.kind {
        FsKind::Xfs => [
            Field {
                offset: 0,
                bytes: b"XFSB".to_vec(),
            },
            Field {
                offset: 32,
                bytes: fs.uuid.to_vec(),
            },
        ],
        FsKind::Ext4 => [
            Field {
                offset: 1024 + 0x38,
                bytes: vec![0x53, 0xef],
            },
            Field {
                offset: 1024 + 0x68,
                bytes: fs.uuid.to_vec(),
            },
        ],
    }
}

/// Whether writing `data` at `offset` leaves the signature as it is.
pub(crate) fn write_keeps(fs: &FsSignature, offset: u64, data: &[u8]) -> bool {
    fields(fs).iter().all(|field| {
        field.bytes.iter().enumerate().all(|(i, byte)| {
            let at = field.offset + i as u64;
            at.checked_sub(offset)
                .and_then(|n| data.get(n as usize))
                .is_none_or(|new| new == byte)
        })
    })
}

/// Whether zeroing a range leaves the signature as it is.
pub(crate) fn zero_keeps(fs: &FsSignature, offset: u64, len: u64) -> bool {
    fields(fs)
        .iter()
        .all(|f| f.offset + f.bytes.len() as u64 <= offset || offset + len <= f.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_of_the_same_file_system_passes_and_everything_else_does_not() {
        for (kind, magic_at, magic, uuid_at) in [
            (FsKind::Xfs, 0, &b"XFSB"[..], 32),
            (FsKind::Ext4, 1080, &[0x53, 0xef][..], 1128),
        ] {
            let fs = FsSignature {
                kind,
                uuid: *b"0123456789abcdef",
            };
            let mut image = vec![0_u8; 4096];
            image[magic_at..magic_at + magic.len()].copy_from_slice(magic);
            image[uuid_at..uuid_at + 16].copy_from_slice(&fs.uuid);
            assert!(write_keeps(&fs, 0, &image));
            assert!(write_keeps(&fs, 512, &image[512..]));
            assert!(write_keeps(&fs, 4096, &[0; 4096]));
            assert!(!write_keeps(&fs, 0, &[0; 4096]));
            image[uuid_at + 3] ^= 1;
            assert!(!write_keeps(&fs, 0, &image));
            assert!(!zero_keeps(&fs, 0, 1 << 20));
            assert!(zero_keeps(&fs, 4096, 1 << 20));
        }
    }
}
