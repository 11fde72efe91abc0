//! The conditions.
//!
//! Lives here: when each is True, False or Unknown, with which reason and message, and the merge that
//! keeps the time of the last change. Does not live here: the words (`drqm_api::conditions`).

use drqm_api::conditions::{condition, reason};
use drqm_api::v1alpha1::{
    DataWord, MaxLoss, PartitionResolution, PromoteWhenPeerUnknown, Role, VerdictWord,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Facts, whole_seconds};
use crate::observed::{Gate, Keys, LinkState, Volume};
use crate::outcome::{ErrorClass, Outcome};
use crate::role::explain::{Names, explain};
use crate::role::{self, LinkView};

/// Warn so long before a certificate expires.
const EXPIRY_WARNING: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);
/// Longest message; the API server takes 32 KiB, a person less.
const LONGEST_MESSAGE: usize = 1024;

/// A condition before it is merged.
struct State {
    status: &'static str,
    reason: String,
    message: String,
}

fn state(status: &'static str, reason: impl Into<String>, message: impl Into<String>) -> State {
    State {
        status,
        reason: reason.into(),
        message: message.into(),
    }
}

fn good(reason: &str, message: impl Into<String>) -> State {
    state("True", reason, message)
}

fn bad(reason: &str, message: impl Into<String>) -> State {
    state("False", reason, message)
}

fn unknown(message: impl Into<String>) -> State {
    state("Unknown", reason::UNKNOWN, message)
}

pub(super) fn conditions(facts: &Facts<'_>) -> Vec<Condition> {
    condition::ALL
        .into_iter()
        .zip([
            ready(facts),
            role_settled(facts),
            peer_connected(facts),
            in_sync(facts),
            consistent(facts),
            promotable(facts),
            split_brain(facts),
            peer_config_matches(facts),
            storage_healthy(facts),
            certificates_valid(facts),
        ])
        .map(|(type_, state)| merge(facts, type_, state))
        .collect()
}

