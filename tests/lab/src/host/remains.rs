//! What the kernel keeps of a host after its processes are gone: cgroups and loop devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::write_atomically;
use crate::command::{QUICK, await_value, run};
use crate::process::Identity;

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What a node needs to be accounted for; all but `memory` and `pids` could be missing.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// How long a dying process may keep its cgroup, and the end of a mount its loop device.
const LINGER: Duration = Duration::from_secs(10);

/// How long a device that goes with its last user may take for it.
const AUTOCLEAR: Duration = Duration::from_millis(300);

/// Makes a cgroup in each hierarchy (v1) or in the only one (v2), and lets its children have controllers.
pub(super) fn create_cgroups(name: &str) -> Result<()> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        for controller in CONTROLLERS {
            // Usually on already; one that this kernel lacks is kubelet's to complain about.
            let _ = fs::write(
                root.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    for hierarchy in hierarchies()? {
        let own = hierarchy.join(name);
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        // In v1 an empty set takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy != root && hierarchy.join(file).exists() {
                fs::write(own.join(file), fs::read(hierarchy.join(file))?)
                    .with_context(|| own.join(file).display().to_string())?;
            }
        }
    }
    Ok(())
}

/// Removes these cgroups with everything below; none of them may have processes any more.
pub(super) fn remove_cgroups(name: &str) -> Result<()> {
    for own in hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.join(name))
    {
        await_value(
            &format!("{} still has processes", own.display()),
            LINGER,
            || match remove_tree(&own) {
                Ok(()) => Ok(Some(())),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
                Err(error) => Err(error).with_context(|| own.display().to_string()),
            },
        )?;
    }
    Ok(())
}

/// The roots of the hierarchies; symbolic links are second names.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.procs").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context(CGROUPS)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Folders only: the files in a cgroup go with it.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// The loop devices over files of a host: on its data disk, or on file systems that only its processes
/// see, as a FUSE front-end's is. The latter can only be told while the host lives, so they are written
/// down: whoever comes after a killed power cut still finds them.
pub(super) fn loops(first: Option<&Identity>, folder: &Path) -> Result<Vec<Loop>> {
    let all = all_loops()?;
    let mut own: BTreeSet<(String, u64)> = BTreeSet::new();
    inodes(&folder.join("drqm"), &mut own);
    let mut private = BTreeSet::new();
    if let Some(first) = first.filter(|_| !all.is_empty()) {
        let machine = devices("/proc/self/mountinfo");
        for pid in descendants(first.pid)? {
            let mounted = devices(&format!("/proc/{pid}/mountinfo"));
            private.extend(mounted.difference(&machine).cloned());
        }
    }
    let noted = note(folder);
    let known: Vec<Loop> = match fs::read(&noted) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| noted.display().to_string())?,
        Err(_) => Vec::new(),
    };
    let ours = |one: &Loop| {
        private.contains(&one.device)
            || own.contains(&(one.device.clone(), one.inode))
            || known.contains(one)
    };
    let found: Vec<Loop> = all.into_iter().filter(ours).collect();
    if !found.is_empty() {
        write_atomically(&noted, &serde_json::to_vec(&found)?)?;
    }
    Ok(found)
}

/// Waits until the devices have gone with their last user, and detaches those that do not go by themselves.
/// Returns the names of these.
pub(super) fn detach(loops: &[Loop], folder: &Path) -> Result<Vec<String>> {
    let mut detached = Vec::new();
    for one in loops {
        let gone = || Ok((!all_loops()?.contains(one)).then_some(()));
        if await_value(&one.name, AUTOCLEAR, gone).is_ok() {
            continue;
        }
        run(
            Command::new("losetup").arg("--detach").arg(&one.name),
            QUICK,
        )?;
        await_value(&format!("{} is still in use", one.name), LINGER, gone)?;
        detached.push(one.name.clone());
    }
    match fs::remove_file(note(folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("loops.json"),
        Ok(()) | Err(_) => Ok(detached),
    }
}

fn note(folder: &Path) -> PathBuf {
    folder.join("loops.json")
}

/// A loop device in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loop {
    name: String,
    device: String,
    inode: u64,
}

fn all_loops() -> Result<Vec<Loop>> {
    // Not --raw, which writes the padding of numbers as \x20.
    let mut list = Command::new("losetup");
    list.args([
        "--list",
        "--noheadings",
        "--output",
        "NAME,BACK-MAJ:MIN,BACK-INO",
    ]);
    Ok(parse_loops(&run(&mut list, QUICK)?))
}

fn parse_loops(text: &str) -> Vec<Loop> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Loop {
            name: words.next()?.to_owned(),
            device: words.next()?.to_owned(),
            inode: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// The device numbers of what is mounted there; none if the process is gone.
fn devices(mountinfo: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(2))
        .map(str::to_owned)
        .collect()
}

fn descendants(first: i32) -> Result<BTreeSet<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(parent) = Identity::parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![first];
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    Ok(found)
}

/// Device and inode of every file below; folders that vanish meanwhile are nothing to look for.
fn inodes(folder: &Path, found: &mut BTreeSet<(String, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else {
            continue;
        };
        if meta.is_dir() {
            inodes(&entry.path(), found);
        } else {
            let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            found.insert((format!("{major}:{minor}"), meta.ino()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losetups_columns_are_read() {
        let loops =
            parse_loops("/dev/loop3         0:57          2\n/dev/loop4       254:0        4242\n");
        assert_eq!(loops.len(), 2);
        assert_eq!(
            loops[0],
            Loop {
                name: "/dev/loop3".into(),
                device: "0:57".into(),
                inode: 2
            }
        );
        assert!(parse_loops("\n").is_empty());
    }

    #[test]
    fn a_process_is_among_its_own_descendants() {
        let own = i32::try_from(std::process::id()).expect("a PID");
        let child = Command::new("sleep").arg("600").spawn();
        let mut child = child.expect("sleep");
        let found = descendants(own).expect("proc");
        assert!(found.contains(&own) && found.contains(&i32::try_from(child.id()).expect("a PID")));
        child.kill().expect("ours");
        child.wait().expect("reaped");
    }
}
