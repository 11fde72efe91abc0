//! The engine of one volume: its parts, the dispatch of facts, and the two mechanisms that all parts
//! share: I/O jobs, and changes of the superblock with what follows them.
//!
//! Does not live here: the rules. Each part has its own file and adds methods to [`Engine`]:
//! [`crate::write_path`] (the Primary's writes), [`crate::replica`] (applying the peer's),
//! [`crate::link`] (session, handshake, heartbeat), [`crate::resync`] (both ends of a copy),
//! [`crate::snapshot`] (what a copy was before it, and the way back), [`crate::partition`] (a person's
//! word after both sides have written),
//! [`crate::growth`] (a larger volume), [`crate::verify`] (both copies compared while in use),
//! [`crate::transition`] (role changes), [`crate::device`] (start gate, device),
//! [`crate::status`] (the report).
//!
//! After every fact, [`Engine::advance`] lets each part do what has become possible. Parts look at
//! the state, not at which fact came, so that a missed case shows as "not yet", never as "too early".

mod durable;
mod stop;

use std::collections::BTreeMap;

use bytes::Bytes;
use durable::{Emptying, Keeper, Pages};

use crate::Effect;
use crate::activity::ActivityLog;
use crate::command::{Command, Identity, Refusal};
use crate::compare::{Decision, SentCompletion};
use crate::device::Device;
use crate::event::{Event, IoError};
use crate::ids::{CommandId, JobId, NodeId, ResyncId, RunId, Seq, SessionId, SnapshotId, VolumeId};
use crate::link::Link;
use crate::marks::Marks;
use crate::meta::codec::{Reader, Writer};
use crate::meta::{self, BITMAP, BITS_PER_PAGE, BLOCK, Kind, LABEL, RING_A, RING_B, RING_SLOTS};
use crate::replica::Replica;
use crate::role::Role;
use crate::settings::{CHUNK_SHIFT, Settings};
use crate::snapshot::{Snapshots, UndoJob};
use crate::superblock::{Superblock, Then};
use crate::time::{Mono, Now};
use crate::transition::Change;
use crate::verify::Verification;
use crate::write_path::WritePath;

const VERSION: u64 = 1;

/// Why metadata cannot be used. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The label is not ours or damaged.
    #[error("the metadata have no valid label")]
    NoLabel,
    /// Written by a newer version, or with features that this one does not know.
    #[error("the metadata have version {0}, this replicator knows version {VERSION}")]
    Version(u64),
    /// No superblock of either ring is valid.
    #[error("no superblock is valid")]
    NoSuperblock,
    /// The file is shorter than the volume needs.
    #[error("the metadata are {found} bytes, a volume of this size needs {needed}")]
    TooShort {
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
}

/// What an I/O job was for.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Job {
    GuestRead(crate::ids::GuestId),
    GuestWrite(Seq),
    GuestFlush(Seq),
    Apply(Seq),
    ReplicaFlush,
    ReplicaPosition,
    ChunkRead {
        resync: ResyncId,
        offset: u64,
        len: u64,
        /// To send its hashes.
        hashed: bool,
    },
    /// A range that the peer has sent the hashes of.
    Compare(u64),
    VerifyRead {
        id: ResyncId,
        offset: u64,
        len: u64,
    },
    SourceFlush(ResyncId),
    Undo(UndoJob),
    Superblock,
    SuperblockCopy,
    ActivityLog,
    Page,
    /// A flush whose end is one step of a sequence: eviction, demotion, stop, promotion.
    Flush(AfterFlush),
}

/// What a flush of the data was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AfterFlush {
    Evict,
    Demote,
    Promote,
    Stop,
    /// The copy is durable as it is: the snapshot may be what it will go back to.
    Snapshot(SnapshotId),
    /// The copy is back at its snapshot.
    Revert,
}