fn merge(facts: &Facts<'_>, type_: &str, state: State) -> Condition {
    let before = facts
        .old
        .and_then(|old| {
            old.conditions
                .iter()
                .find(|condition| condition.type_ == type_)
        })
        .filter(|condition| condition.status == state.status);
    Condition {
        type_: type_.to_owned(),
        status: state.status.to_owned(),
        reason: state.reason,
        message: cut(state.message),
        observed_generation: facts.seen.object.metadata.generation,
        last_transition_time: before.map_or_else(
            || Time(whole_seconds(facts.now)),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    }
    message
}

fn ready(facts: &Facts<'_>) -> State {
    match facts.outcome {
        Outcome::Rejected(error) => return bad(error.kind(), error.to_string()),
        Outcome::Planned {
            failure: Some(failure),
            ..
        } => {
            // A hiccup is no reason to call a queue manager that serves not ready.
            if failure.class == ErrorClass::Permanent || !facts.serves() {
                return bad(failure.kind, failure.message.clone());
            }
        }
        Outcome::Planned { failure: None, .. } => {}
    }
    if let Some(blocked) = facts.plan.and_then(|plan| plan.blocked.as_ref()) {
        return bad(blocked.reason, blocked.message.clone());
    }
    let Some(volume) = facts.volume.filter(|volume| volume.configured) else {
        return bad(reason::WAITING_FOR_VOLUME, "the volume is being made");
    };
    if let Some(judgement) = facts.judgement() {
        if judgement.desired != volume.role {
            return bad(reason::ROLE_NOT_SETTLED, judgement.message.clone());
        }
        let grave = judgement.verdict == VerdictWord::Hold
            && !(volume.role == Role::Primary && facts.serves());
        if grave {
            return bad(&judgement.reason, judgement.message.clone());
        }
    }
    match volume.role {
        Role::Primary => ready_primary(facts, volume),
        Role::Secondary => ready_secondary(facts, volume),
    }
}

fn ready_primary(facts: &Facts<'_>, volume: &Volume) -> State {
    let peer = facts.peer_name();
    match volume.device.gate {
        Gate::WaitingForPeer => bad(
            reason::WAITING_FOR_PEER,
            format!("started; asking {peer} before the device is opened"),
        ),
        Gate::Held => bad(
            reason::HELD,
            format!(
                "{peer} does not answer and spec.start.whenPeerUnknown is Hold; restore the link, or set it to Start"
            ),
        ),
        Gate::Superseded => bad(
            reason::SUPERSEDED_BY_PEER,
            explain(
                reason::SUPERSEDED_BY_PEER,
                Names {
                    peer: Some(peer),
                    verdict: VerdictWord::Hold,
                },
            ),
        ),
        Gate::Closed | Gate::Opening => {
            bad(reason::WAITING_FOR_VOLUME, "the device is being opened")
        }
        Gate::Dead => bad(reason::DEVICE_DEAD, "the device died and is being replaced"),
        Gate::Failed => bad(
            reason::DEVICE_FAILED,
            format!(
                "the device cannot be opened: {}",
                volume
                    .device
                    .error
                    .as_deref()
                    .unwrap_or("see the replicator's log")
            ),
        ),
        Gate::Open if volume.suspended => bad(
            reason::IO_SUSPENDED,
            format!(
                "writes wait for {peer}: spec.replication.onPeerLoss is SuspendIO; restore the link, or set it to Continue"
            ),
        ),
        Gate::Open => ready_pod(facts),
    }
}

fn ready_pod(facts: &Facts<'_>) -> State {
    if facts.serves() {
        return good(reason::SERVING, "the queue manager serves");
    }
    if facts.is_stopped_on_purpose() {
        return good(
            reason::STOPPED,
            "stopped: spec.queueManager.running is false",
        );
    }
    match facts.pod().and_then(|pod| pod.failing.as_ref()) {
        Some(failing) if failing.reason.contains("Image") || failing.reason == "ErrImagePull" => {
            bad(
                reason::IMAGE_PULL,
                format!(
                    "{}: {}; correct spec.queueManager.custom.template",
                    failing.reason, failing.message
                ),
            )
        }
        Some(failing) => bad(
            reason::STARTING,
            format!("{}: {}", failing.reason, failing.message),
        ),
        None => bad(reason::STARTING, "the queue manager is starting"),
    }
}

fn ready_secondary(facts: &Facts<'_>, volume: &Volume) -> State {
    let peer = facts.peer_name();
    match volume.data {
        DataWord::UpToDate | DataWord::SyncSource | DataWord::Behind => good(
            reason::STANDBY,
            "a healthy Secondary; the queue manager runs on the other side",
        ),
        DataWord::Empty => bad(
            reason::NEVER_SYNCHRONIZED,
            format!("waiting for the first synchronization from {peer}"),
        ),
        DataWord::Syncing => bad(
            reason::SYNC_IN_PROGRESS,
            format!("being synchronized from {peer}"),
        ),
        DataWord::InconsistentSnap | DataWord::InconsistentNoSnap => bad(
            reason::INCONSISTENT,
            "a synchronization was interrupted; it goes on when the link is back",
        ),
        DataWord::Diverged => bad(
            reason::SPLIT_BRAIN,
            "the data here diverged from the other side's; a survivor has to be chosen",
        ),
        DataWord::Failed => bad(reason::DISK_FAILED, "the disk or its metadata failed"),
    }
}

fn role_settled(facts: &Facts<'_>) -> State {
    let (Some(judgement), Some(volume)) = (facts.judgement(), facts.volume) else {
        return unknown("the role cannot be read at the moment");
    };
    if judgement.desired == volume.role {
        good(reason::SETTLED, "the role is the one asked for")
    } else {
        bad(&judgement.reason, judgement.message.clone())
    }
}

fn peer_connected(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    let peer = facts.peer_name();
    let names = Names {
        peer: Some(peer),
        verdict: VerdictWord::Steady,
    };
    let explained = |why: &str| {
        let text = explain(why, names);
        match volume.link.detail.as_str() {
            "" => bad(why, text),
            detail => bad(why, format!("{text} ({detail})")),
        }
    };
    match volume.link.state {
        LinkState::Connected => good(reason::CONNECTED, format!("connected to {peer}")),
        LinkState::Connecting => bad(reason::CONNECTING, format!("connecting to {peer}")),
        LinkState::Down => explained(reason::REMOTE_UNAVAILABLE),
        LinkState::Unconfigured => explained(reason::REMOTE_UNCONFIGURED),
        LinkState::AuthFailed => explained(reason::AUTH_FAILED),
        LinkState::ProtocolMismatch => explained(reason::PROTOCOL_MISMATCH),
        LinkState::Refused => bad(
            reason::REFUSED,
            format!("the pair is refused: {}", volume.link.detail),
        ),
    }
}

fn in_sync(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    if let Some(error) = &volume.snapshot_error {
        return bad(
            reason::SNAPSHOT_FAILED,
            format!("before the next synchronization: {error}"),
        );
    }
    match (volume.data, volume.link.state) {
        (DataWord::Diverged, _) => bad(reason::PARTITIONED, "both sides changed data on their own"),
        (DataWord::Failed, _) => bad(reason::IO_ERROR, "the disk or its metadata failed"),
        (DataWord::InconsistentSnap | DataWord::InconsistentNoSnap, _) => {
            bad(reason::INCONSISTENT, "a synchronization was interrupted")
        }
        (DataWord::Empty, _) => bad(reason::NEVER_SYNCHRONIZED, "never held data"),
        (DataWord::Syncing | DataWord::SyncSource, _) => {
            bad(reason::SYNC_IN_PROGRESS, "a synchronization is under way")
        }
        (DataWord::UpToDate, LinkState::Connected) if volume.peer_is_behind() => bad(
            reason::CATCHING_UP,
            format!(
                "{} takes less than is written here, or is sent what it missed; its copy is consistent",
                facts.peer_name()
            ),
        ),
        (DataWord::UpToDate, LinkState::Connected) => good(
            reason::IN_SYNC,
            "both sides have the same data, but for what is in flight",
        ),
        (DataWord::Behind, LinkState::Connected) => {
            bad(reason::CATCHING_UP, "this side is catching up")
        }
        (DataWord::UpToDate | DataWord::Behind, LinkState::Unconfigured) => {
            bad(reason::REMOTE_UNCONFIGURED, "no peer is configured")
        }
        (DataWord::UpToDate | DataWord::Behind, _) => {
            bad(reason::REMOTE_UNAVAILABLE, "the peer cannot be reached")
        }
    }
}

fn consistent(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    match volume.data {
        DataWord::UpToDate | DataWord::SyncSource | DataWord::Behind | DataWord::Diverged => good(
            reason::CONSISTENT,
            "the copy here is the image of one instant",
        ),
        DataWord::InconsistentSnap if volume.is_reverting() => bad(
            reason::REVERTING,
            "the copy goes back to what it was before the synchronization",
        ),
        DataWord::InconsistentSnap => bad(
            reason::SNAPSHOT_AVAILABLE,
            "inconsistent, with a snapshot from before",
        ),
        DataWord::Syncing | DataWord::InconsistentNoSnap => bad(
            reason::NO_CONSISTENT_DATA,
            "inconsistent until the synchronization is finished",
        ),
        DataWord::Empty => bad(reason::NEVER_SYNCHRONIZED, "never held data"),
        DataWord::Failed => unknown("the disk or its metadata failed"),
    }
}

fn promotable(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    if volume.role == Role::Primary {
        return good(reason::ALREADY_PRIMARY, "this side is Primary");
    }
    let row = role::table(role::situation(Role::Primary, volume));
    let peer = facts
        .seen
        .object
        .spec
        .replication
        .peer
        .as_ref()
        .map(|peer| peer.name.as_str());
    let when_unknown = facts.seen.object.spec.promotion.when_peer_unknown;
    match (row.verdict, row.loss(), when_unknown) {
        (VerdictWord::Proceed, MaxLoss::None, _) => {
            good(reason::LOSS_FREE, "a promotion now would lose nothing")
        }
        (VerdictWord::Proceed, MaxLoss::Possible, PromoteWhenPeerUnknown::Allow)
            if row.reason == reason::REVERT_THEN_PROMOTE =>
        {
            good(
                reason::NEEDS_REVERT,
                "a promotion now goes back to status.snapshot first, and may lose what came after; see status.recoveryPoint",
            )
        }
        (VerdictWord::Proceed, MaxLoss::Possible, PromoteWhenPeerUnknown::Allow) => good(
            reason::LOSS_POSSIBLE,
            "a promotion now may lose what the peer has and this side has not; see status.recoveryPoint",
        ),
        (VerdictWord::Proceed, MaxLoss::Possible, PromoteWhenPeerUnknown::RequireForce) => bad(
            reason::NEEDS_FORCE,
            explain(
                reason::PEER_UNKNOWN,
                Names {
                    peer,
                    verdict: VerdictWord::Refuse,
                },
            ),
        ),
        (verdict, _, _) => bad(row.reason, explain(row.reason, Names { peer, verdict })),
    }
}

fn split_brain(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    let peer_name = facts.peer_name();
    let names = Names {
        peer: Some(peer_name),
        verdict: VerdictWord::Hold,
    };
    let situation = role::situation(volume.role, volume);
    let superseded = volume.role == Role::Primary
        && (volume.data == DataWord::Behind || volume.device.gate == Gate::Superseded);
    let decided = facts.seen.object.spec.partition.as_ref();
    if volume.data == DataWord::Diverged
        && let Some(stale) = decided.filter(|decided| decided.epoch != volume.epoch)
    {
        good(
            reason::DETECTED,
            format!(
                "spec.partition.epoch is {}, the data here are at {}: look again, and set it to that if the decision stands",
                stale.epoch, volume.epoch
            ),
        )
    } else if volume.data == DataWord::Diverged
        && volume.role == Role::Primary
        && decided.is_some_and(|decided| decided.resolution == PartitionResolution::KeepRemote)
    {
        good(
            reason::DETECTED,
            "spec.partition is KeepRemote, which gives up the data here and needs role Secondary: patch spec.role, too",
        )
    } else if volume.given_up {
        good(
            reason::DETECTED,
            format!(
                "the data here make way for those of {peer_name} as soon as both are connected; a copy is kept first"
            ),
        )
    } else if volume.data == DataWord::Diverged {
        let seen = if situation.link == LinkView::Up {
            ""
        } else {
            " (seen when last connected)"
        };
        good(
            reason::DETECTED,
            format!("{}{seen}", explain(reason::SPLIT_BRAIN, names)),
        )
    } else if superseded {
        good(
            reason::SUPERSEDED,
            explain(reason::SUPERSEDED_BY_PEER, names),
        )
    } else {
        bad(reason::NONE, "no split brain is known")
    }
}

fn peer_config_matches(facts: &Facts<'_>) -> State {
    let Some((volume, peer)) = facts
        .volume
        .and_then(|volume| volume.peer.as_ref().map(|peer| (volume, peer)))
    else {
        return unknown("the peer has not told anything yet");
    };
    let name = facts.peer_name();
    if !peer.queue_manager_name.is_empty() && peer.queue_manager_name != volume.queue_manager_name {
        return bad(
            reason::NAME_MISMATCH,
            format!(
                "{name} is queue manager {}, this side is {}; correct spec.replication.peer.addresses",
                peer.queue_manager_name, volume.queue_manager_name
            ),
        );
    }
    if peer.size_bytes != 0 && peer.size_bytes != volume.capacity_bytes {
        return bad(
            reason::SIZE_MISMATCH,
            format!(
                "storage.size is {} bytes here and {} on {name}; raise the smaller one, the volume grows when both are equal",
                volume.capacity_bytes, peer.size_bytes
            ),
        );
    }
    if peer.mode.is_some_and(|mode| mode != volume.mode) {
        return bad(
            reason::MODE_MISMATCH,
            format!("replication.mode differs from that of {name}; the Primary's holds"),
        );
    }
    good(reason::MATCHES, "size, name and mode are those of the peer")
}

fn storage_healthy(facts: &Facts<'_>) -> State {
    let Some(volume) = facts.volume else {
        return unknown(facts.silence());
    };
    if let Some(error) = &volume.error {
        return bad(reason::IO_ERROR, error.clone());
    }
    if volume.data == DataWord::Failed {
        return bad(reason::IO_ERROR, "the disk or its metadata failed");
    }
    match volume.device.gate {
        Gate::Dead => bad(reason::DEVICE_DEAD, "the device died and is being replaced"),
        Gate::Failed => bad(
            reason::DEVICE_FAILED,
            volume
                .device
                .error
                .clone()
                .unwrap_or_else(|| "the device cannot be opened".to_owned()),
        ),
        Gate::Closed
        | Gate::WaitingForPeer
        | Gate::Held
        | Gate::Superseded
        | Gate::Opening
        | Gate::Open => {
            if volume.device.format_blocked_total > 0 {
                good(
                    reason::FORMAT_BLOCKED,
                    "something tried to overwrite the file system's identity and was refused",
                )
            } else {
                good(reason::OK, "disk, metadata and device work")
            }
        }
    }
}

fn certificates_valid(facts: &Facts<'_>) -> State {
    let secret = drqm_api::peer_manifest::secret_name(&facts.seen.object);
    match &facts.seen.keys {
        Keys::Missing => bad(
            reason::SECRET_MISSING,
            format!("Secret {secret} does not exist"),
        ),
        Keys::Invalid { message } => bad(
            reason::SECRET_INVALID,
            format!("Secret {secret} cannot be used: {message}"),
        ),
        Keys::Present { leaf: false, .. } => bad(
            reason::SECRET_INVALID,
            format!("Secret {secret} has no certificate of this side"),
        ),
        Keys::Present {
            expires: Some(expires),
            ..
        } if *expires <= facts.now => bad(
            reason::EXPIRED,
            format!("a certificate in Secret {secret} expired at {expires}"),
        ),
        Keys::Present {
            expires: Some(expires),
            ..
        } if expires.duration_since(facts.now) < EXPIRY_WARNING => bad(
            reason::EXPIRING,
            format!("a certificate in Secret {secret} expires at {expires}"),
        ),
        Keys::Present { .. } => good(reason::OK, "the pair's certificates are valid"),
    }
}
