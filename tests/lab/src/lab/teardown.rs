//! What the lab puts on the machine outside its state directory, and how everything goes again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Lab;
use crate::command::await_value;
use crate::host::{self, Host};
use crate::interrupt;
use crate::network::{self, Node};
use crate::state::Store;

/// How long mounts of a dead host may hold its folder.
const LINGER: Duration = Duration::from_secs(10);

impl Lab {
    /// Removes what the record names, in an order that can be taken up again after any step.
    pub(super) fn take_down(&self) -> Result<()> {
        let _shield = interrupt::shield();
        let Some(mut store) = Store::load(&self.folder)? else {
            return Ok(());
        };
        let item = self.progress.item("taking the lab down");
        for node in Node::ALL {
            let detached = host::kill(node, &self.folder.join(node.name()))?;
            self.report_loops(node, &detached);
        }
        network::remove(&mut store)?;
        for folder in store.record.folders.clone().into_iter().rev() {
            // One that somebody else uses meanwhile is not empty, and stays.
            let _ = fs::remove_dir(&folder);
        }
        self.keep_logs()?;
        // The record goes last: until here a second attempt finds everything.
        for node in Node::ALL {
            remove_folder(&self.folder.join(node.name()))?;
        }
        remove_folder(&self.folder)?;
        item.done();
        Ok(())
    }

    fn keep_logs(&self) -> Result<()> {
        for node in Node::ALL {
            let (from, to) = (
                self.folder.join(node.name()).join("logs"),
                self.cache.path("logs").join(node.name()),
            );
            if from.is_dir() {
                remove_folder(&to)?;
                fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
                for entry in fs::read_dir(&from)? {
                    let entry = entry?;
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes folders for hosts to mount theirs on, where the machine has none, and remembers which.
pub(super) fn make_mount_points(store: &mut Store) -> Result<()> {
    for path in Host::mount_points() {
        let mut absent: Vec<&Path> = Path::new(path)
            .ancestors()
            .take_while(|folder| !folder.exists())
            .collect();
        absent.reverse();
        for folder in absent {
            store.update(|record| record.folders.push(folder.to_owned()))?;
            fs::create_dir(folder).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(())
}

/// Removes a folder; mounts below it may need a moment to go after their last process.
fn remove_folder(folder: &Path) -> Result<()> {
    await_value("removing the state", LINGER, || {
        match fs::remove_dir_all(folder) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", folder.display())),
        }
    })
}
