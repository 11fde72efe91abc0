//! Requests over time: standing, latches, policies, creation.

use drqm_api::v1alpha1::{Bootstrap, TransitionKind};

use super::*;
use crate::observed::{RecoveryPointFacts, Transition};
use crate::testing::{self, judged, now, observed, seconds_ago, valid, volume};
use LinkState::{AuthFailed, Connected, Connecting, Down};
use Role::{Primary, Secondary};
use VerdictWord::{Hold, Proceed, Refuse, Steady, Wait};

fn spec(role: Role) -> Valid {
    valid(&observed(role, standby(Connected, Some(Secondary))))
}

/// A Secondary with a good copy, behind while cut off.
fn standby(link: LinkState, peer: Option<Role>) -> Volume {
    let data = if link == Connected {
        DataWord::UpToDate
    } else {
        DataWord::Behind
    };
    volume(Secondary, link, data, peer)
}

fn primary(link: LinkState, data: DataWord) -> Volume {
    volume(Primary, link, data, Some(Secondary))
}

fn found(decision: &Decision) -> (VerdictWord, &str, Option<Act>) {
    (
        decision.judgement.verdict,
        &decision.judgement.reason,
        decision.act,
    )
}

/// The volume after the replicator stored what was decided.
fn recorded(mut volume: Volume, decision: &Decision) -> Volume {
    assert!(decision.record, "{decision:?}");
    volume.judged = Some(decision.judged.clone());
    volume
}

#[test]
fn a_new_request_is_judged_on_a_fresh_answer_only() {
    let mut volume = standby(Connected, Some(Secondary));
    volume.refreshed = false;
    let decision = judge(&spec(Primary), &volume, None, now());
    assert_eq!(found(&decision), (Wait, reason::ASKING_PEER, None));
    assert!(!decision.record, "it is not judged, so it latches nothing");
    let dialling = standby(Connecting, Some(Primary));
    let decision = judge(&spec(Primary), &dialling, None, now());
    assert_eq!(found(&decision), (Wait, reason::ASKING_PEER, None));
}

#[test]
fn a_clean_switch() {
    let decision = judge(
        &spec(Primary),
        &standby(Connected, Some(Secondary)),
        None,
        now(),
    );
    assert_eq!(
        found(&decision),
        (Proceed, reason::PROMOTION_CLEAN, Some(Act::Promote))
    );
    assert!(decision.record);
    assert_eq!(decision.judged.max_loss, MaxLoss::None);
    let decision = judge(
        &spec(Secondary),
        &primary(Connected, DataWord::UpToDate),
        None,
        now(),
    );
    assert_eq!(
        found(&decision),
        (Proceed, reason::DEMOTION_SEALED, Some(Act::Demote))
    );
}

#[test]
fn at_three_in_the_morning_one_patch_is_enough() {
    let decision = judge(&spec(Primary), &standby(Down, Some(Primary)), None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::PROMOTION_PEER_UNKNOWN, Some(Act::Promote))
    );
    assert_eq!(decision.judged.max_loss, MaxLoss::Possible);
}

#[test]
fn require_force_refuses_and_names_the_field() {
    let mut valid = spec(Primary);
    valid.promotion.when_peer_unknown = PromoteWhenPeerUnknown::RequireForce;
    let decision = judge(&valid, &standby(Down, Some(Primary)), None, now());
    assert_eq!(found(&decision), (Refuse, reason::PEER_UNKNOWN, None));
    assert!(
        decision
            .judgement
            .message
            .contains("spec.promotion.whenPeerUnknown")
    );
    assert!(decision.judgement.message.contains("Allow"));
}

