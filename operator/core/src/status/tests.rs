//! Status: stable, in steps, and telling the truth.

use drqm_api::conditions::condition;
use drqm_api::v1alpha1::{
    DataWord, DrStatusWord, LinkWord, PartitionResolution, PartitionSpec, TransitionKind,
    VerifySpec,
};

use super::*;
use crate::observed::{
    LinkState, RecoveryPointFacts, SnapshotFacts, Sync, Transition, VerificationFacts,
};
use crate::outcome::{ErrorClass, StepFailure};
use crate::plan::plan;
use crate::testing::{judged, now, observed, seconds_ago, valid, volume};
use Role::{Primary, Secondary};

fn outcome(seen: &Observed) -> Outcome {
    let valid = valid(seen);
    let plan = plan(&valid, seen, now());
    Outcome::Planned {
        valid: Box::new(valid),
        plan: Box::new(plan),
        failure: None,
    }
}

fn published(seen: &Observed) -> Publication {
    next(seen, &outcome(seen), now())
}

fn first(seen: &mut Observed) -> DrQueueManagerStatus {
    let status = published(seen).status.expect("the first status is written");
    seen.object.status = Some(status.clone());
    status
}

fn serving() -> Observed {
    observed(
        Primary,
        volume(
            Primary,
            LinkState::Connected,
            DataWord::UpToDate,
            Some(Secondary),
        ),
    )
}

fn standby() -> Observed {
    observed(
        Secondary,
        volume(
            Secondary,
            LinkState::Connected,
            DataWord::UpToDate,
            Some(Primary),
        ),
    )
}

fn seen_as(desired: Role, role: Role, link: LinkState, data: DataWord, peer: Role) -> Observed {
    observed(desired, volume(role, link, data, Some(peer)))
}

fn edit(seen: &mut Observed, change: impl FnOnce(&mut Volume)) {
    let ReplicatorView::Reached(Some(volume)) = &mut seen.replicator else {
        panic!("the builder reaches the replicator")
    };
    change(volume);
}

fn condition_of<'a>(status: &'a DrQueueManagerStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|found| found.type_ == type_);
    found
        .map(|found| (&*found.status, &*found.reason))
        .expect("always listed")
}

fn reasons(events: &[EventFact]) -> Vec<&str> {
    events.iter().map(|event| event.reason.as_str()).collect()
}

#[test]
fn two_passes_on_the_same_input_write_once() {
    for mut seen in [
        serving(),
        standby(),
        seen_as(
            Primary,
            Secondary,
            LinkState::Connected,
            DataWord::UpToDate,
            Primary,
        ),
        seen_as(Primary, Primary, LinkState::Down, DataWord::Behind, Primary),
        seen_as(
            Secondary,
            Secondary,
            LinkState::Down,
            DataWord::Diverged,
            Primary,
        ),
    ] {
        first(&mut seen);
        let later = now()
            .checked_add(jiff::SignedDuration::from_secs(30))
            .expect("in range");
        let again = next(&seen, &outcome(&seen), later);
        assert_eq!(
            again,
            Publication {
                status: None,
                events: Vec::new()
            }
        );
    }
}

#[test]
fn a_healthy_pair() {
    let status = first(&mut serving());
    assert_eq!(
        condition_of(&status, condition::READY),
        ("True", reason::SERVING)
    );
    assert_eq!(status.dr.status, DrStatusWord::Normal);
    assert_eq!(status.queue_manager.status, QueueManagerStatusWord::Running);
    assert_eq!((status.phase, status.serving), (Phase::Ready, true));
    let status = first(&mut standby());
    assert_eq!(
        condition_of(&status, condition::READY),
        ("True", reason::STANDBY)
    );
    assert_eq!(
        status.queue_manager.status,
        QueueManagerStatusWord::EndedImmediately
    );
    assert_eq!(
        condition_of(&status, condition::PROMOTABLE),
        ("False", reason::PEER_IS_PRIMARY)
    );
    assert_eq!(
        status.recovery_point, None,
        "in step it is now, and would move for ever"
    );
}

