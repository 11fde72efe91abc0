//! Refusals as numbers of the control protocol, which the peer protocol uses too.

use drqm_engine::command::Refusal;
use drqm_engine::ids::Epoch;
use drqm_rpc::refusal::RefusalCode;

pub(crate) const fn refusal_code(refusal: &Refusal) -> RefusalCode {
    match refusal {
        Refusal::PeerIsPrimary => RefusalCode::PeerIsPrimary,
        Refusal::StaleEpoch { .. } => RefusalCode::StaleEpoch,
        Refusal::StaleRequest => RefusalCode::StaleRequest,
        Refusal::NeverSynchronized => RefusalCode::NeverSynchronized,
        Refusal::NoConsistentData => RefusalCode::NoConsistentData,
        Refusal::SplitBrainUnresolved => RefusalCode::SplitBrainUnresolved,
        Refusal::SyncInProgress => RefusalCode::SyncInProgress,
        Refusal::DeviceHeld(_) => RefusalCode::DeviceHeld,
        Refusal::PeerHasData => RefusalCode::PeerHasData,
        Refusal::PeerUnknown => RefusalCode::PeerUnknown,
        Refusal::AlreadyInitialized => RefusalCode::AlreadyInitialized,
        Refusal::TimedOut(_) => RefusalCode::TimedOut,
        Refusal::Busy => RefusalCode::Busy,
        Refusal::DiskFailed(_) => RefusalCode::DiskFailed,
        Refusal::Reverting => RefusalCode::Reverting,
        Refusal::IsPrimary => RefusalCode::IsPrimary,
    }
}

/// A refusal that came over the wire, without the details that stayed there.
pub(crate) fn refusal_from_code(code: RefusalCode) -> Option<Refusal> {
    Some(match code {
        RefusalCode::Unspecified => return None,
        RefusalCode::PeerIsPrimary => Refusal::PeerIsPrimary,
        RefusalCode::StaleEpoch => Refusal::StaleEpoch {
            expected: Epoch::NONE,
            current: Epoch::NONE,
        },
        RefusalCode::StaleRequest => Refusal::StaleRequest,
        RefusalCode::NeverSynchronized => Refusal::NeverSynchronized,
        RefusalCode::NoConsistentData => Refusal::NoConsistentData,
        RefusalCode::SplitBrainUnresolved => Refusal::SplitBrainUnresolved,
        RefusalCode::SyncInProgress => Refusal::SyncInProgress,
        RefusalCode::DeviceHeld => Refusal::DeviceHeld("its user".to_owned()),
        RefusalCode::PeerHasData => Refusal::PeerHasData,
        RefusalCode::PeerUnknown => Refusal::PeerUnknown,
        RefusalCode::AlreadyInitialized => Refusal::AlreadyInitialized,
        RefusalCode::TimedOut => Refusal::TimedOut("on the peer"),
        RefusalCode::Busy => Refusal::Busy,
        RefusalCode::DiskFailed => Refusal::DiskFailed("on the peer".to_owned()),
        RefusalCode::Reverting => Refusal::Reverting,
        RefusalCode::IsPrimary => Refusal::IsPrimary,
    })
}