#[test]
fn a_refused_promotion_never_turns_into_a_lossy_one() {
    let valid = spec(Primary);
    let mut seen = standby(Connected, Some(Primary));
    let decision = judge(&valid, &seen, None, now());
    assert_eq!(found(&decision), (Refuse, reason::PEER_IS_PRIMARY, None));
    seen = recorded(seen, &decision);
    // The link drops: still refused, nothing to store.
    let apart = Volume {
        judged: seen.judged.clone(),
        ..standby(Down, Some(Primary))
    };
    let decision = judge(&valid, &apart, None, now());
    assert_eq!(found(&decision), (Refuse, reason::PEER_IS_PRIMARY, None));
    assert!(!decision.record && decision.judgement.latched);
    // The peer is Secondary, but was not demoted cleanly: still refused.
    let mut linked = Volume {
        judged: seen.judged,
        ..standby(Connected, Some(Secondary))
    };
    assert_eq!(judge(&valid, &linked, None, now()).act, None);
    // It was demoted cleanly, and the pair is linked: a commit that swaps both roles.
    linked.peer.as_mut().expect("told").sealed = true;
    let decision = judge(&valid, &linked, None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::PROMOTION_CLEAN, Some(Act::Promote))
    );
    // Too late.
    linked.judged.as_mut().expect("recorded").requested_at = seconds_ago(901);
    assert_eq!(judge(&valid, &linked, None, now()).act, None);
}

#[test]
fn asking_again_needs_a_request_id() {
    let mut valid = spec(Primary);
    let mut apart = standby(Down, Some(Primary));
    apart.judged = Some(judged(Primary, Refuse, reason::PEER_IS_PRIMARY));
    assert_eq!(judge(&valid, &apart, None, now()).act, None);
    valid.request_id = "again".to_owned();
    let decision = judge(&valid, &apart, None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::PROMOTION_PEER_UNKNOWN, Some(Act::Promote))
    );
    assert_eq!(decision.judged.request_id, "again");
}

#[test]
fn what_was_judged_linked_does_not_proceed_apart() {
    let valid = spec(Primary);
    let linked = standby(Connected, Some(Secondary));
    let decision = judge(&valid, &linked, None, now());
    let stored = recorded(linked, &decision).judged;
    let apart = Volume {
        judged: stored,
        ..standby(Down, Some(Secondary))
    };
    let decision = judge(&valid, &apart, None, now());
    assert_eq!(found(&decision), (Refuse, reason::PEER_UNKNOWN, None));
    assert!(decision.record);
}

#[test]
fn a_waiting_promotion_fires_linked_waits_apart_and_times_out() {
    let valid = spec(Primary);
    let behind = volume(Secondary, Connected, DataWord::Syncing, Some(Secondary));
    let decision = judge(&valid, &behind, None, now());
    assert_eq!(found(&decision), (Wait, reason::SYNC_IN_PROGRESS, None));
    let stored = recorded(behind, &decision).judged;
    let apart = Volume {
        judged: stored.clone(),
        ..standby(Down, None)
    };
    let decision = judge(&valid, &apart, None, now());
    assert_eq!(found(&decision), (Wait, reason::SYNC_IN_PROGRESS, None));
    let done = Volume {
        judged: stored.clone(),
        ..standby(Connected, Some(Secondary))
    };
    let decision = judge(&valid, &done, None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::PROMOTION_CLEAN, Some(Act::Promote))
    );
    let mut late = done;
    late.judged.as_mut().expect("stored").requested_at = seconds_ago(1000);
    let decision = judge(&valid, &late, None, now());
    assert_eq!(found(&decision), (Refuse, reason::TIMED_OUT, None));
}

#[test]
fn a_demotion_waits_while_the_peer_synchronizes_from_us() {
    let valid = spec(Secondary);
    let source = primary(Connected, DataWord::SyncSource);
    let decision = judge(&valid, &source, None, now());
    assert_eq!(
        found(&decision),
        (Wait, reason::PEER_SYNC_IN_PROGRESS, None)
    );
    let stored = recorded(source, &decision).judged;
    let done = Volume {
        judged: stored,
        ..primary(Connected, DataWord::UpToDate)
    };
    let decision = judge(&valid, &done, None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::DEMOTION_SEALED, Some(Act::Demote))
    );
}

#[test]
fn a_demotion_goes_on_when_the_link_goes() {
    let valid = spec(Secondary);
    let mut apart = primary(Down, DataWord::UpToDate);
    apart.judged = Some(judged(Secondary, Proceed, reason::DEMOTION_SEALED));
    let decision = judge(&valid, &apart, None, now());
    assert_eq!(found(&decision).2, Some(Act::Demote));
}

