//! A volume in the API's words, and its figures.
//!
//! Lives here: the mapping, the steps in which figures are worth a write. Does not live here:
//! conditions, events.

use std::time::Duration;

use drqm_api::live::LiveState;
use drqm_api::names;
use drqm_api::v1alpha1::{
    DataWord, DrQueueManager, DrQueueManagerStatus, DrState, DrStatusWord, EffectiveRole,
    EpochState, FileSystemState, LinkWord, PeerState, RecoveryPoint, Role, SnapshotState,
    SyncDirection, TransitionState, VerificationState, VolumeStatus,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::whole_seconds;
use crate::observed::{Gate, LinkState, NodeFacts, RecoveryPointFacts, Volume};
use crate::role;

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn time(time: Timestamp) -> Time {
    Time(whole_seconds(time))
}

pub(super) fn link_word(state: LinkState) -> LinkWord {
    match state {
        LinkState::Unconfigured => LinkWord::Disabled,
        LinkState::Connecting => LinkWord::Connecting,
        LinkState::Connected => LinkWord::Connected,
        LinkState::Down => LinkWord::Disconnected,
        LinkState::AuthFailed => LinkWord::AuthFailed,
        LinkState::ProtocolMismatch => LinkWord::ProtocolMismatch,
        LinkState::Refused => LinkWord::Refused,
    }
}

pub(super) fn file_system(volume: &Volume) -> Option<FileSystemState> {
    volume.file_system.map(|usage| FileSystemState {
        used_bytes: signed(usage.used_bytes),
        allocated_bytes: signed(usage.allocated_bytes),
        used_percent: signed(names::percent(usage.used_bytes, usage.allocated_bytes)),
    })
}

pub(super) fn cpu(volume: &Volume) -> Option<String> {
    volume
        .holder_cpu_percent
        .map(|percent| format!("{percent:.2}"))
}

pub(super) fn memory(volume: &Volume) -> Option<i64> {
    volume.holder_memory_bytes.map(signed)
}

pub(super) fn dr(
    object: &DrQueueManager,
    node: Option<&NodeFacts>,
    volume: Option<&Volume>,
) -> DrState {
    let replication = &object.spec.replication;
    let mut dr = DrState {
        type_: Some(replication.mode),
        port: Some(replication.port),
        local_address: replication
            .local_address
            .clone()
            .or_else(|| volume.and_then(|volume| volume.link.local_address.clone()))
            .or_else(|| node.and_then(|node| node.address.clone())),
        remote_addresses: replication
            .peer
            .as_ref()
            .map(|peer| peer.addresses.clone())
            .unwrap_or_default(),
        ..DrState::default()
    };
    let Some(volume) = volume.filter(|volume| volume.configured) else {
        return dr;
    };
    dr.status = role::table(role::situation(volume.role, volume)).dr_status;
    if dr.status == DrStatusWord::Normal && volume.peer_is_behind() {
        dr.status = DrStatusWord::CatchingUp;
    }
    if let Some(snapshot) = volume.snapshot
        && let Some(done) = snapshot.reverted_bytes
    {
        dr.status = DrStatusWord::RevertingToSnapshot;
        dr.snapshot_reversion_percent = Some(names::progress(done, snapshot.used_bytes));
    }
    dr.effective_type = Some(volume.effective_mode);
    dr.current_remote_address = volume
        .link
        .current_remote_address
        .clone()
        .filter(|_| volume.link.state == LinkState::Connected);
    dr.link = link_word(volume.link.state);
    dr.local_data = Some(volume.data);
    dr.out_of_sync_bytes = Some(signed(volume.out_of_sync_bytes));
    dr.out_of_sync = Some(names::kilobytes(volume.out_of_sync_bytes));
    if let Some(sync) = volume.sync {
        dr.sync_progress_percent = Some(names::progress(sync.done_bytes, sync.total_bytes));
        dr.sync_direction = Some(if sync.source {
            SyncDirection::Source
        } else {
            SyncDirection::Target
        });
        dr.estimated_completion_time = sync.eta.map(time);
    }
    dr.rtt_millis = volume
        .link
        .rtt_micros
        .filter(|_| volume.link.state == LinkState::Connected)
        .map(|micros| signed(micros / 1000));
    dr
}

/// In step, the recovery point is now and would move for ever; it is shown when it has stopped, or
/// when this side lags behind.
pub(super) fn shown_recovery_point(volume: &Volume) -> Option<RecoveryPoint> {
    let in_step = volume.link.state == LinkState::Connected && volume.data == DataWord::UpToDate;
    (volume.role == Role::Secondary && !in_step && volume.data != DataWord::Empty)
        .then(|| volume.recovery_point.as_ref().map(recovery_point))
        .flatten()
}

fn recovery_point(facts: &RecoveryPointFacts) -> RecoveryPoint {
    RecoveryPoint {
        // Rounded down: everything before it is here.
        time: facts.time.map(time),
        behind_bytes: signed(facts.behind_bytes),
        last_in_sync_time: facts.last_in_sync.map(time),
        epoch: Some(facts.epoch.clone()).filter(|epoch| !epoch.is_empty()),
    }
}

pub(super) fn snapshot(volume: &Volume) -> Option<SnapshotState> {
    volume.snapshot.map(|snapshot| SnapshotState {
        taken_at: snapshot.taken.map(time),
        used_bytes: signed(snapshot.used_bytes),
    })
}

pub(super) fn verification(volume: &Volume) -> Option<VerificationState> {
    let found = volume.verification.as_ref()?;
    let done = volume.size_bytes.saturating_sub(found.left_bytes);
    Some(VerificationState {
        request_id: found.request.clone(),
        started_at: found.started.map(time),
        finished_at: found.finished.map(time),
        progress_percent: Some(names::progress(done, volume.size_bytes)),
        differing_bytes: signed(found.differing_bytes),
    })
}

pub(super) fn epoch(volume: &Volume) -> Option<EpochState> {
    (!volume.epoch.is_empty()).then(|| EpochState {
        current: volume.epoch.clone(),
        history: volume.history.clone(),
        sealed: volume.sealed,
    })
}

pub(super) fn peer(object: &DrQueueManager, volume: &Volume) -> Option<PeerState> {
    let spec = object.spec.replication.peer.as_ref()?;
    let reachable = volume.link.state == LinkState::Connected;
    let mut state = PeerState {
        name: Some(spec.name.clone()),
        reachable,
        ..PeerState::default()
    };
    if let Some(told) = &volume.peer {
        state.role = told
            .role
            .map_or(EffectiveRole::Unknown, EffectiveRole::from);
        state.data = told.data;
        state.epoch = Some(told.epoch.clone()).filter(|epoch| !epoch.is_empty());
        state.size_bytes = (told.size_bytes > 0).then(|| signed(told.size_bytes));
        state.mode = told.mode;
        state.version = Some(told.version.clone()).filter(|version| !version.is_empty());
        // While it is connected this is now, and would move for ever.
        state.last_seen = told.heard_at.filter(|_| !reachable).map(time);
    }
    Some(state)
}

pub(super) fn transition(volume: &Volume) -> Option<TransitionState> {
    volume
        .last_transition
        .as_ref()
        .map(|transition| TransitionState {
            from: transition.from,
            to: transition.to,
            kind: transition.kind,
            started_at: transition.started.map(time),
            finished_at: transition.finished.map(time),
            recovery_point: transition.recovery_point.as_ref().map(recovery_point),
            crashed_tail_bytes: (volume.crashed_tail_bytes > 0)
                .then(|| signed(volume.crashed_tail_bytes)),
        })
}

pub(super) fn volume(volume: &Volume) -> VolumeStatus {
    let has_device = matches!(volume.device.gate, Gate::Open | Gate::Dead);
    VolumeStatus {
        id: volume.volume_id.clone(),
        size_bytes: Some(signed(volume.size_bytes)),
        device: volume.device.path.clone().filter(|_| has_device),
        front_end: volume.device.front_end.clone().filter(|_| has_device),
        kept_copies: volume.kept_copies.clone(),
    }
}

pub(super) fn live(
    object: &DrQueueManager,
    volume: &Volume,
    age: Duration,
    now: Timestamp,
) -> LiveState {
    let heard = volume.peer.as_ref().and_then(|peer| peer.heard_at);
    LiveState {
        age_millis: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        role: volume.role.into(),
        dr: dr(object, None, Some(volume)),
        file_system: file_system(volume),
        cpu: cpu(volume),
        memory_bytes: memory(volume),
        recovery_point: volume
            .recovery_point
            .as_ref()
            .filter(|_| volume.role == Role::Secondary)
            .map(recovery_point),
        epoch: epoch(volume),
        peer: peer(object, volume),
        peer_heard_age_millis: heard
            .and_then(|heard| u64::try_from(now.duration_since(heard).as_millis()).ok()),
        sync_done_bytes: volume.sync.map(|sync| sync.done_bytes),
        sync_total_bytes: volume.sync.map(|sync| sync.total_bytes),
        sync_bytes_per_second: volume.sync.map(|sync| sync.bytes_per_second),
    }
}

/// `new` with the live figures of `old` where both have them.
pub(super) fn with_live_figures_of(
    new: &DrQueueManagerStatus,
    old: &DrQueueManagerStatus,
) -> DrQueueManagerStatus {
    let mut status = new.clone();
    keep(&mut status.dr.out_of_sync_bytes, &old.dr.out_of_sync_bytes);
    keep(&mut status.dr.out_of_sync, &old.dr.out_of_sync);
    keep(
        &mut status.dr.sync_progress_percent,
        &old.dr.sync_progress_percent,
    );
    keep(
        &mut status.dr.estimated_completion_time,
        &old.dr.estimated_completion_time,
    );
    keep(&mut status.dr.rtt_millis, &old.dr.rtt_millis);
    keep(&mut status.file_system, &old.file_system);
    keep(&mut status.queue_manager.cpu, &old.queue_manager.cpu);
    keep(
        &mut status.queue_manager.memory_bytes,
        &old.queue_manager.memory_bytes,
    );
    keep(&mut status.recovery_point, &old.recovery_point);
    keep(&mut status.snapshot, &old.snapshot);
    keep(
        &mut status.dr.snapshot_reversion_percent,
        &old.dr.snapshot_reversion_percent,
    );
    if let (Some(new), Some(old)) = (&mut status.verification, &old.verification) {
        keep(&mut new.progress_percent, &old.progress_percent);
    }
    status
}

fn keep<T: Clone>(new: &mut Option<T>, old: &Option<T>) {
    if new.is_some() && old.is_some() {
        new.clone_from(old);
    }
}

/// Whether a figure that people act on moved by 5 %.
pub(super) fn moved_a_step(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> bool {
    let progress = |status: &DrQueueManagerStatus| {
        let dr = &status.dr;
        dr.sync_progress_percent
            .as_ref()
            .or(dr.snapshot_reversion_percent.as_ref())
            .or(status
                .verification
                .as_ref()
                .and_then(|v| v.progress_percent.as_ref()))
            .and_then(|text| text.parse::<f64>().ok())
    };
    let progressed = match (progress(old), progress(new)) {
        (Some(old), Some(new)) => (new - old).abs() >= 5.0,
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let filled = match (old.file_system, new.file_system) {
        (Some(old), Some(new)) => {
            old.used_percent.abs_diff(new.used_percent) >= 5
                || old.allocated_bytes != new.allocated_bytes
        }
        (None, _) | (_, None) => false,
    };
    progressed || filled || moved(old.dr.out_of_sync_bytes, new.dr.out_of_sync_bytes)
}

fn moved(old: Option<i64>, new: Option<i64>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return false;
    };
    let larger = old.unsigned_abs().max(new.unsigned_abs());
    old != new && old.abs_diff(new) >= larger.div_ceil(20)
}