#[test]
fn a_refused_promotion_says_so_everywhere() {
    let mut seen = standby();
    first(&mut seen);
    seen.object.spec.role = Primary;
    let publication = published(&seen);
    assert_eq!(reasons(&publication.events), ["PromotionRefused"]);
    let status = publication.status.expect("changed");
    assert_eq!(
        condition_of(&status, condition::ROLE_SETTLED),
        ("False", reason::PEER_IS_PRIMARY)
    );
    assert_eq!(
        condition_of(&status, condition::READY),
        ("False", reason::ROLE_NOT_SETTLED)
    );
    let request = status.request.expect("judged");
    assert_eq!(
        (request.verdict, request.reason.as_str()),
        (VerdictWord::Refuse, "PeerIsPrimary")
    );
    assert!(
        request.message.contains("Secondary first"),
        "{}",
        request.message
    );
    assert_eq!(status.role, EffectiveRole::Secondary);
}

#[test]
fn a_superseded_primary_says_what_to_do() {
    let mut seen = serving();
    first(&mut seen);
    edit(&mut seen, |volume| {
        volume.data = DataWord::Behind;
        volume.device.gate = Gate::Superseded;
    });
    let publication = published(&seen);
    let status = publication.status.expect("changed");
    assert!(reasons(&publication.events).contains(&"SupersededStartBlocked"));
    assert_eq!(status.dr.status, DrStatusWord::Superseded);
    assert_eq!((status.phase, status.serving), (Phase::Failed, false));
    assert_eq!(
        condition_of(&status, condition::SPLIT_BRAIN),
        ("True", reason::SUPERSEDED)
    );
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.type_.as_str(), ready.status.as_str()),
        ("Ready", "False")
    );
    assert!(
        ready
            .message
            .contains("patch spec.role to Secondary: nothing is lost")
    );
}

#[test]
fn a_lost_link_shows_on_both_sides_with_the_recovery_point_on_the_secondary() {
    let mut seen = serving();
    first(&mut seen);
    edit(&mut seen, |volume| volume.link.state = LinkState::Down);
    let publication = published(&seen);
    assert_eq!(reasons(&publication.events), ["PeerLost"]);
    let status = publication.status.expect("changed");
    assert_eq!(status.dr.status, DrStatusWord::RemoteUnavailable);
    assert_eq!(status.dr.link, LinkWord::Disconnected);
    assert_eq!(
        condition_of(&status, condition::READY).0,
        "True",
        "it goes on"
    );
    assert!(!status.peer.expect("configured").reachable);

    let mut seen = standby();
    first(&mut seen);
    edit(&mut seen, |volume| {
        volume.link.state = LinkState::Down;
        volume.data = DataWord::Behind;
        volume.recovery_point = Some(RecoveryPointFacts {
            time: Some(seconds_ago(7)),
            behind_bytes: 4096,
            last_in_sync: None,
            epoch: String::new(),
        });
    });
    let status = published(&seen).status.expect("changed");
    let point = status.recovery_point.clone().expect("shown");
    assert_eq!(point.time, Some(Time(seconds_ago(7))));
    assert_eq!(
        condition_of(&status, condition::PROMOTABLE),
        ("True", reason::LOSS_POSSIBLE)
    );
}