#[test]
fn old_backups_and_other_objects_promote_nothing() {
    let valid = spec(Primary);
    // An older generation than the one that was judged.
    let mut volume = standby(Down, Some(Primary));
    volume.judged.as_mut().expect("judged").generation = 9;
    let decision = judge(&valid, &volume, None, now());
    assert_eq!(found(&decision), (Hold, reason::STALE_ROLE_REQUEST, None));
    // It is the base line from now on, and stays held.
    let volume = recorded(volume, &decision);
    let decision = judge(&valid, &volume, None, now());
    assert_eq!(found(&decision), (Hold, reason::STALE_ROLE_REQUEST, None));
    assert!(!decision.record);
    // A later change counts.
    let later = Valid {
        request_id: "yes".to_owned(),
        generation: 4,
        ..valid.clone()
    };
    assert_eq!(judge(&later, &volume, None, now()).act, Some(Act::Promote));

    // A re-created object over data.
    let mut volume = standby(Down, Some(Primary));
    volume.judged.as_mut().expect("judged").cr_uid = "another".to_owned();
    assert_eq!(found(&judge(&valid, &volume, None, now())).0, Hold);
    // Data of which no request is known.
    volume.judged = None;
    assert_eq!(found(&judge(&valid, &volume, None, now())).0, Hold);
}

#[test]
fn a_recreated_secondary_rejoins() {
    let mut volume = primary(Connected, DataWord::Diverged);
    volume.judged.as_mut().expect("judged").cr_uid = "another".to_owned();
    let decision = judge(&spec(Secondary), &volume, None, now());
    assert_eq!(
        found(&decision),
        (Proceed, reason::DEMOTED_DIVERGED, Some(Act::Demote))
    );
}

#[test]
fn changes_of_other_fields_are_not_requests() {
    let valid = Valid {
        generation: 77,
        ..spec(Primary)
    };
    let volume = primary(Connected, DataWord::UpToDate);
    assert!(matches!(standing(&valid, &volume), Standing::Known(_)));
    let decision = judge(&valid, &volume, None, now());
    assert_eq!(found(&decision), (Steady, reason::NORMAL, None));
    assert!(
        !decision.record,
        "nothing is written while nothing is asked"
    );
    assert_eq!(decision.judged.generation, 2, "the command keeps its id");
}

#[test]
fn the_previous_switch_must_be_protected_or_the_loss_accepted() {
    let mut valid = spec(Primary);
    let mut volume = standby(Down, Some(Primary));
    volume.last_transition = Some(Transition {
        from: Primary,
        to: Secondary,
        kind: TransitionKind::Demotion,
        started: None,
        finished: Some(seconds_ago(300)),
        recovery_point: None,
    });
    volume.recovery_point = Some(RecoveryPointFacts {
        time: Some(seconds_ago(400)),
        behind_bytes: 1 << 20,
        last_in_sync: Some(seconds_ago(400)),
        epoch: testing::EPOCH.to_owned(),
    });
    let decision = judge(&valid, &volume, None, now());
    assert_eq!(
        found(&decision),
        (Refuse, reason::PREVIOUS_SWITCH_NOT_PROTECTED, None)
    );
    let volume = recorded(volume, &decision);
    (valid.request_id, valid.generation) = ("accept".to_owned(), 4);
    assert_eq!(judge(&valid, &volume, None, now()).act, Some(Act::Promote));
    // In sync since: an ordinary disaster.
    (valid.request_id, valid.generation) = (String::new(), 3);
    let mut synced = volume;
    synced.judged = Some(judged(Secondary, Steady, reason::NORMAL));
    synced.recovery_point.as_mut().expect("set").last_in_sync = Some(seconds_ago(10));
    assert_eq!(judge(&valid, &synced, None, now()).act, Some(Act::Promote));
}

fn empty(link: LinkState) -> Volume {
    let mut volume = volume(Secondary, link, DataWord::Empty, None);
    volume.judged = None;
    volume
}

