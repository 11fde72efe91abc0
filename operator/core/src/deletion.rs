//! What deleting a resource does: stop, forget or erase the volume, let the finalizer go.
//!
//! Lives here: the order and the refusals. Does not live here: the admission policies that refuse a
//! deletion at once (the finalizer is the second line), carrying it out.
//!
//! Invariants
//! - A running queue manager is not stopped unless `deletion.whileRunning: Stop` says so.
//! - The volume is given up only when nobody holds its device.
//! - It ends also when the node, or the volume, is gone.

use std::time::Duration;

use drqm_api::conditions::reason;
use drqm_api::labels;
use drqm_api::v1alpha1::{DataOnDelete, DeleteWhileRunning, DeletionSpec};
use kube::ResourceExt;

use crate::desired::{Child, Objects, workload};
use crate::observed::{Observed, ReplicatorView};
use crate::plan::{Blocked, Command, ControlStep, Finalizer, Plan};
use crate::validate::Valid;

/// The next thing to do for a resource that is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The queue manager runs and may not be stopped: go on as if nothing had been asked.
    Refused,
    /// Stop it, or wait until it is stopped.
    Stop,
    /// Nobody uses the device any more: give the volume up.
    GiveUp {
        /// Erase the data.
        erase: bool,
    },
    /// The replicator has to answer first.
    AskReplicator,
    /// Nothing is left.
    Done,
}

/// The next thing to do; `None` if the resource is not being deleted.
#[must_use]
pub fn next(seen: &Observed) -> Option<Deletion> {
    seen.object.metadata.deletion_timestamp.as_ref()?;
    let DeletionSpec {
        while_running,
        data,
    } = &seen.object.spec.deletion;
    let node_gone = seen.node.as_ref().is_none_or(|node| !node.exists);
    let skip = seen.object.annotations().get(labels::SKIP_DATA_CLEANUP);
    if node_gone || skip.is_some_and(|value| value == "true") {
        return Some(Deletion::Done);
    }
    let children = &seen.children;
    let pod_stays = children.pod.as_ref().is_some_and(|pod| !pod.terminating);
    let scaled = children.stateful_set.is_some_and(|set| set.replicas > 0);
    // Scaled up and no pod: between two pods, which is running too.
    let running = scaled && (pod_stays || children.pod.is_none());
    if running && *while_running == DeleteWhileRunning::Refuse {
        return Some(Deletion::Refused);
    }
    let volume = match &seen.replicator {
        ReplicatorView::NoNode | ReplicatorView::Unreachable { .. } => None,
        ReplicatorView::Reached(volume) => Some(volume.as_deref()),
    };
    if scaled || children.pod.is_some() {
        return Some(Deletion::Stop);
    }
    Some(match volume {
        None => Deletion::AskReplicator,
        Some(None) => Deletion::Done,
        Some(Some(volume)) if !volume.device.held_by.is_empty() => Deletion::Stop,
        Some(Some(volume)) => match data {
            DataOnDelete::Delete => Deletion::GiveUp { erase: true },
            DataOnDelete::Retain if volume.configured => Deletion::GiveUp { erase: false },
            DataOnDelete::Retain => Deletion::Done,
        },
    })
}

/// The plan of a deletion; `None` if the resource is not being deleted, or the deletion is refused.
/// Works without a valid spec.
#[must_use]
pub fn plan(valid: Option<&Valid>, seen: &Observed) -> Option<Plan> {
    let next = next(seen)?;
    let uid = seen.object.uid().unwrap_or_default();
    let mut plan = Plan {
        node: seen.node.as_ref().map(|node| node.name.clone()),
        objects: Objects::untouched(),
        replicas: 0,
        keys: None,
        step: None,
        judgement: None,
        blocked: Some(Blocked {
            reason: reason::DELETING,
            message: "being deleted; the other side, if there is one, has to be deleted by itself"
                .to_owned(),
        }),
        finalizer: Finalizer::Keep,
        recheck_after: Duration::from_secs(1),
    };
    match next {
        Deletion::Refused if valid.is_some() => return None,
        Deletion::Refused => plan.blocked = Some(still_running()),
        Deletion::Stop => {
            plan.objects.service = Child::Absent;
            plan.objects.stateful_set = match valid {
                Some(valid) => Child::Apply(Box::new(workload::stateful_set(valid, 0))),
                // Without a readable template there is nothing to apply; deleting stops it too.
                None => Child::Absent,
            };
        }
        Deletion::GiveUp { erase } => {
            plan.objects = absent();
            let name = if erase { "erase" } else { "forget" };
            plan.step = Some(Command {
                id: format!("{uid}/{name}"),
                step: ControlStep::Delete { erase },
            });
        }
        Deletion::AskReplicator => {
            plan.blocked = Some(Blocked {
                reason: reason::REPLICATOR_UNREACHABLE,
                message: format!(
                    "being deleted; the replicator on the node does not answer. If the node never comes back, delete its Node object, or annotate this object with {}=true and erase the data by hand",
                    labels::SKIP_DATA_CLEANUP
                ),
            });
        }
        Deletion::Done => {
            plan.objects = absent();
            plan.finalizer = Finalizer::Release;
        }
    }
    Some(plan)
}

