//! Facts that happened, as the shell reports them to [`crate::Engine::step`]. Past tense.
//!
//! Does not live here: what follows from them.

use bytes::Bytes;

use crate::command::Command;
use crate::frame::{Frame, PeerHello};
use crate::ids::{CommandId, GuestId, JobId, SessionId};
use crate::settings::Settings;

/// What the device's user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GuestRequest {
    /// Read `len` bytes at `offset`.
    Read {
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write `data` at `offset`. The buffer is the shell's one copy and is never changed afterwards:
    /// disk and wire use the same bytes.
    Write {
        /// Bytes from the start of the volume.
        offset: u64,
        /// Payload; not empty, at most 1 MiB.
        data: Bytes,
        /// Durable at completion.
        fua: bool,
    },
    /// Make a range read as zeros (discards arrive as this: both sides must read the same).
    Zero {
        /// Bytes from the start of the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Everything completed before is durable when this completes.
    Flush,
}

/// Why an I/O request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IoError {
    /// The medium failed (EIO and everything like it).
    #[error("I/O error")]
    Failed,
    /// No space left in the pool.
    #[error("no space left in the pool")]
    NoSpace,
}

/// Why a session could not be opened, or ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkFault {
    /// Nobody answered, or the stream broke.
    Lost(String),
    /// TLS failed: wrong CA, expired, no certificate, wrong name.
    AuthFailed(String),
    /// No common protocol version.
    ProtocolMismatch(String),
    /// The peer sent something that is not allowed; the text says what.
    Violation(String),
}

/// A file system as its superblock names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FsSignature {
    /// Which one.
    pub kind: FsKind,
    /// Its UUID, as on disk.
    pub uuid: [u8; 16],
}

/// File systems that the format guard knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsKind {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

/// Who keeps a device open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder(pub String);

/// One fact.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// The device's user asked for something. Each is answered by exactly one
    /// [`crate::Effect::CompleteGuest`], unless the process ends.
    Guest {
        /// Repeated in the completion.
        id: GuestId,
        /// The request.
        request: GuestRequest,
    },
    /// A [`crate::Effect::ReadData`] ended.
    DataRead {
        /// Which.
        job: JobId,
        /// Exactly the bytes asked for, or why not.
        result: Result<Bytes, IoError>,
    },
    /// A [`crate::Effect::WriteData`] or [`crate::Effect::ZeroData`] ended.
    DataWritten {
        /// Which.
        job: JobId,
        /// Written whole (durably if asked), or why not.
        result: Result<(), IoError>,
    },
    /// A [`crate::Effect::FlushData`] ended.
    DataFlushed {
        /// Which.
        job: JobId,
        /// Every write that ended before the flush was submitted is durable, or nothing is known.
        result: Result<(), IoError>,
    },
    /// A [`crate::Effect::WriteMeta`] is durable, or failed.
    MetaWritten {
        /// Which.
        job: JobId,
        /// Durable, or why not.
        result: Result<(), IoError>,
    },
    /// A [`crate::Effect::ReadUndo`] ended.
    UndoRead {
        /// Which.
        job: JobId,
        /// Exactly the bytes asked for, or why not.
        result: Result<Bytes, IoError>,
    },
    /// A [`crate::Effect::MakeUndo`], [`crate::Effect::WriteUndo`], [`crate::Effect::FlushUndo`],
    /// [`crate::Effect::DropUndo`] or [`crate::Effect::KeepCopy`] ended.
    UndoDone {
        /// Which.
        job: JobId,
        /// Done (and durable), or a sentence that says why not.
        result: Result<(), String>,
    },
    /// A [`crate::Effect::OpenDevice`] ended.
    DeviceOpened {
        /// The file system on it (the one just made, if one was asked for), or what went wrong.
        result: Result<Option<FsSignature>, String>,
    },
    /// A [`crate::Effect::PublishDevice`] ended.
    DevicePublished {
        /// The link is there, or what went wrong.
        result: Result<(), String>,
    },
    /// A [`crate::Effect::CloseDevice`] ended.
    DeviceClosed {
        /// Gone, or held by somebody (then it is still there, link and all).
        result: Result<(), Holder>,
    },
    /// The device died under its users and will not come back by itself.
    DeviceDied,
    /// Hello was exchanged; frames may flow. Newer than every earlier session.
    SessionOpened {
        /// Number of the session, never used before.
        session: SessionId,
        /// What the peer said of itself.
        hello: PeerHello,
        /// The peer's address, for status.
        remote: String,
    },
    /// A frame arrived.
    FrameReceived {
        /// On which session.
        session: SessionId,
        /// The frame, decoded and checked as far as that needs no state.
        frame: Frame,
    },
    /// A session ended; nothing more will arrive on it.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// Why.
        fault: LinkFault,
    },
    /// One fresh dial to every address of the peer failed, each with its deadline.
    DialFailed {
        /// The most telling fault of the round.
        fault: LinkFault,
    },
    /// An order of the operator. Answered by exactly one [`crate::Effect::Answer`].
    Command {
        /// Names the command; a repetition gets the recorded answer.
        id: CommandId,
        /// What to do.
        command: Command,
    },
    /// The configuration is now this.
    Configured(Settings),
    /// Time passed; sent when [`crate::Engine::next_wakeup`] has come.
    Tick,
    /// The process is asked to end: close the session in order, keep the role, write what must
    /// survive, then emit [`crate::Effect::Stopped`].
    StopRequested,
}