#[test]
fn creation_waits_for_the_peer_or_bootstrap_new() {
    let valid = spec(Primary);
    let decision = judge(&valid, &empty(Down), None, now());
    assert_eq!(
        found(&decision),
        (Wait, reason::PEER_UNREACHABLE_AT_CREATION, None)
    );
    assert!(decision.judgement.message.contains("spec.bootstrap"));
    let stored = recorded(empty(Down), &decision);
    // A long time later it still waits: creation has no time-out.
    let mut old = stored;
    old.judged.as_mut().expect("stored").requested_at = seconds_ago(10_000);
    assert_eq!(judge(&valid, &old, None, now()).judgement.verdict, Wait);
    let new = Valid {
        bootstrap: Bootstrap::New,
        ..valid
    };
    let begin = Some(Act::Initialize { without_peer: true });
    assert_eq!(judge(&new, &old, None, now()).act, begin);
    let decision = judge(&new, &empty(Down), None, now());
    assert_eq!(found(&decision), (Wait, reason::LISTENING_FOR_PEER, None));
}

#[test]
fn a_refused_or_held_creation_does_not_begin_because_the_peer_went_away() {
    let new = Valid {
        bootstrap: Bootstrap::New,
        ..spec(Primary)
    };
    for (verdict, why) in [(Refuse, reason::PEER_HAS_DATA), (Hold, reason::AUTH_FAILED)] {
        let mut volume = empty(Down);
        volume.judged = Some(judged(Primary, verdict, why));
        let decision = judge(&new, &volume, None, now());
        assert_eq!(found(&decision), (verdict, why, None));
    }
    let decision = judge(&new, &empty(AuthFailed), None, now());
    assert_eq!(found(&decision), (Hold, reason::AUTH_FAILED, None));
}

#[test]
fn a_secondary_that_never_held_data_is_not_a_creation() {
    let mut volume = empty(Down);
    volume.judged = Some(judged(Secondary, Steady, reason::REMOTE_UNAVAILABLE));
    let decision = judge(&spec(Primary), &volume, None, now());
    assert_eq!(found(&decision), (Refuse, reason::NEVER_SYNCHRONIZED, None));
}

#[test]
fn the_replicators_refusal_latches_and_a_busy_one_is_tried_again() {
    let valid = spec(Primary);
    let volume = standby(Connected, Some(Secondary));
    let id = act_id(
        Act::Promote,
        &judge(&valid, &volume, None, now()).judged,
        &volume,
    );
    let mut refusal = StepRefusal {
        command_id: id,
        code: RefusalCode::PeerIsPrimary,
        message: String::new(),
    };
    let decision = judge(&valid, &volume, Some(&refusal), now());
    assert_eq!(found(&decision), (Refuse, reason::PEER_IS_PRIMARY, None));
    assert!(decision.record);
    refusal.code = RefusalCode::Busy;
    assert_eq!(
        judge(&valid, &volume, Some(&refusal), now()).act,
        Some(Act::Promote)
    );
    refusal.code = RefusalCode::PeerIsPrimary;
    refusal.command_id = "another command".to_owned();
    assert_eq!(
        judge(&valid, &volume, Some(&refusal), now()).act,
        Some(Act::Promote)
    );
}

/// Whatever was judged before and whatever the state is now: never a promotion beside a reachable
/// Primary, and never one apart for a request that was refused or told to wait.
#[test]
fn no_history_leads_to_a_promotion_that_must_not_be() {
    let verdicts = [Steady, Proceed, Wait, Refuse, Hold];
    let data = [
        DataWord::Empty,
        DataWord::UpToDate,
        DataWord::SyncSource,
        DataWord::Behind,
        DataWord::Syncing,
        DataWord::InconsistentSnap,
        DataWord::InconsistentNoSnap,
        DataWord::Diverged,
        DataWord::Failed,
    ];
    let links = [Connected, Connecting, Down, AuthFailed, LinkState::Refused];
    for role in [Primary, Secondary] {
        for verdict in verdicts {
            for data in data {
                for link in links {
                    for peer in [None, Some(Primary), Some(Secondary)] {
                        let mut seen = volume(Secondary, link, data, peer);
                        seen.judged = Some(judged(role, verdict, reason::NORMAL));
                        let decision = judge(&spec(Primary), &seen, None, now());
                        let promotes = decision.act == Some(Act::Promote);
                        let beside = link == Connected && peer == Some(Primary);
                        let known = role == Primary;
                        let latched = known && matches!(verdict, Wait | Refuse | Hold);
                        assert!(!(promotes && beside), "{seen:?}");
                        assert!(!(promotes && latched && link != Connected), "{seen:?}");
                    }
                }
            }
        }
    }
}
