//! The engine's small enumerations as numbers of the peer protocol, both ways. 0 is never a value,
//! so that an absent field is noticed. Numbers are forever: they may be added, not changed.

use drqm_engine::command::Refusal;
use drqm_engine::compare::{Decision, Disk, Extent, Mismatch, Parted};
use drqm_engine::report::Data;
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use super::{Violation, violation};

macro_rules! numbered {
    ($to:ident, $from:ident, $type:ty, $what:literal, { $($number:literal => $value:pat => $make:expr),+ $(,)? }) => {
        pub(super) const fn $to(value: $type) -> u32 {
            match value { $($value => $number),+ }
        }

        pub(super) fn $from(number: u32) -> Result<$type, Violation> {
            match number {
                $($number => Ok($make),)+
                other => violation(format!(concat!("unknown ", $what, " {}"), other)),
            }
        }

        #[cfg(test)]
        pub(super) mod $to {
            use super::*;
            pub(in super::super) fn all() -> Vec<$type> {
                vec![$($make),+]
            }

            #[test]
            fn every_value_comes_back() {
                for value in all() {
                    assert_eq!(super::$from(super::$to(value)), Ok(value));
                }
                assert!(super::$from(0).is_err());
            }
        }
    };
}

numbered!(role, role_from, Role, "role", {
    1 => Role::Secondary => Role::Secondary,
    2 => Role::Primary => Role::Primary,
});

numbered!(mode, mode_from, Mode, "mode", {
    1 => Mode::Asynchronous => Mode::Asynchronous,
    2 => Mode::Synchronous => Mode::Synchronous,
    3 => Mode::FlushSynchronous => Mode::FlushSynchronous,
});

numbered!(disk, disk_from, Disk, "disk state", {
    1 => Disk::Empty => Disk::Empty,
    2 => Disk::Consistent => Disk::Consistent,
    3 => Disk::Inconsistent => Disk::Inconsistent,
});

numbered!(data, data_from, Data, "data state", {
    1 => Data::Empty => Data::Empty,
    2 => Data::UpToDate => Data::UpToDate,
    3 => Data::SyncSource => Data::SyncSource,
    4 => Data::Behind => Data::Behind,
    5 => Data::Syncing => Data::Syncing,
    6 => Data::InconsistentSnap => Data::InconsistentSnap,
    7 => Data::InconsistentNoSnap => Data::InconsistentNoSnap,
    8 => Data::Diverged => Data::Diverged,
    9 => Data::Failed => Data::Failed,
});

numbered!(decision, decision_from, Decision, "decision", {
    1 => Decision::AwaitFirstPrimary => Decision::AwaitFirstPrimary,
    2 => Decision::InSync => Decision::InSync,
    3 => Decision::Source(Extent::Bitmap) => Decision::Source(Extent::Bitmap),
    4 => Decision::Source(Extent::Full) => Decision::Source(Extent::Full),
    5 => Decision::Target(Extent::Bitmap) => Decision::Target(Extent::Bitmap),
    6 => Decision::Target(Extent::Full) => Decision::Target(Extent::Full),
    7 => Decision::Superseded => Decision::Superseded,
    8 => Decision::Superseding => Decision::Superseding,
    9 => Decision::Partitioned(Parted::Diverged) => Decision::Partitioned(Parted::Diverged),
    10 => Decision::Partitioned(Parted::Tail) => Decision::Partitioned(Parted::Tail),
    11 => Decision::Partitioned(Parted::DualPrimary) => Decision::Partitioned(Parted::DualPrimary),
    12 => Decision::Partitioned(Parted::Ambiguous) => Decision::Partitioned(Parted::Ambiguous),
    13 => Decision::Refused(Mismatch::SameNode) => Decision::Refused(Mismatch::SameNode),
    14 => Decision::Refused(Mismatch::QueueManager) => Decision::Refused(Mismatch::QueueManager),
    15 => Decision::Refused(Mismatch::Size) => Decision::Refused(Mismatch::Size),
    16 => Decision::Refused(Mismatch::ChunkSize) => Decision::Refused(Mismatch::ChunkSize),
    17 => Decision::Refused(Mismatch::UnrelatedData) => Decision::Refused(Mismatch::UnrelatedData),
    18 => Decision::Refused(Mismatch::NoConsistentSource) => Decision::Refused(Mismatch::NoConsistentSource),
    19 => Decision::Refused(Mismatch::Impossible) => Decision::Refused(Mismatch::Impossible),
    20 => Decision::Source(Extent::Log) => Decision::Source(Extent::Log),
    21 => Decision::Target(Extent::Log) => Decision::Target(Extent::Log),
});

/// A refusal of the peer. Its details stay there; the code is what the engine acts on.
pub(super) fn refusal_from(number: u32) -> Result<Refusal, Violation> {
    i32::try_from(number)
        .ok()
        .and_then(|n| drqm_rpc::refusal::RefusalCode::try_from(n).ok())
        .and_then(crate::convert::refusal_from_code)
        .map_or_else(|| violation(format!("unknown refusal {number}")), Ok)
}
