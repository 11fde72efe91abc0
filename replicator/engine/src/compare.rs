//! What two halves do when they meet: the connect table, as one pure function over both states.
//!
//! Both sides compute it from the same two [`Facts`] and compare; the results must mirror each other.
//! Lives here: the facts, the decision, nothing else. Does not live here: how a decision is carried
//! out ([`crate::link`]), how facts are kept ([`crate::superblock`]).
//!
//! Words: with *i* the place of the peer's head in my lineage and *j* the place of my head in the
//! peer's, `i = j = 0` is the same lineage; `i >= 1, j` absent means that I am ahead.

use crate::ids::{Epoch, NodeId, Position, ResyncId, RunId, Seq, VolumeId};
use crate::report::Data;
use crate::role::Role;
use crate::settings::Mode;

/// What a copy is, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Disk {
    /// Just created, never written.
    #[default]
    Empty,
    /// A state the application once had.
    Consistent,
    /// Target of a resync that has not completed.
    Inconsistent,
}

/// A promise to the peer that it may become Primary with this head (E2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The head it will use.
    pub epoch: Epoch,
    /// Who asked.
    pub to: NodeId,
}

/// A completion that this process sent and whose adoption it has not heard of (E3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SentCompletion {
    /// The resync it ended.
    pub id: ResyncId,
    /// The head it carried.
    pub epoch: Epoch,
}

/// What a Primary's retained log holds of its run: whoever stands at `from` or later gets the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct LogRange {
    /// The first place that is served.
    pub from: Seq,
    /// The last place of the run so far.
    pub last: Seq,
    /// The peer is known to have everything durably.
    pub is_empty: bool,
}

/// Durable facts of one side, plus the few of this process that the table needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Facts {
    /// The volume; none while empty.
    pub volume: VolumeId,
    /// This half.
    pub node: NodeId,
    /// Bytes.
    pub size: u64,
    /// Bytes that its storage has room for; at least the size.
    pub capacity: u64,
    /// log2 of bytes per dirty bit.
    pub chunk_shift: u32,
    /// Configured mode; not compared (ruling 14).
    pub mode: Mode,
    /// Both must protect the same queue manager.
    pub queue_manager: String,
    /// Role.
    pub role: Role,
    /// Copy.
    pub disk: Disk,
    /// Newest first.
    pub lineage: Vec<Epoch>,
    /// Oldest entry that the bits reach: they hold every difference to `lineage[1..=base_index]`.
    pub base_index: u32,
    /// The bits are not known to be complete.
    pub full_dirty: bool,
    /// Open grant.
    pub grant: Option<Grant>,
    /// The last run of this side as Primary ended without a clean close, and nothing was resolved since.
    pub crashed_primary: bool,
    /// Dirty chunks.
    pub dirty: u64,
    /// Dirty chunks since the completion in `completion_sent`.
    pub dirty_after: u64,
    /// Head of the lineage when this side was last Primary.
    pub role_epoch: Epoch,
    /// Last write completed in a run that this process remembers and that the peer has not durably
    /// acknowledged (E1).
    pub tail: Option<Position>,
    /// What this copy held when it was promoted apart from its peer (E1).
    pub fork: Option<Position>,
    /// Completion sent by this process.
    pub completion_sent: Option<SentCompletion>,
    /// Last completion adopted here.
    pub adopted: ResyncId,
    /// Demoted with everything delivered.
    pub sealed: bool,
    /// Current run, if Primary.
    pub run: RunId,
    /// The retained log of that run.
    pub log: Option<LogRange>,
    /// The position that was last recorded here.
    pub position: Option<Position>,
    /// A person has given this side's own history up for the one that this epoch belongs to.
    pub given_up_for: Epoch,
    /// A crashed run of this side may have written where nothing says so: both copies have to be compared (R-AL6).
    pub in_doubt: bool,
    /// The summary for status.
    pub data: Data,
}

/// How much the source must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The writes after the target's position, in order, from the retained log.
    Log,
    /// The union of both sides' bits.
    Bitmap,
    /// Everything.
    Full,
}

/// Why the pair is Partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parted {
    /// Both sides have changed their data since their last common epoch.
    Diverged,
    /// The older side completed writes that the newer side does not have, and did not crash.
    Tail,
    /// Both are Primary in one epoch.
    DualPrimary,
    /// Same epoch, and nothing tells whose differences count.
    Ambiguous,
}

