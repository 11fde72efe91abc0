//! The durable facts of one half, and how they are written.
//!
//! Two rings of eight blocks; the highest valid sequence number counts. Ring B is written after A, so
//! that one bad sector never takes the facts away. Several changes may join one write; what must
//! happen after a change is durable is a [`Then`], run when the write that contains it has ended.
//!
//! Does not live here: when a fact changes.

use crate::command::JudgedRequest;
use crate::compare::{Disk, Grant};
use crate::event::{FsKind, FsSignature};
use crate::ids::{
    CommandId, Epoch, NodeId, Position, ResyncId, RunId, Seq, SessionId, SnapshotId, VolumeId,
};
use crate::meta::codec::{Reader, Writer};
use crate::report::{RecoveryReport, Transition, TransitionKind};
use crate::role::Role;
use crate::snapshot::{Snapshot, Stage};
use crate::time::Wall;

/// Entries of a lineage; more means that the bits cannot be trusted to reach back.
pub(crate) const LINEAGE_MAX: usize = 17;

/// Durable facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Superblock {
    pub(crate) volume: VolumeId,
    pub(crate) role: Role,
    pub(crate) disk: Disk,
    pub(crate) lineage: Vec<Epoch>,
    pub(crate) base_index: u32,
    pub(crate) peer_may_have_head: bool,
    pub(crate) full_dirty: bool,
    /// The bitmap pages on disk are void: they were the union of an adopted resync.
    pub(crate) bits_void: bool,
    /// The run as Primary was closed in order: the activity log is empty, nothing is in doubt.
    pub(crate) clean: bool,
    /// An earlier run as Primary was not, and nothing was resolved since.
    pub(crate) crashed: bool,
    pub(crate) sealed: bool,
    pub(crate) run: RunId,
    pub(crate) role_epoch: Epoch,
    pub(crate) grant: Option<Grant>,
    pub(crate) fork: Option<Position>,
    pub(crate) adopted: ResyncId,
    pub(crate) superseded_by: Epoch,
    pub(crate) parted_from: Epoch,
    pub(crate) crashed_tail_bytes: u64,
    pub(crate) fs: Option<FsSignature>,
    pub(crate) last_command: CommandId,
    pub(crate) judged: Option<JudgedRequest>,
    pub(crate) transition: Option<Transition>,
    pub(crate) snapshot: Option<Snapshot>,
    /// The epoch that a person has given our history up for, and whether a copy of it is kept by now.
    pub(crate) given_up_for: Epoch,
    pub(crate) kept: bool,
    /// Bytes of the volume, once it has grown; 0 before.
    pub(crate) size: u64,
    /// A crashed run may have written where its activity log no longer says so, until both copies are compared.
    pub(crate) in_doubt: bool,
}

impl Superblock {
    /// The head of the lineage; none while empty.
    pub(crate) fn head(&self) -> Epoch {
        self.lineage.first().copied().unwrap_or_default()
    }

