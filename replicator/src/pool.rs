//! Where volumes live on this node: one directory per volume with `data`, `meta`, `undo` and
//! `config.json`.
//!
//! Lives here: creation, opening, removal, locks, capacity. Does not live here: what the metadata
//! mean (the engine), who may ask (control).
//!
//! Guarantees: a volume directory appears whole or not at all; its data and metadata are never open
//! in two processes (`flock`); a directory that lost one of its files is reported, never repaired.

pub(crate) mod config;
pub(crate) mod room;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use config::VolumeConfig;

/// Kubernetes namespace and name of the resource that a volume belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VolumeKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl VolumeKey {
    /// Takes two DNS labels; anything else could name another directory.
    pub(crate) fn new(namespace: &str, name: &str) -> Result<Self, PoolError> {
        for (field, value) in [("metadata.namespace", namespace), ("metadata.name", name)] {
            let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            let fits = !value.is_empty() && value.len() <= 63 && value.chars().all(label);
            if !fits || value.starts_with('.') {
                return Err(PoolError::BadName {
                    field,
                    value: value.to_owned(),
                });
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    fn from_dir_name(dir: &str) -> Option<Self> {
        let (namespace, name) = dir.split_once('_')?;
        Self::new(namespace, name).ok()
    }
}

impl fmt::Display for VolumeKey {
    /// Also the name of the directory and of the device link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.namespace, self.name)
    }
}

/// Why the pool did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("{field}: {value:?} is not a lower-case DNS label")]
    BadName { field: &'static str, value: String },
    #[error(
        "spec.storage.size: the pool is full: {wanted} bytes asked for, {free} of {capacity} free; make the volume smaller, delete another, or raise the pool's capacity"
    )]
    Full {
        wanted: u64,
        free: u64,
        capacity: u64,
    },
    #[error(
        "spec.storage.size: the volume has {actual} bytes, {wanted} were asked for; a volume cannot shrink"
    )]
    SizeMismatch { actual: u64, wanted: u64 },
    #[error("DataMissing: {dir} exists but {what} is missing; restore it, or delete the volume")]
    DataMissing { dir: PathBuf, what: &'static str },
    #[error(
        "{path} is in use by another process; only one replicator may run on a node and state directory"
    )]
    Locked { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: not a volume configuration of this version: {source}")]
    BadConfig {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// The open files of a volume. Locks last as long as they do.
#[derive(Debug)]
pub(crate) struct VolumeFiles {
    /// Through the page cache.
    pub(crate) data: File,
    /// Past the page cache, where the file system can.
    pub(crate) direct: Option<File>,
    pub(crate) meta: File,
    /// What the engine keeps before a synchronization overwrites it; empty while it keeps nothing.
    pub(crate) undo: File,
    /// Where they are.
    pub(crate) dir: PathBuf,
    pub(crate) size: u64,
    /// The data have all their room, and keep it when they become zeros.
    pub(crate) is_reserved: bool,
}

/// What `statfs` calls a tmpfs (`linux/magic.h`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

impl VolumeFiles {
    /// Whether data and metadata live in memory, where no I/O waits for a device.
    pub(crate) fn is_in_memory(&self) -> io::Result<bool> {
        let [data, meta, undo] = [&self.data, &self.meta, &self.undo].map(rustix::fs::fstatfs);
        Ok([data?, meta?, undo?]
            .iter()
            .all(|fs| fs.f_type == TMPFS_MAGIC))
    }

    /// The whole metadata file.
    pub(crate) fn read_meta(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.meta.metadata()?.len() as usize];
        self.meta.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// When a volume's data take the room that they may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Allocation {
    /// From the beginning: no write ever fails because the pool is full.
    Full,
    /// As they are written: more may be promised than there is, and a full pool is a failed disk.
    Sparse,
}

/// What to create besides the data file.
pub(crate) struct NewVolume<'a> {
    pub(crate) config: &'a VolumeConfig,
    pub(crate) meta_len: u64,
    /// First content of the metadata: offsets and blocks.
    pub(crate) meta: &'a [(u64, Bytes)],
}

/// A directory of volumes.
#[derive(Debug)]
pub(crate) struct FilePool {
    root: PathBuf,
    capacity: Option<u64>,
    allocation: Allocation,
}

const CONFIG: &str = "config.json";
const RETAINED: &str = "retained.json";
const NEW_PREFIX: &str = ".new-";

/// Copies of data that a person has given up, called after their epoch.
pub(crate) const KEPT_PREFIX: &str = "given-up-";

impl FilePool {
    /// Opens the directory, makes it when missing, and removes what an interrupted creation left.
    pub(crate) fn open(
        root: &Path,
        capacity: Option<u64>,
        allocation: Allocation,
    ) -> Result<Self, PoolError> {
        let at = |source| PoolError::Io {
            path: root.to_owned(),
            source,
        };
        fs::create_dir_all(root).map_err(at)?;
        for entry in fs::read_dir(root).map_err(at)? {
            let entry = entry.map_err(at)?;
            if entry.file_name().to_string_lossy().starts_with(NEW_PREFIX) {
                fs::remove_dir_all(entry.path()).map_err(at)?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            capacity,
            allocation,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dir(&self, key: &VolumeKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// Every volume directory, whole or not.
    pub(crate) fn list(&self) -> Result<Vec<VolumeKey>, PoolError> {
        let at = |source| PoolError::Io {
            path: self.root.clone(),
            source,
        };
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(at)? {
            let entry = entry.map_err(at)?;
            keys.extend(VolumeKey::from_dir_name(
                &entry.file_name().to_string_lossy(),
            ));
        }
        keys.sort();
        Ok(keys)
    }

    /// Capacity and what is not yet promised to a volume, bytes. What counts is what the volumes may
    /// grow to, the snapshots that there are, and what others have taken of the file system.
    pub(crate) fn capacity(&self) -> Result<(u64, u64), PoolError> {
        let vfs = rustix::fs::statvfs(&self.root).map_err(|e| PoolError::Io {
            path: self.root.clone(),
            source: e.into(),
        })?;
        let capacity = self.capacity.unwrap_or(vfs.f_blocks * vfs.f_frsize);
        let size = |key: &VolumeKey| {
            let own = ["data", "undo"].map(|name| self.dir(key).join(name));
            let all = own.into_iter().chain(self.kept(key));
            all.map(|path| fs::metadata(path).map_or(0, |m| m.len()))
                .sum::<u64>()
        };
        let used: u64 = self.list()?.iter().map(size).sum();
        let unpromised = capacity.saturating_sub(used);
        Ok((capacity, unpromised.min(vfs.f_bavail * vfs.f_frsize)))
    }

    /// Files that hold what a person has given up.
    pub(crate) fn kept(&self, key: &VolumeKey) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.dir(key)) else {
            return Vec::new();
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let named = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(KEPT_PREFIX)
        };
        let mut kept: Vec<_> = paths.filter(named).collect();
        kept.sort();
        kept
    }

    /// Whether a directory for the volume exists, whatever is in it.
    pub(crate) fn exists(&self, key: &VolumeKey) -> bool {
        self.dir(key).symlink_metadata().is_ok()
    }

    /// The stored configuration; none for a volume that was let go and kept.
    pub(crate) fn config(&self, key: &VolumeKey) -> Result<Option<VolumeConfig>, PoolError> {
        read_config(&self.dir(key).join(CONFIG))
    }

    /// What a volume that was let go was configured as, without keys.
    pub(crate) fn retained(&self, key: &VolumeKey) -> Result<Option<VolumeConfig>, PoolError> {
        read_config(&self.dir(key).join(RETAINED))
    }

    /// Creates the files of a volume. All or nothing, also through a power cut.
    pub(crate) fn create(&self, key: &VolumeKey, new: &NewVolume<'_>) -> Result<(), PoolError> {
        let (capacity, free) = self.capacity()?;
        let wanted = new.config.size_bytes;
        if wanted > free {
            return Err(PoolError::Full {
                wanted,
                free,
                capacity,
            });
        }
        let building = self.root.join(format!("{NEW_PREFIX}{key}"));
        let done = build(&building, new, self.allocation).and_then(|()| {
            fs::rename(&building, self.dir(key))?;
            sync_dir(&self.root)
        });
        done.map_err(|source| {
            let _ = fs::remove_dir_all(&building);
            self.explained(wanted, building, source)
        })
    }

    /// Makes room for a larger volume: what is new reads as zeros. May be done again.
    pub(crate) fn grow(&self, key: &VolumeKey, size: u64, meta_len: u64) -> Result<(), PoolError> {
        let (capacity, free) = self.capacity()?;
        let dir = self.dir(key);
        let at = |source| PoolError::Io {
            path: dir.clone(),
            source,
        };
        let reserved = [
            ("data", size, self.allocation == Allocation::Full),
            ("meta", meta_len, true),
        ];
        for (name, len, is_reserved) in reserved {
            let file = OpenOptions::new()
                .write(true)
                .open(dir.join(name))
                .map_err(at)?;
            let had = file.metadata().map_err(at)?.len();
            let wanted = len.saturating_sub(had);
            if wanted > free {
                return Err(PoolError::Full {
                    wanted,
                    free,
                    capacity,
                });
            }
            if wanted > 0 {
                let done = make_room(&file, len, is_reserved).and_then(|()| file.sync_all());
                done.map_err(|source| self.explained(wanted, dir.join(name), source))?;
            }
        }
        Ok(())
    }

    /// What was wanted is more than there is, or something else is wrong with the path.
    fn explained(&self, wanted: u64, path: PathBuf, source: io::Error) -> PoolError {
        match self.capacity() {
            Ok((capacity, free)) if room::is_full(&source) => PoolError::Full {
                wanted,
                free,
                capacity,
            },
            Ok(_) | Err(_) => PoolError::Io { path, source },
        }
    }

    /// Opens and locks the files of a volume.
    pub(crate) fn open_volume(&self, key: &VolumeKey) -> Result<VolumeFiles, PoolError> {
        let dir = self.dir(key);
        let data = open_locked(&dir, "data", "the data file")?;
        let meta = open_locked(&dir, "meta", "the metadata file")?;
        let path = dir.join("undo");
        let undo = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| PoolError::Io { path, source })?;
        let path = dir.join("data");
        let size = data
            .metadata()
            .map_err(|source| PoolError::Io {
                path: path.clone(),
                source,
            })?
            .len();
        // It may be from a time, or a pool, without.
        let is_reserved = self.allocation == Allocation::Full
            && room::reserve(&data, size).unwrap_or_else(|error| {
                tracing::warn!(volume = %key, %error, "no room is reserved for what is written later");
                false
            });
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&path);
        let refused = |e: &io::Error| e.raw_os_error() == Some(Errno::INVAL.raw_os_error());
        let direct = match direct {
            Ok(file) => Some(file),
            Err(e) if refused(&e) => None,
            Err(source) => return Err(PoolError::Io { path, source }),
        };
        Ok(VolumeFiles {
            data,
            direct,
            meta,
            undo,
            dir,
            size,
            is_reserved,
        })
    }

    /// Stores a configuration, whole or not at all.
    pub(crate) fn store_config(
        &self,
        key: &VolumeKey,
        config: &VolumeConfig,
    ) -> Result<(), PoolError> {
        let dir = self.dir(key);
        write_atomic(&dir, CONFIG, &encode(config)).map_err(|source| PoolError::Io {
            path: dir.join(CONFIG),
            source,
        })
    }

    /// Forgets configuration and keys and keeps the data.
    pub(crate) fn retain(&self, key: &VolumeKey) -> Result<(), PoolError> {
        let dir = self.dir(key);
        if let Some(config) = self.config(key)? {
            write_atomic(&dir, RETAINED, &encode(&config.without_keys())).map_err(|source| {
                PoolError::Io {
                    path: dir.join(RETAINED),
                    source,
                }
            })?;
            remove(&dir.join(CONFIG))?;
        }
        sync_dir(&dir).map_err(|source| PoolError::Io { path: dir, source })
    }

    /// Removes a volume with its data. The caller has closed its files.
    pub(crate) fn erase(&self, key: &VolumeKey) -> Result<(), PoolError> {
        // First out of sight in one step, so that a power cut leaves no half of a volume.
        let (dir, doomed) = (
            self.dir(key),
            self.root.join(format!("{NEW_PREFIX}gone-{key}")),
        );
        let at = |source| PoolError::Io {
            path: dir.clone(),
            source,
        };
        match fs::rename(&dir, &doomed) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at(e)),
        }
        sync_dir(&self.root).map_err(at)?;
        fs::remove_dir_all(&doomed).map_err(at)
    }
}

