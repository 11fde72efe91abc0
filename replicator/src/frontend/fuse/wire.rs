//! Messages of the FUSE protocol, as far as one file needs them. Layouts are the kernel's
//! (`linux/fuse.h`, 7.40), native byte order; see each function for offsets.
//!
//! Does not live here: sockets, decisions.

/// Length of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;

/// Length of `fuse_write_in`.
pub(super) const WRITE_IN: usize = 40;

/// Node id of the directory.
pub(super) const ROOT: u64 = 1;

/// Node id of the file.
pub(super) const VOLUME: u64 = 2;

/// Attributes never change: the kernel may keep them.
const VALID_SECONDS: u64 = 3600;

const FUSE_ASYNC_READ: u64 = 1 << 0;
const FUSE_BIG_WRITES: u64 = 1 << 5;
const FUSE_ASYNC_DIO: u64 = 1 << 15;
const FUSE_MAX_PAGES: u64 = 1 << 22;
const FUSE_INIT_EXT: u64 = 1 << 30;

const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

const FALLOC_FL_KEEP_SIZE: u32 = 0x01;
const FALLOC_FL_PUNCH_HOLE: u32 = 0x02;
const FALLOC_FL_ZERO_RANGE: u32 = 0x10;

/// What the kernel asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Init {
        flags: u64,
        max_readahead: u32,
    },
    Lookup {
        parent: u64,
        name: &'a [u8],
    },
    GetAttr {
        node: u64,
    },
    Open {
        node: u64,
    },
    OpenDir,
    ReadDir,
    Read {
        offset: u64,
        size: u32,
    },
    /// The data follow the headers.
    Write {
        offset: u64,
        size: u32,
    },
    Fsync,
    Flush,
    Allocate {
        offset: u64,
        len: u64,
        mode: u32,
    },
    StatFs,
    Release,
    /// Wants no answer.
    Forget,
    Destroy,
    Unknown,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) unique: u64,
    pub(super) operation: Operation<'a>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_ne_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u64::from_ne_bytes(*b))
}

impl<'a> Request<'a> {
    /// `fuse_in_header`: len 0, opcode 4, unique 8, nodeid 16; then the operation's own structure.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let opcode = u32_at(message, 4)?;
        let unique = u64_at(message, 8)?;
        let node = u64_at(message, 16)?;
        let body = message.get(IN_HEADER..)?;
        let operation = match opcode {
            1 => Operation::Lookup {
                parent: node,
                name: body.split(|b| *b == 0).next()?,
            },
            2 | 36 | 42 => Operation::Forget,
            3 => Operation::GetAttr { node },
            14 => Operation::Open { node },
            // fuse_read_in, fuse_write_in: fh 0, offset 8, size 16.
            15 => Operation::Read {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
            },
            16 => Operation::Write {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
            },
            17 => Operation::StatFs,
            18 | 29 => Operation::Release,
            20 => Operation::Fsync,
            25 => Operation::Flush,
            26 => {
                // fuse_init_in: major 0, minor 4, max_readahead 8, flags 12, flags2 16.
                let low = u64::from(u32_at(body, 12)?);
                let high = u32_at(body, 16)
                    .filter(|_| low & FUSE_INIT_EXT != 0)
                    .unwrap_or(0);
                let max_readahead = u32_at(body, 8)?;
                Operation::Init {
                    flags: low | u64::from(high) << 32,
                    max_readahead,
                }
            }
            27 => Operation::OpenDir,
            28 => Operation::ReadDir,
            38 => Operation::Destroy,
            // fuse_fallocate_in: fh 0, offset 8, length 16, mode 24.
            43 => Operation::Allocate {
                offset: u64_at(body, 8)?,
                len: u64_at(body, 16)?,
                mode: u32_at(body, 24)?,
            },
            _ => Operation::Unknown,
        };
        Some(Self { unique, operation })
    }
}