#[test]
fn figures_move_in_steps() {
    let mut seen = serving();
    edit(&mut seen, |volume| {
        volume.data = DataWord::SyncSource;
        volume.sync = Some(Sync {
            source: true,
            done_bytes: 10,
            total_bytes: 1000,
            bytes_per_second: 1,
            eta: Some(now()),
        });
        volume.out_of_sync_bytes = 990_000;
    });
    let status = first(&mut seen);
    assert_eq!(status.dr.sync_progress_percent.as_deref(), Some("1.00"));
    let progress = |seen: &mut Observed, done: u64| {
        edit(seen, |volume| {
            volume.sync.as_mut().expect("set").done_bytes = done
        });
    };
    seen.status_age = Some(Duration::from_secs(3));
    progress(&mut seen, 40);
    assert_eq!(
        published(&seen).status,
        None,
        "less than a step, and too soon"
    );
    progress(&mut seen, 61);
    assert!(published(&seen).status.is_some(), "more than 5 %");
    progress(&mut seen, 40);
    seen.status_age = Some(FIGURES_EVERY);
    assert!(
        published(&seen).status.is_some(),
        "10 s while something moves"
    );
    // Nothing moves: memory and round trip alone are no reason.
    let mut seen = serving();
    first(&mut seen);
    seen.status_age = Some(Duration::from_secs(600));
    edit(&mut seen, |volume| volume.link.rtt_micros = Some(9_000));
    first(&mut seen);
    edit(&mut seen, |volume| volume.link.rtt_micros = Some(90_000));
    assert_eq!(published(&seen).status, None);
    // The end of a synchronization is a change of words, with exact figures.
}

#[test]
fn times_of_conditions_move_only_when_the_status_flips() {
    let mut seen = serving();
    first(&mut seen);
    edit(&mut seen, |volume| volume.link.state = LinkState::Down);
    let later = now()
        .checked_add(jiff::SignedDuration::from_secs(60))
        .expect("in range");
    let status = next(&seen, &outcome(&seen), later).status.expect("changed");
    let time = |type_: &str| {
        let found = status.conditions.iter().find(|found| found.type_ == type_);
        found.expect("listed").last_transition_time.0
    };
    assert_eq!(time(condition::READY), now());
    assert_eq!(time(condition::PEER_CONNECTED), later);
}

#[test]
fn a_copy_that_goes_back_to_its_snapshot_says_how_far_it_is() {
    let mut seen = standby();
    first(&mut seen);
    let held = |reverted_bytes| SnapshotFacts {
        taken: Some(seconds_ago(60)),
        used_bytes: 4 << 20,
        reverted_bytes,
    };
    edit(&mut seen, |volume| {
        volume.link.state = LinkState::Down;
        volume.data = DataWord::InconsistentSnap;
        volume.snapshot = Some(held(None));
    });
    let publication = published(&seen);
    let status = publication.status.expect("changed");
    assert_eq!(status.dr.status, DrStatusWord::Inconsistent);
    let snapshot = status.snapshot.clone().expect("shown");
    assert_eq!(
        (snapshot.taken_at, snapshot.used_bytes),
        (Some(Time(seconds_ago(60))), 4 << 20)
    );
    let promotable = condition_of(&status, condition::PROMOTABLE);
    assert_eq!(promotable, ("True", reason::NEEDS_REVERT));
    seen.object.status = Some(status);

    edit(&mut seen, |volume| {
        volume.snapshot = Some(held(Some(1 << 20)))
    });
    let publication = published(&seen);
    assert_eq!(reasons(&publication.events), ["RevertStarted"]);
    let status = publication.status.expect("changed");
    assert_eq!(status.dr.status, DrStatusWord::RevertingToSnapshot);
    assert_eq!(
        status.dr.snapshot_reversion_percent.as_deref(),
        Some("25.00")
    );
    seen.object.status = Some(status);

    edit(&mut seen, |volume| {
        volume.data = DataWord::Behind;
        volume.snapshot = None;
    });
    let publication = published(&seen);
    assert_eq!(reasons(&publication.events), ["RevertFinished"]);
    let status = publication.status.expect("changed");
    assert_eq!(status.dr.status, DrStatusWord::RemoteUnavailable);
    assert_eq!(
        (status.snapshot, status.dr.snapshot_reversion_percent),
        (None, None)
    );
}

