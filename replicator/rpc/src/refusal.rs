//! Refusal codes as numbers on both protocols. Exhaustive in both directions.
//!
//! Does not live here: sentences for people, the engine's own refusal type.

pub use crate::control::v1::RefusalCode;

/// Every code that means something, for tables and tests.
pub const ALL: [RefusalCode; 16] = [
    RefusalCode::PeerIsPrimary,
    RefusalCode::StaleEpoch,
    RefusalCode::StaleRequest,
    RefusalCode::NeverSynchronized,
    RefusalCode::NoConsistentData,
    RefusalCode::SplitBrainUnresolved,
    RefusalCode::SyncInProgress,
    RefusalCode::DeviceHeld,
    RefusalCode::PeerHasData,
    RefusalCode::PeerUnknown,
    RefusalCode::AlreadyInitialized,
    RefusalCode::TimedOut,
    RefusalCode::Busy,
    RefusalCode::DiskFailed,
    RefusalCode::Reverting,
    RefusalCode::IsPrimary,
];

/// The word for status and logs.
#[must_use]
pub const fn word(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Unspecified => "Unspecified",
        RefusalCode::PeerIsPrimary => "PeerIsPrimary",
        RefusalCode::StaleEpoch => "StaleEpoch",
        RefusalCode::StaleRequest => "StaleRequest",
        RefusalCode::NeverSynchronized => "NeverSynchronized",
        RefusalCode::NoConsistentData => "NoConsistentData",
        RefusalCode::SplitBrainUnresolved => "SplitBrainUnresolved",
        RefusalCode::SyncInProgress => "SyncInProgress",
        RefusalCode::DeviceHeld => "DeviceHeld",
        RefusalCode::PeerHasData => "PeerHasData",
        RefusalCode::PeerUnknown => "PeerUnknown",
        RefusalCode::AlreadyInitialized => "AlreadyInitialized",
        RefusalCode::TimedOut => "TimedOut",
        RefusalCode::Busy => "Busy",
        RefusalCode::DiskFailed => "DiskFailed",
        RefusalCode::Reverting => "Reverting",
        RefusalCode::IsPrimary => "IsPrimary",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        for number in 1..=ALL.len() as i32 {
            let code = RefusalCode::try_from(number).expect("codes are contiguous");
            assert_eq!(ALL.iter().filter(|c| **c == code).count(), 1);
            assert_ne!(word(code), "Unspecified");
        }
        assert!(
            RefusalCode::try_from(ALL.len() as i32 + 1).is_err(),
            "a code is missing in ALL"
        );
    }
}
