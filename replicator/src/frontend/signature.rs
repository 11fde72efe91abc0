//! What file system is on a device, by its superblock. Reads only.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::time::Duration;

use drqm_engine::event::{FsKind, FsSignature};

use crate::child;

/// Enough for both: XFS begins at 0, ext4's superblock is 1 KiB at 1024.
const LEN: usize = 4096;

/// How long the first block of a device may take.
const LIMIT: Duration = Duration::from_secs(15);

/// The file system on a block device that can be read and written; none if it is neither of the
/// known ones. Asks a child. Blocking.
pub(crate) fn probe(node: &Path) -> Result<Option<FsSignature>, String> {
    let text = child::run(&["device-probe".as_ref(), node.as_os_str()], LIMIT)?;
    let (word, uuid) = text.trim_end().split_once(' ').unwrap_or_default();
    let uuid = u128::from_str_radix(uuid, 16).map(u128::to_be_bytes);
    Ok(match (word, uuid) {
        ("xfs", Ok(uuid)) => Some(FsSignature {
            kind: FsKind::Xfs,
            uuid,
        }),
        ("ext4", Ok(uuid)) => Some(FsSignature {
            kind: FsKind::Ext4,
            uuid,
        }),
        (_, _) => None,
    })
}

/// What the child of [`probe`] does.
pub(crate) fn probe_here(node: &Path) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(node)?;
    anyhow::ensure!(
        file.metadata()?.file_type().is_block_device(),
        "not a block device"
    );
    let mut block = [0; LEN];
    file.read_exact_at(&mut block, 0)?;
    match parse(&block) {
        Some(FsSignature {
            kind: FsKind::Xfs,
            uuid,
        }) => println!("xfs {:032x}", u128::from_be_bytes(uuid)),
        Some(FsSignature {
            kind: FsKind::Ext4,
            uuid,
        }) => println!("ext4 {:032x}", u128::from_be_bytes(uuid)),
        None => println!("none"),
    }
    Ok(())
}

fn parse(block: &[u8; LEN]) -> Option<FsSignature> {
    let uuid_at = |at: usize| block[at..].first_chunk::<16>().copied();
    if block.starts_with(b"XFSB") {
        Some(FsSignature {
            kind: FsKind::Xfs,
            uuid: uuid_at(32)?,
        })
    } else if block[1024 + 56..].starts_with(&0xEF53_u16.to_le_bytes()) {
        Some(FsSignature {
            kind: FsKind::Ext4,
            uuid: uuid_at(1024 + 104)?,
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_told_apart() {
        let mut xfs = [0; LEN];
        xfs[..4].copy_from_slice(b"XFSB");
        xfs[32..48].fill(7);
        assert_eq!(
            parse(&xfs),
            Some(FsSignature {
                kind: FsKind::Xfs,
                uuid: [7; 16]
            })
        );
        let mut ext4 = [0; LEN];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        ext4[1128..1144].fill(9);
        assert_eq!(
            parse(&ext4),
            Some(FsSignature {
                kind: FsKind::Ext4,
                uuid: [9; 16]
            })
        );
        assert_eq!(parse(&[0; LEN]), None);
    }
}
