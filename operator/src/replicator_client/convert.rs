//! Wire ↔ domain, one exhaustive mapping each way.
//!
//! Lives here: what a missing or unknown wire value means. Does not live here: decisions by it.
//!
//! An enum value that this build does not know becomes the value that allows least: role Secondary,
//! data Failed, gate Failed, link Refused.

use drqm_api::v1alpha1::{
    BeforeResync, DataWord, FsType, MaxLoss, Mode, OnCongestion, OnPeerLoss, Role,
    StartWhenPeerUnknown, TransitionKind, VerdictWord,
};
use drqm_core::{
    observed::{
        Device, FileSystem, Gate, Judged, Link, LinkState, Peer, RecoveryPointFacts, RefusalCode,
        SnapshotFacts, Sync, Transition, VerificationFacts, Volume,
    },
    validate::Valid,
};
use drqm_rpc::control::v1 as wire;
use jiff::Timestamp;

use super::Freshness;
use crate::certificates::pair::PairTls;

/// The wire's name of a volume.
pub fn volume_ref(namespace: &str, name: &str) -> wire::VolumeRef {
    wire::VolumeRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Everything that the replicator stores on the node for a pair.
pub fn configure_request(valid: &Valid, tls: Option<&PairTls>) -> wire::ConfigureRequest {
    wire::ConfigureRequest {
        volume: Some(volume_ref(&valid.namespace, &valid.name)),
        cr_uid: valid.uid.clone(),
        queue_manager_name: valid.queue_manager_name.clone(),
        size_bytes: valid.size_bytes,
        fs_type: match valid.fs_type {
            FsType::Xfs => "xfs",
            FsType::Ext4 => "ext4",
        }
        .to_owned(),
        mode: mode_to_wire(valid.mode).into(),
        port: valid.port.into(),
        local_address: valid.local_address.clone().unwrap_or_default(),
        peer: valid.peer.as_ref().map(|peer| wire::Peer {
            name: peer.name.clone(),
            addresses: peer.addresses.clone(),
        }),
        tls: tls.map(|tls| wire::PairTls {
            ca: tls.ca.clone(),
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            pair_id: tls.pair_id.clone(),
            server_name: tls.server_name.clone(),
        }),
        start_peer_check_timeout_seconds: valid.start.peer_check_timeout_seconds,
        start_hold_when_peer_unknown: match valid.start.when_peer_unknown {
            StartWhenPeerUnknown::Start => false,
            StartWhenPeerUnknown::Hold => true,
        },
        suspend_io_on_peer_loss: match valid.on_peer_loss {
            OnPeerLoss::Continue => false,
            OnPeerLoss::SuspendIo => true,
        },
        pull_ahead_on_congestion: match valid.on_congestion {
            OnCongestion::Block => false,
            OnCongestion::PullAhead => true,
        },
        resync_bytes_per_second: valid.resync_rate.unwrap_or_default(),
        verify_request: valid
            .verify
            .as_ref()
            .map_or_else(String::new, |v| v.request_id.clone()),
        verify_repair: valid.verify.as_ref().is_some_and(|v| v.repair),
        snapshots: match valid.before_resync {
            BeforeResync::Required => wire::SnapshotPolicy::Required,
            BeforeResync::BestEffort => wire::SnapshotPolicy::BestEffort,
            BeforeResync::Never => wire::SnapshotPolicy::Never,
        }
        .into(),
    }
}

/// A judged request, to be stored with the data.
pub fn judged_to_wire(judged: &Judged) -> wire::JudgedRequest {
    wire::JudgedRequest {
        cr_uid: judged.cr_uid.clone(),
        generation: judged.generation,
        role: role_to_wire(judged.role).into(),
        request_id: judged.request_id.clone(),
        verdict: verdict_text(judged.verdict).to_owned(),
        reason: judged.reason.clone(),
        message: judged.message.clone(),
        max_loss: max_loss_text(judged.max_loss).to_owned(),
        requested_at_unix_ms: judged.requested_at.as_millisecond(),
    }
}

/// The wire's role.
pub const fn role_to_wire(role: Role) -> wire::Role {
    match role {
        Role::Primary => wire::Role::Primary,
        Role::Secondary => wire::Role::Secondary,
    }
}

/// A volume as its replicator reports it.
pub fn volume(state: wire::VolumeState, freshness: Freshness) -> Volume {
    let (role, data, mode) = (state.role(), state.data(), state.mode());
    let effective_mode = state.effective_mode();
    Volume {
        refreshed: freshness == Freshness::Refreshed,
        cr_uid: state.cr_uid,
        volume_id: state.volume_id,
        queue_manager_name: state.queue_manager_name,
        size_bytes: state.size_bytes,
        capacity_bytes: state.capacity_bytes,
        mode: known_mode(mode).unwrap_or_default(),
        effective_mode: known_mode(effective_mode).unwrap_or_default(),
        role: known_role(role).unwrap_or(Role::Secondary),
        data: known_data(data).unwrap_or(DataWord::Failed),
        epoch: state.epoch,
        history: state.history,
        sealed: state.sealed,
        link: link(state.link.unwrap_or_default()),
        peer: state.peer.map(peer),
        out_of_sync_bytes: state.out_of_sync_bytes,
        sync: state.sync.map(|sync| Sync {
            source: sync.source,
            done_bytes: sync.done_bytes,
            total_bytes: sync.total_bytes,
            bytes_per_second: sync.bytes_per_second,
            eta: time(sync.eta_unix_ms),
        }),
        snapshot: state.snapshot.map(|snapshot| SnapshotFacts {
            taken: time(snapshot.taken_unix_ms),
            used_bytes: snapshot.used_bytes,
            reverted_bytes: snapshot.reverting.then_some(snapshot.reverted_bytes),
        }),
        snapshot_error: text(state.snapshot_error),
        verification: state.verification.map(|v| VerificationFacts {
            request: v.request,
            started: time(v.started_unix_ms),
            finished: time(v.finished_unix_ms),
            left_bytes: v.left_bytes,
            differing_bytes: v.differing_bytes,
        }),
        given_up: state.given_up,
        kept_copies: state.kept_copies,
        recovery_point: state.recovery_point.map(recovery_point),
        device: device(state.device.unwrap_or_default()),
        file_system: state.file_system.map(|fs| FileSystem {
            used_bytes: fs.used_bytes,
            allocated_bytes: fs.allocated_bytes,
        }),
        judged: state.judged.and_then(judged),
        last_transition: state.last_transition.and_then(transition),
        superseded_by: text(state.superseded_by),
        crashed_tail_bytes: state.crashed_tail_bytes,
        error: text(state.error),
        suspended: state.suspended,
        configured: state.configured,
        holder_memory_bytes: (state.holder_memory_bytes > 0).then_some(state.holder_memory_bytes),
        holder_cpu_percent: (state.holder_memory_bytes > 0).then_some(state.holder_cpu_percent),
    }
}

/// A refusal's code.
pub const fn refusal_code(code: wire::RefusalCode) -> RefusalCode {
    match code {
        wire::RefusalCode::Unspecified => RefusalCode::Unknown,
        wire::RefusalCode::PeerIsPrimary => RefusalCode::PeerIsPrimary,
        wire::RefusalCode::StaleEpoch => RefusalCode::StaleEpoch,
        wire::RefusalCode::StaleRequest => RefusalCode::StaleRequest,
        wire::RefusalCode::NeverSynchronized => RefusalCode::NeverSynchronized,
        wire::RefusalCode::NoConsistentData => RefusalCode::NoConsistentData,
        wire::RefusalCode::SplitBrainUnresolved => RefusalCode::SplitBrainUnresolved,
        wire::RefusalCode::SyncInProgress => RefusalCode::SyncInProgress,
        wire::RefusalCode::DeviceHeld => RefusalCode::DeviceHeld,
        wire::RefusalCode::PeerHasData => RefusalCode::PeerHasData,
        wire::RefusalCode::PeerUnknown => RefusalCode::PeerUnknown,
        wire::RefusalCode::AlreadyInitialized => RefusalCode::AlreadyInitialized,
        wire::RefusalCode::TimedOut => RefusalCode::TimedOut,
        wire::RefusalCode::Busy => RefusalCode::Busy,
        wire::RefusalCode::DiskFailed => RefusalCode::DiskFailed,
        wire::RefusalCode::Reverting => RefusalCode::Reverting,
        wire::RefusalCode::IsPrimary => RefusalCode::IsPrimary,
    }
}

const fn mode_to_wire(mode: Mode) -> wire::Mode {
    match mode {
        Mode::Asynchronous => wire::Mode::Asynchronous,
        Mode::Synchronous => wire::Mode::Synchronous,
        Mode::FlushSynchronous => wire::Mode::FlushSynchronous,
    }
}

const fn known_mode(mode: wire::Mode) -> Option<Mode> {
    match mode {
        wire::Mode::Unspecified => None,
        wire::Mode::Asynchronous => Some(Mode::Asynchronous),
        wire::Mode::Synchronous => Some(Mode::Synchronous),
        wire::Mode::FlushSynchronous => Some(Mode::FlushSynchronous),
    }
}

const fn known_role(role: wire::Role) -> Option<Role> {
    match role {
        wire::Role::Unspecified => None,
        wire::Role::Secondary => Some(Role::Secondary),
        wire::Role::Primary => Some(Role::Primary),
    }
}

const fn known_data(data: wire::Data) -> Option<DataWord> {
    match data {
        wire::Data::Unspecified => None,
        wire::Data::Empty => Some(DataWord::Empty),
        wire::Data::UpToDate => Some(DataWord::UpToDate),
        wire::Data::SyncSource => Some(DataWord::SyncSource),
        wire::Data::Behind => Some(DataWord::Behind),
        wire::Data::Syncing => Some(DataWord::Syncing),
        wire::Data::InconsistentSnap => Some(DataWord::InconsistentSnap),
        wire::Data::InconsistentNoSnap => Some(DataWord::InconsistentNoSnap),
        wire::Data::Diverged => Some(DataWord::Diverged),
        wire::Data::Failed => Some(DataWord::Failed),
    }
}

fn link(link: wire::Link) -> Link {
    let state = match link.state() {
        wire::LinkState::Unconfigured => LinkState::Unconfigured,
        wire::LinkState::Connecting => LinkState::Connecting,
        wire::LinkState::Connected => LinkState::Connected,
        wire::LinkState::Down => LinkState::Down,
        wire::LinkState::AuthFailed => LinkState::AuthFailed,
        wire::LinkState::ProtocolMismatch => LinkState::ProtocolMismatch,
        wire::LinkState::Unspecified | wire::LinkState::Refused => LinkState::Refused,
    };
    Link {
        state,
        detail: link.detail,
        current_remote_address: text(link.current_remote_address),
        local_address: text(link.local_address),
        rtt_micros: (link.rtt_micros > 0).then_some(link.rtt_micros),
    }
}

fn peer(peer: wire::PeerState) -> Peer {
    Peer {
        role: known_role(peer.role()),
        data: known_data(peer.data()),
        mode: known_mode(peer.mode()),
        name: peer.name,
        epoch: peer.epoch,
        size_bytes: peer.size_bytes,
        version: peer.version,
        queue_manager_name: peer.queue_manager_name,
        heard_at: time(peer.heard_at_unix_ms),
        sealed: peer.sealed,
    }
}

fn device(device: wire::Device) -> Device {
    let gate = match device.gate() {
        wire::Gate::Closed => Gate::Closed,
        wire::Gate::WaitingForPeer => Gate::WaitingForPeer,
        wire::Gate::Held => Gate::Held,
        wire::Gate::Superseded => Gate::Superseded,
        wire::Gate::Opening => Gate::Opening,
        wire::Gate::Open => Gate::Open,
        wire::Gate::Dead => Gate::Dead,
        wire::Gate::Unspecified | wire::Gate::Failed => Gate::Failed,
    };
    Device {
        gate,
        path: text(device.path),
        front_end: text(device.front_end),
        held_by: device.held_by,
        error: text(device.error),
        format_blocked_total: device.format_blocked_total,
    }
}

fn recovery_point(point: wire::RecoveryPoint) -> RecoveryPointFacts {
    RecoveryPointFacts {
        time: time(point.time_unix_ms),
        behind_bytes: point.behind_bytes,
        last_in_sync: time(point.last_in_sync_unix_ms),
        epoch: point.epoch,
    }
}

/// None when nothing was judged yet: the wire has no presence for the texts, so an empty uid tells.
fn judged(judged: wire::JudgedRequest) -> Option<Judged> {
    if judged.cr_uid.is_empty() {
        return None;
    }
    let role = known_role(judged.role())?;
    Some(Judged {
        role,
        generation: judged.generation,
        request_id: judged.request_id,
        verdict: known_verdict(&judged.verdict),
        reason: judged.reason,
        message: judged.message,
        max_loss: known_max_loss(&judged.max_loss),
        requested_at: Timestamp::from_millisecond(judged.requested_at_unix_ms)
            .unwrap_or(Timestamp::UNIX_EPOCH),
        cr_uid: judged.cr_uid,
    })
}

fn transition(transition: wire::Transition) -> Option<Transition> {
    Some(Transition {
        from: known_role(transition.from())?,
        to: known_role(transition.to())?,
        kind: known_kind(&transition.kind)?,
        started: time(transition.started_unix_ms),
        finished: time(transition.finished_unix_ms),
        recovery_point: transition.recovery_point.map(recovery_point),
    })
}

const fn verdict_text(verdict: VerdictWord) -> &'static str {
    match verdict {
        VerdictWord::Steady => "Steady",
        VerdictWord::Proceed => "Proceed",
        VerdictWord::Wait => "Wait",
        VerdictWord::Refuse => "Refuse",
        VerdictWord::Hold => "Hold",
    }
}

