//! What to do in this pass: desired objects, at most one command, when to look again.
//!
//! Lives here: the composition. Does not live here: when a role change is safe (`role`, `request`,
//! `creation`), what objects look like (`desired`), I/O, a clock.

mod obstacle;

use std::time::Duration;

use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DataWord, DrStatusWord, MaxLoss, PartitionResolution, Role, VerdictWord};
use jiff::Timestamp;

use crate::deletion;
use crate::desired::{self, Objects};
use crate::observed::{Gate, Judged, LinkState, Look, Observed, ReplicatorView, Volume};
use crate::outcome::RESYNC;
use crate::plan::obstacle::{Configured, configuration, key_work, obstacle};
use crate::request::{Act, Decision, act_id, command_id, judge};
use crate::role::explain::{Names, explain};
use crate::validate::Valid;

/// What to do in this pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The node that holds the data; to be recorded in status when it was chosen in this pass.
    pub node: Option<String>,
    /// Child objects, to be applied before the command.
    pub objects: Objects,
    /// `spec.replicas` of the StatefulSet in `objects`.
    pub replicas: i32,
    /// Work on the pair's Secret, to be done before the command.
    pub keys: Option<KeyWork>,
    /// At most one command for the replicator.
    pub step: Option<Command>,
    /// How the role request was judged. `None`: nothing to judge yet.
    pub judgement: Option<Judgement>,
    /// What keeps the pass from going on, and what to do about it.
    pub blocked: Option<Blocked>,
    /// Whether the finalizer may go.
    pub finalizer: Finalizer,
    /// When to look again at the latest.
    pub recheck_after: Duration,
}

/// A command with the id under which the replicator remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Derived from uid, generation, requestId, step and epoch: the same request is the same command.
    pub id: String,
    /// What to do.
    pub step: ControlStep,
}

/// One command for the replicator.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlStep {
    /// Send volume, peer, keys and policies (all from spec and Secret).
    Configure,
    /// First Primary of a pair: SetRole Primary with `initialize`.
    Initialize {
        /// Without the peer's word.
        without_peer: bool,
        /// The request, stored with the role.
        request: Judged,
    },
    /// SetRole Primary.
    Promote {
        /// The epoch the decision was made on.
        expected_epoch: String,
        /// The request, stored with the role.
        request: Judged,
    },
    /// Take an inconsistent copy back to its snapshot; the promotion follows.
    Revert {
        /// The epoch the decision was made on.
        expected_epoch: String,
    },
    /// End a partition as far as this side is concerned.
    Resolve {
        /// The epoch the decision was made on.
        expected_epoch: String,
        /// Whose data stay.
        keep: PartitionResolution,
    },
    /// SetRole Secondary.
    Demote {
        /// The epoch the decision was made on.
        expected_epoch: String,
        /// The request, stored with the role.
        request: Judged,
    },
    /// Store how a request was judged.
    RecordVerdict {
        /// The request.
        request: Judged,
    },
    /// Replace a dead device.
    HealDevice,
    /// DeleteVolume.
    Delete {
        /// Erase the data.
        erase: bool,
    },
}

/// Work on the pair's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWork {
    /// Make a CA, a pair id and this side's certificate, as a new Secret.
    MakePair,
    /// Issue this side's certificate from the CA in the Secret (missing, expiring, wrong node).
    IssueLeaf,
}

/// Whether the finalizer may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizer {
    /// Not being deleted, or not done yet.
    Keep,
    /// Nothing is left to clean up.
    Release,
}

/// How a role request was judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The role asked for.
    pub desired: Role,
    /// The verdict.
    pub verdict: VerdictWord,
    /// Why, as one word of `drqm_api::conditions::reason`.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// State of the pair now.
    pub dr_status: DrStatusWord,
    /// The loss it may bring.
    pub max_loss: MaxLoss,
    /// When the request was first judged.
    pub since: Timestamp,
    /// metadata.generation of the request.
    pub generation: i64,
    /// The verdict is already stored with the data.
    pub latched: bool,
}

