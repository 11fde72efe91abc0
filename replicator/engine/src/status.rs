//! The report of a volume, and when it is worth telling.
//!
//! Does not live here: words for people.

use crate::compare::{Decision, Disk, Mismatch, Parted};
use crate::engine::Engine;
use crate::link::Join;
use crate::report::{Data, Gate, LinkReport, Report, SyncReport};
use crate::role::Role;
use crate::settings::CHUNK_SHIFT;
use crate::verify::Verification;

/// What a reconcile cares about: two equal digests need no notice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest {
    role: Role,
    data: Data,
    gate: Gate,
    link: LinkReport,
    head: crate::ids::Epoch,
    sealed: bool,
    peer: Option<crate::frame::PeerReport>,
    fault: bool,
    changing: bool,
    format_blocked: u64,
    suspended: bool,
    reverting: bool,
    given_up: bool,
    snapshot_error: String,
    mode: crate::settings::Mode,
    verified: Option<(bool, bool)>,
    size: u64,
    peer_capacity: u64,
}

impl Engine {
    /// What this copy is worth.
    pub(crate) fn data(&self) -> Data {
        if self.fault.is_some() {
            return Data::Failed;
        }
        match self.sb.disk {
            Disk::Empty => return Data::Empty,
            Disk::Inconsistent if self.link.is_target() => return Data::Syncing,
            Disk::Inconsistent if self.can_revert() => return Data::InconsistentSnap,
            Disk::Inconsistent => return Data::InconsistentNoSnap,
            Disk::Consistent => {}
        }
        if !self.sb.parted_from.is_none() {
            return Data::Diverged;
        }
        match (self.sb.role, self.link.join()) {
            (Role::Primary, _) if !self.sb.superseded_by.is_none() => Data::Behind,
            // Until both copies have been compared, nobody knows that they are the same.
            (Role::Primary, Some(Join::InOrder)) if self.is_pair_in_doubt() => Data::SyncSource,
            (Role::Secondary, Some(Join::InOrder)) if self.is_pair_in_doubt() => Data::Behind,
            (Role::Primary, Some(Join::Source(s))) if s.replays() => Data::UpToDate,
            (_, Some(Join::Source(_))) => Data::SyncSource,
            (Role::Primary, _) => Data::UpToDate,
            (Role::Secondary, Some(Join::InOrder | Join::Blocked(Decision::Superseding))) => {
                Data::UpToDate
            }
            (
                Role::Secondary,
                Some(Join::Target(_) | Join::Idle | Join::Ahead | Join::Behind | Join::Blocked(_)),
            ) => Data::Behind,
            (Role::Secondary, None) if self.settings.has_peer => Data::Behind,
            (Role::Secondary, None) => Data::UpToDate,
        }
    }

    /// What status may claim: a synchronous mode only once everything completed before is at the peer.
    fn stated_mode(&self) -> crate::settings::Mode {
        match self.link.join() {
            Some(Join::InOrder) if self.guest.peer_durable >= self.guest.mode_from => {
                self.settings.mode
            }
            Some(
                Join::InOrder
                | Join::Ahead
                | Join::Behind
                | Join::Idle
                | Join::Source(_)
                | Join::Target(_)
                | Join::Blocked(_),
            )
            | None => crate::settings::Mode::Asynchronous,
        }
    }

    fn link_report(&self) -> LinkReport {
        if !self.settings.has_peer {
            return LinkReport::Unconfigured;
        }
        match (self.link.blocked(), &self.link.down) {
            (Some(Decision::Refused(mismatch)), _) => {
                LinkReport::Refused(self.mismatch_text(mismatch))
            }
            (Some(_), _) => LinkReport::Connected,
            (None, _) if self.link.is_joined() => LinkReport::Connected,
            (None, Some(fault)) => LinkReport::Down(fault.clone()),
            (None, None) => LinkReport::Connecting,
        }
    }

