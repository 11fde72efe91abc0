//! Plans: one step at a time, and when the queue manager may run.

use drqm_api::v1alpha1::{DrQueueManagerStatus, EpochState, PartitionSpec};

use super::*;
use crate::desired::Child;
use crate::observed::{Configuration, Keys, PodFacts, PodFailure, SnapshotFacts, StatefulSetFacts};
use crate::testing::{judged, now, observed, valid, volume};
use Role::{Primary, Secondary};

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

fn change(seen: &mut Observed, change: impl FnOnce(&mut Volume)) {
    let ReplicatorView::Reached(Some(volume)) = &mut seen.replicator else {
        panic!("the builder reaches the replicator")
    };
    change(volume);
}

fn planned(seen: &Observed) -> Plan {
    plan(&valid(seen), seen, now())
}

fn step(plan: &Plan) -> Option<&ControlStep> {
    plan.step.as_ref().map(|command| &command.step)
}

#[test]
fn nothing_to_do_for_a_healthy_pair() {
    let plan = planned(&serving());
    assert_eq!(
        (plan.replicas, &plan.step, &plan.blocked),
        (1, &None, &None)
    );
    assert_eq!(plan.recheck_after, RESYNC);
    assert!(matches!(plan.objects.service, Child::Apply(_)));
    let plan = planned(&standby());
    assert_eq!(
        (plan.replicas, &plan.step, &plan.blocked),
        (0, &None, &None)
    );
    assert_eq!(plan.objects.service, Child::Absent);
    assert_eq!(plan.recheck_after, RESYNC);
}

#[test]
fn keys_that_somebody_else_keeps_are_looked_at_every_half_minute() {
    let mut seen = serving();
    seen.object.spec.replication.tls = Some(drqm_api::v1alpha1::TlsSpec {
        secret_name: "theirs".to_owned(),
    });
    assert_eq!(planned(&seen).recheck_after.as_secs(), 30);
}

#[test]
fn a_node_is_chosen_then_recorded() {
    let mut seen = standby();
    let node = seen.node.take().expect("set");
    seen.replicator = ReplicatorView::NoNode;
    let plan = planned(&seen);
    assert_eq!(plan.blocked.expect("no node").reason, reason::NO_NODE);
    let busy = crate::observed::NodeFacts {
        name: "busy".to_owned(),
        volumes: 9,
        ..node.clone()
    };
    let down = crate::observed::NodeFacts {
        name: "down".to_owned(),
        replicator_ready: false,
        volumes: 0,
        ..node.clone()
    };
    seen.candidates = vec![busy, down, node];
    let plan = planned(&seen);
    assert_eq!(
        (plan.node.as_deref(), plan.step, plan.blocked),
        (Some("node1"), None, None)
    );
}

#[test]
fn keys_then_configuration_then_creation() {
    let mut seen = observed(
        Primary,
        volume(Secondary, LinkState::Down, DataWord::Empty, None),
    );
    seen.replicator = ReplicatorView::Reached(None);
    seen.configuration = Configuration::Due;
    seen.keys = Keys::Missing;
    let plan = planned(&seen);
    assert_eq!(
        (plan.keys, &plan.step, &plan.blocked),
        (Some(KeyWork::MakePair), &None, &None)
    );
    seen.keys = Keys::Present {
        ca_key: true,
        leaf: false,
        expires: None,
    };
    assert_eq!(planned(&seen).keys, Some(KeyWork::IssueLeaf));
    seen.keys = Keys::Present {
        ca_key: true,
        leaf: true,
        expires: None,
    };
    assert_eq!(step(&planned(&seen)), Some(&ControlStep::Configure));
    let mut empty = volume(Secondary, LinkState::Unconfigured, DataWord::Empty, None);
    empty.judged = None;
    seen.replicator = ReplicatorView::Reached(Some(Box::new(empty)));
    seen.configuration = Configuration::Sent;
    let plan = planned(&seen);
    assert!(matches!(
        step(&plan),
        Some(ControlStep::Initialize {
            without_peer: true,
            ..
        })
    ));
    assert_eq!(plan.replicas, 0, "the device is not open yet");
}

#[test]
fn a_secondary_waits_for_its_secret_and_keys_of_a_pair_are_never_made_twice() {
    let mut seen = standby();
    seen.replicator = ReplicatorView::Reached(None);
    seen.keys = Keys::Missing;
    let plan = planned(&seen);
    assert_eq!((plan.keys, &plan.step), (None, &None));
    let blocked = plan.blocked.expect("blocked");
    assert_eq!(blocked.reason, reason::SECRET_MISSING);
    assert!(blocked.message.contains("peer-manifest"));

    let mut seen = serving();
    seen.keys = Keys::Missing;
    let plan = planned(&seen);
    assert_eq!(
        (plan.keys, plan.replicas),
        (None, 1),
        "the queue manager goes on"
    );
    assert_eq!(plan.blocked.expect("said").reason, reason::SECRET_MISSING);
}

