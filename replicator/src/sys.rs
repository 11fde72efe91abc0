//! The only unsafe code of the process: ioctls of the loop driver, one registration with the reactor, one call of the
//! allocator.
//!
//! Does not live here: any logic about when to call them.

#![expect(
    unsafe_code,
    reason = "raw structures and descriptors; each block says why it is sound"
)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Result;
use rustix::ioctl::{Getter, IntegerSetter, NoArg, Setter, ioctl};
use tokio::io::unix::AsyncFd;

/// Longest label of a loop device, with its terminating zero.
pub(crate) const LOOP_LABEL_LEN: usize = 64;

const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_GET_STATUS64: u32 = 0x4C05;
const LOOP_SET_CAPACITY: u32 = 0x4C07;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_ADD: u32 = 0x4C80;
const LOOP_CTL_REMOVE: u32 = 0x4C81;
const BLKGETSIZE64: u32 = 0x8008_1272;

const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LOOP_LABEL_LEN],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of the kernel.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const EMPTY_INFO: LoopInfo64 = LoopInfo64 {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    sizelimit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; LOOP_LABEL_LEN],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// Lets the allocator keep two arenas, however many threads come and go: what is free in one is of no use to the others.
/// Before threads are started.
pub(crate) fn share_arenas() {
    #[cfg(target_env = "gnu")]
    {
        /// `M_ARENA_MAX` of malloc.h.
        const ARENA_MAX: std::ffi::c_int = -8;
        unsafe extern "C" {
            fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // SAFETY: it changes a setting of the allocator; no other thread runs yet.
        unsafe {
            mallopt(ARENA_MAX, 2);
        }
    }
}

/// Gives memory that is free back to the machine, in every arena of the allocator.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: as malloc(3) has it, it may be called at any time by any thread, and what is in use stays.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// Makes a loop device of this number; `EEXIST` if there is one.
pub(crate) fn loop_add(control: impl AsFd, number: u32) -> Result<()> {
    // SAFETY: the argument of the request is the number itself.
    unsafe {
        ioctl(
            control,
            IntegerSetter::<LOOP_CTL_ADD>::new_usize(number as usize),
        )
    }
}

/// Removes an unbound loop device; `EBUSY` while somebody has it open.
pub(crate) fn loop_remove(control: impl AsFd, number: u32) -> Result<()> {
    // SAFETY: the argument of the request is the number itself.
    unsafe {
        ioctl(
            control,
            IntegerSetter::<LOOP_CTL_REMOVE>::new_usize(number as usize),
        )
    }
}

/// Binds a loop device to a file, with direct I/O; `EBUSY` if somebody else was faster.
pub(crate) fn loop_configure(
    device: impl AsFd,
    backing: impl AsFd,
    block_size: u32,
    label: &str,
) -> Result<()> {
    let mut info = LoopInfo64 {
        flags: LO_FLAGS_DIRECT_IO,
        ..EMPTY_INFO
    };
    for (to, from) in info.file_name[..LOOP_LABEL_LEN - 1]
        .iter_mut()
        .zip(label.bytes())
    {
        *to = from;
    }
    let fd = backing.as_fd().as_raw_fd() as u32;
    let config = LoopConfig {
        fd,
        block_size,
        info,
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `loop_config`, which this is; the descriptor lives until it returns.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// Makes a loop device as large as its file is.
pub(crate) fn loop_set_capacity(device: impl AsFd) -> Result<()> {
    // SAFETY: the request has no argument.
    unsafe { ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new()) }
}

/// Releases the file behind a loop device. While others have the device open it happens when the
/// last of them closes it.
pub(crate) fn loop_clear(device: impl AsFd) -> Result<()> {
    // SAFETY: the request has no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// The label given at [`loop_configure`]; `ENXIO` for an unbound device.
pub(crate) fn loop_label(device: impl AsFd) -> Result<String> {
    // SAFETY: the request writes one `loop_info64`, which is plain data.
    let info = unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo64>::new())? };
    let name: Vec<u8> = info
        .file_name
        .iter()
        .copied()
        .take_while(|b| *b != 0)
        .collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Size of a block device, bytes.
pub(crate) fn block_size_bytes(device: impl AsFd) -> Result<u64> {
    // SAFETY: the request writes one u64.
    unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// Best effort: memory reclaim must not wait for this process while it serves a device.
pub(crate) fn harden_data_thread() -> Option<String> {
    rustix::process::configure_io_flusher_behavior(true)
        .err()
        .map(|e| format!("PR_SET_IO_FLUSHER: {e} (needs CAP_SYS_RESOURCE)"))
}

/// Lets the runtime watch a descriptor that is in non-blocking mode.
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same descriptor and keeps it open as long as it lives.
    Ok(unsafe { AsyncFd::register(fd)? })
}
