//! What a copy keeps of itself before a resync makes it inconsistent, and the way back to it.
//!
//! ```text
//!  none ──a resync begins──► Creating ──room is reserved, the copy is durable──► Held, Inconsistent
//!   ▲                                                        adopted │              │ a person's order
//!   └────────────────────────────────────────────────────────────────┴── Reverting ◄┘
//! ```
//! Guarantees: a copy becomes inconsistent only with a snapshot behind it (unless the policy says
//! otherwise); a sound snapshot is never dropped or replaced while the copy is inconsistent; going back
//! may be interrupted anywhere and is simply done again.
//!
//! Lives here: the stages. Does not live here: how the old content is kept ([`undo`]).

mod undo;

use crate::compare::Disk;
use crate::effect::Effect;
use crate::engine::{AfterFlush, Engine, Job};
use crate::ids::{CommandId, Epoch, ResyncId, SnapshotId};
use crate::report::SnapshotReport;
use crate::settings::{CHUNK_SHIFT, SnapshotPolicy};
use crate::superblock::{Superblock, Then};
use crate::time::Wall;
use crate::{command::Refusal, meta::BLOCK};

pub(crate) use undo::UndoJob;
use undo::{Saved, Undo};

/// Reserved besides what the resync is known to change: writes of the user go elsewhere too.
const MARGIN_BYTES: u64 = 1 << 20;

/// How far a snapshot is; durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Not of use yet; the copy is as it was.
    Creating,
    /// The copy may be changed, as far as the old content is kept.
    Held,
    /// The copy goes back.
    Reverting,
}

/// The durable facts of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    pub(crate) stage: Stage,
    pub(crate) taken: Wall,
}

/// The undo log as a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Room {
    Free,
    Used,
    /// No snapshot will need it any more, as soon as that is durable.
    Leaving,
    /// No snapshot needs it; a write to it is still under way.
    Idle,
    Dropping,
}

/// The snapshot of one copy.
#[derive(Clone, Hash)]
pub(crate) struct Snapshots {
    undo: Option<Undo>,
    room: Room,
    /// The resync that a snapshot is being made for.
    making: Option<ResyncId>,
    /// A copy of the whole data is being made.
    keeping: bool,
    /// The resync that goes on without a snapshot.
    without: Option<ResyncId>,
    /// Why there is none, or why it is of no use.
    pub(crate) error: String,
}

impl Snapshots {
    /// What a process that has just started knows.
    pub(crate) fn at_start(sb: &Superblock, size: u64) -> Self {
        let held = sb.snapshot.filter(|s| s.stage != Stage::Creating);
        Self {
            undo: held.map(|s| Undo::found(s.id, size)),
            room: held.map_or(Room::Free, |_| Room::Used),
            making: None,
            keeping: false,
            without: None,
            error: String::new(),
        }
    }

    /// The volume has grown.
    pub(crate) fn grow(&mut self, size: u64) {
        if let Some(undo) = &mut self.undo {
            undo.grow(size);
        }
    }

    /// Whether a range of the copy may be overwritten; if not yet, what it holds is being kept.
    pub(crate) fn allow(&mut self, offset: u64, len: u64) -> bool {
        match &mut self.undo {
            Some(undo) => undo.allows(offset, len),
            None => true,
        }
    }
}

impl Engine {
    /// Whether the undo log is of use; if not, it may be emptied at the start of a process.
    #[must_use]
    pub fn holds_snapshot(&self) -> bool {
        self.snapshots.undo.is_some()
    }

    pub(crate) fn is_reverting(&self) -> bool {
        self.sb
            .snapshot
            .is_some_and(|s| s.stage == Stage::Reverting)
    }

    /// Whether an inconsistent copy can go back.
    pub(crate) fn can_revert(&self) -> bool {
        self.sb.snapshot.is_some_and(|s| s.stage != Stage::Creating)
    }

    pub(crate) fn snapshot_report(&self) -> Option<SnapshotReport> {
        let (snapshot, undo) = (self.sb.snapshot?, self.snapshots.undo.as_ref()?);
        Some(SnapshotReport {
            taken: snapshot.taken,
            used: undo.used(),
            reverted: self.is_reverting().then(|| undo.restored()),
        })
    }