/// An unknown word is a refusal: it never proceeds by itself.
fn known_verdict(word: &str) -> VerdictWord {
    [
        VerdictWord::Steady,
        VerdictWord::Proceed,
        VerdictWord::Wait,
        VerdictWord::Hold,
    ]
    .into_iter()
    .find(|verdict| verdict_text(*verdict) == word)
    .unwrap_or(VerdictWord::Refuse)
}

const fn max_loss_text(loss: MaxLoss) -> &'static str {
    match loss {
        MaxLoss::None => "None",
        MaxLoss::Possible => "Possible",
    }
}

/// An unknown word allows no loss.
fn known_max_loss(word: &str) -> MaxLoss {
    if word == max_loss_text(MaxLoss::Possible) {
        MaxLoss::Possible
    } else {
        MaxLoss::None
    }
}

fn known_kind(word: &str) -> Option<TransitionKind> {
    match word {
        "Creation" => Some(TransitionKind::Creation),
        "Planned" => Some(TransitionKind::Planned),
        "Unplanned" => Some(TransitionKind::Unplanned),
        "Demotion" => Some(TransitionKind::Demotion),
        _ => None,
    }
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn time(unix_ms: i64) -> Option<Timestamp> {
    if unix_ms == 0 {
        None
    } else {
        Timestamp::from_millisecond(unix_ms).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_become_what_allows_least() {
        let state = wire::VolumeState {
            role: 99,
            data: 99,
            ..Default::default()
        };
        let volume = volume(state, Freshness::Known);
        assert_eq!(
            (volume.role, volume.data),
            (Role::Secondary, DataWord::Failed)
        );
        assert_eq!(volume.device.gate, Gate::Failed);
        assert_eq!(volume.link.state, LinkState::Refused);
        assert_eq!((volume.judged, volume.holder_memory_bytes), (None, None));
    }

    #[test]
    fn a_judged_request_comes_back_as_it_was_stored() {
        for verdict in [
            VerdictWord::Steady,
            VerdictWord::Proceed,
            VerdictWord::Wait,
            VerdictWord::Refuse,
            VerdictWord::Hold,
        ] {
            for max_loss in [MaxLoss::None, MaxLoss::Possible] {
                let stored = Judged {
                    cr_uid: "uid".to_owned(),
                    generation: 7,
                    role: Role::Primary,
                    request_id: "again".to_owned(),
                    verdict,
                    reason: "PeerIsPrimary".to_owned(),
                    message: "the peer is Primary".to_owned(),
                    max_loss,
                    requested_at: Timestamp::from_millisecond(1_700_000_000_123).expect("a time"),
                };
                assert_eq!(judged(judged_to_wire(&stored)), Some(stored));
            }
        }
    }
}
