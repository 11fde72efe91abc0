//! How our replicator is started for a measurement: one volume alone, or the two halves of a pair.
//!
//! Does not live here: when they run ([`super::contestant`], [`super::resync`], [`super::broker`]).

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::delay;
use crate::process::{self, Background};
use crate::wait::{Look, wait_until};

/// For two files to be compared.
const COMPARE: Duration = Duration::from_secs(60);

/// For a program to serve: a pair copies the whole volume first.
const START: Duration = Duration::from_secs(60);

/// For a program to end; what is under way is sent first.
const END: Duration = Duration::from_secs(60);

/// Where a Primary's writes come in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outlet<'a> {
    /// An NBD socket.
    Socket(&'a Path),
    /// A link to a block device, with an XFS on it.
    Device(&'a Path),
}

/// Volumes of one size, in a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Halves<'a> {
    pub(super) replicator: &'a Path,
    pub(super) folder: &'a Path,
    /// Bytes of each.
    pub(super) size: u64,
}

impl Halves<'_> {
    /// One volume without a peer.
    pub(super) fn alone(&self, outlet: Outlet<'_>) -> Command {
        let mut one = self.half("one", Some(outlet));
        one.arg("--plaintext");
        one
    }

    /// A Primary and its secondary, both told `flags`; with a way between them, either reaches the other
    /// by a path that takes so long.
    ///
    /// # Errors
    /// When loopback has no port.
    pub(super) fn pair(
        &self,
        outlet: Outlet<'_>,
        flags: &[OsString],
        way: Option<Duration>,
    ) -> Result<[Command; 2]> {
        let [here, there] =
            [free_port()?, free_port()?].map(|p| SocketAddr::from(([127, 0, 0, 1], p)));
        let reached = |address: SocketAddr| way.map_or(Ok(address), |w| delay::path(address, w));
        let half = |name, outlet, listen: SocketAddr, peer| {
            let mut half = self.half(name, outlet);
            half.args(["--listen", &listen.to_string()]);
            half.args(["--peer", &reached(peer)?.to_string()])
                .args(flags);
            anyhow::Ok(half)
        };
        let primary = half("primary", Some(outlet), here, there)?;
        Ok([primary, half("secondary", None, there, here)?])
    }

    fn half(&self, name: &str, outlet: Option<Outlet<'_>>) -> Command {
        let mut command = Command::new(self.replicator);
        command.args(["standalone", "--size", &self.size.to_string()]);
        command.arg("--pool").arg(self.folder.join(name));
        match outlet {
            Some(Outlet::Socket(socket)) => command.arg("--primary").arg("--nbd").arg(socket),
            Some(Outlet::Device(link)) => command.arg("--primary").arg("--device").arg(link),
            None => &mut command,
        };
        command
    }

    /// The files that hold the data of a pair.
    pub(super) fn copies(&self) -> [PathBuf; 2] {
        ["primary", "secondary"].map(|name| self.folder.join(name).join("measure_volume/data"))
    }
}

/// Whether two files hold the same; what `cmp` says if not.
///
/// # Errors
/// When it cannot be run.
pub(super) fn difference([one, other]: &[PathBuf; 2]) -> Result<Option<String>> {
    let compared = process::run(Command::new("cmp").arg(one).arg(other), COMPARE)?;
    Ok((!compared.is_success()).then(|| compared.complaint()))
}

/// Whether both copies of a pair are the same; of one volume alone there is nothing to compare.
///
/// # Errors
/// When they differ, with what `cmp` says.
pub(super) fn compare(name: &str, copies: Option<&[PathBuf; 2]>) -> Result<()> {
    match copies.map(difference).transpose()?.flatten() {
        None => Ok(()),
        Some(difference) => bail!("{name}: the copies differ: {difference}"),
    }
}

/// Waits until a program serves, by processes that run.
///
/// # Errors
/// When one of them ends, or it takes too long.
pub(super) fn until(
    name: &str,
    processes: &mut [Background],
    serves: impl Fn() -> bool,
) -> Result<()> {
    wait_until(&format!("{name} serves"), START, || {
        for process in &mut *processes {
            if let Some(finished) = process.wait(Duration::ZERO)? {
                bail!("{name} ended: {}", finished.complaint());
            }
        }
        Ok(if serves() {
            Look::Holds(())
        } else {
            Look::NotYet("it does not yet".to_owned())
        })
    })
}

/// Ends a process in order.
///
/// # Errors
/// When it takes too long.
pub(super) fn end(name: &str, process: &mut Background) -> Result<()> {
    process.terminate();
    ensure!(process.wait(END)?.is_some(), "{name} does not end");
    Ok(())
}

/// A port that nobody has at this moment.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port on loopback")?;
    Ok(listener.local_addr()?.port())
}