/// Why the two halves do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// The peer is this half itself.
    SameNode,
    /// Different queue managers.
    QueueManager,
    /// Different sizes.
    Size,
    /// Different bytes per dirty bit.
    ChunkSize,
    /// Different volumes, or no common epoch.
    UnrelatedData,
    /// The only side that could be the source is inconsistent.
    NoConsistentSource,
    /// Each head is an older entry of the other's lineage: corrupt metadata.
    Impossible,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Both are empty; a first Primary is awaited.
    AwaitFirstPrimary,
    /// The copies are equal (writes in flight aside).
    InSync,
    /// Send.
    Source(Extent),
    /// Receive.
    Target(Extent),
    /// This side is Primary and older: stop; nothing is lost by becoming Secondary.
    Superseded,
    /// The peer is Superseded: wait until it is demoted.
    Superseding,
    /// A person must choose.
    Partitioned(Parted),
    /// The halves do not belong together.
    Refused(Mismatch),
}

impl Decision {
    /// What the other side must have decided.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::Source(extent) => Self::Target(extent),
            Self::Target(extent) => Self::Source(extent),
            Self::Superseded => Self::Superseding,
            Self::Superseding => Self::Superseded,
            Self::AwaitFirstPrimary | Self::InSync | Self::Partitioned(_) | Self::Refused(_) => {
                self
            }
        }
    }
}

/// The connect table.
///
/// Total and symmetric: `decide(a, b) == decide(b, a).mirrored()`.
#[must_use]
pub fn decide(mine: &Facts, theirs: &Facts) -> Decision {
    let decision = by_history(mine, theirs);
    let decision = match (gives_up(mine, theirs), gives_up(theirs, mine)) {
        (true, false) if may_give_way(decision) => Decision::Target(since_common(mine, theirs)),
        (false, true) if may_give_way(decision.mirrored()) => {
            Decision::Source(since_common(mine, theirs))
        }
        _ => decision,
    };
    // Where a copy in doubt differs is in nobody's bits: served before all of it was looked at, it would be something
    // between two histories (R-AL6).
    if matches!(decision, Decision::Target(_)) && mine.in_doubt {
        Decision::Target(Extent::Full)
    } else if matches!(decision, Decision::Source(_)) && theirs.in_doubt {
        Decision::Source(Extent::Full)
    } else {
        decision
    }
}

/// Whether a side that decides so has a history that it can give up. Whoever it is given up for may have crashed
/// since, and no longer know that it wrote; the copy may have begun to arrive.
const fn may_give_way(decision: Decision) -> bool {
    match decision {
        Decision::Partitioned(_)
        | Decision::Source(_)
        | Decision::Superseding
        | Decision::Refused(Mismatch::NoConsistentSource) => true,
        Decision::AwaitFirstPrimary
        | Decision::InSync
        | Decision::Target(_)
        | Decision::Superseded
        | Decision::Refused(_) => false,
    }
}

/// Whether a person has decided that the history of `mine` makes way for that of `theirs`.
fn gives_up(mine: &Facts, theirs: &Facts) -> bool {
    let chosen = !mine.given_up_for.is_none() && theirs.lineage.contains(&mine.given_up_for);
    chosen && mine.role == Role::Secondary && theirs.disk == Disk::Consistent
}

/// The bits of both sides, if both reach back to the last common epoch.
fn since_common(a: &Facts, b: &Facts) -> Extent {
    let reaches = |one: &Facts, other: &Facts| {
        let common = one.lineage.iter().position(|e| other.lineage.contains(e));
        !one.full_dirty && common.is_some_and(|distance| distance <= reach(one, other))
    };
    if reaches(a, b) && reaches(b, a) {
        Extent::Bitmap
    } else {
        Extent::Full
    }
}

/// How many entries of its lineage the bits of `mine` reach back.
fn reach(mine: &Facts, theirs: &Facts) -> usize {
    mine.base_index as usize + usize::from(grant_used(mine, theirs))
}

