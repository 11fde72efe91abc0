//! What the lab has created, written down before it is created.
//!
//! Everything that outlives the process that made it is in here, so that a later `down` finds what a
//! killed run left, and removes that and nothing else. The file is `lab.json` in the state directory;
//! PIDs are in `NODE/host.pid`, because a host writes its own before it does anything else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::write_atomically;
use crate::network::{Management, Node};
use crate::process;

/// Raised when an older program could misread the file.
const FORMAT: u32 = 1;

/// The content of `lab.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    format: u32,
    /// The machine's boot that namespaces and links belong to.
    boot: String,
    /// `up` came to its end.
    pub(crate) complete: bool,
    /// The replication link is cut.
    pub(crate) cut: bool,
    /// Hosts that somebody switched off.
    pub(crate) off: BTreeSet<Node>,
    /// Hosts whose power is being cut: if this is read, whoever did it was killed half way.
    pub(crate) dying: BTreeSet<Node>,
    pub(crate) management: Management,
    /// Network namespaces by name.
    pub(crate) namespaces: BTreeSet<String>,
    /// Links in the machine's own network namespace.
    pub(crate) links: BTreeSet<String>,
    /// Folders made on the machine as mount points, parents first.
    pub(crate) folders: Vec<PathBuf>,
    /// `/run/netns` became a mount point by our first namespace.
    pub(crate) netns_mount: bool,
}

/// The record and its file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    pub(crate) record: Record,
}

impl Store {
    /// Starts a record.
    pub(crate) fn create(folder: &Path, management: Management) -> Result<Self> {
        let record = Record {
            format: FORMAT,
            boot: process::boot_id()?,
            complete: false,
            cut: false,
            off: BTreeSet::new(),
            dying: BTreeSet::new(),
            management,
            namespaces: BTreeSet::new(),
            links: BTreeSet::new(),
            folders: Vec::new(),
            netns_mount: false,
        };
        let store = Self {
            path: file(folder),
            record,
        };
        store.save()?;
        Ok(store)
    }

    /// Reads the record; `None` if there is no lab.
    ///
    /// After a reboot of the machine its namespaces and links are gone, and names that appear again are
    /// somebody else's: they are forgotten.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>> {
        let path = file(folder);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut record = parse(&text).with_context(|| {
            format!(
                "{} cannot be read; it was written by another version of the lab. Take the lab down \
                 with that version, or reboot and remove {}",
                path.display(),
                folder.display()
            )
        })?;
        record.forget_other_boot(&process::boot_id()?);
        Ok(Some(Self { path, record }))
    }

    pub(crate) fn save(&self) -> Result<()> {
        write_atomically(&self.path, &serde_json::to_vec_pretty(&self.record)?)
    }

    /// Changes the record and saves it.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<()> {
        change(&mut self.record);
        self.save()
    }
}

impl Record {
    fn forget_other_boot(&mut self, boot: &str) {
        if self.boot != boot {
            self.complete = false;
            self.namespaces.clear();
            self.links.clear();
            self.netns_mount = false;
        }
    }
}

fn parse(text: &str) -> Result<Record> {
    let record: Record = serde_json::from_str(text)?;
    if record.format != FORMAT {
        bail!("format {}, not {FORMAT}", record.format);
    }
    Ok(record)
}

fn file(folder: &Path) -> PathBuf {
    folder.join("lab.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            format: FORMAT,
            boot: "b1".into(),
            complete: true,
            cut: false,
            off: BTreeSet::from([Node::Dr2]),
            dying: BTreeSet::new(),
            management: Management::new(213),
            namespaces: BTreeSet::from(["drqm-dr1".to_owned()]),
            links: BTreeSet::from(["drqm-dr1".to_owned()]),
            folders: vec!["/var/lib/kubelet".into()],
            netns_mount: true,
        }
    }

    #[test]
    fn a_record_survives_the_file() {
        let text = serde_json::to_string(&record()).expect("JSON");
        assert_eq!(parse(&text).expect("own format"), record());
    }

    #[test]
    fn another_format_is_refused() {
        let text = serde_json::to_string(&Record {
            format: 2,
            ..record()
        })
        .expect("JSON");
        assert!(parse(&text).is_err());
        assert!(parse("{}").is_err());
    }

    #[test]
    fn after_a_reboot_folders_are_still_ours_and_namespaces_are_not() {
        let mut record = record();
        record.forget_other_boot("b1");
        assert!(record.complete && !record.namespaces.is_empty());
        record.forget_other_boot("b2");
        assert!(!record.complete && record.namespaces.is_empty() && record.links.is_empty());
        assert_eq!(record.folders.len(), 1);
    }
}