/// What keeps a pass from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// One word of `drqm_api::conditions::reason`.
    pub reason: &'static str,
    /// What it is and what to do.
    pub message: String,
}

/// Composes the plan. Cannot fail: what stands in the way is part of the plan.
#[must_use]
pub fn plan(valid: &Valid, seen: &Observed, now: Timestamp) -> Plan {
    if let Some(plan) = deletion::plan(Some(valid), seen) {
        return plan;
    }
    let mut plan = living(valid, seen, now);
    if seen.object.metadata.deletion_timestamp.is_some() {
        plan.blocked = Some(deletion::still_running());
        plan.recheck_after = plan.recheck_after.min(IN_MOTION);
    }
    plan
}

/// How soon to look again while something is expected to happen any moment; the replicator and the
/// children trigger passes too.
const IN_MOTION: Duration = Duration::from_secs(1);
/// How soon to look again while a person or another program has to do something.
const WAITING: Duration = Duration::from_secs(5);
/// How soon to look again while figures move.
const FIGURES_MOVE: Duration = Duration::from_secs(10);
/// How soon to look again at a Secret that somebody else keeps: it is not watched, since that would take
/// the right to list every Secret.
const FOREIGN_KEYS: Duration = Duration::from_secs(30);
/// The world is different now.
const AT_ONCE: Duration = Duration::from_millis(20);

fn living(valid: &Valid, seen: &Observed, now: Timestamp) -> Plan {
    let Some(node) = &seen.node else {
        return without_node(seen);
    };
    let stands_in_the_way = obstacle(valid, seen);
    let keys = key_work(valid, seen);
    let configured = configuration(valid, seen, stands_in_the_way.as_ref(), keys);
    let mut plan = Plan {
        node: Some(node.name.clone()),
        objects: Objects::untouched(),
        replicas: 0,
        keys,
        step: None,
        judgement: None,
        blocked: stands_in_the_way,
        finalizer: Finalizer::Keep,
        recheck_after: RESYNC,
    };
    let mut stopping = Stopping::No;
    match (&seen.replicator, configured) {
        (ReplicatorView::NoNode | ReplicatorView::Unreachable { .. }, _) => {
            plan.recheck_after = IN_MOTION;
        }
        (ReplicatorView::Reached(_), Configured::DataMissing) => {
            plan.blocked = Some(blocked(reason::DATA_MISSING, valid));
            plan.recheck_after = WAITING;
        }
        (ReplicatorView::Reached(_), Configured::To) => {
            plan.step = Some(plain(valid, "configure", ControlStep::Configure));
            plan.recheck_after = AT_ONCE;
        }
        (ReplicatorView::Reached(None), _) => plan.recheck_after = WAITING,
        (ReplicatorView::Reached(Some(volume)), Configured::Yes | Configured::Cannot) => {
            stopping = drive(valid, seen, volume, &mut plan, now);
        }
    }
    // Judged also in the pass that configures, so that status never forgets the verdict and the
    // queue manager of a demotion under way stays stopped.
    if plan.judgement.is_none()
        && let Some(volume) = seen.replicator.volume()
        && volume.configured
    {
        let decision = judge(valid, volume, seen.refused.as_ref(), now);
        stopping = stopping.or(decision.act);
        plan.judgement = Some(decision.judgement);
    }
    plan.replicas = replicas(valid, seen, stopping);
    if seen.children.foreign.is_none() {
        plan.objects = desired::objects(valid, node, plan.replicas);
    }
    if plan.keys.is_some() || plan.blocked.is_some() {
        plan.recheck_after = plan.recheck_after.min(WAITING);
    }
    plan
}

