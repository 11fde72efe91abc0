//! FUSE + loop: the block device that works on every kernel.
//!
//! Lives here: the pair of mount and loop device, and finding what an earlier process left. Does not
//! live here: the FUSE loop ([`super::fuse`]), link, file system and holders ([`super::device`]).
//!
//! Loop numbers belong to the whole machine, also to other hosts of a test bed: ours are known by
//! the label that they are bound with, which names node and volume. A device of our own is made for
//! each volume instead of taking the first free one: that one is what everybody else takes too, and
//! whoever hangs while binding it would hang us.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, makedev, mknodat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::fuse::{FILE, FuseMount};
use super::{BlockExport, Guests};
use crate::{child, sys};

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;

/// Logical block of the device. 4096 although 512 would do: a file system made here then also mounts
/// on a device with 4 KiB sectors, and every request is a whole page for direct I/O.
const BLOCK: u32 = 4096;

/// Numbers of our devices: far above those that others take from 0 upwards.
const NUMBERS: std::ops::Range<u32> = 4096..(1 << 20);

/// Numbers to try; each is free but for bad luck.
const TRIES: usize = 16;

/// A child that binds or releases: the data thread answers it at once, or something is stuck.
const CHILD_LIMIT: Duration = Duration::from_secs(15);

/// One volume's FUSE mount and loop device.
pub(crate) struct FuseLoop {
    mount_point: PathBuf,
    label: String,
    open: Option<(FuseMount, PathBuf)>,
}

/// The label of a volume's loop device: readable, and unique by checksums of the full names.
pub(crate) fn label(node: &str, volume: &str) -> String {
    let (node_sum, volume_sum) = (
        crc32c::crc32c(node.as_bytes()),
        crc32c::crc32c(volume.as_bytes()),
    );
    let readable: String = volume.chars().take(32).collect();
    format!("{}{volume_sum:08x}:{readable}", label_prefix_of(node_sum))
}

/// What the labels of all volumes of a node begin with.
pub(crate) fn label_prefix(node: &str) -> String {
    label_prefix_of(crc32c::crc32c(node.as_bytes()))
}

fn label_prefix_of(node_sum: u32) -> String {
    format!("drqm:{node_sum:08x}:")
}

impl FuseLoop {
    pub(crate) fn new(mount_point: PathBuf, label: String) -> Self {
        Self {
            mount_point,
            label,
            open: None,
        }
    }
}

impl BlockExport for FuseLoop {
    const KIND: &'static str = "fuse-loop";

    async fn open(
        &mut self,
        size: u64,
        guests: Guests,
        died: mpsc::UnboundedSender<()>,
    ) -> Result<Option<PathBuf>, String> {
        self.close().await?;
        prepare_mount_point(&self.mount_point).map_err(|e| at(&self.mount_point, &e))?;
        let mount = FuseMount::start(&self.mount_point, size, guests, died)
            .map_err(|e| format!("mounting FUSE at {}: {e}", self.mount_point.display()))?;
        let (file, label) = (self.mount_point.join(FILE), self.label.clone());
        // Binding asks the FUSE server, which is this process: so not from here.
        let bound = tokio::task::spawn_blocking(move || attach(&file, size, &label)).await;
        match bound.map_err(|e| e.to_string()).flatten() {
            Ok(node) => {
                self.open = Some((mount, node.clone()));
                Ok(Some(node))
            }
            Err(error) => {
                mount.stop().await;
                Err(error)
            }
        }
    }

    async fn resize(&mut self, size: u64) -> Result<(), String> {
        let Some((mount, node)) = &self.open else {
            return Ok(());
        };
        mount.grow(size);
        let (file, node, size) = (self.mount_point.join(FILE), node.clone(), size.to_string());
        // The loop device asks the file for its size: so not from here.
        let resized = tokio::task::spawn_blocking(move || {
            let name = "loop-resize".as_ref();
            let arguments = [name, file.as_os_str(), node.as_os_str(), size.as_ref()];
            child::run(&arguments, CHILD_LIMIT).map(drop)
        });
        let resized = resized.await.map_err(|e| e.to_string()).flatten();
        resized.map_err(|e| format!("loop device: {e}"))
    }

    async fn close(&mut self) -> Result<(), String> {
        if let Some((mount, node)) = self.open.take() {
            let detached = tokio::task::spawn_blocking(move || {
                child::run(&["loop-detach".as_ref(), node.as_os_str()], CHILD_LIMIT)
            });
            let result = detached.await.map_err(|e| e.to_string()).flatten();
            mount.stop().await;
            result.map_err(|e| format!("loop device: {e}"))?;
        }
        Ok(())
    }
}

/// Binds a loop device in a child and returns its node. Blocking.
fn attach(file: &Path, size: u64, label: &str) -> Result<PathBuf, String> {
    let (size, name) = (size.to_string(), "loop-attach".as_ref());
    let arguments = [name, file.as_os_str(), size.as_ref(), label.as_ref()];
    let node = child::run(&arguments, CHILD_LIMIT).map_err(|e| format!("loop device: {e}"))?;
    Ok(PathBuf::from(node.trim_end()))
}

/// What the child of [`attach`] does.
pub(crate) fn attach_here(file: &Path, size: u64, label: &str) -> anyhow::Result<()> {
    println!("{}", bind(file, label, size)?.display());
    Ok(())
}