#[test]
fn a_decision_that_cannot_be_carried_out_is_explained() {
    let mut seen = serving();
    first(&mut seen);
    edit(&mut seen, |volume| volume.data = DataWord::Diverged);
    let epoch = seen.replicator.volume().expect("seen").epoch.clone();
    let other = "ffffffffffffffffffffffffffffffff".to_owned();
    for (epoch, word) in [(epoch.clone(), "patch spec.role"), (other, epoch.as_str())] {
        seen.object.spec.partition = Some(PartitionSpec {
            resolution: PartitionResolution::KeepRemote,
            epoch,
        });
        let status = published(&seen).status.expect("changed");
        let split = status
            .conditions
            .iter()
            .find(|found| found.type_ == condition::SPLIT_BRAIN)
            .expect("always listed");
        assert_eq!(split.status, "True");
        assert!(split.message.contains(word), "{}", split.message);
    }
}

#[test]
fn a_snapshot_that_cannot_be_taken_is_told_and_how_to_go_on() {
    let mut seen = standby();
    first(&mut seen);
    edit(&mut seen, |volume| {
        volume.link.state = LinkState::Connecting;
        volume.data = DataWord::Behind;
        volume.snapshot_error = Some("no room; free space".to_owned());
    });
    let publication = published(&seen);
    assert!(reasons(&publication.events).contains(&reason::SNAPSHOT_FAILED));
    let status = publication.status.expect("changed");
    let in_sync = condition_of(&status, condition::IN_SYNC);
    assert_eq!(in_sync, ("False", reason::SNAPSHOT_FAILED));
}

#[test]
fn a_verification_is_told_while_it_runs_and_remembered_when_it_has_ended() {
    let mut seen = serving();
    first(&mut seen);
    seen.object.spec.replication.verify = Some(VerifySpec {
        request_id: "monday".to_owned(),
        repair: true,
    });
    let wanted = |seen: &Observed| crate::validate::validate(seen).expect("valid").verify;
    assert!(wanted(&seen).is_some_and(|v| v.repair));
    let found = |left_bytes, finished, differing_bytes| VerificationFacts {
        request: "monday".to_owned(),
        started: Some(seconds_ago(9)),
        finished,
        left_bytes,
        differing_bytes,
    };
    edit(&mut seen, |volume| {
        volume.verification = Some(found(volume.size_bytes / 4, None, 0));
    });
    let publication = published(&seen);
    assert!(reasons(&publication.events).is_empty());
    let status = publication.status.expect("changed");
    let told = status.verification.clone().expect("told");
    assert_eq!(told.progress_percent.as_deref(), Some("75.00"));
    seen.object.status = Some(status);
    assert!(wanted(&seen).is_some(), "it has not ended");

    for (differing, event) in [(0, "Verified"), (4096, "DifferencesFound")] {
        let mut ended = seen.clone();
        edit(&mut ended, |volume| {
            volume.verification = Some(found(0, Some(seconds_ago(1)), differing));
        });
        let publication = published(&ended);
        assert_eq!(reasons(&publication.events), [event]);
        ended.object.status = publication.status;
        assert!(wanted(&ended).is_none(), "it has ended");
        // The replicator forgets it, status does not.
        edit(&mut ended, |volume| volume.verification = None);
        assert!(
            published(&ended)
                .status
                .is_none_or(|s| s.verification.is_some())
        );
        let again = ended.object.spec.replication.verify.as_mut();
        again.expect("set above").request_id = "tuesday".to_owned();
        assert!(wanted(&ended).is_some(), "another one is asked for");
    }
}