/// What all pages being durable is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AfterPages {
    Evict,
    /// For the session that it was stored for.
    UnionStored(Option<SessionId>),
    Demote,
    Stop,
    Voided,
    /// Both copies were compared, in this session.
    Compared(Option<SessionId>),
    Nothing,
}

/// 128-bit identifiers from a seed.
#[derive(Clone, Hash)]
struct IdSource {
    seed: u128,
    drawn: u64,
}

impl IdSource {
    fn draw(&mut self) -> u128 {
        let mut mix = |salt: u64| {
            self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z =
                (self.seed as u64 ^ (self.seed >> 64) as u64 ^ salt).wrapping_add(self.drawn);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let wide =
            u128::from(mix(self.seed as u64)) << 64 | u128::from(mix((self.seed >> 64) as u64));
        wide.max(1)
    }
}

/// One volume.
#[derive(Clone, Hash)]
pub struct Engine {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    pub(crate) sb: Superblock,
    pub(crate) run: RunId,
    pub(crate) marks: Marks,
    pub(crate) activity: ActivityLog,
    /// Extents that are leaving, and when that began.
    evicting: Option<(Vec<u64>, u64)>,
    emptying: Emptying,
    pub(crate) link: Link,
    pub(crate) guest: WritePath,
    pub(crate) replica: Replica,
    pub(crate) snapshots: Snapshots,
    pub(crate) verification: Option<Verification>,
    pub(crate) device: Device,
    pub(crate) change: Option<Change>,
    pub(crate) completion: Option<SentCompletion>,
    pub(crate) fault: Option<String>,
    pub(crate) stopping: bool,
    keeper: Keeper,
    pages: Pages,
    jobs: BTreeMap<JobId, Job>,
    next_job: u64,
    ids: IdSource,
    last_notified: Option<crate::status::Digest>,
}

impl Engine {
    /// Blocks of a new volume, to be written to zeroed metadata and flushed before [`Engine::open`].
    #[must_use]
    pub fn format(identity: &Identity) -> Vec<(u64, Bytes)> {
        let mut label = Writer::default();
        label
            .word(VERSION)
            .word(0)
            .wide(identity.node.0)
            .word(identity.size);
        let first = Superblock {
            volume: identity.volume,
            clean: true,
            ..Superblock::default()
        };
        let body = first.encode();
        let at = |block: u64| block * BLOCK as u64;
        vec![
            (
                at(RING_A + 1),
                meta::seal(Kind::Superblock, identity.node, RING_A + 1, 1, &body),
            ),
            (
                at(RING_B + 1),
                meta::seal(Kind::Superblock, identity.node, RING_B + 1, 1, &body),
            ),
            (
                at(LABEL),
                meta::seal(Kind::Label, identity.node, LABEL, 1, &label.0),
            ),
        ]
    }

    /// Bytes that the metadata of a volume need.
    #[must_use]
    pub fn metadata_len(size: u64) -> u64 {
        let pages = size.div_ceil(1 << CHUNK_SHIFT).div_ceil(BITS_PER_PAGE);
        (BITMAP + pages) * BLOCK as u64
    }

