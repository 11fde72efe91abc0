//! The decision table: what a role request means in a situation.
//!
//! Lives here: the table (98 possible rows, `tests/role_transitions.csv` is its specification), how an
//! observed volume maps to its columns, and what the engine cannot carry out yet. Does not live here:
//! requests over time, latches, policies (`request`), the first Primary of a pair (`creation`),
//! wording (`explain`).
//!
//! Invariants
//! - Total: each input has exactly one verdict; impossible rows are `Hold`/`InvariantViolation`.
//! - Never `Proceed` to Primary while a reachable peer is Primary.

pub mod explain;

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DataWord, DrStatusWord, MaxLoss, Role, VerdictWord};

use crate::observed::{LinkState, Volume};

/// The link as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkView {
    /// The peer's word is fresh.
    Up,
    /// It is not.
    Down,
}

/// The peer's role as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// Primary.
    Primary,
    /// Secondary.
    Secondary,
    /// Not known.
    Unknown,
    /// There is no peer.
    Unconfigured,
}

/// The columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Role asked for.
    pub desired: Role,
    /// Role in the superblock.
    pub actual: Role,
    /// Link.
    pub link: LinkView,
    /// Local data.
    pub data: DataWord,
    /// The peer's role.
    pub peer: PeerRole,
}

/// What the table answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Verdict.
    pub verdict: VerdictWord,
    /// Reason.
    pub reason: &'static str,
    /// State of the pair.
    pub dr_status: DrStatusWord,
}

impl Row {
    const fn new(verdict: VerdictWord, reason: &'static str, dr_status: DrStatusWord) -> Self {
        Self {
            verdict,
            reason,
            dr_status,
        }
    }

    /// The loss that carrying this verdict out may bring.
    #[must_use]
    pub fn loss(&self) -> MaxLoss {
        match self.reason {
            reason::PROMOTION_PEER_UNKNOWN | reason::REVERT_THEN_PROMOTE => MaxLoss::Possible,
            // Reasons are strings; all others bring none.
            _ => MaxLoss::None,
        }
    }
}

use DataWord::{
    Behind, Diverged, Empty, InconsistentNoSnap, InconsistentSnap, SyncSource, Syncing, UpToDate,
};
use DrStatusWord as Dr;
use LinkView::{Down, Up};
use VerdictWord::{Hold, Proceed, Refuse, Steady, Wait};

/// The table.
#[must_use]
pub fn table(situation: Situation) -> Row {
    let Situation {
        desired,
        actual,
        link,
        data,
        peer,
    } = situation;
    let row = match (desired, actual) {
        (Role::Primary, Role::Primary) => stay_primary(link, data, peer),
        (Role::Primary, Role::Secondary) => promote(link, data, peer),
        (Role::Secondary, Role::Primary) => demote(link, data, peer),
        (Role::Secondary, Role::Secondary) => stay_secondary(link, data, peer),
    };
    row.unwrap_or(match data {
        DataWord::Failed => Row::new(Hold, reason::DISK_FAILED, Dr::Unknown),
        Empty | UpToDate | SyncSource | Behind | Syncing | InconsistentSnap
        | InconsistentNoSnap | Diverged => Row::new(Hold, reason::INVARIANT_VIOLATION, Dr::Unknown),
    })
}

fn stay_primary(link: LinkView, data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary, Unconfigured, Unknown};
    Some(match (link, data, peer) {
        (Up, UpToDate, Secondary) => Row::new(Steady, reason::NORMAL, Dr::Normal),
        (Up, SyncSource, Secondary) => Row::new(
            Steady,
            reason::SYNC_IN_PROGRESS,
            Dr::SynchronizationInProgress,
        ),
        (Up | Down, Behind, Primary) => Row::new(Hold, reason::SUPERSEDED_BY_PEER, Dr::Superseded),
        (Up | Down, Diverged, Primary | Secondary) | (Down, Diverged, Unknown) => {
            Row::new(Hold, reason::SPLIT_BRAIN, Dr::Partitioned)
        }
        (Down, UpToDate, Primary) => {
            Row::new(Hold, reason::DUAL_PRIMARY_SUSPECTED, Dr::RemoteUnavailable)
        }
        (Down, UpToDate, Secondary | Unknown) => {
            Row::new(Steady, reason::REMOTE_UNAVAILABLE, Dr::RemoteUnavailable)
        }
        (Down, UpToDate, Unconfigured) => {
            Row::new(Steady, reason::REMOTE_UNCONFIGURED, Dr::RemoteUnconfigured)
        }
        _ => return None,
    })
}

fn promote(link: LinkView, data: DataWord, peer: PeerRole) -> Option<Row> {
    match link {
        Up => promote_linked(data, peer),
        Down => promote_apart(data, peer),
    }
}