/// What the two histories say, whatever a person has decided.
fn by_history(mine: &Facts, theirs: &Facts) -> Decision {
    if let Some(mismatch) = mismatch(mine, theirs) {
        return Decision::Refused(mismatch);
    }
    match (mine.disk, theirs.disk) {
        (Disk::Empty, Disk::Empty) => return Decision::AwaitFirstPrimary,
        (Disk::Empty, Disk::Consistent) => return Decision::Target(Extent::Full),
        (Disk::Consistent, Disk::Empty) => return Decision::Source(Extent::Full),
        (Disk::Empty, Disk::Inconsistent) | (Disk::Inconsistent, Disk::Empty) => {
            return Decision::Refused(Mismatch::NoConsistentSource);
        }
        (Disk::Consistent | Disk::Inconsistent, Disk::Consistent | Disk::Inconsistent) => {}
    }
    let (my_line, their_line) = (
        effective_lineage(mine, theirs),
        effective_lineage(theirs, mine),
    );
    let place =
        |head: Option<&Epoch>, line: &[Epoch]| head.and_then(|h| line.iter().position(|e| e == h));
    match (
        place(their_line.first(), &my_line),
        place(my_line.first(), &their_line),
    ) {
        (Some(0), Some(0)) => same_head(mine, theirs),
        (Some(i), None) => ahead(mine, theirs, i),
        (None, Some(j)) => ahead(theirs, mine, j).mirrored(),
        (None, None) if my_line.iter().any(|e| their_line.contains(e)) => {
            Decision::Partitioned(Parted::Diverged)
        }
        (None, None) => Decision::Refused(Mismatch::UnrelatedData),
        (Some(_), Some(_)) => Decision::Refused(Mismatch::Impossible),
    }
}

/// Whether a grant of `mine` was used by the peer: then its head counts as mine too (E2).
#[must_use]
pub fn grant_used(mine: &Facts, theirs: &Facts) -> bool {
    mine.grant
        .is_some_and(|g| g.to == theirs.node && theirs.lineage.contains(&g.epoch))
}

/// Whether the completion that `mine` sent is known to be adopted by the peer: its acknowledgement
/// was lost and is hereby received (E3).
#[must_use]
pub fn completion_arrived(mine: &Facts, theirs: &Facts) -> bool {
    let head = effective_lineage(mine, theirs).first().copied();
    let same = head == effective_lineage(theirs, mine).first().copied();
    mine.completion_sent
        .is_some_and(|c| same && c.id == theirs.adopted && head == Some(c.epoch))
}

/// Whether both sides have room for the larger of their sizes.
pub(crate) fn fits(sizes: [u64; 2], rooms: [u64; 2]) -> bool {
    sizes[0].max(sizes[1]) <= rooms[0].min(rooms[1])
}

fn mismatch(a: &Facts, b: &Facts) -> Option<Mismatch> {
    if a.node == b.node {
        Some(Mismatch::SameNode)
    } else if a.queue_manager != b.queue_manager {
        Some(Mismatch::QueueManager)
    } else if !fits([a.size, b.size], [a.capacity, b.capacity]) {
        Some(Mismatch::Size)
    } else if a.chunk_shift != b.chunk_shift {
        Some(Mismatch::ChunkSize)
    } else if !a.volume.is_none() && !b.volume.is_none() && a.volume != b.volume {
        Some(Mismatch::UnrelatedData)
    } else {
        None
    }
}

fn effective_lineage(mine: &Facts, theirs: &Facts) -> Vec<Epoch> {
    let used = mine
        .grant
        .filter(|g| grant_used(mine, theirs) && !mine.lineage.contains(&g.epoch));
    used.map(|g| g.epoch)
        .into_iter()
        .chain(mine.lineage.iter().copied())
        .collect()
}

fn same_head(mine: &Facts, theirs: &Facts) -> Decision {
    let extent = if has_lost_count(mine, theirs) || has_lost_count(theirs, mine) {
        Extent::Full
    } else {
        Extent::Bitmap
    };
    match (mine.disk, theirs.disk) {
        (Disk::Inconsistent, Disk::Inconsistent) => {
            return Decision::Refused(Mismatch::NoConsistentSource);
        }
        (Disk::Inconsistent, Disk::Consistent | Disk::Empty) => return Decision::Target(extent),
        (Disk::Consistent | Disk::Empty, Disk::Inconsistent) => return Decision::Source(extent),
        (Disk::Consistent | Disk::Empty, Disk::Consistent | Disk::Empty) => {}
    }
    if mine.role == Role::Primary && theirs.role == Role::Primary {
        return Decision::Partitioned(Parted::DualPrimary);
    }
    let claim = match (claims(mine, theirs), claims(theirs, mine)) {
        (false, false) => return Decision::InSync,
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) => stronger_claim(mine, theirs),
    };
    match claim {
        // A Primary is never a target: its application would see its own data change.
        Some(true) if theirs.role != Role::Primary => {
            Decision::Source(from_log(mine, theirs).unwrap_or(extent))
        }
        Some(false) if mine.role != Role::Primary => {
            Decision::Target(from_log(theirs, mine).unwrap_or(extent))
        }
        Some(_) | None => Decision::Partitioned(Parted::Ambiguous),
    }
}