    fn mismatch_text(&self, mismatch: Mismatch) -> String {
        let link = &self.link;
        match mismatch {
            Mismatch::SameNode => "the peer address leads back to this side".to_owned(),
            Mismatch::QueueManager => format!(
                "spec.queueManager.name differs: {} here, {} there",
                self.settings.queue_manager, link.peer_queue_manager
            ),
            Mismatch::Size => format!(
                "spec.storage.size differs: {} bytes here, {} bytes there",
                self.settings.capacity, link.rooms.theirs
            ),
            Mismatch::ChunkSize => "the two sides keep dirty bits of different sizes".to_owned(),
            Mismatch::UnrelatedData => {
                "the two sides hold unrelated data: both were created as Primary, or one of them \
                 belongs to another pair"
                    .to_owned()
            }
            Mismatch::NoConsistentSource => "neither side holds a consistent copy".to_owned(),
            Mismatch::Impossible => {
                "the lineages of the two sides contradict each other".to_owned()
            }
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest {
            role: self.sb.role,
            data: self.data(),
            gate: self.gate(),
            link: self.link_report(),
            head: self.sb.head(),
            sealed: self.sb.sealed,
            peer: self.link.report,
            fault: self.fault.is_some(),
            changing: self.change.is_some(),
            format_blocked: self.device.format_blocked,
            suspended: self.is_suspended(),
            reverting: self.is_reverting(),
            given_up: !self.sb.given_up_for.is_none(),
            snapshot_error: self.snapshots.error.clone(),
            mode: self.stated_mode(),
            verified: self.verification.as_ref().map(Verification::outcome),
            size: self.identity.size,
            peer_capacity: self.link.rooms.theirs,
        }
    }

    /// Everything about this volume.
    #[must_use]
    pub fn report(&self) -> Report {
        let bits = self.marks.base().count() << CHUNK_SHIFT;
        let parted = match self.link.blocked() {
            Some(Decision::Partitioned(Parted::Tail)) => {
                "the peer was promoted without writes that this side had completed".to_owned()
            }
            Some(_) | None => String::new(),
        };
        Report {
            node: self.identity.node,
            volume: self.sb.volume,
            size: self.identity.size,
            role: self.sb.role,
            data: self.data(),
            mode: self.settings.mode,
            effective_mode: self.stated_mode(),
            lineage: self.sb.lineage.clone(),
            sealed: self.sb.sealed,
            link: self.link_report(),
            remote: self.link.remote().to_owned(),
            peer: self.link.report,
            peer_hello: self.link.hello.clone(),
            peer_capacity: self.link.rooms.theirs,
            peer_queue_manager: self.link.peer_queue_manager.clone(),
            peer_heard: self.link.heard_at,
            rtt_micros: self.link.rtt_micros,
            out_of_sync_bytes: self.out_of_sync(bits),
            sync: self.copy().map(|c| SyncReport {
                source: c.source,
                done: c.done.min(self.identity.size),
                total: c.total.min(self.identity.size),
                started: c.started,
            }),
            snapshot: self.snapshot_report(),
            snapshot_error: self.snapshots.error.clone(),
            verification: self.verification_report(),
            given_up: !self.sb.given_up_for.is_none(),
            recovery: self.recovery_report(),
            gate: self.gate(),
            device_error: self.device.error.clone(),
            format_blocked: self.device.format_blocked,
            suspended: self.is_suspended(),
            judged: self.sb.judged.clone(),
            transition: self.sb.transition,
            superseded_by: (!self.sb.superseded_by.is_none()).then_some(self.sb.superseded_by),
            crashed_tail_bytes: self.sb.crashed_tail_bytes,
            error: self.fault.clone().unwrap_or(parted),
        }
    }

    /// Bytes that the peer may lack. Everything, while nothing was ever copied.
    fn out_of_sync(&self, bits: u64) -> u64 {
        if !self.settings.has_peer || self.sb.disk == Disk::Empty {
            return 0;
        }
        let all = self.sb.full_dirty && !self.link.is_source();
        let dirty = if all {
            self.identity.size
        } else {
            bits.min(self.identity.size)
        };
        let copied = self.copy().filter(|c| c.source).map_or(0, |c| c.done);
        dirty.saturating_sub(copied) + self.guest.window_bytes
    }

    fn recovery_report(&self) -> Option<crate::report::RecoveryReport> {
        (self.sb.role == Role::Secondary)
            .then_some(self.replica.recovery)
            .flatten()
    }
}