/// Whether a `fallocate` mode leaves zeros behind without changing the size.
pub(super) const fn makes_zeros(mode: u32) -> bool {
    mode == FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        || mode == FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
        || mode == FALLOC_FL_ZERO_RANGE
}

struct Message(Vec<u8>);

impl Message {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn attr(self, node: u64, size: u64) -> Self {
        let (size, mode, links) = if node == VOLUME {
            (size, 0o100_600, 1)
        } else {
            (0, 0o040_755, 2)
        };
        // ino, size, blocks; times; mode, nlink, uid, gid, rdev, blksize, flags.
        self.u64(node)
            .u64(size)
            .u64(size / 512)
            .zeros(3 * 8 + 3 * 4)
            .u32(mode)
            .u32(links)
            .zeros(12)
            .u32(4096)
            .zeros(4)
    }
}

/// `fuse_out_header`: len, error, unique.
pub(super) fn out_header(body: usize, error: i32, unique: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(body as u32 + 16).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// `fuse_init_out`, 64 bytes, answering as version 7.40.
pub(super) fn init_reply(offered: u64, max_readahead: u32, max_write: u32) -> Vec<u8> {
    let wanted =
        FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_INIT_EXT;
    let flags = wanted & offered;
    let pages = (max_write / 4096) as u16;
    // Background requests: what a loop device with direct I/O keeps under way.
    let (max_background, congestion) = (64, 48);
    Message::new()
        .u32(7)
        .u32(40)
        .u32(max_readahead)
        .u32(flags as u32)
        .u16(max_background)
        .u16(congestion)
        .u32(max_write)
        .u32(1)
        .u16(pages)
        .u16(0)
        .u32((flags >> 32) as u32)
        .zeros(28)
        .0
}

/// `fuse_entry_out` of the file.
pub(super) fn entry_reply(size: u64) -> Vec<u8> {
    let times = Message::new()
        .u64(VOLUME)
        .u64(0)
        .u64(VALID_SECONDS)
        .u64(VALID_SECONDS)
        .zeros(8);
    times.attr(VOLUME, size).0
}

/// `fuse_attr_out`.
pub(super) fn attr_reply(node: u64, size: u64) -> Vec<u8> {
    Message::new()
        .u64(VALID_SECONDS)
        .zeros(8)
        .attr(node, size)
        .0
}

/// `fuse_open_out`.
pub(super) fn open_reply(volume: bool) -> Vec<u8> {
    let flags = if volume {
        FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
    } else {
        0
    };
    Message::new().u64(0).u32(flags).zeros(4).0
}

/// `fuse_write_out`.
pub(super) fn write_reply(size: u32) -> Vec<u8> {
    Message::new().u32(size).zeros(4).0
}

/// `fuse_statfs_out`.
pub(super) fn statfs_reply(size: u64) -> Vec<u8> {
    // blocks; bfree, bavail, files, ffree; bsize, namelen, frsize; padding and spare.
    Message::new()
        .u64(size / 4096)
        .zeros(32)
        .u32(4096)
        .u32(255)
        .u32(4096)
        .zeros(28)
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_kernels_lengths() {
        assert_eq!(init_reply(u64::MAX, 0, 1 << 20).len(), 64);
        assert_eq!(entry_reply(4096).len(), 128);
        assert_eq!(attr_reply(VOLUME, 4096).len(), 104);
        assert_eq!(open_reply(true).len(), 16);
        assert_eq!(write_reply(1).len(), 8);
        assert_eq!(statfs_reply(4096).len(), 80);
    }

    #[test]
    fn truncated_requests_are_not_read() {
        let mut message = vec![0; IN_HEADER + 40];
        message[4..8].copy_from_slice(&15_u32.to_ne_bytes());
        assert!(Request::parse(&message).is_some());
        for len in [0, 7, 23, IN_HEADER, IN_HEADER + 12] {
            assert!(Request::parse(&message[..len]).is_none(), "{len}");
        }
    }
}