    /// Opens a volume from the whole content of its metadata.
    ///
    /// `seed` must be fresh randomness: identifiers are drawn from it. Send [`Event::Tick`] first.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed.
    pub fn open(raw: &[u8], settings: Settings, seed: u128, now: Now) -> Result<Self, OpenError> {
        let (_, label) = meta::unseal(raw, Kind::Label, None, LABEL).ok_or(OpenError::NoLabel)?;
        let r = &mut Reader(label);
        let version = r.word().ok_or(OpenError::NoLabel)?;
        let features = r.word().ok_or(OpenError::NoLabel)?;
        if version != VERSION || features != 0 {
            return Err(OpenError::Version(version.max(features)));
        }
        let node = NodeId(r.wide().ok_or(OpenError::NoLabel)?);
        let formatted = r.word().ok_or(OpenError::NoLabel)?;
        let ring = (RING_A..RING_A + RING_SLOTS).chain(RING_B..RING_B + RING_SLOTS);
        let (seq, sb) = ring
            .filter_map(|b| meta::unseal(raw, Kind::Superblock, Some(node), b))
            .filter_map(|(seq, body)| Superblock::decode(body).map(|sb| (seq, sb)))
            .max_by_key(|(seq, _)| *seq)
            .ok_or(OpenError::NoSuperblock)?;
        let size = sb.size.max(formatted);
        let (found, needed) = (raw.len() as u64, Self::metadata_len(size));
        if found < needed {
            return Err(OpenError::TooShort { found, needed });
        }
        let mut ids = IdSource { seed, drawn: 0 };
        let mut engine = Self {
            identity: Identity {
                node,
                volume: sb.volume,
                size,
            },
            now,
            run: RunId(ids.draw()),
            marks: Marks::load(raw, node, size, sb.bits_void),
            activity: ActivityLog::load(raw, node, size),
            evicting: None,
            emptying: Emptying::No,
            link: Link::default(),
            guest: WritePath::default(),
            replica: Replica::load(raw, node),
            snapshots: Snapshots::at_start(&sb, size),
            verification: None,
            device: Device::at_start(&sb, &settings, now.mono),
            change: None,
            completion: None,
            fault: None,
            stopping: false,
            keeper: Keeper::after(seq),
            pages: Pages::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            ids,
            last_notified: None,
            settings,
            sb,
        };
        engine.recover();
        Ok(engine)
    }

    /// What a crashed run as Primary left in doubt becomes dirty; bits that were void are cleared.
    fn recover(&mut self) {
        if self.sb.role == Role::Primary && !self.sb.clean {
            let mut tail = 0;
            for extent in self.activity.extents().collect::<Vec<_>>() {
                let start = extent << crate::settings::EXTENT_SHIFT;
                let len = (1 << crate::settings::EXTENT_SHIFT).min(self.identity.size - start);
                self.marks.mark(start, len);
                tail += len;
            }
            self.sb.crashed = true;
            self.sb.in_doubt |= self.activity.may_be_incomplete();
            self.sb.crashed_tail_bytes = tail;
            self.persist(Then::Nothing);
        }
        if self.sb.bits_void {
            self.store_pages(AfterPages::Voided);
        }
        if !self.can_revert() && self.sb.snapshot.take().is_some() {
            self.persist(Then::Nothing);
        }
    }

    /// Who this half is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Applies one fact and appends what must now be done. Never blocks, never fails.
    pub fn step(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::Guest { id, request } => self.park(id, request, out),
            Event::DataRead { job, result } => self.data_read(job, result, out),
            Event::DataWritten { job, result } => self.data_written(job, result, out),
            Event::DataFlushed { job, result } => self.data_flushed(job, result, out),
            Event::MetaWritten { job, result } => self.meta_written(job, result, out),
            Event::UndoRead { job, result } => self.undo_read(job, result, out),
            Event::UndoDone { job, result } => self.undo_done(job, result, out),
            Event::DeviceOpened { result } => self.device_opened(result, out),
            Event::DevicePublished { result } => self.device_published(result),
            Event::DeviceClosed { result } => self.device_closed(result, out),
            Event::DeviceDied => self.device_died(),
            Event::SessionOpened {
                session,
                hello,
                remote,
            } => {
                self.session_opened(session, hello, remote, out);
            }
            Event::FrameReceived { session, frame } => self.frame_received(session, frame, out),
            Event::SessionClosed { session, .. } => self.session_closed(session, out),
            Event::DialFailed { fault } => self.dial_failed(fault, out),
            Event::Command { id, command } => self.command(id, command, out),
            Event::Configured(settings) => self.configured(settings, out),
            Event::Tick => {}
            Event::StopRequested => self.stopping = true,
        }
        self.advance(out);
    }