/// What a refused deletion says.
#[must_use]
pub fn still_running() -> Blocked {
    Blocked {
        reason: reason::DELETION_BLOCKED_RUNNING,
        message: "the queue manager runs, so deleting is refused; set spec.queueManager.running: false first, or spec.deletion.whileRunning: Stop".to_owned(),
    }
}

fn absent() -> Objects {
    Objects {
        persistent_volume: Child::Absent,
        claim: Child::Absent,
        stateful_set: Child::Absent,
        service: Child::Absent,
    }
}

#[cfg(test)]
mod tests {
    use drqm_api::v1alpha1::{DataWord, Role};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::observed::{LinkState, Volume};
    use crate::testing::{now, observed, valid, volume};

    fn deleted(volume: Volume) -> Observed {
        let mut seen = observed(Role::Primary, volume);
        seen.object.metadata.deletion_timestamp = Some(Time(now()));
        seen
    }

    fn primary() -> Volume {
        volume(
            Role::Primary,
            LinkState::Connected,
            DataWord::UpToDate,
            Some(Role::Secondary),
        )
    }

    #[test]
    fn a_living_resource_is_left_alone() {
        assert_eq!(next(&observed(Role::Primary, primary())), None);
    }

    #[test]
    fn a_running_queue_manager_refuses() {
        let mut seen = deleted(primary());
        assert_eq!(next(&seen), Some(Deletion::Refused));
        // Between two pods.
        seen.children.pod = None;
        assert_eq!(next(&seen), Some(Deletion::Refused));
        let plan = crate::plan::plan(&valid(&seen), &seen, now());
        assert_eq!(plan.replicas, 1, "it goes on as if nothing had been asked");
        assert_eq!(plan.blocked, Some(still_running()));
    }

    #[test]
    fn stop_then_give_up_then_done() {
        let mut seen = deleted(primary());
        seen.object.spec.deletion.while_running = DeleteWhileRunning::Stop;
        assert_eq!(next(&seen), Some(Deletion::Stop));
        seen.children.stateful_set.as_mut().expect("set").replicas = 0;
        seen.children.pod.as_mut().expect("set").terminating = true;
        assert_eq!(next(&seen), Some(Deletion::Stop));
        seen.children.pod = None;
        let mut held = primary();
        held.device.held_by = "pid 812 (broker)".to_owned();
        seen.replicator = ReplicatorView::Reached(Some(Box::new(held)));
        assert_eq!(next(&seen), Some(Deletion::Stop), "gone is not unmounted");
        seen.replicator = ReplicatorView::Reached(Some(Box::new(primary())));
        assert_eq!(next(&seen), Some(Deletion::GiveUp { erase: false }));
        let mut kept = primary();
        kept.configured = false;
        seen.replicator = ReplicatorView::Reached(Some(Box::new(kept)));
        assert_eq!(next(&seen), Some(Deletion::Done));
        seen.object.spec.deletion.data = DataOnDelete::Delete;
        assert_eq!(next(&seen), Some(Deletion::GiveUp { erase: true }));
        seen.replicator = ReplicatorView::Reached(None);
        let plan = plan(None, &seen).expect("being deleted");
        assert_eq!(plan.finalizer, Finalizer::Release);
    }

    #[test]
    fn it_ends_without_the_node() {
        let mut seen = deleted(primary());
        seen.children = crate::observed::Children::default();
        seen.replicator = ReplicatorView::Unreachable {
            message: "no route".to_owned(),
        };
        assert_eq!(next(&seen), Some(Deletion::AskReplicator));
        let mut skipped = seen.clone();
        skipped
            .object
            .annotations_mut()
            .insert(labels::SKIP_DATA_CLEANUP.to_owned(), "true".to_owned());
        assert_eq!(next(&skipped), Some(Deletion::Done));
        seen.node.as_mut().expect("set").exists = false;
        assert_eq!(next(&seen), Some(Deletion::Done));
    }
}