#[test]
fn data_that_is_missing_is_not_made_anew() {
    let mut seen = serving();
    let epoch = EpochState {
        current: crate::testing::EPOCH.to_owned(),
        ..EpochState::default()
    };
    let status = DrQueueManagerStatus {
        epoch: Some(epoch),
        ..DrQueueManagerStatus::default()
    };
    seen.object.status = Some(status);
    seen.replicator = ReplicatorView::Reached(None);
    let plan = planned(&seen);
    assert_eq!((&plan.step, plan.replicas), (&None, 0));
    assert_eq!(plan.blocked.expect("blocked").reason, reason::DATA_MISSING);
    let empty = volume(Secondary, LinkState::Unconfigured, DataWord::Empty, None);
    seen.replicator = ReplicatorView::Reached(Some(Box::new(empty)));
    let plan = planned(&seen);
    assert_eq!(
        (plan.step, plan.blocked.map(|b| b.reason)),
        (None, Some(reason::DATA_MISSING))
    );
}

#[test]
fn a_promotion_is_stored_then_carried_out() {
    let mut seen = standby();
    seen.object.spec.role = Primary;
    change(&mut seen, |volume| {
        volume.peer.as_mut().expect("told").role = Some(Secondary)
    });
    let first = planned(&seen);
    let Some(ControlStep::RecordVerdict { request }) = step(&first) else {
        panic!("{:?}", first.step)
    };
    change(&mut seen, |volume| volume.judged = Some(request.clone()));
    let second = planned(&seen);
    assert!(
        matches!(step(&second), Some(ControlStep::Promote { .. })),
        "{:?}",
        second.step
    );
    assert_eq!(second.replicas, 0);
    assert_eq!(
        second.step,
        planned(&seen).step,
        "the same request is the same command"
    );
}

#[test]
fn an_inconsistent_copy_goes_back_and_is_promoted_then() {
    let mut seen = standby();
    seen.object.spec.role = Primary;
    change(&mut seen, |volume| {
        volume.data = DataWord::InconsistentSnap;
        volume.link.state = LinkState::Down;
        volume.snapshot = Some(SnapshotFacts {
            taken: None,
            used_bytes: 100,
            reverted_bytes: None,
        });
    });
    let first = planned(&seen);
    let Some(ControlStep::RecordVerdict { request }) = step(&first) else {
        panic!("{:?}", first.step)
    };
    assert_eq!(request.reason, reason::REVERT_THEN_PROMOTE);
    change(&mut seen, |volume| volume.judged = Some(request.clone()));
    let back = planned(&seen).step.expect("an order");
    assert!(matches!(back.step, ControlStep::Revert { .. }), "{back:?}");
    // While it goes back there is nothing to order, and it is looked at often.
    change(&mut seen, |volume| {
        volume.snapshot.as_mut().expect("set").reverted_bytes = Some(10);
        volume.link.state = LinkState::Connecting;
    });
    let waits = planned(&seen);
    assert_eq!((waits.step, waits.recheck_after.as_secs()), (None, 1));
    change(&mut seen, |volume| {
        volume.data = DataWord::Behind;
        volume.snapshot = None;
        volume.link.state = LinkState::Down;
    });
    let Some(ControlStep::RecordVerdict { request }) = step(&planned(&seen)).cloned() else {
        panic!("the verdict is another one now")
    };
    change(&mut seen, |volume| volume.judged = Some(request));
    let last = planned(&seen).step.expect("an order");
    assert!(matches!(last.step, ControlStep::Promote { .. }), "{last:?}");
    assert_ne!(last.id, back.id);
}

#[test]
fn a_partition_is_ended_on_the_side_and_for_the_epoch_that_a_person_names() {
    let decided = |resolution, epoch: &str| {
        Some(PartitionSpec {
            resolution,
            epoch: epoch.to_owned(),
        })
    };
    let (local, remote) = (
        PartitionResolution::KeepLocal,
        PartitionResolution::KeepRemote,
    );
    let mut seen = standby();
    change(&mut seen, |volume| volume.data = DataWord::Diverged);
    let epoch = seen.replicator.volume().expect("seen").epoch.clone();
    assert_eq!(planned(&seen).step, None, "nobody has decided");

    seen.object.spec.partition = decided(remote, "ffffffffffffffffffffffffffffffff");
    assert_eq!(planned(&seen).step, None, "decided on other data");
    seen.object.spec.partition = decided(remote, &epoch);
    let expected = ControlStep::Resolve {
        expected_epoch: epoch.clone(),
        keep: remote,
    };
    assert_eq!(step(&planned(&seen)), Some(&expected));
    change(&mut seen, |volume| volume.given_up = true);
    assert_eq!(planned(&seen).step, None, "it is recorded");

    // A change of mind, and a survivor that is lost.
    seen.object.spec.partition = decided(local, &epoch);
    assert!(matches!(
        step(&planned(&seen)),
        Some(ControlStep::Resolve { keep, .. }) if *keep == local
    ));
    change(&mut seen, |volume| volume.given_up = false);
    assert_eq!(planned(&seen).step, None, "the other side has to give way");
    change(&mut seen, |volume| volume.link.state = LinkState::Down);
    assert!(planned(&seen).step.is_some());
}