#[test]
fn an_unplanned_promotion_is_an_event_with_its_recovery_point() {
    let mut seen = standby();
    first(&mut seen);
    let mut promoted = serving();
    promoted.object.status = seen.object.status;
    edit(&mut promoted, |volume| {
        volume.link.state = LinkState::Down;
        volume.judged = Some(judged(
            Primary,
            VerdictWord::Proceed,
            "PromotionPeerUnknown",
        ));
        volume.crashed_tail_bytes = 512;
        volume.last_transition = Some(Transition {
            from: Secondary,
            to: Primary,
            kind: TransitionKind::Unplanned,
            started: Some(seconds_ago(2)),
            finished: Some(seconds_ago(1)),
            recovery_point: Some(RecoveryPointFacts {
                time: Some(seconds_ago(9)),
                behind_bytes: 0,
                last_in_sync: None,
                epoch: String::new(),
            }),
        });
    });
    let publication = published(&promoted);
    assert_eq!(
        reasons(&publication.events),
        ["Promoted", "CrashedTail", "PeerLost"]
    );
    let message = &publication.events[0].message;
    assert!(message.contains("everything the other side completed before 2026-03-01T11:59:51Z"));
    let transition = publication
        .status
        .expect("changed")
        .last_transition
        .expect("set");
    assert_eq!(transition.crashed_tail_bytes, Some(512));
}

#[test]
fn a_failed_step_is_in_the_status_and_a_hiccup_under_a_serving_one_is_not() {
    let fail = |seen: &Observed, class: ErrorClass| {
        let Outcome::Planned { valid, plan, .. } = outcome(seen) else {
            panic!("planned")
        };
        let failure = Some(StepFailure {
            kind: "ApplyFailed",
            class,
            message: "why".to_owned(),
        });
        let status = next(
            seen,
            &Outcome::Planned {
                valid,
                plan,
                failure,
            },
            now(),
        )
        .status;
        status.expect("written").conditions[0].reason.clone()
    };
    assert_eq!(fail(&standby(), ErrorClass::Transient), "ApplyFailed");
    assert_eq!(fail(&serving(), ErrorClass::Transient), reason::SERVING);
    assert_eq!(fail(&serving(), ErrorClass::Permanent), "ApplyFailed");
}

#[test]
fn a_rejected_spec_names_its_field_and_keeps_what_was_known() {
    let mut seen = serving();
    first(&mut seen);
    seen.object.spec.storage.size.0 = "3GiB".to_owned();
    let error = crate::validate::validate(&seen).expect_err("a bad size");
    let publication = next(&seen, &Outcome::Rejected(error), now());
    let status = publication.status.expect("changed");
    assert_eq!(
        condition_of(&status, condition::READY),
        ("False", reason::INVALID_SPEC)
    );
    assert!(status.conditions[0].message.contains("spec.storage.size"));
    assert_eq!(status.role, EffectiveRole::Primary);
    assert!(status.epoch.is_some());
    assert_eq!(reasons(&publication.events), [reason::INVALID_SPEC]);
}

#[test]
fn what_is_not_seen_is_unknown_and_the_proof_of_data_is_kept() {
    let mut seen = serving();
    first(&mut seen);
    seen.replicator = ReplicatorView::Unreachable {
        message: "no route".to_owned(),
    };
    let status = published(&seen).status.expect("changed");
    assert_eq!(status.role, EffectiveRole::Unknown);
    assert_eq!(status.dr.status, DrStatusWord::Unknown);
    assert!(status.epoch.is_some() && status.volume.is_some());
    assert!(status.serving, "its pod is ready");
    seen.replicator = ReplicatorView::Reached(None);
    assert!(published(&seen).status.expect("changed").epoch.is_some());
}

#[test]
fn live_figures_are_exact() {
    let seen = serving();
    let volume = seen.replicator.volume().expect("reached");
    let live = live(&seen.object, volume, Duration::from_millis(7), now());
    assert_eq!((live.age_millis, live.role), (7, EffectiveRole::Primary));
    assert_eq!(live.peer_heard_age_millis, Some(0));
    let mut status = DrQueueManagerStatus::default();
    live.overlay(&mut status);
    assert_eq!(status.dr.status, DrStatusWord::Normal);
}