/// What the child that makes a device larger does.
pub(crate) fn resize_here(file: &Path, node: &Path, size: u64) -> anyhow::Result<()> {
    let backing = File::open(file)?;
    // The kernel remembers attributes for a while; the loop device looks at what it remembers.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(&backing, "", flags, StatxFlags::SIZE)?;
    let device = OpenOptions::new().read(true).write(true).open(node)?;
    sys::loop_set_capacity(&device)?;
    let actual = sys::block_size_bytes(&device)?;
    anyhow::ensure!(actual == size, "it has {actual} bytes, not {size}");
    Ok(())
}

/// What the child that releases a device does.
pub(crate) fn detach_here(node: &Path) -> anyhow::Result<()> {
    Ok(clear(node)?)
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Makes the directory, below nothing but our own dead mount if there is one.
fn prepare_mount_point(path: &Path) -> io::Result<()> {
    // A dead mount of an earlier process answers ENOTCONN to everything but this.
    while rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).is_ok() {}
    std::fs::create_dir_all(path)
}

fn bind(file: &Path, label: &str, size: u64) -> io::Result<PathBuf> {
    let flags = OFlags::DIRECT.bits() as i32;
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(file)?;
    let (number, node) = own_device()?;
    let device = OpenOptions::new().read(true).write(true).open(&node)?;
    let bound = sys::loop_configure(&device, &backing, BLOCK, label).map_err(io::Error::from);
    let bound = bound.and_then(|()| {
        let actual = sys::block_size_bytes(&device)?;
        if actual == size {
            return Ok(());
        }
        sys::loop_clear(&device)?;
        Err(io::Error::other(format!(
            "it has {actual} bytes, not {size}"
        )))
    });
    drop(device);
    if bound.is_err() {
        remove_device(number);
    }
    bound.map(|()| node)
}

/// Makes a loop device that nobody else knows of.
fn own_device() -> io::Result<(u32, PathBuf)> {
    let control = control()?;
    for _ in 0..TRIES {
        let number =
            NUMBERS.start + crate::entropy::random_u64() as u32 % (NUMBERS.end - NUMBERS.start);
        match sys::loop_add(&control, number) {
            Ok(()) => return Ok((number, node_of(number)?)),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("no free number"))
}

fn control() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
}

/// Removes a device that was released. One that is still open stays, unbound, and does no harm.
fn remove_device(number: u32) {
    let removed = control().and_then(|c| Ok(sys::loop_remove(c, number)?));
    if let Err(error) = removed {
        tracing::debug!(number, %error, "the loop device stays");
    }
}

/// The device node; made when /dev is not the kernel's own.
fn node_of(number: u32) -> io::Result<PathBuf> {
    let node = PathBuf::from(format!("/dev/loop{number}"));
    match node.metadata() {
        Ok(meta) if meta.file_type().is_block_device() => {}
        Ok(_) => {
            return Err(io::Error::other(format!(
                "{} is not a device",
                node.display()
            )));
        }
        Err(_) => {
            let device = makedev(LOOP_MAJOR, number);
            match mknodat(
                rustix::fs::CWD,
                &node,
                FileType::BlockDevice,
                Mode::from(0o660),
                device,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(node)
}

fn clear(node: &Path) -> io::Result<()> {
    let device = OpenOptions::new().read(true).open(node)?;
    match sys::loop_clear(&device) {
        Ok(()) | Err(Errno::NXIO) => {}
        Err(e) => return Err(e.into()),
    }
    drop(device);
    if let Some(number) = number_in(node.file_name()) {
        remove_device(number);
    }
    Ok(())
}

fn number_in(name: Option<&OsStr>) -> Option<u32> {
    name?.to_str()?.strip_prefix("loop")?.parse().ok()
}

/// A loop device that an earlier process of this node bound and that still exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) label: String,
    /// Major and minor number, as mountinfo writes them.
    pub(crate) device: (u32, u32),
}

/// Releases every loop device whose label begins with `prefix`. Those that are still mounted stay
/// until their last user closes them, dead as their server is, and are returned.
///
/// The caller holds the node's lock: whoever served them is gone.
pub(crate) fn release_stale(prefix: &str) -> Vec<Stale> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let mut stale = Vec::new();
    for entry in entries.flatten() {
        let number = number_in(Some(&entry.file_name()));
        // Unbound devices have no such directory, and opening them is not free of effects.
        let Some(number) = number.filter(|_| entry.path().join("loop").is_dir()) else {
            continue;
        };
        let Ok(node) = node_of(number) else { continue };
        let Ok(device) = open_quietly(&node) else {
            continue;
        };
        let Ok(label) = sys::loop_label(&device) else {
            continue;
        };
        if label.starts_with(prefix) {
            tracing::warn!(node = %node.display(), label, "releasing a loop device of an earlier process");
            if let Err(error) = sys::loop_clear(&device) {
                tracing::warn!(%error, "LOOP_CLR_FD");
            }
            drop(device);
            if entry.path().join("loop").is_dir() {
                stale.push(Stale {
                    label,
                    device: (LOOP_MAJOR, number),
                });
            } else {
                remove_device(number);
            }
        }
    }
    stale
}

fn open_quietly(node: &Path) -> io::Result<File> {
    // Without O_NONBLOCK an open may wait for a device that never answers.
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_and_tell_nodes_and_volumes_apart() {
        let long = format!("{}_{}", "n".repeat(63), "v".repeat(40));
        let one = label("dr1", &format!("{long}a"));
        assert!(one.len() < sys::LOOP_LABEL_LEN);
        assert!(one.starts_with(&label_prefix("dr1")) && !one.starts_with(&label_prefix("dr2")));
        assert_ne!(one, label("dr1", &format!("{long}b")));
    }
}
