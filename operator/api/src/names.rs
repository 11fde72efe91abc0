//! The words people read, as RDQM prints them.
//!
//! Lives here: how each enum and each quantity prints for people. Does not live here: layout (the
//! plugin), the machine words (`v1alpha1::status`).

use crate::v1alpha1::{
    DataWord, DrStatusWord, EffectiveRole, LinkWord, Mode, QueueManagerStatusWord, Role,
    TransitionKind, VerdictWord,
};

/// `Remote unavailable`, `Synchronization in progress`, …
#[must_use]
pub fn dr_status(word: DrStatusWord) -> &'static str {
    match word {
        DrStatusWord::Normal => "Normal",
        DrStatusWord::SynchronizationInProgress => "Synchronization in progress",
        DrStatusWord::CatchingUp => "Catching up",
        DrStatusWord::RemoteUnavailable => "Remote unavailable",
        DrStatusWord::RemoteUnconfigured => "Remote unconfigured",
        DrStatusWord::Inconsistent => "Inconsistent",
        DrStatusWord::RevertingToSnapshot => "Reverting to snapshot",
        DrStatusWord::Partitioned => "Partitioned",
        DrStatusWord::Inactive => "Inactive",
        DrStatusWord::Superseded => "Superseded",
        DrStatusWord::Unknown => "Unknown",
    }
}

/// `Running`, `Ended immediately`, …
#[must_use]
pub fn queue_manager_status(word: QueueManagerStatusWord) -> &'static str {
    match word {
        QueueManagerStatusWord::Starting => "Starting",
        QueueManagerStatusWord::Running => "Running",
        QueueManagerStatusWord::Quiescing => "Quiescing",
        QueueManagerStatusWord::EndedNormally => "Ended normally",
        QueueManagerStatusWord::EndedImmediately => "Ended immediately",
        QueueManagerStatusWord::EndedUnexpectedly => "Ended unexpectedly",
        QueueManagerStatusWord::StatusNotAvailable => "Status not available",
        QueueManagerStatusWord::NotCreated => "Not created",
    }
}

/// `Primary`, `Secondary`, `Unknown`.
#[must_use]
pub fn effective_role(role: EffectiveRole) -> &'static str {
    match role {
        EffectiveRole::Primary => "Primary",
        EffectiveRole::Secondary => "Secondary",
        EffectiveRole::Unknown => "Unknown",
    }
}

/// `Primary`, `Secondary`.
#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "Primary",
        Role::Secondary => "Secondary",
    }
}

/// `Asynchronous`, `Synchronous`.
#[must_use]
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Asynchronous => "Asynchronous",
        Mode::Synchronous => "Synchronous",
        Mode::FlushSynchronous => "FlushSynchronous",
    }
}

/// `Up to date`, `Being synchronized`, …
#[must_use]
pub fn data(word: DataWord) -> &'static str {
    match word {
        DataWord::Empty => "Empty",
        DataWord::UpToDate => "Up to date",
        DataWord::SyncSource => "Up to date, synchronizing the peer",
        DataWord::Behind => "Behind",
        DataWord::Syncing => "Being synchronized",
        DataWord::InconsistentSnap => "Inconsistent, snapshot held",
        DataWord::InconsistentNoSnap => "Inconsistent",
        DataWord::Diverged => "Diverged",
        DataWord::Failed => "Failed",
    }
}

/// `Connected`, `Authentication failed`, …
#[must_use]
pub fn link(word: LinkWord) -> &'static str {
    match word {
        LinkWord::Connected => "Connected",
        LinkWord::Connecting => "Connecting",
        LinkWord::Refused => "Refused",
        LinkWord::AuthFailed => "Authentication failed",
        LinkWord::ProtocolMismatch => "Protocol mismatch",
        LinkWord::Disconnected => "Disconnected",
        LinkWord::Disabled => "Not configured",
    }
}

/// The verdict as a word of a sentence.
#[must_use]
pub fn verdict(word: VerdictWord) -> &'static str {
    match word {
        VerdictWord::Steady => "Settled",
        VerdictWord::Proceed => "In progress",
        VerdictWord::Wait => "Waiting",
        VerdictWord::Refuse => "Refused",
        VerdictWord::Hold => "Held",
    }
}

/// The kind of a transition.
#[must_use]
pub fn transition(kind: TransitionKind) -> &'static str {
    match kind {
        TransitionKind::Creation => "Creation",
        TransitionKind::Planned => "Planned",
        TransitionKind::Unplanned => "Unplanned",
        TransitionKind::Demotion => "Demotion",
    }
}

/// Out-of-sync data as rdqmstatus prints it: `1520KB`, rounded up so that nothing reads as 0.
#[must_use]
pub fn kilobytes(bytes: u64) -> String {
    format!("{}KB", bytes.div_ceil(1024))
}

/// Sizes as rdqmstatus prints them: `183MB`, `2.9GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    if bytes >= GIB {
        // Tenths, rounded down: 2.99GB of space must not read as 3.0GB.
        let tenths = bytes / (GIB / 10);
        format!("{}.{}GB", tenths / 10, tenths % 10)
    } else {
        format!("{}MB", bytes / MIB)
    }
}

/// `58MB used, 2.9GB allocated [2%]`.
#[must_use]
pub fn file_system(used: u64, allocated: u64) -> String {
    format!(
        "{} used, {} allocated [{}%]",
        size(used),
        size(allocated),
        percent(used, allocated)
    )
}

/// Whole percent, rounded up; 0 of nothing is 0.
#[must_use]
pub fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        0
    } else {
        (u128::from(part) * 100).div_ceil(u128::from(whole)) as u64
    }
}

/// Progress with two decimals, never 100.00 before all is done.
#[must_use]
pub fn progress(done: u64, total: u64) -> String {
    if total == 0 {
        return "0.00".to_owned();
    }
    let hundredths = (u128::from(done.min(total)) * 10_000 / u128::from(total)) as u64;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_rdqmstatus_prints_them() {
        assert_eq!(kilobytes(0), "0KB");
        assert_eq!(kilobytes(1), "1KB");
        assert_eq!(kilobytes(1520 * 1024), "1520KB");
        assert_eq!(size(183 << 20), "183MB");
        assert_eq!(size(3_145_596_928), "2.9GB");
        assert_eq!(
            file_system(60_817_408, 3_145_596_928),
            "58MB used, 2.9GB allocated [2%]"
        );
        assert_eq!(file_system(0, 0), "0MB used, 0MB allocated [0%]");
    }

    #[test]
    fn progress_is_100_only_when_all_is_done() {
        assert_eq!(progress(0, 0), "0.00");
        assert_eq!(progress(8054, 10_000), "80.54");
        assert_eq!(progress(u64::MAX - 1, u64::MAX), "99.99");
        assert_eq!(progress(7, 7), "100.00");
    }
}
