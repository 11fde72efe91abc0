//! The life of a volume's block device, as the engine orders it: open (with mkfs once), publish,
//! close. One task per volume.
//!
//! Guarantees: the link is made last, to a block device that was read and can be written, and no
//! directory or file ever stands in its place; the device goes away only while nobody holds it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drqm_engine::Event;
use drqm_engine::event::{FsKind, FsSignature, Holder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::holders::{self, DeviceNumber, Exclusive};
use super::{BlockExport, Guests, nbd, signature};

/// mkfs on a slow pool. It writes little; discards of a large volume take the time.
const MKFS_LIMIT: Duration = Duration::from_secs(120);

/// Unmounting a dead file system in the host.
const UMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// What the driver orders.
#[derive(Debug)]
pub(crate) enum DeviceOrder {
    Open { format: Option<FsKind>, size: u64 },
    Resize { size: u64 },
    Publish,
    Close,
}

/// What others may know of the device.
#[derive(Debug)]
pub(crate) struct DeviceStatus {
    pub(crate) link: PathBuf,
    pub(crate) kind: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    node: Option<PathBuf>,
    /// Devices that died under their users: those of an earlier process, and of this one.
    dead: Vec<DeviceNumber>,
}

impl DeviceStatus {
    pub(crate) fn new(link: PathBuf, kind: &'static str, dead: Vec<DeviceNumber>) -> Self {
        Self {
            link,
            kind,
            state: Mutex::new(State { node: None, dead }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device's number, while it is open.
    pub(crate) fn number(&self) -> Option<DeviceNumber> {
        let node = self.lock().node.clone()?;
        holders::number_of(&node).ok()
    }

    /// Dead devices of this volume that are still mounted in the host. Blocking.
    pub(crate) fn dead_mounts(&self) -> Vec<PathBuf> {
        let mut state = self.lock();
        state
            .dead
            .retain(|number| !holders::host_mounts(*number).is_empty());
        state
            .dead
            .iter()
            .flat_map(|number| holders::host_mounts(*number))
            .collect()
    }

    /// Unmounts dead devices in the host, so that kubelet can go on. Blocking.
    pub(crate) fn unmount_dead(&self) -> Result<(), String> {
        // Last mounted first.
        for place in self.dead_mounts().iter().rev() {
            let Some(place) = place.to_str() else {
                continue;
            };
            let plain = crate::host::run(&["umount", place], UMOUNT_LIMIT);
            if let Err(error) = plain {
                tracing::warn!(
                    place,
                    error,
                    "umount; trying lazily, the device is dead anyway"
                );
                crate::host::run(&["umount", "-l", place], UMOUNT_LIMIT)?;
            }
        }
        Ok(())
    }
}

/// The task's state.
pub(crate) struct Device<E> {
    export: E,
    /// Of the device that was opened last.
    size: u64,
    guests: Guests,
    events: mpsc::UnboundedSender<Event>,
    status: Arc<DeviceStatus>,
    nbd_socket: Option<PathBuf>,
    nbd: Option<JoinHandle<()>>,
}

impl<E: BlockExport> Device<E> {
    pub(crate) fn new(
        export: E,
        guests: Guests,
        events: mpsc::UnboundedSender<Event>,
        status: Arc<DeviceStatus>,
        nbd_socket: Option<PathBuf>,
    ) -> Self {
        Self {
            export,
            size: 0,
            guests,
            events,
            status,
            nbd_socket,
            nbd: None,
        }
    }

    /// Obeys until the driver is gone, then takes everything down that nobody holds.
    pub(crate) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<DeviceOrder>) {
        let (died_sender, mut died) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let event = match order {
                        Some(DeviceOrder::Open { format, size }) => Event::DeviceOpened {
                            result: self.open(format, size, &died_sender).await,
                        },
                        Some(DeviceOrder::Resize { size }) => {
                            self.resize(size).await;
                            continue;
                        }
                        Some(DeviceOrder::Publish) => Event::DevicePublished { result: self.publish().await },
                        Some(DeviceOrder::Close) => Event::DeviceClosed { result: self.close().await },
                        None => break,
                    };
                    let _ = self.events.send(event);
                }
                Some(()) = died.recv() => {
                    let number = self.status.number();
                    self.status.lock().dead.extend(number);
                    let _ = self.events.send(Event::DeviceDied);
                }
            }
        }
        if let Err(Holder(holder)) = self.close().await {
            tracing::warn!(
                holder,
                "stopping under a device in use: its users get errors"
            );
            self.remove_link();
        }
    }

    async fn open(
        &mut self,
        format: Option<FsKind>,
        size: u64,
        died: &mpsc::UnboundedSender<()>,
    ) -> Result<Option<FsSignature>, String> {
        self.remove_link();
        self.size = size;
        let guests = self.guests.clone();
        let opened = self.export.open(size, guests, died.clone()).await?;
        self.status.lock().node.clone_from(&opened);
        let Some(node) = opened else { return Ok(None) };
        let made = blocking(move || {
            if let Some(kind) = format {
                make_file_system(kind, &node)?;
            }
            let found = probe(&node)?;
            match (format, found) {
                (Some(wanted), Some(found)) if found.kind != wanted => {
                    Err(format!("mkfs made {:?} instead of {wanted:?}", found.kind))
                }
                (Some(_), None) => Err("mkfs left no file system behind".to_owned()),
                (Some(_) | None, found) => Ok(found),
            }
        })
        .await;
        if made.is_err() {
            self.take_down().await;
        }
        made
    }

    /// Its users see the larger size at once; who mounts it grows the file system. A client of the NBD socket
    /// sees it when it connects anew.
    async fn resize(&mut self, size: u64) {
        self.size = size;
        if self.nbd.is_some() {
            self.end_nbd().await;
            let _ = self
                .serve_nbd()
                .inspect_err(|error| tracing::error!(error, "NBD"));
        }
        match self.export.resize(size).await {
            Ok(()) => tracing::info!(size, "the device has grown"),
            // It is as it was, and has its size when it is opened again.
            Err(error) => tracing::error!(size, error, "the device does not grow"),
        }
    }

    async fn publish(&mut self) -> Result<(), String> {
        self.serve_nbd()?;
        let Some(node) = self.status.lock().node.clone() else {
            return Ok(());
        };
        let link = self.status.link.clone();
        blocking(move || {
            // Kubelet mounts whatever it finds: only a block device that can be read and written is
            // shown.
            probe(&node)?;
            make_link(&node, &link).map_err(|e| format!("{}: {e}", link.display()))
        })
        .await
    }

    async fn close(&mut self) -> Result<(), Holder> {
        let node = self.status.lock().node.clone();
        let Some(node) = node else {
            self.take_down().await;
            self.remove_link();
            return Ok(());
        };
        let taken = blocking(move || {
            match Exclusive::take(&node) {
                Ok(Some(exclusive)) => Ok(exclusive),
                Ok(None) => Err(name_holder(&node)),
                // A dead device cannot be opened, and nobody new can hold it.
                Err(e) => Err(format!("{}: {e}", node.display())),
            }
        })
        .await;
        // The exclusive hold lasts until the link is gone: nobody mounts in between.
        let exclusive = taken.map_err(Holder)?;
        self.remove_link();
        drop(exclusive);
        self.take_down().await;
        Ok(())
    }

    /// Ends NBD and device. Failures are logged: what is left is labelled and found at the next start.
    async fn take_down(&mut self) {
        self.end_nbd().await;
        if let Err(error) = self.export.close().await {
            tracing::error!(error, "taking the device down");
        }
        self.status.lock().node = None;
    }

    async fn end_nbd(&mut self) {
        if let Some(nbd) = self.nbd.take() {
            nbd.abort();
            let _ = nbd.await;
        }
    }

    fn serve_nbd(&mut self) -> Result<(), String> {
        let Some(path) = self.nbd_socket.clone() else {
            return Ok(());
        };
        if self.nbd.is_none() {
            let name = self
                .status
                .link
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let export = nbd::Export {
                name,
                size: self.size,
            };
            let listener = nbd::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            self.nbd = Some(tokio::spawn(nbd::serve(
                listener,
                export,
                self.guests.clone(),
            )));
        }
        Ok(())
    }

    fn remove_link(&self) {
        remove_link(&self.status.link);
    }
}