fn without_node(seen: &Observed) -> Plan {
    let chosen = seen
        .candidates
        .iter()
        .filter(|node| node.ready && node.replicator_ready)
        .min_by_key(|node| (node.volumes, &node.name))
        .map(|node| node.name.clone());
    Plan {
        objects: Objects::untouched(),
        replicas: 0,
        keys: None,
        step: None,
        judgement: None,
        blocked: chosen.is_none().then(|| Blocked {
            reason: reason::NO_NODE,
            message: seen.no_node.clone().unwrap_or_else(|| {
                "no ready node runs a ready replicator; see the DaemonSet drqm-replicator and its nodeSelector".to_owned()
            }),
        }),
        finalizer: Finalizer::Keep,
        recheck_after: if chosen.is_some() { AT_ONCE } else { WAITING },
        node: chosen,
    }
}

/// Whether a stop of the queue manager is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Yes,
}

impl Stopping {
    fn or(self, act: Option<Act>) -> Self {
        match act {
            Some(Act::Demote) => Self::Yes,
            Some(Act::Initialize { .. } | Act::Promote) | None => self,
        }
    }
}

/// Fills in judgement, step and recheck time for a volume that is there.
fn drive(
    valid: &Valid,
    seen: &Observed,
    volume: &Volume,
    plan: &mut Plan,
    now: Timestamp,
) -> Stopping {
    let decision = judge(valid, volume, seen.refused.as_ref(), now);
    let stopping = Stopping::No.or(decision.act);
    plan.step = if volume.device.gate == Gate::Dead {
        // Before anything else: what is mounted on a dead device hangs until it is replaced.
        Some(plain(valid, "heal", ControlStep::HealDevice))
    } else {
        next_step(seen, volume, &decision).or_else(|| partition_step(valid, volume))
    };
    plan.recheck_after = recheck(seen, volume, &decision, plan.step.as_ref());
    if let (Some(Act::Demote), None) = (decision.act, &plan.step) {
        plan.blocked.get_or_insert_with(|| {
            let why = if seen.children.pod.is_some() {
                reason::STOPPING_QUEUE_MANAGER
            } else {
                reason::DEVICE_HELD
            };
            blocked(why, valid)
        });
    }
    plan.judgement = Some(decision.judgement);
    stopping
}

/// Every verdict is stored before it is carried out: what was judged while the pair was linked must
/// not become a lossy promotion because the link went before the command.
fn next_step(seen: &Observed, volume: &Volume, decision: &Decision) -> Option<Command> {
    let request = decision.judged.clone();
    let epoch = volume.epoch.clone();
    let step = match decision.act {
        Some(Act::Initialize { without_peer }) => ControlStep::Initialize {
            without_peer,
            request,
        },
        Some(_) | None if decision.record => {
            let id = command_id(&request, "record", &request.reason);
            return Some(Command {
                id,
                step: ControlStep::RecordVerdict { request },
            });
        }
        // It is told when that has ended.
        Some(Act::Promote) if volume.is_reverting() => return None,
        Some(Act::Promote) if volume.data == DataWord::InconsistentSnap => ControlStep::Revert {
            expected_epoch: epoch,
        },
        Some(Act::Promote) => ControlStep::Promote {
            expected_epoch: epoch,
            request,
        },
        Some(Act::Demote) if stopped(seen, volume) => ControlStep::Demote {
            expected_epoch: epoch,
            request,
        },
        Some(Act::Demote) | None => return None,
    };
    let act = decision.act?;
    Some(Command {
        id: act_id(act, &decision.judged, volume),
        step,
    })
}

/// What a person has decided after a partition, as far as this side has to be told.
fn partition_step(valid: &Valid, volume: &Volume) -> Option<Command> {
    let decided = valid.partition.as_ref()?;
    if volume.data != DataWord::Diverged || decided.epoch != volume.epoch {
        return None;
    }
    let keep = decided.resolution;
    let due = match keep {
        PartitionResolution::KeepRemote => volume.role == Role::Secondary && !volume.given_up,
        // While linked the other side has to give way, and there is nothing to do here.
        PartitionResolution::KeepLocal => {
            volume.given_up
                || volume.role == Role::Secondary && volume.link.state == LinkState::Down
        }
    };
    let expected_epoch = volume.epoch.clone();
    let step = ControlStep::Resolve {
        expected_epoch,
        keep,
    };
    due.then(|| plain(valid, "resolve", step))
}

