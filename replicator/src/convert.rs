//! Engine to control protocol and back. Exhaustive; no decisions.

mod refusal_code;

use drqm_engine::command::{JudgedRequest, Refusal};
use drqm_engine::event::LinkFault;
use drqm_engine::ids::{CommandId, Epoch};
use drqm_engine::report::{
    Data, Gate, LinkReport, RecoveryReport, Report, SnapshotReport, Transition, TransitionKind,
    VerificationReport,
};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;
use drqm_engine::time::{Now, Wall};
use drqm_rpc::control::v1 as pb;

use crate::pool::VolumeKey;
use crate::pool::config::VolumeConfig;

pub(crate) use refusal_code::{refusal_code, refusal_from_code};

pub(crate) fn refusal(refusal: &Refusal) -> pb::Refusal {
    pb::Refusal {
        code: refusal_code(refusal).into(),
        message: refusal.to_string(),
    }
}

/// 32 hexadecimal digits; nothing for none.
fn hex(id: u128) -> String {
    if id == 0 {
        String::new()
    } else {
        format!("{id:032x}")
    }
}

pub(crate) fn epoch_from(text: &str) -> Result<Epoch, String> {
    match text.len() {
        0 => Ok(Epoch::NONE),
        32 => u128::from_str_radix(text, 16)
            .map(Epoch)
            .map_err(|_| format!("expected_epoch: {text:?} is not hexadecimal")),
        _ => Err(format!("expected_epoch: {text:?} does not have 32 digits")),
    }
}

/// The engine's name of a command: FNV-1a of volume and the operator's name of it, so that the same
/// command has the same name after any restart.
pub(crate) fn command_id(key: &VolumeKey, text: &str) -> CommandId {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let name = format!("{key}\0{text}");
    let mix = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    CommandId(name.bytes().fold(OFFSET, mix))
}

pub(crate) const fn role(role: Role) -> pb::Role {
    match role {
        Role::Secondary => pb::Role::Secondary,
        Role::Primary => pb::Role::Primary,
    }
}

pub(crate) const fn role_from(role: pb::Role) -> Option<Role> {
    match role {
        pb::Role::Unspecified => None,
        pb::Role::Secondary => Some(Role::Secondary),
        pb::Role::Primary => Some(Role::Primary),
    }
}

const fn mode(mode: Mode) -> pb::Mode {
    match mode {
        Mode::Asynchronous => pb::Mode::Asynchronous,
        Mode::Synchronous => pb::Mode::Synchronous,
        Mode::FlushSynchronous => pb::Mode::FlushSynchronous,
    }
}

const fn data(data: Data) -> pb::Data {
    match data {
        Data::Empty => pb::Data::Empty,
        Data::UpToDate => pb::Data::UpToDate,
        Data::SyncSource => pb::Data::SyncSource,
        Data::Behind => pb::Data::Behind,
        Data::Syncing => pb::Data::Syncing,
        Data::InconsistentSnap => pb::Data::InconsistentSnap,
        Data::InconsistentNoSnap => pb::Data::InconsistentNoSnap,
        Data::Diverged => pb::Data::Diverged,
        Data::Failed => pb::Data::Failed,
    }
}

pub(crate) const fn gate(gate: Gate) -> pb::Gate {
    match gate {
        Gate::Closed => pb::Gate::Closed,
        Gate::WaitingForPeer => pb::Gate::WaitingForPeer,
        Gate::Held => pb::Gate::Held,
        Gate::Superseded => pb::Gate::Superseded,
        Gate::Opening => pb::Gate::Opening,
        Gate::Open => pb::Gate::Open,
        Gate::Dead => pb::Gate::Dead,
        Gate::Failed => pb::Gate::Failed,
    }
}

pub(crate) fn judged(request: &JudgedRequest) -> pb::JudgedRequest {
    pb::JudgedRequest {
        cr_uid: request.uid.clone(),
        generation: request.generation,
        role: role(request.role).into(),
        request_id: request.request_id.clone(),
        verdict: request.verdict.clone(),
        reason: request.reason.clone(),
        message: request.message.clone(),
        max_loss: request.max_loss.clone(),
        requested_at_unix_ms: request.requested_at.0,
    }
}