fn promote_linked(data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary};
    let sync = Dr::SynchronizationInProgress;
    Some(match (data, peer) {
        (Diverged, Primary | Secondary) => {
            Row::new(Refuse, reason::SPLIT_BRAIN_UNRESOLVED, Dr::Partitioned)
        }
        (UpToDate, Primary) => Row::new(Refuse, reason::PEER_IS_PRIMARY, Dr::Normal),
        (Behind, Primary) => Row::new(Refuse, reason::PEER_IS_PRIMARY, Dr::CatchingUp),
        (Syncing | InconsistentSnap | InconsistentNoSnap | Empty, Primary) => {
            Row::new(Refuse, reason::PEER_IS_PRIMARY, sync)
        }
        (UpToDate, Secondary) => Row::new(Proceed, reason::PROMOTION_CLEAN, Dr::Inactive),
        (SyncSource, Secondary) => Row::new(Proceed, reason::PROMOTION_CLEAN_PEER_SYNCING, sync),
        (Behind, Secondary) => Row::new(Wait, reason::CATCHING_UP, Dr::CatchingUp),
        (Syncing | InconsistentSnap | InconsistentNoSnap, Secondary) => {
            Row::new(Wait, reason::SYNC_IN_PROGRESS, sync)
        }
        (Empty, Secondary) => Row::new(Refuse, reason::NEVER_SYNCHRONIZED, sync),
        _ => return None,
    })
}

fn promote_apart(data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary, Unconfigured, Unknown};
    Some(match (data, peer) {
        (UpToDate, Secondary) => Row::new(Proceed, reason::PROMOTION_SEALED, Dr::RemoteUnavailable),
        (UpToDate | Behind, Unconfigured) => {
            Row::new(Proceed, reason::PROMOTION_NO_PEER, Dr::RemoteUnconfigured)
        }
        (Behind, Primary) => Row::new(
            Refuse,
            reason::PEER_IS_PRIMARY_OUT_OF_BAND,
            Dr::RemoteUnavailable,
        ),
        (Behind, Secondary) => Row::new(Wait, reason::BEHIND_DEMOTION_TOKEN, Dr::RemoteUnavailable),
        (Behind, Unknown) => Row::new(
            Proceed,
            reason::PROMOTION_PEER_UNKNOWN,
            Dr::RemoteUnavailable,
        ),
        (InconsistentSnap, Primary) => Row::new(
            Refuse,
            reason::PEER_IS_PRIMARY_OUT_OF_BAND,
            Dr::Inconsistent,
        ),
        (InconsistentSnap, Secondary) => {
            Row::new(Wait, reason::BEHIND_DEMOTION_TOKEN, Dr::Inconsistent)
        }
        (InconsistentSnap, Unknown | Unconfigured) => {
            Row::new(Proceed, reason::REVERT_THEN_PROMOTE, Dr::Inconsistent)
        }
        (InconsistentNoSnap, _) => Row::new(Refuse, reason::NO_CONSISTENT_DATA, Dr::Inconsistent),
        (Empty, Primary | Secondary | Unknown) => {
            Row::new(Refuse, reason::NEVER_SYNCHRONIZED, Dr::RemoteUnavailable)
        }
        (Empty, Unconfigured) => {
            Row::new(Refuse, reason::NEVER_SYNCHRONIZED, Dr::RemoteUnconfigured)
        }
        (Diverged, Primary | Secondary | Unknown) => {
            Row::new(Refuse, reason::SPLIT_BRAIN_UNRESOLVED, Dr::Partitioned)
        }
        _ => return None,
    })
}

fn demote(link: LinkView, data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary, Unconfigured, Unknown};
    Some(match (link, data, peer) {
        (Up, UpToDate, Secondary) => Row::new(Proceed, reason::DEMOTION_SEALED, Dr::Normal),
        (Up, SyncSource, Secondary) => Row::new(
            Wait,
            reason::PEER_SYNC_IN_PROGRESS,
            Dr::SynchronizationInProgress,
        ),
        (Up | Down, Behind, Primary) => {
            Row::new(Proceed, reason::REJOIN_SUPERSEDED, Dr::Superseded)
        }
        (Up | Down, Diverged, Primary | Secondary) | (Down, Diverged, Unknown) => {
            Row::new(Proceed, reason::DEMOTED_DIVERGED, Dr::Partitioned)
        }
        (Down, UpToDate, Primary) => Row::new(
            Proceed,
            reason::DEMOTION_PEER_PRIMARY,
            Dr::RemoteUnavailable,
        ),
        (Down, UpToDate, Secondary | Unknown) => Row::new(
            Proceed,
            reason::DEMOTION_UNSEALED_PEER_BEHIND,
            Dr::RemoteUnavailable,
        ),
        (Down, UpToDate, Unconfigured) => {
            Row::new(Proceed, reason::DEMOTION_NO_PEER, Dr::RemoteUnconfigured)
        }
        _ => return None,
    })
}

fn stay_secondary(link: LinkView, data: DataWord, peer: PeerRole) -> Option<Row> {
    match link {
        Up => stay_secondary_linked(data, peer),
        Down => stay_secondary_apart(data, peer),
    }
}

