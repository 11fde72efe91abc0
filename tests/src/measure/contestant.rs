//! The programs that are measured, and how each is started and ended.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::halves::{self, Halves, Outlet, free_port};
use super::keys;
use crate::process::Background;

/// Bytes of each volume.
pub(super) const SIZE: u64 = 256 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contestant {
    /// Our replicator without a peer.
    Alone,
    /// Our replicator with a peer that gets writes later.
    Asynchronous,
    /// The same, encrypted.
    Encrypted,
    /// Our replicator with a peer that has a write before it completes.
    Synchronous,
    /// qemu-storage-daemon on one file.
    StorageDaemon,
    /// qemu-storage-daemon's quorum of one file and one NBD server.
    Quorum,
}

impl Contestant {
    pub(super) const ALL: [Self; 6] = [
        Self::Alone,
        Self::Asynchronous,
        Self::Encrypted,
        Self::Synchronous,
        Self::StorageDaemon,
        Self::Quorum,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alone => "drqm alone",
            Self::Asynchronous => "drqm asynchronous",
            Self::Encrypted => "drqm asynchronous, TLS",
            Self::Synchronous => "drqm synchronous",
            Self::StorageDaemon => "qsd alone",
            Self::Quorum => "qsd quorum",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Asynchronous => "asynchronous",
            Self::Encrypted => "encrypted",
            Self::Synchronous => "synchronous",
            Self::StorageDaemon => "storage-daemon",
            Self::Quorum => "quorum",
        }
    }

    /// Starts it with its volumes in a folder of its own, and waits until it serves.
    pub(super) fn start(self, replicator: &Path, scratch: &Path) -> Result<Running> {
        let folder = scratch.join(self.folder());
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let socket = folder.join("nbd");
        let (commands, copies) = match self {
            Self::Alone | Self::Asynchronous | Self::Synchronous | Self::Encrypted => {
                self.ours(replicator, &folder, &socket, None)?
            }
            Self::StorageDaemon => (vec![storage_daemon(&folder, &socket)?], None),
            Self::Quorum => quorum(&folder, &socket)?,
        };
        self.serve(socket, (commands, copies))
    }

    /// Starts a pair between whose halves a round trip takes so long.
    pub(super) fn start_apart(
        self,
        replicator: &Path,
        folder: &Path,
        round_trip: Duration,
    ) -> Result<Running> {
        std::fs::create_dir(folder).with_context(|| folder.display().to_string())?;
        let socket = folder.join("nbd");
        let setup = self.ours(replicator, folder, &socket, Some(round_trip / 2))?;
        self.serve(socket, setup)
    }

    fn ours(
        self,
        replicator: &Path,
        folder: &Path,
        socket: &Path,
        way: Option<Duration>,
    ) -> Result<Setup> {
        let halves = Halves {
            replicator,
            folder,
            size: SIZE,
        };
        let outlet = Outlet::Socket(socket);
        if self == Self::Alone {
            return Ok((vec![halves.alone(outlet)], None));
        }
        if self == Self::Encrypted {
            keys::make(folder)?;
        }
        let [primary, secondary] = halves.pair(outlet, &self.flags(folder), way)?;
        Ok((vec![secondary, primary], Some(halves.copies())))
    }

    fn serve(self, socket: PathBuf, (commands, copies): Setup) -> Result<Running> {
        let mut processes = Vec::new();
        for mut command in commands {
            processes.push(Background::start(&mut command, None)?);
        }
        let mut running = Running {
            contestant: self,
            socket,
            processes,
            copies,
        };
        running.wait_until_served()?;
        Ok(running)
    }

    /// What both halves of a pair are told besides.
    fn flags(self, folder: &Path) -> Vec<OsString> {
        match self {
            Self::Encrypted => vec!["--tls".into(), folder.into()],
            Self::Synchronous => vec!["--plaintext".into(), "--synchronous".into()],
            Self::Alone | Self::Asynchronous | Self::StorageDaemon | Self::Quorum => {
                vec!["--plaintext".into()]
            }
        }
    }
}

/// A contestant that serves.
pub(super) struct Running {
    pub(super) contestant: Contestant,
    pub(super) socket: PathBuf,
    processes: Vec<Background>,
    copies: Option<[PathBuf; 2]>,
}

impl Running {
    fn wait_until_served(&mut self) -> Result<()> {
        served(self.contestant.name(), &self.socket, &mut self.processes)
    }

    /// Processor time that its processes have taken so far, seconds.
    pub(super) fn processor_time(&self) -> Result<f64> {
        let times = self.processes.iter().map(Background::processor_time);
        times.sum()
    }

    /// Ends it in order, the one that writes first, and compares the copies if there are two.
    pub(super) fn stop_and_compare(mut self) -> Result<()> {
        for process in self.processes.iter_mut().rev() {
            halves::end(self.contestant.name(), process)?;
        }
        halves::compare(self.contestant.name(), self.copies.as_ref())
    }
}

/// Waits until a socket is served, by processes that run.
pub(super) fn served(name: &str, socket: &Path, processes: &mut [Background]) -> Result<()> {
    // A socket file may be there before somebody listens.
    halves::until(name, processes, || UnixStream::connect(socket).is_ok())
}

type Setup = (Vec<Command>, Option<[PathBuf; 2]>);

fn storage_daemon(folder: &Path, socket: &Path) -> Result<Command> {
    let mut command = on_file(&sparse(folder, "one")?);
    export(&mut command, socket, "disk");
    Ok(command)
}

fn quorum(folder: &Path, socket: &Path) -> Result<Setup> {
    let files = [sparse(folder, "one")?, sparse(folder, "other")?];
    let port = free_port()?;
    let mut remote = on_file(&files[1]);
    remote.args([
        "--nbd-server",
        &format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}"),
    ]);
    remote.args([
        "--export",
        "type=nbd,id=export,node-name=disk,name=disk,writable=on",
    ]);
    let mut local = on_file(&files[0]);
    local.args(["--blockdev", &format!(
        "driver=nbd,node-name=remote,server.type=inet,server.host=127.0.0.1,server.port={port},export=disk,\
         open-timeout=10"
    )]);
    local.args([
        "--blockdev",
        "driver=quorum,node-name=both,vote-threshold=2,children.0=disk,children.1=remote",
    ]);
    export(&mut local, socket, "both");
    Ok((vec![remote, local], Some(files)))
}

fn on_file(file: &Path) -> Command {
    let mut command = Command::new("qemu-storage-daemon");
    command.args([
        "--blockdev",
        &format!("driver=file,node-name=file,filename={}", file.display()),
    ]);
    command.args(["--blockdev", "driver=raw,node-name=disk,file=file"]);
    command
}

fn export(command: &mut Command, socket: &Path, node: &str) {
    command.args([
        "--nbd-server",
        &format!("addr.type=unix,addr.path={}", socket.display()),
    ]);
    command.args([
        "--export",
        &format!("type=nbd,id=export,node-name={node},name=,writable=on"),
    ]);
}

fn sparse(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    file.set_len(SIZE)
        .with_context(|| path.display().to_string())?;
    Ok(path)
}