/// The pod is gone, and nobody holds the device: a pod that is gone may still be mounted.
fn stopped(seen: &Observed, volume: &Volume) -> bool {
    seen.children.pod.is_none() && volume.device.held_by.is_empty()
}

fn recheck(
    seen: &Observed,
    volume: &Volume,
    decision: &Decision,
    step: Option<&Command>,
) -> Duration {
    let starting = seen
        .children
        .pod
        .as_ref()
        .is_some_and(|pod| !pod.ready || pod.terminating);
    let opening = match volume.device.gate {
        Gate::WaitingForPeer | Gate::Opening | Gate::Dead => true,
        Gate::Closed | Gate::Held | Gate::Superseded | Gate::Open | Gate::Failed => false,
    };
    let creating =
        volume.data == DataWord::Empty && decision.judgement.verdict == VerdictWord::Wait;
    let asking = decision.judgement.reason == reason::ASKING_PEER || creating;
    if step.is_some() || decision.act.is_some() || opening || starting || asking {
        IN_MOTION
    } else if decision.judgement.verdict == VerdictWord::Wait {
        WAITING
    } else if figures_move(volume) {
        FIGURES_MOVE
    } else if seen.object.spec.replication.tls.is_some() {
        FOREIGN_KEYS
    } else {
        RESYNC
    }
}

/// Figures move during a synchronization, and on a Primary that is apart from its peer.
#[must_use]
pub fn figures_move(volume: &Volume) -> bool {
    let apart = match volume.link.state {
        LinkState::Connected | LinkState::Unconfigured => false,
        LinkState::Connecting
        | LinkState::Down
        | LinkState::AuthFailed
        | LinkState::ProtocolMismatch
        | LinkState::Refused => true,
    };
    volume.sync.is_some() || volume.is_reverting() || (apart && volume.role == Role::Primary)
}

/// 1 only for an open device, a queue manager that shall run, and no stop under way.
fn replicas(valid: &Valid, seen: &Observed, stopping: Stopping) -> i32 {
    let now = seen
        .children
        .stateful_set
        .map_or(0, |set| set.replicas.min(1));
    let pod = seen.children.pod.as_ref();
    let volume = match &seen.replicator {
        // It is left as it is; but a pod that is not ready right after a start would be given a
        // device nobody vouches for.
        ReplicatorView::Unreachable { .. } => {
            let vouched = seen.look == Look::Later || pod.is_some_and(|pod| pod.ready);
            return if vouched { now } else { 0 };
        }
        ReplicatorView::NoNode | ReplicatorView::Reached(None) => return 0,
        ReplicatorView::Reached(Some(volume)) => volume,
    };
    let may_run = volume.role == Role::Primary
        && volume.device.gate == Gate::Open
        && valid.running
        && stopping == Stopping::No;
    // A failed mount is retried by kubelet in ever longer intervals; a round trip to 0 starts anew.
    let stuck = pod
        .and_then(|pod| pod.failing.as_ref())
        .is_some_and(|failing| failing.reason == FAILED_MOUNT);
    // From 0 to 1 only when the last pod is gone: it may hold a mount of a dead device.
    let round_trip = now == 0 && pod.is_some();
    i32::from(may_run && !stuck && !round_trip)
}

/// Reason that a pod fails with when kubelet cannot mount its volume.
const FAILED_MOUNT: &str = "FailedMount";

fn blocked(reason: &'static str, valid: &Valid) -> Blocked {
    let peer = valid.peer.as_ref().map(|peer| peer.name.as_str());
    Blocked {
        reason,
        message: explain(
            reason,
            Names {
                peer,
                verdict: VerdictWord::Hold,
            },
        ),
    }
}

fn plain(valid: &Valid, name: &str, step: ControlStep) -> Command {
    Command {
        id: format!("{}/{}/{name}", valid.uid, valid.generation),
        step,
    }
}

#[cfg(test)]
mod tests;