fn build(dir: &Path, new: &NewVolume<'_>, allocation: Allocation) -> io::Result<()> {
    fs::create_dir(dir)?;
    let create = |name| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(name))
    };
    let data = create("data")?;
    let is_reserved = allocation == Allocation::Full;
    make_room(&data, new.config.size_bytes, is_reserved)?;
    data.sync_all()?;
    let meta = create("meta")?;
    // Whatever else: a full pool must not keep a volume from recording what it owes its peer.
    make_room(&meta, new.meta_len, true)?;
    for (offset, blocks) in new.meta {
        meta.write_all_at(blocks, *offset)?;
    }
    meta.sync_all()?;
    write_atomic(dir, CONFIG, &encode(new.config))
}

/// Makes a file at least so long; if it is reserved, takes the room now. What was not there reads as zeros.
fn make_room(file: &File, len: u64, is_reserved: bool) -> io::Result<()> {
    // A file system that cannot do that may have too little room later.
    if is_reserved && room::reserve(file, len)? {
        return Ok(());
    }
    if file.metadata()?.len() < len {
        file.set_len(len)?;
    }
    Ok(())
}

fn open_locked(dir: &Path, name: &str, what: &'static str) -> Result<File, PoolError> {
    let path = dir.join(name);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(PoolError::DataMissing {
                dir: dir.to_owned(),
                what,
            });
        }
        Err(source) => return Err(PoolError::Io { path, source }),
    };
    lock(&file, &path)?;
    Ok(file)
}

/// Takes the exclusive lock of a file, or says that another process has it.
pub(crate) fn lock(file: &File, path: &Path) -> Result<(), PoolError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(PoolError::Locked {
            path: path.to_owned(),
        }),
        Err(e) => Err(PoolError::Io {
            path: path.to_owned(),
            source: e.into(),
        }),
    }
}

fn read_config(path: &Path) -> Result<Option<VolumeConfig>, PoolError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| PoolError::BadConfig {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PoolError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn encode(config: &VolumeConfig) -> Vec<u8> {
    serde_json::to_vec_pretty(config).expect("strings and numbers always encode")
}

fn write_atomic(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temp = dir.join(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all_at(content, 0)?;
    file.sync_all()?;
    fs::rename(&temp, dir.join(name))?;
    sync_dir(dir)
}

fn remove(path: &Path) -> Result<(), PoolError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PoolError::Io {
            path: path.to_owned(),
            source: e,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