pub(crate) fn judged_from(request: pb::JudgedRequest) -> Result<JudgedRequest, String> {
    Ok(JudgedRequest {
        role: role_from(request.role()).ok_or("request.role: missing")?,
        uid: request.cr_uid,
        generation: request.generation,
        request_id: request.request_id,
        verdict: request.verdict,
        reason: request.reason,
        message: request.message,
        max_loss: request.max_loss,
        requested_at: Wall(request.requested_at_unix_ms),
    })
}

fn link(link: &LinkReport, remote: &str, rtt_micros: u64, config: &VolumeConfig) -> pb::Link {
    let (state, detail) = match link {
        LinkReport::Unconfigured => (pb::LinkState::Unconfigured, ""),
        LinkReport::Connecting => (pb::LinkState::Connecting, ""),
        LinkReport::Connected => (pb::LinkState::Connected, ""),
        LinkReport::Refused(text) => (pb::LinkState::Refused, text.as_str()),
        LinkReport::Down(fault) => match fault {
            LinkFault::Lost(text) | LinkFault::Violation(text) => {
                (pb::LinkState::Down, text.as_str())
            }
            LinkFault::AuthFailed(text) => (pb::LinkState::AuthFailed, text.as_str()),
            LinkFault::ProtocolMismatch(text) => (pb::LinkState::ProtocolMismatch, text.as_str()),
        },
    };
    pb::Link {
        state: state.into(),
        detail: detail.to_owned(),
        current_remote_address: remote.to_owned(),
        rtt_micros,
        local_address: config
            .local_address
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
    }
}

fn snapshot(s: &SnapshotReport) -> pb::Snapshot {
    pb::Snapshot {
        taken_unix_ms: s.taken.0,
        used_bytes: s.used,
        reverting: s.reverted.is_some(),
        reverted_bytes: s.reverted.unwrap_or_default(),
    }
}

fn verification(v: &VerificationReport) -> pb::Verification {
    pb::Verification {
        request: v.request.clone(),
        started_unix_ms: v.started.0,
        finished_unix_ms: v.finished.map_or(0, |at| at.0),
        left_bytes: v.left,
        differing_bytes: v.differing,
    }
}

fn recovery(r: &RecoveryReport) -> pb::RecoveryPoint {
    pb::RecoveryPoint {
        time_unix_ms: r.position.wall.0,
        behind_bytes: r.behind_bytes,
        last_in_sync_unix_ms: r.last_in_sync.0,
        epoch: hex(r.position.epoch.0),
    }
}

fn transition(t: &Transition) -> pb::Transition {
    let (from, to, kind) = match t.kind {
        TransitionKind::Creation => (Role::Secondary, Role::Primary, "Creation"),
        TransitionKind::Planned => (Role::Secondary, Role::Primary, "Planned"),
        TransitionKind::Unplanned => (Role::Secondary, Role::Primary, "Unplanned"),
        TransitionKind::Demotion => (Role::Primary, Role::Secondary, "Demotion"),
    };
    pb::Transition {
        from: role(from).into(),
        to: role(to).into(),
        kind: kind.to_owned(),
        started_unix_ms: t.started.0,
        finished_unix_ms: t.finished.0,
        recovery_point: t.recovery.as_ref().map(recovery),
    }
}

fn peer(report: &Report, config: &VolumeConfig, now: Now) -> Option<pb::PeerState> {
    let said = report.peer.as_ref()?;
    let hello = report.peer_hello.as_ref();
    let (age, at) = report.peer_heard.map_or((0, 0), |(mono, wall)| {
        (now.mono.since(mono).as_millis() as u64, wall.0)
    });
    let configured = config
        .peer
        .as_ref()
        .map(|p| p.name.clone())
        .filter(|n| !n.is_empty());
    Some(pb::PeerState {
        name: configured
            .or_else(|| hello.map(|h| h.site.clone()))
            .unwrap_or_default(),
        role: role(said.role).into(),
        data: data(said.data).into(),
        epoch: hex(said.epoch.0),
        size_bytes: report.peer_capacity,
        mode: mode(said.mode).into(),
        version: hello.map(|h| h.version.clone()).unwrap_or_default(),
        queue_manager_name: report.peer_queue_manager.clone(),
        heard_age_ms: age,
        heard_at_unix_ms: at,
        sealed: said.sealed,
    })
}