    pub(crate) fn advance_snapshot(&mut self, out: &mut Vec<Effect>) {
        if self.fault.is_some() {
            return;
        }
        self.mark_target(out);
        let reverts = self.is_reverting() && !self.stopping && self.replica.is_drained();
        if let Some(undo) = &mut self.snapshots.undo
            && reverts
        {
            undo.restore();
        }
        self.advance_undo(out);
        if self.snapshots.undo.as_mut().is_some_and(Undo::take_end) {
            self.flush_data(AfterFlush::Revert, out);
        }
    }

    /// A resync is about to change the copy: a snapshot first, then the mark.
    fn mark_target(&mut self, out: &mut Vec<Effect>) {
        let Some(resync) = self.resync_to_mark() else {
            return;
        };
        // Once it is being overwritten there is nothing left to copy; the word came before that, and so did the copy.
        let whole = self.sb.disk == Disk::Consistent;
        if !self.sb.given_up_for.is_none() && !self.sb.kept && whole {
            return self.keep_copy(resync, out);
        }
        let needed = whole
            && self.settings.snapshots != SnapshotPolicy::Never
            && self.snapshots.without != Some(resync);
        if !needed {
            let ready = self.snapshots.undo.as_mut().is_none_or(Undo::go_on);
            return if ready {
                self.mark_inconsistent(resync);
            };
        }
        if self.sb.snapshot.is_none() && self.snapshots.room == Room::Free {
            let id = SnapshotId(self.draw_id());
            self.sb.snapshot = Some(Snapshot {
                id,
                stage: Stage::Creating,
                taken: self.now.wall,
            });
            self.snapshots.room = Room::Used;
            self.snapshots.making = Some(resync);
            self.persist(Then::MakeSnapshot(id));
        }
    }

    /// A history that is given up is copied before its first block changes.
    fn keep_copy(&mut self, resync: ResyncId, out: &mut Vec<Effect>) {
        if self.snapshots.keeping {
            return;
        }
        self.snapshots.keeping = true;
        let epoch = self.sb.head();
        let job = self.job(Job::Undo(UndoJob::Keep(resync, epoch)));
        out.push(Effect::KeepCopy { job, epoch });
    }

    fn copy_kept(
        &mut self,
        (resync, epoch): (ResyncId, Epoch),
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        self.snapshots.keeping = false;
        match result {
            // Nothing is written between two promotions apart from the peer.
            Ok(()) if epoch == self.sb.head() && self.sb.disk == Disk::Consistent => {
                self.sb.kept = !self.sb.given_up_for.is_none();
                self.persist(Then::Nothing);
            }
            Ok(()) => {}
            Err(why) => self.give_resync_up(Some(resync), why, out),
        }
    }

    /// The intent is durable.
    pub(crate) fn make_snapshot(&mut self, id: SnapshotId, out: &mut Vec<Effect>) {
        let chunk = (1 << CHUNK_SHIFT) + BLOCK as u64;
        let bytes = self.marks.base().count() * chunk + MARGIN_BYTES;
        let job = self.job(Job::Undo(UndoJob::Make(id)));
        out.push(Effect::MakeUndo { job, bytes });
    }