    /// Starts a new epoch of our own: the peer does not have it.
    pub(crate) fn bump(&mut self, head: Epoch) {
        self.peer_may_have_head = false;
        self.lineage.insert(0, head);
        self.base_index += 1;
        if self.lineage.len() <= LINEAGE_MAX {
            return;
        }
        if (self.base_index as usize) < LINEAGE_MAX {
            self.lineage.truncate(LINEAGE_MAX);
        } else {
            // The bits reach back to the oldest, which the peer has: an epoch from since then goes
            // instead. Should the peer hold just that one, the two will seem partitioned.
            self.lineage.remove(2);
            self.base_index -= 1;
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.wide(self.volume.0)
            .byte(self.role as u8)
            .byte(disk_code(self.disk));
        w.byte(self.lineage.len() as u8);
        for epoch in &self.lineage {
            w.wide(epoch.0);
        }
        w.word(u64::from(self.base_index));
        for flag in [
            self.peer_may_have_head,
            self.full_dirty,
            self.bits_void,
            self.clean,
            self.crashed,
            self.sealed,
        ] {
            w.flag(flag);
        }
        w.wide(self.run.0).wide(self.role_epoch.0);
        w.flag(self.grant.is_some());
        if let Some(g) = self.grant {
            w.wide(g.epoch.0).wide(g.to.0);
        }
        w.flag(self.fork.is_some());
        if let Some(p) = self.fork {
            encode_position(&mut w, &p);
        }
        w.wide(self.adopted.0)
            .wide(self.superseded_by.0)
            .wide(self.parted_from.0);
        w.word(self.crashed_tail_bytes);
        w.byte(self.fs.map_or(0, |f| fs_code(f.kind)));
        if let Some(f) = self.fs {
            w.wide(u128::from_le_bytes(f.uuid));
        }
        w.wide(self.last_command.0);
        w.flag(self.judged.is_some());
        if let Some(j) = &self.judged {
            w.text(&j.uid, 64)
                .word(j.generation as u64)
                .byte(j.role as u8)
                .text(&j.request_id, 256);
            w.text(&j.verdict, 32)
                .text(&j.reason, 64)
                .text(&j.message, 1024)
                .text(&j.max_loss, 16);
            w.word(j.requested_at.0 as u64);
        }
        w.flag(self.transition.is_some());
        if let Some(t) = &self.transition {
            w.byte(transition_code(t.kind))
                .word(t.started.0 as u64)
                .word(t.finished.0 as u64);
            w.flag(t.recovery.is_some());
            if let Some(r) = &t.recovery {
                encode_recovery(&mut w, r);
            }
        }
        w.flag(self.snapshot.is_some());
        if let Some(s) = &self.snapshot {
            w.wide(s.id.0)
                .byte(stage_code(s.stage))
                .word(s.taken.0 as u64);
        }
        w.wide(self.given_up_for.0).flag(self.kept);
        w.word(self.size).flag(self.in_doubt);
        w.0
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let r = &mut Reader(body);
        let mut s = Self {
            volume: VolumeId(r.wide()?),
            role: role(r.byte()?)?,
            disk: disk(r.byte()?)?,
            ..Self::default()
        };
        for _ in 0..r.byte()? {
            s.lineage.push(Epoch(r.wide()?));
        }
        s.base_index = u32::try_from(r.word()?).ok()?;
        s.peer_may_have_head = r.flag()?;
        s.full_dirty = r.flag()?;
        s.bits_void = r.flag()?;
        s.clean = r.flag()?;
        s.crashed = r.flag()?;
        s.sealed = r.flag()?;
        s.run = RunId(r.wide()?);
        s.role_epoch = Epoch(r.wide()?);
        if r.flag()? {
            s.grant = Some(Grant {
                epoch: Epoch(r.wide()?),
                to: NodeId(r.wide()?),
            });
        }
        if r.flag()? {
            s.fork = Some(decode_position(r)?);
        }
        s.adopted = ResyncId(r.wide()?);
        s.superseded_by = Epoch(r.wide()?);
        s.parted_from = Epoch(r.wide()?);
        s.crashed_tail_bytes = r.word()?;
        s.fs = match r.byte()? {
            0 => None,
            code => Some(FsSignature {
                kind: fs(code)?,
                uuid: r.wide()?.to_le_bytes(),
            }),
        };
        s.last_command = CommandId(r.wide()?);
        if r.flag()? {
            s.judged = Some(JudgedRequest {
                uid: r.text()?,
                generation: r.word()? as i64,
                role: role(r.byte()?)?,
                request_id: r.text()?,
                verdict: r.text()?,
                reason: r.text()?,
                message: r.text()?,
                max_loss: r.text()?,
                requested_at: Wall(r.word()? as i64),
            });
        }
        if r.flag()? {
            s.transition = Some(Transition {
                kind: transition(r.byte()?)?,
                started: Wall(r.word()? as i64),
                finished: Wall(r.word()? as i64),
                recovery: if r.flag()? {
                    Some(decode_recovery(r)?)
                } else {
                    None
                },
            });
        }
        if r.flag()? {
            s.snapshot = Some(Snapshot {
                id: SnapshotId(r.wide()?),
                stage: stage(r.byte()?)?,
                taken: Wall(r.word()? as i64),
            });
        }
        s.given_up_for = Epoch(r.wide()?);
        s.kept = r.flag()?;
        s.size = r.word()?;
        s.in_doubt = r.flag()?;
        Some(s)
    }
}

pub(crate) fn encode_position(w: &mut Writer, p: &Position) {
    w.wide(p.epoch.0)
        .wide(p.run.0)
        .word(p.seq.0)
        .word(p.wall.0 as u64);
}

pub(crate) fn decode_position(r: &mut Reader<'_>) -> Option<Position> {
    Some(Position {
        epoch: Epoch(r.wide()?),
        run: RunId(r.wide()?),
        seq: Seq(r.word()?),
        wall: Wall(r.word()? as i64),
    })
}

pub(crate) fn encode_recovery(w: &mut Writer, r: &RecoveryReport) {
    encode_position(w, &r.position);
    w.word(r.behind_bytes).word(r.last_in_sync.0 as u64);
}

pub(crate) fn decode_recovery(r: &mut Reader<'_>) -> Option<RecoveryReport> {
    Some(RecoveryReport {
        position: decode_position(r)?,
        behind_bytes: r.word()?,
        last_in_sync: Wall(r.word()? as i64),
    })
}

const fn disk_code(d: Disk) -> u8 {
    match d {
        Disk::Empty => 0,
        Disk::Consistent => 1,
        Disk::Inconsistent => 2,
    }
}

fn disk(code: u8) -> Option<Disk> {
    [Disk::Empty, Disk::Consistent, Disk::Inconsistent]
        .get(usize::from(code))
        .copied()
}

fn role(code: u8) -> Option<Role> {
    [Role::Secondary, Role::Primary]
        .get(usize::from(code))
        .copied()
}

const fn fs_code(kind: FsKind) -> u8 {
    match kind {
        FsKind::Xfs => 1,
        FsKind::Ext4 => 2,
    }
}

fn fs(code: u8) -> Option<FsKind> {
    [FsKind::Xfs, FsKind::Ext4]
        .get(usize::from(code).checked_sub(1)?)
        .copied()
}

const fn transition_code(kind: TransitionKind) -> u8 {
    match kind {
        TransitionKind::Creation => 0,
        TransitionKind::Planned => 1,
        TransitionKind::Unplanned => 2,
        TransitionKind::Demotion => 3,
    }
}

fn transition(code: u8) -> Option<TransitionKind> {
    use TransitionKind::{Creation, Demotion, Planned, Unplanned};
    [Creation, Planned, Unplanned, Demotion]
        .get(usize::from(code))
        .copied()
}

const fn stage_code(stage: Stage) -> u8 {
    match stage {
        Stage::Creating => 0,
        Stage::Held => 1,
        Stage::Reverting => 2,
    }
}

fn stage(code: u8) -> Option<Stage> {
    [Stage::Creating, Stage::Held, Stage::Reverting]
        .get(usize::from(code))
        .copied()
}

/// What follows when a change of the superblock is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    /// Nothing in particular.
    Nothing,
    /// Held writes may go on: the bump is durable.
    ResumeWrites,
    /// First epoch, or promotion: answer the command, open the gate.
    BecamePrimary,
    /// Demotion: answer the command.
    BecameSecondary,
    /// Answer a command that only stores.
    Answer(CommandId),
    /// Tell the peer of this session that the grant is durable.
    Granted(Epoch, Option<SessionId>),
    /// Tell the peer of this session that its new head is ours too.
    GrantAdopted(Epoch, Option<SessionId>),
    /// Tell the Primary of this session that the larger size is ours too.
    SendGrown(Option<SessionId>),
    /// Tell the source that the copy is marked.
    ResyncReady(ResyncId),
    /// The peer may now get our head.
    SendCompletion(ResyncId),
    /// The lineage is adopted; clear the void pages and tell the source.
    Adopted(ResyncId),
    /// The peer has adopted: the base bits may be cleared.
    ClearBase,
    /// Superseded, or Partitioned, is recorded: tell the peer our decision.
    SendDecision,
    /// The file system is recorded: publish the device.
    PublishDevice,
    /// A snapshot is intended: make it.
    MakeSnapshot(SnapshotId),
    /// No snapshot is held any more: give its room back.
    SnapshotGone,
    /// Everything for a stop is recorded.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_superblock_survives_the_round_trip_and_fits_a_block() {
        let long = "x".repeat(5000);
        let full = Superblock {
            volume: VolumeId(7),
            role: Role::Primary,
            disk: Disk::Inconsistent,
            lineage: (1..=LINEAGE_MAX as u128).map(Epoch).collect(),
            base_index: 16,
            peer_may_have_head: true,
            full_dirty: true,
            bits_void: true,
            clean: true,
            crashed: true,
            sealed: true,
            run: RunId(3),
            role_epoch: Epoch(4),
            grant: Some(Grant {
                epoch: Epoch(5),
                to: NodeId(6),
            }),
            fork: Some(Position {
                epoch: Epoch(1),
                run: RunId(2),
                seq: Seq(3),
                wall: Wall(4),
            }),
            adopted: ResyncId(8),
            superseded_by: Epoch(9),
            parted_from: Epoch(10),
            crashed_tail_bytes: 11,
            fs: Some(FsSignature {
                kind: FsKind::Ext4,
                uuid: [7; 16],
            }),
            last_command: CommandId(12),
            judged: Some(JudgedRequest {
                uid: "u".repeat(36),
                generation: 4,
                role: Role::Primary,
                request_id: "again".into(),
                verdict: "Refuse".into(),
                reason: "PeerIsPrimary".into(),
                message: long[..1024].into(),
                max_loss: "None".into(),
                requested_at: Wall(5),
            }),
            transition: Some(Transition {
                kind: TransitionKind::Unplanned,
                started: Wall(1),
                finished: Wall(2),
                recovery: Some(RecoveryReport::default()),
            }),
            snapshot: Some(Snapshot {
                id: SnapshotId(13),
                stage: Stage::Reverting,
                taken: Wall(14),
            }),
            given_up_for: Epoch(15),
            kept: true,
            size: 1 << 40,
            in_doubt: true,
        };
        let body = full.encode();
        assert!(body.len() <= crate::meta::BODY);
        assert_eq!(Superblock::decode(&body), Some(full.clone()));
        for cut in 0..body.len() {
            assert_eq!(Superblock::decode(&body[..cut]), None);
        }
        assert_eq!(
            Superblock::decode(&Superblock::default().encode()),
            Some(Superblock::default())
        );
    }

    #[test]
    fn a_lineage_that_overflows_keeps_what_the_peer_holds() {
        let mut s = Superblock {
            lineage: vec![Epoch(1)],
            ..Superblock::default()
        };
        for n in 2..=4 * LINEAGE_MAX as u128 {
            s.bump(Epoch(n));
            assert!(!s.full_dirty && s.lineage.len() <= LINEAGE_MAX && s.head() == Epoch(n));
            assert_eq!(s.lineage[s.base_index as usize], Epoch(1));
        }
        assert!(s.lineage.len() == LINEAGE_MAX);
    }

    #[test]
    fn a_long_history_in_step_costs_no_bit() {
        let mut s = Superblock::default();
        for n in 1..=4 * LINEAGE_MAX as u128 {
            s.bump(Epoch(n));
            assert!(!s.full_dirty && s.lineage.len() <= LINEAGE_MAX);
            // As when the peer has adopted.
            s.base_index = 0;
        }
    }
}