#[test]
fn a_demotion_stops_the_queue_manager_first() {
    let mut seen = serving();
    seen.object.spec.role = Secondary;
    let first = planned(&seen);
    assert_eq!(first.replicas, 0);
    let Some(ControlStep::RecordVerdict { request }) = step(&first) else {
        panic!("{:?}", first.step)
    };
    change(&mut seen, |volume| {
        volume.judged = Some(request.clone());
        volume.device.held_by = "/var/lib/kubelet/…/mount".to_owned();
    });
    let waiting = planned(&seen);
    assert_eq!((waiting.replicas, &waiting.step), (0, &None));
    assert_eq!(
        waiting.blocked.expect("said").reason,
        reason::STOPPING_QUEUE_MANAGER
    );
    seen.children.pod = None;
    let held = planned(&seen);
    assert_eq!(
        (held.step.as_ref(), held.blocked.map(|b| b.reason)),
        (None, Some(reason::DEVICE_HELD))
    );
    change(&mut seen, |volume| volume.device.held_by.clear());
    let last = planned(&seen);
    assert!(
        matches!(step(&last), Some(ControlStep::Demote { .. })),
        "{:?}",
        last.step
    );
    assert_eq!(last.replicas, 0);
}

#[test]
fn a_demotion_that_waits_keeps_the_queue_manager_running() {
    let mut seen = serving();
    seen.object.spec.role = Secondary;
    change(&mut seen, |volume| volume.data = DataWord::SyncSource);
    assert_eq!(planned(&seen).replicas, 1);
}

#[test]
fn the_queue_manager_runs_only_on_an_open_device() {
    for gate in [
        Gate::Closed,
        Gate::WaitingForPeer,
        Gate::Held,
        Gate::Superseded,
        Gate::Opening,
        Gate::Dead,
        Gate::Failed,
    ] {
        let mut seen = serving();
        change(&mut seen, |volume| volume.device.gate = gate);
        let plan = planned(&seen);
        assert_eq!(plan.replicas, 0, "{gate:?}");
        assert_eq!(plan.objects.service, Child::Absent, "{gate:?}");
        assert_eq!(
            step(&plan) == Some(&ControlStep::HealDevice),
            gate == Gate::Dead
        );
    }
    let mut stopped = serving();
    stopped.object.spec.queue_manager.running = false;
    assert_eq!(planned(&stopped).replicas, 0);
}

#[test]
fn an_unreachable_replicator_leaves_it_as_it_is_except_after_a_start() {
    let mut seen = serving();
    seen.replicator = ReplicatorView::Unreachable {
        message: "no route".to_owned(),
    };
    assert_eq!(planned(&seen).replicas, 1);
    seen.look = Look::First;
    assert_eq!(planned(&seen).replicas, 1, "its pod is ready");
    seen.children.pod.as_mut().expect("set").ready = false;
    assert_eq!(planned(&seen).replicas, 0);
    seen.look = Look::Later;
    assert_eq!(planned(&seen).replicas, 1);
}

#[test]
fn a_failed_mount_makes_the_round_trip() {
    let mut seen = serving();
    let pod = seen.children.pod.as_mut().expect("set");
    pod.ready = false;
    pod.failing = Some(PodFailure {
        reason: "FailedMount".to_owned(),
        message: String::new(),
    });
    assert_eq!(planned(&seen).replicas, 0);
    seen.children.stateful_set = Some(StatefulSetFacts {
        replicas: 0,
        ready_replicas: 0,
    });
    let pod: &mut PodFacts = seen.children.pod.as_mut().expect("set");
    (pod.failing, pod.terminating) = (None, true);
    assert_eq!(planned(&seen).replicas, 0, "the old pod is still there");
    seen.children.pod = None;
    assert_eq!(planned(&seen).replicas, 1);
}

#[test]
fn configuration_is_sent_again_without_disturbing_anything() {
    let mut seen = serving();
    seen.configuration = Configuration::Due;
    let plan = planned(&seen);
    assert_eq!(
        (step(&plan), plan.replicas),
        (Some(&ControlStep::Configure), 1)
    );
    // Not in the middle of a demotion either.
    seen.object.spec.role = Secondary;
    change(&mut seen, |volume| {
        volume.judged = Some(judged(
            Secondary,
            VerdictWord::Proceed,
            reason::DEMOTION_SEALED,
        ));
    });
    assert_eq!(planned(&seen).replicas, 0);
}

#[test]
fn the_same_input_gives_the_same_plan() {
    for seen in [serving(), standby()] {
        assert_eq!(planned(&seen), planned(&seen));
    }
}
