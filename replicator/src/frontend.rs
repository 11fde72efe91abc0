//! Where requests of the device's user come from: a trait for block devices, and what all
//! front-ends share.
//!
//! Lives here: the request with its way back, range checks. Does not live here: replication, when a
//! device may exist (the engine). [`device`] carries out its orders; [`fuse`] with [`loopdev`] makes a
//! block device; [`nbd`] is a socket for tools and tests.

pub(crate) mod device;
pub(crate) mod fuse;
pub(crate) mod holders;
pub(crate) mod loopdev;
pub(crate) mod nbd;
pub(crate) mod signature;

use std::path::PathBuf;

use drqm_engine::{Completion, GuestRequest};
use tokio::sync::mpsc;

/// Requests that wait for the driver; beyond it the front-end stops reading.
pub(crate) const QUEUE: usize = 256;

/// Largest write of a front-end.
pub(crate) const MAX_WRITE: usize = 1 << 20;

/// Requests are multiples of this.
pub(crate) const SECTOR: u64 = 512;

/// One request and where its answer goes.
#[derive(Debug)]
pub(crate) struct GuestCall {
    pub(crate) request: GuestRequest,
    pub(crate) reply: Reply,
}

/// The way back to a front-end.
#[derive(Debug)]
pub(crate) enum Reply {
    Fuse(fuse::FuseReply),
    Nbd(nbd::NbdReply),
}

impl Reply {
    /// Answers. Never blocks.
    pub(crate) fn complete(self, completion: Completion) {
        match self {
            Self::Fuse(reply) => reply.complete(completion),
            Self::Nbd(reply) => reply.complete(completion),
        }
    }
}

/// Requests on their way to the driver.
pub(crate) type Guests = mpsc::Sender<GuestCall>;

/// A kind of block device.
///
/// An implementation serves requests from `open` to `close` by tasks of its own on the data thread.
pub(crate) trait BlockExport: Send + 'static {
    /// Word for status.
    const KIND: &'static str;

    /// Brings a device of `size` bytes up and returns its node; none for a front-end without a block device.
    ///
    /// `died` is told if the device later dies by itself.
    fn open(
        &mut self,
        size: u64,
        guests: Guests,
        died: mpsc::UnboundedSender<()>,
    ) -> impl Future<Output = Result<Option<PathBuf>, String>> + Send;

    /// Makes the device, which is up, larger.
    fn resize(&mut self, size: u64) -> impl Future<Output = Result<(), String>> + Send;

    /// Takes the device down. Nobody holds it; the caller has made sure. Idempotent.
    fn close(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

/// Whether a request lies on the sector grid and inside the volume.
pub(crate) fn range_fits(offset: u64, len: u64, size: u64) -> bool {
    len > 0
        && offset.is_multiple_of(SECTOR)
        && len.is_multiple_of(SECTOR)
        && offset.checked_add(len).is_some_and(|end| end <= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_off_the_grid_or_beyond_the_end_do_not_fit() {
        assert!(range_fits(0, 512, 4096) && range_fits(3584, 512, 4096));
        for (offset, len) in [
            (0, 0),
            (1, 512),
            (0, 100),
            (4096, 512),
            (3584, 1024),
            (u64::MAX - 511, 512),
        ] {
            assert!(!range_fits(offset, len, 4096), "{offset} {len}");
        }
    }
}