    fn snapshot_made(&mut self, id: SnapshotId, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            // What the copy shows may sit in a cache; what is read back later must be that.
            Ok(()) => self.flush_data(AfterFlush::Snapshot(id), out),
            Err(why) => {
                let resync = self.snapshots.making.take();
                self.forget_snapshot();
                if self.settings.snapshots == SnapshotPolicy::BestEffort {
                    self.snapshots.without = resync;
                    self.snapshots.error = why;
                } else {
                    self.give_resync_up(resync, why, out);
                }
            }
        }
    }

    /// Everything that the snapshot stands for is durable.
    pub(crate) fn snapshot_taken(&mut self, id: SnapshotId) {
        let wanted = self.snapshots.making.take();
        let Some(resync) = wanted.filter(|_| wanted == self.resync_to_mark()) else {
            // Its session has ended: the copy may have moved since the flush.
            return self.forget_snapshot();
        };
        self.sb.snapshot = Some(Snapshot {
            id,
            stage: Stage::Held,
            taken: self.now.wall,
        });
        self.snapshots.undo = Some(Undo::empty(id, self.identity.size));
        self.snapshots.error.clear();
        self.mark_inconsistent(resync);
    }

    /// Nothing may be changed without a snapshot: the resync that waits for one, if it is still the present
    /// one, ends with its session.
    fn give_resync_up(&mut self, resync: Option<ResyncId>, why: String, out: &mut Vec<Effect>) {
        if resync.is_some() && self.resync_to_mark() == resync {
            self.close_session(&why, out);
        }
        self.snapshots.error = why;
    }

    /// The two are in step, or this side serves: whatever went wrong before a resync is over.
    pub(crate) fn forget_snapshot_error(&mut self) {
        self.snapshots.error.clear();
    }

    /// The copy is consistent again, without the snapshot.
    pub(crate) fn snapshot_served(&mut self) {
        self.snapshots.error.clear();
        if self.snapshots.undo.is_some() {
            self.forget_snapshot();
        }
    }

    /// There is no snapshot any more, as soon as that is durable: until then nothing more is overwritten.
    fn forget_snapshot(&mut self) {
        self.sb.snapshot = None;
        self.snapshots.room = Room::Leaving;
        if let Some(undo) = &mut self.snapshots.undo {
            undo.close();
        }
        self.persist(Then::SnapshotGone);
    }

    pub(crate) fn snapshot_gone(&mut self, out: &mut Vec<Effect>) {
        match &self.snapshots.undo {
            Some(undo) if undo.is_writing() => self.snapshots.room = Room::Idle,
            Some(_) | None => {
                self.snapshots.undo = None;
                self.snapshots.room = Room::Dropping;
                let job = self.job(Job::Undo(UndoJob::Drop));
                out.push(Effect::DropUndo { job });
            }
        }
    }

    /// The log cannot be relied upon.
    fn snapshot_damaged(&mut self, why: &str) {
        self.snapshots.error = format!("the snapshot is of no use: {why}");
        self.forget_snapshot();
    }

    /// A write to the log has ended.
    fn content_kept(&mut self, saved: Saved, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Some(undo) = &mut self.snapshots.undo else {
            return;
        };
        let kept = undo.saved(saved, result);
        if self.snapshots.room == Room::Idle {
            self.snapshot_gone(out);
        }
        let Err(why) = kept else { return };
        match self.settings.snapshots {
            // What could not be kept is not overwritten: the rest of this stream is left.
            SnapshotPolicy::Required => {
                if self.link.is_target() {
                    self.close_session(&why, out);
                }
                self.snapshots.error = why;
                self.replica.abandon();
            }
            SnapshotPolicy::BestEffort | SnapshotPolicy::Never => self.snapshot_damaged(&why),
        }
    }

    // === going back ===

    pub(crate) fn revert(&mut self, id: CommandId, expected: Epoch, out: &mut Vec<Effect>) {
        if !Self::has_work(id, self.may_revert(expected), out) {
            return;
        }
        if let Some(snapshot) = &mut self.sb.snapshot {
            snapshot.stage = Stage::Reverting;
        }
        self.close_session("this copy goes back to its snapshot", out);
        self.replica.abandon();
        self.persist(Then::Answer(id));
    }

    /// `Ok(true)`: begin; `Ok(false)`: under way, or not needed.
    fn may_revert(&self, expected: Epoch) -> Result<bool, Refusal> {
        if self.change.is_some() || self.stopping {
            return Err(Refusal::Busy);
        }
        if expected != self.sb.head() {
            return Err(Refusal::StaleEpoch {
                expected,
                current: self.sb.head(),
            });
        }
        match self.sb.disk {
            Disk::Empty => Err(Refusal::NeverSynchronized),
            Disk::Consistent => Ok(false),
            Disk::Inconsistent if self.is_reverting() => Ok(false),
            Disk::Inconsistent if self.link.is_target() => Err(Refusal::SyncInProgress),
            Disk::Inconsistent if self.can_revert() => Ok(true),
            Disk::Inconsistent => Err(Refusal::NoConsistentData),
        }
    }

    /// The copy is what it was, durably.
    pub(crate) fn reverted(&mut self) {
        self.sb.disk = Disk::Consistent;
        self.snapshots.error.clear();
        self.forget_snapshot();
    }
}
