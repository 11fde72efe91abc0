//! Events: one per transition and refusal, from two states of status.
//!
//! Lives here: which change is worth an Event. Does not live here: publishing it. Made from status
//! alone, so that a restart of the operator neither repeats nor forgets one.

use drqm_api::conditions::{condition, reason};
use drqm_api::v1alpha1::{
    DrQueueManagerStatus, DrStatusWord, LinkWord, RequestState, Role, TransitionKind, VerdictWord,
};

/// An Event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFact {
    /// Warning or normal.
    pub warning: bool,
    /// What happened.
    pub reason: String,
    /// What was being done.
    pub action: &'static str,
    /// For people.
    pub message: String,
}

fn event(warning: bool, reason: &str, action: &'static str, message: String) -> EventFact {
    EventFact {
        warning,
        reason: reason.to_owned(),
        action,
        message,
    }
}

/// The Events of a change of status.
#[must_use]
pub fn events(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Vec<EventFact> {
    let mut events = Vec::new();
    events.extend(transition(old, new));
    events.extend(crashed_tail(old, new));
    events.extend(verdict(old, new));
    events.extend(verified(old, new));
    events.extend(pair(old, new));
    events.extend(link(old, new));
    events.extend(trouble(old, new));
    events
}

fn transition(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    let now = new.last_transition.as_ref()?;
    let finished = now.finished_at.as_ref()?;
    let before = old
        .last_transition
        .as_ref()
        .and_then(|before| before.finished_at.as_ref());
    if before == Some(finished) {
        return None;
    }
    Some(match (now.kind, now.to) {
        (TransitionKind::Creation, _) => event(
            false,
            "Created",
            "Create",
            "the queue manager's volume was created and this side is Primary".to_owned(),
        ),
        (TransitionKind::Unplanned, _) => {
            let point = now
                .recovery_point
                .as_ref()
                .and_then(|point| point.time.as_ref());
            let point = point.map_or_else(
                || "it is not known how old its data is".to_owned(),
                |time| {
                    format!(
                        "everything the other side completed before {} is here",
                        time.0
                    )
                },
            );
            event(
                true,
                "Promoted",
                "Promote",
                format!("promoted without the peer; {point}"),
            )
        }
        (TransitionKind::Planned | TransitionKind::Demotion, Role::Primary) => event(
            false,
            "Promoted",
            "Promote",
            "this side is Primary; nothing was lost".to_owned(),
        ),
        (TransitionKind::Planned | TransitionKind::Demotion, Role::Secondary) => event(
            false,
            "Demoted",
            "Demote",
            "this side is Secondary".to_owned(),
        ),
    })
}

fn crashed_tail(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    let tail = |status: &DrQueueManagerStatus| {
        status
            .last_transition
            .as_ref()
            .and_then(|transition| transition.crashed_tail_bytes)
    };
    let bytes = tail(new).filter(|bytes| tail(old) != Some(*bytes))?;
    Some(event(
        true,
        "CrashedTail",
        "Rejoin",
        format!("at most {bytes} bytes that this side wrote before its crash are on no other side"),
    ))
}

fn verified(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    let now = new
        .verification
        .as_ref()
        .filter(|v| v.finished_at.is_some())?;
    let told = old.verification.as_ref();
    if told.is_some_and(|v| v.request_id == now.request_id && v.finished_at.is_some()) {
        return None;
    }
    let request = &now.request_id;
    Some(if now.differing_bytes == 0 {
        let text = format!("verification {request}: both copies are equal");
        event(false, "Verified", "Verify", text)
    } else {
        let text = format!(
            "verification {request}: the peer's copy differed in {} bytes; they are copied by a synchronization",
            now.differing_bytes
        );
        event(true, "DifferencesFound", "Verify", text)
    })
}

fn verdict(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    let now = new.request.as_ref()?;
    let same = |before: &RequestState| {
        (
            before.generation,
            before.verdict,
            &before.reason,
            &before.request_id,
        ) == (now.generation, now.verdict, &now.reason, &now.request_id)
    };
    if old.request.as_ref().is_some_and(same) {
        return None;
    }
    let action = match now.desired {
        Role::Primary => "Promote",
        Role::Secondary => "Demote",
    };
    let message = format!("{}: {}", now.reason, now.message);
    match (now.verdict, now.desired) {
        (VerdictWord::Refuse, Role::Primary) => {
            Some(event(true, "PromotionRefused", action, message))
        }
        (VerdictWord::Refuse, Role::Secondary) => {
            Some(event(true, "DemotionRefused", action, message))
        }
        (VerdictWord::Wait, Role::Primary) => {
            Some(event(false, "PromotionWaiting", action, message))
        }
        (VerdictWord::Wait, Role::Secondary) => {
            Some(event(false, "DemotionWaiting", action, message))
        }
        (VerdictWord::Hold, _) if now.reason == reason::STALE_ROLE_REQUEST => Some(event(
            true,
            reason::STALE_ROLE_REQUEST,
            action,
            now.message.clone(),
        )),
        (VerdictWord::Hold | VerdictWord::Proceed | VerdictWord::Steady, _) => None,
    }
}

fn pair(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    use DrStatusWord as Dr;
    let (before, now) = (old.dr.status, new.dr.status);
    if before == now || now == Dr::Unknown {
        return None;
    }
    let replicate = "Replicate";
    match (before, now) {
        (_, Dr::Partitioned) => Some(event(
            true,
            "PartitionDetected",
            replicate,
            "both sides changed data on their own; a survivor has to be chosen".to_owned(),
        )),
        (_, Dr::Superseded) => Some(event(
            true,
            "SupersededStartBlocked",
            "Start",
            "the peer holds what comes after the data here; patch spec.role to Secondary: nothing is lost".to_owned(),
        )),
        (_, Dr::SynchronizationInProgress) => {
            Some(event(false, "SyncStarted", replicate, "a synchronization has begun".to_owned()))
        }
        (Dr::SynchronizationInProgress, Dr::Normal | Dr::Inactive | Dr::CatchingUp) => {
            Some(event(false, "SyncFinished", replicate, "a synchronization is finished".to_owned()))
        }
        (_, Dr::RevertingToSnapshot) => Some(event(
            false,
            "RevertStarted",
            replicate,
            "the copy goes back to what it was before the synchronization".to_owned(),
        )),
        (Dr::RevertingToSnapshot, _) => Some(event(
            false,
            "RevertFinished",
            replicate,
            "the copy is what it was before the synchronization".to_owned(),
        )),
        (Dr::SynchronizationInProgress, Dr::Inconsistent | Dr::RemoteUnavailable) => Some(event(
            true,
            "SyncInterrupted",
            replicate,
            "a synchronization was interrupted; it goes on when the link is back".to_owned(),
        )),
        (Dr::Partitioned, _) => Some(event(
            false,
            "PartitionResolved",
            replicate,
            "both sides have one history again".to_owned(),
        )),
        (_, _) => None,
    }
}

fn link(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Option<EventFact> {
    let (before, now) = (old.dr.link, new.dr.link);
    if before == now || new.dr.local_data.is_none() {
        return None;
    }
    let peer = new
        .peer
        .as_ref()
        .and_then(|peer| peer.name.clone())
        .unwrap_or_default();
    let connect = "Connect";
    match now {
        LinkWord::Connected => Some(event(
            false,
            "PeerRestored",
            connect,
            format!("connected to {peer}"),
        )),
        LinkWord::Disconnected => Some(event(
            true,
            "PeerLost",
            connect,
            format!("{peer} cannot be reached"),
        )),
        LinkWord::Refused | LinkWord::AuthFailed | LinkWord::ProtocolMismatch => {
            let message = message(new, condition::PEER_CONNECTED).unwrap_or_default();
            Some(event(true, "PeerRefused", connect, message))
        }
        LinkWord::Connecting | LinkWord::Disabled => None,
    }
}

/// Conditions whose bad reasons are worth an Event, when the reason is new.
fn trouble(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus) -> Vec<EventFact> {
    let reason_of = |status: &DrQueueManagerStatus, type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .map(|condition| (condition.status.clone(), condition.reason.clone()))
    };
    let watched = [
        condition::READY,
        condition::IN_SYNC,
        condition::STORAGE_HEALTHY,
        condition::CERTIFICATES_VALID,
    ];
    let mut events = Vec::new();
    for type_ in watched {
        let Some((status, why)) = reason_of(new, type_) else {
            continue;
        };
        // Being out of step has Events of its own.
        if type_ == condition::IN_SYNC && why != reason::SNAPSHOT_FAILED {
            continue;
        }
        let changed = reason_of(old, type_).is_none_or(|(_, before)| before != why);
        if status == "False" && changed && is_trouble(&why) {
            let message = message(new, type_).unwrap_or_default();
            if !events.iter().any(|event: &EventFact| event.reason == why) {
                events.push(event(true, &why, "Reconcile", message));
            }
        }
    }
    events
}

fn is_trouble(why: &str) -> bool {
    // Reasons that pass by themselves, or have an Event of their own.
    !matches!(
        why,
        reason::ROLE_NOT_SETTLED
            | reason::WAITING_FOR_VOLUME
            | reason::WAITING_FOR_PEER
            | reason::STARTING
            | reason::SYNC_IN_PROGRESS
            | reason::NEVER_SYNCHRONIZED
            | reason::INCONSISTENT
            | reason::SUPERSEDED_BY_PEER
            | reason::SPLIT_BRAIN
            | reason::STOPPING_QUEUE_MANAGER
            | reason::DEVICE_HELD
            | reason::DELETING
    )
}

fn message(status: &DrQueueManagerStatus, type_: &str) -> Option<String> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .map(|condition| condition.message.clone())
}