fn stay_secondary_linked(data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary};
    let sync = Row::new(
        Steady,
        reason::SYNC_IN_PROGRESS,
        Dr::SynchronizationInProgress,
    );
    Some(match (data, peer) {
        (UpToDate, Primary) => Row::new(Steady, reason::NORMAL, Dr::Normal),
        (UpToDate, Secondary) => Row::new(Steady, reason::INACTIVE, Dr::Inactive),
        (SyncSource, Secondary) => sync,
        (Behind, Primary | Secondary) => Row::new(Steady, reason::CATCHING_UP, Dr::CatchingUp),
        (Syncing | InconsistentSnap | InconsistentNoSnap | Empty, Primary | Secondary) => sync,
        (Diverged, Primary | Secondary) => Row::new(Hold, reason::SPLIT_BRAIN, Dr::Partitioned),
        _ => return None,
    })
}

fn stay_secondary_apart(data: DataWord, peer: PeerRole) -> Option<Row> {
    use PeerRole::{Primary, Secondary, Unconfigured, Unknown};
    Some(match (data, peer) {
        (UpToDate | Empty, Secondary)
        | (Behind | Empty, Primary)
        | (Behind, Secondary)
        | (Behind | Empty, Unknown) => {
            Row::new(Steady, reason::REMOTE_UNAVAILABLE, Dr::RemoteUnavailable)
        }
        (UpToDate | Behind | Empty, Unconfigured) => {
            Row::new(Steady, reason::REMOTE_UNCONFIGURED, Dr::RemoteUnconfigured)
        }
        (InconsistentSnap | InconsistentNoSnap, Primary | Secondary | Unknown) => {
            Row::new(Steady, reason::INCONSISTENT, Dr::Inconsistent)
        }
        (InconsistentSnap | InconsistentNoSnap, Unconfigured) => {
            Row::new(Steady, reason::REMOTE_UNCONFIGURED, Dr::Inconsistent)
        }
        (Diverged, Primary | Secondary | Unknown) => {
            Row::new(Hold, reason::SPLIT_BRAIN, Dr::Partitioned)
        }
        _ => return None,
    })
}

/// The columns of the table for a volume.
#[must_use]
pub fn situation(desired: Role, volume: &Volume) -> Situation {
    let actual = volume.role;
    let told = volume.peer.as_ref().and_then(|peer| peer.role);
    let link = match volume.link.state {
        LinkState::Connected if told.is_some() => Up,
        LinkState::Refused => refused_link(desired, volume, told),
        LinkState::Connected
        | LinkState::Unconfigured
        | LinkState::Connecting
        | LinkState::Down
        | LinkState::AuthFailed
        | LinkState::ProtocolMismatch => Down,
    };
    let peer = match (link, volume.link.state, told) {
        (_, LinkState::Unconfigured, _) => PeerRole::Unconfigured,
        (Up, _, Some(Role::Primary)) => PeerRole::Primary,
        (Up, _, Some(Role::Secondary)) => PeerRole::Secondary,
        (Up | Down, _, _) => PeerRole::Unknown,
    };
    // A peer that this side has superseded and that is not demoted yet is connected and gets
    // nothing: for the data that is the same as being away.
    let supersedes = actual == Role::Primary
        && volume.data == UpToDate
        && (link, peer) == (Up, PeerRole::Primary);
    let (link, peer) = if supersedes {
        (Down, PeerRole::Unknown)
    } else {
        (link, peer)
    };
    normalise(Situation {
        desired,
        actual,
        link,
        data: volume.data,
        peer,
    })
}

/// A refused session is worth what the peer told before it ended: enough to see that both sides have
/// diverged or that the peer is Primary, not enough to call the pair linked.
fn refused_link(desired: Role, volume: &Volume, told: Option<Role>) -> LinkView {
    let promotion = desired == Role::Primary && volume.role == Role::Secondary;
    match (volume.data, told) {
        (_, None) => Down,
        (Diverged | Behind, Some(_)) => Up,
        (_, Some(Role::Primary)) if promotion => Up,
        (_, Some(_)) => Down,
    }
}

/// Short-lived and apart states in the words of the table.
///
/// Apart, a seal is judged as unknown (E6), so a cut-off Secondary is Behind; a Primary that is behind
/// was superseded whoever told it and whatever that side is now (E5).
fn normalise(situation: Situation) -> Situation {
    let Situation {
        actual,
        link,
        data,
        peer,
        ..
    } = situation;
    let data = match (link, data, actual) {
        (Down, Syncing, _) => InconsistentNoSnap,
        (Down, SyncSource, _) => UpToDate,
        (Up | Down, other, _) => other,
    };
    let data = match (link, data, actual, peer) {
        (Down, UpToDate, Role::Secondary, PeerRole::Unknown) => Behind,
        (Up | Down, other, _, _) => other,
    };
    let peer = match (data, actual, peer) {
        (Behind, Role::Primary, _) => PeerRole::Primary,
        (Diverged, _, PeerRole::Unconfigured) => PeerRole::Unknown,
        (_, _, peer) => peer,
    };
    Situation {
        data,
        peer,
        ..situation
    }
}

#[cfg(test)]
mod tests;
