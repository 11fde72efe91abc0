//! Facts to status: what changed that a person or a program can see.
//!
//! Lives here: the composition, the comparison without times, live figures in steps. The parts are in
//! `figures` (the volume in the API's words), `conditions` and `events`. Does not live here: patching.
//!
//! Invariants
//! - Two passes on the same input give the same status; the second one writes nothing.
//! - Live figures alone cause a write only in steps of 5 % or 10 s, and never while nothing moves.

pub mod conditions;
pub mod events;
pub mod figures;

use std::time::Duration;

use drqm_api::conditions::reason;
use drqm_api::live::LiveState;
use drqm_api::v1alpha1::{
    DrQueueManager, DrQueueManagerStatus, EffectiveRole, Phase, QueueManagerState,
    QueueManagerStatusWord, RequestState, Role, VerdictWord,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::{Gate, Observed, PodFacts, ReplicatorView, Volume};
use crate::outcome::Outcome;
use crate::plan::{Judgement, Plan, figures_move};

pub use events::EventFact;

/// What is to be published after a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The status; `None`: nothing visible changed.
    pub status: Option<DrQueueManagerStatus>,
    /// Events, for transitions and refusals.
    pub events: Vec<EventFact>,
}

/// What is to be published after a pass.
#[must_use]
pub fn next(seen: &Observed, outcome: &Outcome, now: Timestamp) -> Publication {
    let old = seen.object.status.clone();
    let exact = status(seen, outcome, now);
    let Some(old) = old else {
        let before = DrQueueManagerStatus::default();
        let events = events::events(&before, &exact);
        return Publication {
            status: Some(exact),
            events,
        };
    };
    if old == exact {
        return Publication {
            status: None,
            events: Vec::new(),
        };
    }
    let without_figures = figures::with_live_figures_of(&exact, &old);
    let only_figures = without_figures == old;
    if only_figures && !worth_a_write(&old, &exact, seen) {
        return Publication {
            status: None,
            events: Vec::new(),
        };
    }
    let events = events::events(&old, &exact);
    Publication {
        status: Some(exact),
        events,
    }
}

/// How often figures that move are written.
const FIGURES_EVERY: Duration = Duration::from_secs(10);

fn worth_a_write(old: &DrQueueManagerStatus, new: &DrQueueManagerStatus, seen: &Observed) -> bool {
    let moving = seen.replicator.volume().is_some_and(figures_move);
    let due = moving && seen.status_age.is_none_or(|age| age >= FIGURES_EVERY);
    due || figures::moved_a_step(old, new)
}

/// The exact state, for `/live`. `age` is the age of the replicator's report.
#[must_use]
pub fn live(object: &DrQueueManager, volume: &Volume, age: Duration, now: Timestamp) -> LiveState {
    figures::live(object, volume, age, now)
}

struct Facts<'a> {
    seen: &'a Observed,
    outcome: &'a Outcome,
    volume: Option<&'a Volume>,
    plan: Option<&'a Plan>,
    old: Option<&'a DrQueueManagerStatus>,
    now: Timestamp,
}

impl Facts<'_> {
    fn judgement(&self) -> Option<&Judgement> {
        self.plan.and_then(|plan| plan.judgement.as_ref())
    }

    /// Why nothing is known of the volume.
    fn silence(&self) -> &'static str {
        match &self.seen.replicator {
            ReplicatorView::NoNode => "no node is chosen yet",
            ReplicatorView::Unreachable { .. } => "the replicator does not answer",
            ReplicatorView::Reached(_) => "the volume does not exist yet",
        }
    }

    fn pod(&self) -> Option<&PodFacts> {
        self.seen.children.pod.as_ref()
    }

    fn replicas(&self) -> i32 {
        match self.plan {
            Some(plan) => plan.replicas,
            None => self
                .seen
                .children
                .stateful_set
                .map_or(0, |set| set.replicas),
        }
    }

    fn serves(&self) -> bool {
        self.replicas() == 1 && self.pod().is_some_and(|pod| pod.ready && !pod.terminating)
    }

    fn is_stopped_on_purpose(&self) -> bool {
        !self.seen.object.spec.queue_manager.running && self.pod().is_none()
    }

    fn peer_name(&self) -> &str {
        let peer = self.seen.object.spec.replication.peer.as_ref();
        peer.map_or("the peer", |peer| peer.name.as_str())
    }
}

fn status(seen: &Observed, outcome: &Outcome, now: Timestamp) -> DrQueueManagerStatus {
    let plan = match outcome {
        Outcome::Rejected(_) => None,
        Outcome::Planned { plan, .. } => Some(plan.as_ref()),
    };
    let volume = seen.replicator.volume();
    let old = seen.object.status.as_ref();
    let facts = Facts {
        seen,
        outcome,
        volume,
        plan,
        old,
        now,
    };
    let kept = old.cloned().unwrap_or_default();
    let spec = &seen.object.spec;
    let mut status = DrQueueManagerStatus {
        observed_generation: seen.object.metadata.generation,
        role: role(&facts),
        phase: phase(&facts),
        serving: facts.serves(),
        node: plan
            .and_then(|plan| plan.node.clone())
            .or_else(|| seen.node.as_ref().map(|node| node.name.clone()))
            .or(kept.node),
        queue_manager: queue_manager(&facts),
        file_system: volume.and_then(figures::file_system),
        dr: figures::dr(&seen.object, seen.node.as_ref(), volume),
        recovery_point: match volume {
            Some(volume) => figures::shown_recovery_point(volume),
            None => kept.recovery_point,
        },
        snapshot: match volume {
            Some(volume) => figures::snapshot(volume),
            None => kept.snapshot,
        },
        verification: volume.and_then(figures::verification).or(kept.verification),
        // Kept when the volume is not seen: it is the proof that there once was data.
        epoch: volume.and_then(figures::epoch).or(kept.epoch),
        peer: match volume {
            Some(volume) => figures::peer(&seen.object, volume),
            None => kept.peer.map(|peer| drqm_api::v1alpha1::PeerState {
                reachable: false,
                ..peer
            }),
        },
        request: facts
            .judgement()
            .map(|found| request(&seen.object, found))
            .or(kept.request),
        last_transition: volume
            .and_then(figures::transition)
            .or(kept.last_transition),
        volume: volume.map(figures::volume).or(kept.volume),
        pair_secret: (spec.replication.peer.is_some() || spec.role == Role::Primary)
            .then(|| drqm_api::peer_manifest::secret_name(&seen.object)),
        conditions: Vec::new(),
    };
    status.conditions = conditions::conditions(&facts);
    status
}

