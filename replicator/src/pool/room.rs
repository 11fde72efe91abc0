//! Room in the pool's file system: taking it, giving it back, having none.
//!
//! Does not live here: how much a volume may have ([`super`]).

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Changes what room a range has, by the kernel's words for it. Whether the file system can do that;
/// if not, nothing was changed.
pub(crate) fn change_room(
    file: &File,
    how: FallocateFlags,
    offset: u64,
    len: u64,
) -> io::Result<bool> {
    loop {
        match fallocate(file, how, offset, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a file at least so long and takes the room for all of it. Whether the file system can do that.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<bool> {
    change_room(file, FallocateFlags::empty(), 0, len)
}

/// Whether the error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