/// Whether a side holds differences that the other lacks, in one and the same epoch.
fn claims(mine: &Facts, theirs: &Facts) -> bool {
    if completion_arrived(mine, theirs) {
        // Whatever stood before the completion is resolved.
        return mine.dirty_after > 0 || logged(mine, theirs) != Logged::Nothing;
    }
    mine.crashed_primary
        || mine.dirty > 0
        || mine.full_dirty
        || logged(mine, theirs) != Logged::Nothing
}

/// Whether a side's bits are not known to hold every difference.
fn has_lost_count(mine: &Facts, theirs: &Facts) -> bool {
    mine.full_dirty && !completion_arrived(mine, theirs)
}

/// What the peer lacks of a retained log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Logged {
    Nothing,
    /// What comes after its position.
    Rest,
    /// It is not known where the peer stands.
    Unplaced,
}

fn logged(mine: &Facts, theirs: &Facts) -> Logged {
    let Some(log) = mine.log else {
        return Logged::Nothing;
    };
    let at = theirs.position.filter(|p| p.run == mine.run).map(|p| p.seq);
    match at {
        Some(at) if at == log.last => Logged::Nothing,
        Some(_) | None if log.is_empty => Logged::Nothing,
        Some(at) if log.from <= at && at < log.last => Logged::Rest,
        Some(_) | None => Logged::Unplaced,
    }
}

/// The log alone, if it holds everything in which the two copies differ (row 7, E7).
fn from_log(source: &Facts, target: &Facts) -> Option<Extent> {
    let counted = |a: &Facts, b: &Facts| {
        let dirty = if completion_arrived(a, b) {
            a.dirty_after
        } else {
            a.dirty
        };
        dirty == 0 && !has_lost_count(a, b) && a.disk == Disk::Consistent
    };
    let crashed = |a: &Facts, b: &Facts| a.crashed_primary && !completion_arrived(a, b);
    let only = counted(source, target)
        && counted(target, source)
        && !crashed(source, target)
        && !target.crashed_primary
        && target.tail.is_none()
        && source.role == Role::Primary
        && target.role == Role::Secondary
        && logged(source, target) == Logged::Rest;
    only.then_some(Extent::Log)
}

/// Both hold differences: the crashed primary's count (its image is what the application will see),
/// else the Primary's, else those of the side that was Primary in this epoch.
fn stronger_claim(mine: &Facts, theirs: &Facts) -> Option<bool> {
    let by = |a: bool, b: bool| (a != b).then_some(a);
    by(mine.crashed_primary, theirs.crashed_primary)
        .or_else(|| by(mine.role == Role::Primary, theirs.role == Role::Primary))
        .or_else(|| {
            let head = effective_lineage(mine, theirs).first().copied();
            by(
                head == Some(mine.role_epoch),
                head == Some(theirs.role_epoch),
            )
        })
}

/// `newer` is ahead of `older` by `distance` entries; the result is `newer`'s.
fn ahead(newer: &Facts, older: &Facts, distance: usize) -> Decision {
    if newer.disk != Disk::Consistent {
        return Decision::Refused(Mismatch::NoConsistentSource);
    }
    let covered = older.tail.is_none_or(|tail| {
        newer
            .fork
            .is_some_and(|fork| fork.run == tail.run && tail.seq <= fork.seq)
    });
    if !covered {
        return Decision::Partitioned(Parted::Tail);
    }
    if older.role == Role::Primary {
        return Decision::Superseding;
    }
    if let Some(extent) = from_log(newer, older) {
        return Decision::Source(extent);
    }
    if distance <= reach(newer, older) && !newer.full_dirty && !older.full_dirty {
        Decision::Source(Extent::Bitmap)
    } else {
        Decision::Source(Extent::Full)
    }
}

#[cfg(test)]
mod tests;