fn role(facts: &Facts<'_>) -> EffectiveRole {
    facts
        .volume
        .filter(|volume| volume.configured)
        .map_or(EffectiveRole::Unknown, |volume| volume.role.into())
}

fn request(object: &DrQueueManager, judgement: &Judgement) -> RequestState {
    RequestState {
        generation: judgement.generation,
        request_id: object.spec.promotion.request_id.clone(),
        desired: judgement.desired,
        verdict: judgement.verdict,
        reason: judgement.reason.clone(),
        message: judgement.message.clone(),
        since: Some(Time(whole_seconds(judgement.since))),
        max_loss: judgement.max_loss,
        latched: judgement.latched,
    }
}

/// Times are written without fractions, as Kubernetes does.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn phase(facts: &Facts<'_>) -> Phase {
    if facts.seen.object.metadata.deletion_timestamp.is_some() {
        return Phase::Deleting;
    }
    if facts.plan.is_none() {
        return Phase::Failed;
    }
    if let Some(judgement) = facts.judgement() {
        let change = match judgement.desired {
            _ if judgement.reason == reason::CREATION => Phase::Initializing,
            Role::Primary => Phase::Promoting,
            Role::Secondary => Phase::Demoting,
        };
        let empty = facts.volume.is_some_and(|volume| volume.epoch.is_empty());
        match judgement.verdict {
            VerdictWord::Proceed => return change,
            VerdictWord::Wait if empty => return Phase::Pending,
            VerdictWord::Wait => return change,
            VerdictWord::Hold if judgement.reason != reason::STALE_ROLE_REQUEST => {
                return Phase::Failed;
            }
            VerdictWord::Hold | VerdictWord::Refuse | VerdictWord::Steady => {}
        }
    }
    phase_of_volume(facts)
}

fn phase_of_volume(facts: &Facts<'_>) -> Phase {
    let Some(volume) = facts.volume.filter(|volume| volume.configured) else {
        return match &facts.seen.replicator {
            ReplicatorView::Reached(_) if facts.plan.is_some_and(|plan| plan.step.is_some()) => {
                Phase::Creating
            }
            ReplicatorView::Reached(_)
            | ReplicatorView::NoNode
            | ReplicatorView::Unreachable { .. } => Phase::Pending,
        };
    };
    match (volume.role, volume.device.gate) {
        (_, Gate::Failed) => Phase::Failed,
        (Role::Secondary, _) => Phase::Ready,
        (Role::Primary, Gate::Open) if facts.serves() || facts.is_stopped_on_purpose() => {
            Phase::Ready
        }
        (Role::Primary, _) => Phase::Pending,
    }
}

fn queue_manager(facts: &Facts<'_>) -> QueueManagerState {
    let pod = facts.pod();
    QueueManagerState {
        status: queue_manager_word(facts),
        pod: pod.map(|pod| pod.name.clone()),
        started_at: pod
            .filter(|pod| pod.ready && !pod.terminating)
            .and_then(|pod| pod.ready_since)
            .map(|time| Time(whole_seconds(time))),
        cpu: facts
            .volume
            .filter(|_| pod.is_some())
            .and_then(figures::cpu),
        memory_bytes: facts
            .volume
            .filter(|_| pod.is_some())
            .and_then(figures::memory),
    }
}

fn queue_manager_word(facts: &Facts<'_>) -> QueueManagerStatusWord {
    use QueueManagerStatusWord as Word;
    if let Some(pod) = facts.pod() {
        let crashing = pod
            .failing
            .as_ref()
            .is_some_and(|failing| failing.reason == "CrashLoopBackOff");
        return match (pod.terminating, pod.ready, crashing) {
            (true, _, _) => Word::Quiescing,
            (false, true, _) => Word::Running,
            (false, false, true) => Word::EndedUnexpectedly,
            (false, false, false) => Word::Starting,
        };
    }
    let volume = match &facts.seen.replicator {
        ReplicatorView::NoNode | ReplicatorView::Reached(None) => return Word::NotCreated,
        ReplicatorView::Unreachable { .. } => return Word::StatusNotAvailable,
        ReplicatorView::Reached(Some(volume)) => volume,
    };
    match volume.role {
        Role::Secondary => Word::EndedImmediately,
        Role::Primary if facts.replicas() == 1 => Word::Starting,
        Role::Primary if !facts.seen.object.spec.queue_manager.running => Word::EndedNormally,
        Role::Primary => Word::EndedImmediately,
    }
}

#[cfg(test)]
mod tests;
