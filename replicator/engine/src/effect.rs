//! Orders of the engine, performed by the shell. Imperative.
//!
//! Guarantee: an order that may only be seen from outside after something is durable is not emitted
//! before the corresponding [`crate::Event`]. The shell may therefore perform orders in any
//! interleaving, except that [`Effect::Send`] of one session keep their order.

use bytes::Bytes;

use crate::command::Refusal;
use crate::event::FsKind;
use crate::frame::Frame;
use crate::ids::{CommandId, Epoch, GuestId, JobId, SessionId};

/// How a request of the device's user ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Done.
    Done,
    /// Read; these are the bytes.
    Data(Bytes),
    /// EIO to the user.
    Error,
}

/// One order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer the device's user.
    CompleteGuest {
        /// Which request.
        id: GuestId,
        /// How it ended.
        completion: Completion,
    },
    /// Read the local data. Answered by [`crate::Event::DataRead`].
    ReadData {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the local data. Answered by [`crate::Event::DataWritten`].
    WriteData {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the volume.
        offset: u64,
        /// Payload.
        data: Bytes,
        /// Durable before the answer.
        fua: bool,
    },
    /// Make a range of the local data read as zeros. Answered by [`crate::Event::DataWritten`].
    ZeroData {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Make every write that was *answered* before this order durable. Answered by
    /// [`crate::Event::DataFlushed`]. A failed flush is never retried.
    FlushData {
        /// Repeated in the answer.
        job: JobId,
    },
    /// Write 4 KiB blocks of metadata, durably. Answered by [`crate::Event::MetaWritten`]. Several may
    /// be under way; the engine orders those that must be ordered by waiting.
    WriteMeta {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the metadata; a multiple of 4096.
        offset: u64,
        /// Whole blocks.
        data: Bytes,
    },
    /// Empty the undo log and reserve room for so many bytes. Answered by [`crate::Event::UndoDone`].
    MakeUndo {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes that will probably be written.
        bytes: u64,
    },
    /// Write whole blocks of the undo log, durably. Answered by [`crate::Event::UndoDone`].
    WriteUndo {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the log; a multiple of 4096.
        offset: u64,
        /// Whole blocks.
        data: Bytes,
    },
    /// Make durable whatever the undo log shows. Answered by [`crate::Event::UndoDone`].
    FlushUndo {
        /// Repeated in the answer.
        job: JobId,
    },
    /// Read the undo log; zeros beyond its end. Answered by [`crate::Event::UndoRead`].
    ReadUndo {
        /// Repeated in the answer.
        job: JobId,
        /// Bytes from the start of the log; a multiple of 4096.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Empty the undo log and give its room back. Answered by [`crate::Event::UndoDone`].
    DropUndo {
        /// Repeated in the answer.
        job: JobId,
    },
    /// Copy the whole data as they are to a safe place that is called after an epoch, durably. Nothing else
    /// is written meanwhile. Answered by [`crate::Event::UndoDone`].
    KeepCopy {
        /// Repeated in the answer.
        job: JobId,
        /// The head of the lineage that the data belong to.
        epoch: Epoch,
    },
    /// Bring the block device up at a private place (no link yet) and, if asked, make a file system
    /// on it. Reads and writes of the device arrive as guest requests from now on. Answered by
    /// [`crate::Event::DeviceOpened`].
    OpenDevice {
        /// Make this file system; never asked for once one was made.
        format: Option<FsKind>,
        /// Its size, bytes.
        size: u64,
    },
    /// The device, which is there, has more bytes from now on. Not answered.
    ResizeDevice {
        /// Bytes.
        size: u64,
    },
    /// Make the link that kubelet sees. Answered by [`crate::Event::DevicePublished`].
    PublishDevice,
    /// Remove link and device, unless somebody holds it. Answered by [`crate::Event::DeviceClosed`].
    CloseDevice,
    /// Send a frame. Frames of a session keep their order.
    Send {
        /// On which session.
        session: SessionId,
        /// The frame.
        frame: Frame,
    },
    /// End a session (after what was sent before has left, or at once if it cannot). Answered by
    /// [`crate::Event::SessionClosed`].
    CloseSession {
        /// Which.
        session: SessionId,
        /// For the log.
        reason: String,
        /// The peer did what no peer does.
        is_violation: bool,
    },
    /// Dial every address of the peer now, without back-off; answered by
    /// [`crate::Event::SessionOpened`] or [`crate::Event::DialFailed`].
    DialNow,
    /// Answer the operator.
    Answer {
        /// Which command.
        id: CommandId,
        /// Done, or why not.
        result: Result<(), Refusal>,
    },
    /// The state changed in a way that matters to a reconcile.
    Notify,
    /// Everything that must survive is durable; the process may end.
    Stopped,
}