    /// Lets every part do what has become possible, each after those whose work it follows: nothing is
    /// left over for the next fact, which may not come for a minute.
    fn advance(&mut self, out: &mut Vec<Effect>) {
        self.advance_stop(out);
        self.advance_link(out);
        self.advance_growth(out);
        self.advance_change(out);
        self.advance_device(out);
        self.advance_congestion(out);
        self.advance_writes(out);
        self.advance_replica(out);
        self.advance_resync(out);
        self.advance_snapshot(out);
        self.advance_verification(out);
        self.heartbeat(out);
        self.write_pages(out);
        self.advance_activity(out);
        self.write_superblock(out);
        let digest = self.digest();
        if self.last_notified.as_ref() != Some(&digest) {
            self.last_notified = Some(digest);
            self.announce(out);
            out.push(Effect::Notify);
        }
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Mono> {
        [
            self.link_wakeup(),
            self.change_wakeup(),
            self.congestion_wakeup(),
            self.device_wakeup(),
            self.replica_wakeup(),
            self.resync_wakeup(),
            self.verification_wakeup(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether guest requests should be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.takes_requests()
    }

    /// Whether the peer's users wait for our acknowledgements.
    #[must_use]
    pub fn peer_waits(&self) -> bool {
        self.may_receive() && self.link.peer_waits_for_acks()
    }

    // === I/O jobs ===

    pub(crate) fn job(&mut self, job: Job) -> JobId {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.jobs.insert(id, job);
        id
    }

    pub(crate) fn draw_id(&mut self) -> u128 {
        self.ids.draw()
    }

    pub(crate) fn flush_data(&mut self, after: AfterFlush, out: &mut Vec<Effect>) {
        let job = self.job(Job::Flush(after));
        out.push(Effect::FlushData { job });
    }

    fn data_read(&mut self, id: JobId, result: Result<Bytes, IoError>, out: &mut Vec<Effect>) {
        match self.jobs.remove(&id) {
            Some(Job::GuestRead(guest)) => self.guest_read(guest, result, out),
            Some(Job::ChunkRead {
                resync,
                offset,
                len,
                hashed,
            }) => self.chunk_read(resync, (offset, len, hashed), result, out),
            Some(Job::Compare(question)) => self.compared(question, result, out),
            Some(Job::VerifyRead { id, offset, len }) => {
                self.verify_read(id, (offset, len), result, out);
            }
            Some(Job::Undo(UndoJob::Save(id, run))) => {
                self.old_content_read((id, run), result, out)
            }
            other => unreachable!("a read ended that was {other:?}"),
        }
    }

    fn data_written(&mut self, id: JobId, result: Result<(), IoError>, out: &mut Vec<Effect>) {
        match self.jobs.remove(&id) {
            Some(Job::GuestWrite(seq)) => self.guest_written(id, seq, result, out),
            Some(Job::Apply(seq)) => self.applied(seq, result, out),
            Some(Job::Undo(UndoJob::PutBack)) => self.put_back(result, out),
            other => unreachable!("a write ended that was {other:?}"),
        }
    }

    fn data_flushed(&mut self, id: JobId, result: Result<(), IoError>, out: &mut Vec<Effect>) {
        let job = self.jobs.remove(&id);
        if let Err(e) = result {
            // What a failed flush left durable is unknown, and asking again would hide it.
            self.fail(&format!("flush of the data: {e}"), out);
        }
        match job {
            Some(Job::GuestFlush(seq)) => self.guest_flushed(seq, result, out),
            Some(Job::ReplicaFlush) if result.is_ok() => self.replica_flushed(out),
            Some(Job::SourceFlush(resync)) if result.is_ok() => self.source_flushed(resync),
            Some(Job::Flush(after)) if result.is_ok() => match after {
                AfterFlush::Evict => self.store_pages(AfterPages::Evict),
                AfterFlush::Demote => self.store_pages(AfterPages::Demote),
                AfterFlush::Promote => self.promotion_flushed(out),
                AfterFlush::Stop => self.store_pages(AfterPages::Stop),
                AfterFlush::Snapshot(id) => self.snapshot_taken(id),
                AfterFlush::Revert => self.reverted(),
            },
            Some(Job::ReplicaFlush | Job::SourceFlush(_) | Job::Flush(_)) => {}
            other => unreachable!("a flush ended that was {other:?}"),
        }
    }

    pub(crate) fn undo_job(&mut self, id: JobId) -> UndoJob {
        match self.jobs.remove(&id) {
            Some(Job::Undo(job)) => job,
            other => unreachable!("an order to the undo log ended that was {other:?}"),
        }
    }

    fn meta_written(&mut self, id: JobId, result: Result<(), IoError>, out: &mut Vec<Effect>) {
        let job = self.jobs.remove(&id);
        if let Err(e) = result {
            self.fail(&format!("write of the metadata: {e}"), out);
            return;
        }
        match job {
            Some(Job::Superblock) => self.superblock_written(out),
            Some(Job::SuperblockCopy) => self.keeper.copied(),
            Some(Job::ReplicaPosition) => self.position_written(),
            Some(Job::ActivityLog) => self.activity_written(),
            Some(Job::Page) => self.page_written(out),
            other => unreachable!("a metadata write ended that was {other:?}"),
        }
    }

    /// The disk cannot be trusted any more: nothing is acknowledged from now on, the peer keeps the
    /// good prefix it has.
    pub(crate) fn fail(&mut self, what: &str, out: &mut Vec<Effect>) {
        if self.fault.is_none() {
            self.fault = Some(what.to_owned());
        }
        self.close_session("the local disk failed", out);
        self.fail_guest(out);
        if let Some(change) = self.change.take() {
            let result = Err(Refusal::DiskFailed(what.to_owned()));
            out.push(Effect::Answer {
                id: change.command,
                result,
            });
        }
    }

    // === commands ===

    fn command(&mut self, id: CommandId, command: Command, out: &mut Vec<Effect>) {
        if let Some(what) = &self.fault
            && !matches!(command, Command::Retire | Command::Refresh)
        {
            let result = Err(Refusal::DiskFailed(what.clone()));
            out.push(Effect::Answer { id, result });
            return;
        }
        match command {
            Command::SetRole {
                role,
                expected_epoch,
                initialize,
                request,
            } => {
                self.set_role(id, role, expected_epoch, initialize, request, out);
            }
            Command::RecordVerdict(request) => {
                self.sb.judged = Some(request);
                self.persist(Then::Answer(id));
            }
            Command::Refresh => self.refresh(id, out),
            Command::Revert { expected_epoch } => self.revert(id, expected_epoch, out),
            Command::Resolve {
                expected_epoch,
                keep,
            } => self.resolve(id, expected_epoch, keep, out),
            Command::HealDevice => self.heal_device(id, out),
            Command::Retire => self.retire(id, out),
        }
    }

    /// Whether a command has to be carried out; one that is done already, or refused, is answered at once.
    pub(crate) fn has_work(
        id: CommandId,
        may: Result<bool, Refusal>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let result = match may {
            Ok(true) => return true,
            Ok(false) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        out.push(Effect::Answer { id, result });
        false
    }

    fn configured(&mut self, settings: Settings, out: &mut Vec<Effect>) {
        let changes = settings.mode != self.settings.mode;
        let has_room = settings.capacity > self.settings.capacity;
        self.settings = settings;
        if has_room && matches!(self.link.blocked(), Some(Decision::Refused(_))) {
            self.compare_again("there is more room here", out);
        }
        if changes {
            self.guest.mode_from = self.guest.last_seq;
            self.complete_ready(out);
        }
    }

    /// The volume's identity, once data exist.
    pub(crate) fn name_volume(&mut self, volume: VolumeId) {
        self.sb.volume = volume;
        self.identity.volume = volume;
    }
}
