//! Who uses a device: mounts and processes, by /proc of the host (the pod shares its process ids).
//!
//! Guarantee: [`Exclusive::take`] is the judge (O_EXCL); everything else here only names names.
//! Blocking; not for the data thread.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, major, minor};
use rustix::io::Errno;

use crate::host;

/// Major and minor number.
pub(crate) type DeviceNumber = (u32, u32);

/// Sole use of a block device: nobody can mount it while this lives.
#[derive(Debug)]
pub(crate) struct Exclusive {
    _file: File,
}

impl Exclusive {
    /// Takes it; none if somebody holds the device.
    pub(crate) fn take(node: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::EXCL.bits() as i32;
        match OpenOptions::new().read(true).custom_flags(flags).open(node) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

pub(crate) fn number_of(node: &Path) -> io::Result<DeviceNumber> {
    let device = fs::metadata(node)?.rdev();
    Ok((major(device), minor(device)))
}

/// Where a device is mounted in the host's namespace.
pub(crate) fn host_mounts(device: DeviceNumber) -> Vec<PathBuf> {
    fs::read(host::proc("mountinfo")).map_or_else(|_| Vec::new(), |info| mounts_in(&info, device))
}

/// A process in a mount namespace of its own that sees the device mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// Processes that have the device mounted, other than by sharing the host's namespace.
pub(crate) fn users(device: DeviceNumber) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let host = fs::read_link(host::proc("ns/mnt")).ok();
    let (mut with, mut without) = (HashSet::new(), HashSet::new());
    let mut users = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else {
            continue;
        };
        if Some(&namespace) == host.as_ref() || without.contains(&namespace) {
            continue;
        }
        if !with.contains(&namespace) {
            let info = fs::read(process.path().join("mountinfo")).unwrap_or_default();
            if mounts_in(&info, device).is_empty() {
                without.insert(namespace);
                continue;
            }
            with.insert(namespace);
        }
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        users.push(User {
            pid,
            command: command.trim().to_owned(),
        });
    }
    users.sort_by_key(|u| u.pid);
    users
}

/// Who holds the device, in one phrase; empty when no mount is seen.
pub(crate) fn describe(device: DeviceNumber, users: &[User]) -> String {
    match (users, host_mounts(device).first()) {
        ([user, ..], _) => format!("pid {} ({})", user.pid, user.command),
        ([], Some(mount)) => mount.display().to_string(),
        ([], None) => String::new(),
    }
}

/// Used and allocated bytes of the file system at a place of the host.
pub(crate) fn usage(mount: &Path) -> Option<(u64, u64)> {
    let inside = mount.strip_prefix("/").ok()?;
    let vfs = rustix::fs::statvfs(host::proc("root").join(inside)).ok()?;
    let total = vfs.f_blocks * vfs.f_frsize;
    Some((total - vfs.f_bfree * vfs.f_frsize, total))
}

/// Resident bytes and consumed CPU seconds of some processes.
pub(crate) fn load(users: &[User]) -> (u64, f64) {
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let page = rustix::param::page_size() as u64;
    let one = |user: &User| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", user.pid));
        let resident = read("statm")
            .ok()
            .and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok());
        // After the command in parentheses: state is field 3, utime 14, stime 15.
        let busy = read("stat").ok().and_then(|s| {
            let fields: Vec<&str> = s.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = |n: usize| fields.get(n)?.parse::<u64>().ok();
            Some(ticks(11)? + ticks(12)?)
        });
        (
            resident.unwrap_or(0) * page,
            busy.unwrap_or(0) as f64 / ticks,
        )
    };
    users
        .iter()
        .map(one)
        .fold((0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
}

fn mounts_in(info: &[u8], device: DeviceNumber) -> Vec<PathBuf> {
    let wanted = format!("{}:{}", device.0, device.1);
    let mount = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        let number = fields.nth(2)?;
        let place = fields.nth(1)?;
        (number == wanted.as_bytes()).then(|| unescape(place))
    };
    info.split(|b| *b == b'\n').filter_map(mount).collect()
}

/// Spaces and the like are written as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|c| std::str::from_utf8(c).ok());
        match code.and_then(|c| u8::from_str_radix(c, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_unescaped() {
        let info = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 7:3 / /mnt/a\\040b rw,nouuid shared:9 - xfs /dev/loop3 rw\n\
            41 22 7:31 / /mnt/c rw - xfs /dev/loop31 rw\n";
        assert_eq!(mounts_in(info, (7, 3)), [PathBuf::from("/mnt/a b")]);
        assert_eq!(mounts_in(info, (7, 4)), Vec::<PathBuf>::new());
    }
}