pub(crate) fn volume_ref(key: &VolumeKey) -> pb::VolumeRef {
    pb::VolumeRef {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// What is known of a volume from its configuration alone.
pub(crate) fn configured_state(key: &VolumeKey, config: &VolumeConfig) -> pb::VolumeState {
    let mode = config.mode.into();
    pb::VolumeState {
        volume: Some(volume_ref(key)),
        cr_uid: config.cr_uid.clone(),
        queue_manager_name: config.queue_manager.clone(),
        size_bytes: config.size_bytes,
        capacity_bytes: config.size_bytes,
        mode: self::mode(mode).into(),
        role: pb::Role::Secondary.into(),
        link: Some(link(&LinkReport::Connecting, "", 0, config)),
        ..pb::VolumeState::default()
    }
}

/// Adds the engine's view. `rate` is that of a running resync.
pub(crate) fn with_report(
    state: pb::VolumeState,
    report: &Report,
    config: &VolumeConfig,
    now: Now,
    rate: u64,
) -> pb::VolumeState {
    let sync = report.sync.as_ref().map(|s| {
        let left_ms = u128::from(s.total.saturating_sub(s.done)) * 1000;
        let eta = left_ms
            .checked_div(u128::from(rate))
            .map_or(0, |ms| now.wall.0 + ms as i64);
        pb::Sync {
            source: s.source,
            done_bytes: s.done,
            total_bytes: s.total,
            bytes_per_second: rate,
            eta_unix_ms: eta,
        }
    });
    pb::VolumeState {
        volume_id: hex(report.volume.0),
        size_bytes: report.size,
        mode: mode(report.mode).into(),
        effective_mode: mode(report.effective_mode).into(),
        role: role(report.role).into(),
        data: data(report.data).into(),
        epoch: hex(report.lineage.first().map_or(0, |e| e.0)),
        history: report.lineage.iter().map(|e| hex(e.0)).collect(),
        sealed: report.sealed,
        link: Some(link(
            &report.link,
            &report.remote,
            report.rtt_micros,
            config,
        )),
        peer: peer(report, config, now),
        out_of_sync_bytes: report.out_of_sync_bytes,
        sync,
        recovery_point: report.recovery.as_ref().map(recovery),
        device: Some(pb::Device {
            gate: gate(report.gate).into(),
            error: report.device_error.clone(),
            format_blocked_total: report.format_blocked,
            ..pb::Device::default()
        }),
        judged: report.judged.as_ref().map(judged),
        last_transition: report.transition.as_ref().map(transition),
        superseded_by: hex(report.superseded_by.map_or(0, |e| e.0)),
        crashed_tail_bytes: report.crashed_tail_bytes,
        suspended: report.suspended,
        snapshot: report.snapshot.as_ref().map(snapshot),
        snapshot_error: report.snapshot_error.clone(),
        verification: report.verification.as_ref().map(verification),
        given_up: report.given_up,
        error: report.error.clone(),
        configured: true,
        ..state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_code_over_the_wire() {
        for code in drqm_rpc::refusal::ALL {
            let refusal = refusal_from_code(code).unwrap();
            assert_eq!(refusal_code(&refusal), code);
        }
    }

    #[test]
    fn judged_requests_come_back_as_they_went() {
        let request = JudgedRequest {
            uid: "u".into(),
            generation: 3,
            role: Role::Primary,
            request_id: "again".into(),
            verdict: "Refuse".into(),
            reason: "PeerIsPrimary".into(),
            message: "no".into(),
            max_loss: "None".into(),
            requested_at: Wall(5),
        };
        assert_eq!(judged_from(judged(&request)), Ok(request));
    }

    #[test]
    fn command_names_depend_on_volume_and_text() {
        let key = |name| VolumeKey::new("ns", name).unwrap();
        assert_eq!(command_id(&key("a"), "x"), command_id(&key("a"), "x"));
        assert_ne!(command_id(&key("a"), "x"), command_id(&key("b"), "x"));
        assert_ne!(command_id(&key("a"), "x"), command_id(&key("a"), "y"));
    }

    #[test]
    fn epochs_are_32_digits_or_nothing() {
        assert_eq!(epoch_from(""), Ok(Epoch::NONE));
        assert_eq!(epoch_from(&hex(7)), Ok(Epoch(7)));
        assert!(epoch_from("12").is_err() && epoch_from(&"g".repeat(32)).is_err());
    }
}