/// Removes a link of ours; anything else at that place is left alone.
pub(crate) fn remove_link(link: &Path) {
    if link.symlink_metadata().is_ok_and(|m| m.is_symlink())
        && let Err(error) = std::fs::remove_file(link)
    {
        tracing::error!(link = %link.display(), %error, "removing the device link");
    }
}

async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(body)
        .await
        .map_err(|e| e.to_string())?
}

fn make_file_system(kind: FsKind, node: &Path) -> Result<(), String> {
    let node = node.to_str().ok_or("a device path that is not text")?;
    match kind {
        FsKind::Xfs => crate::host::run(&["mkfs.xfs", "-q", "-f", node], MKFS_LIMIT),
        FsKind::Ext4 => crate::host::run(&["mkfs.ext4", "-q", "-F", node], MKFS_LIMIT),
    }
}

fn name_holder(node: &Path) -> String {
    let number = holders::number_of(node).ok();
    let name = number.map(|n| holders::describe(n, &holders::users(n)));
    name.filter(|n| !n.is_empty())
        .unwrap_or_else(|| "a process that has it open".to_owned())
}

fn probe(node: &Path) -> Result<Option<FsSignature>, String> {
    signature::probe(node).map_err(|e| format!("{}: {e}", node.display()))
}

fn make_link(node: &Path, link: &Path) -> std::io::Result<()> {
    if let Some(dir) = link.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match link.symlink_metadata() {
        Ok(there) if !there.is_symlink() => {
            return Err(std::io::Error::other(
                "something that is not a link stands there; remove it",
            ));
        }
        Ok(_) | Err(_) => {}
    }
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let temp = link.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&temp) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(node, &temp)?;
    std::fs::rename(&temp, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_replaces_a_link_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("drqm/ns_qm1");
        make_link(Path::new("/dev/null"), &link).unwrap();
        make_link(Path::new("/dev/zero"), &link).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/dev/zero"));
        remove_link(&link);
        std::fs::create_dir(&link).unwrap();
        assert!(make_link(Path::new("/dev/null"), &link).is_err());
        remove_link(&link);
        assert!(link.is_dir());
    }
}
