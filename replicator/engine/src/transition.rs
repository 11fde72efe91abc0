//! Role changes: first Primary, promotion with the peer's grant or apart from it, demotion.
//!
//! One change at a time; each ends with exactly one answer to the operator. A promotion that was
//! judged to lose nothing never proceeds apart from the peer, whatever happens meanwhile.
//!
//! Does not live here: the start gate and the device ([`crate::device`]), whether a person's request
//! should be carried out at all (the operator's decision table).

mod demotion;
mod grants;

use crate::command::{Initialize, JudgedRequest, Refusal};
use crate::compare::{Decision, Disk};
use crate::effect::Effect;
use crate::engine::{AfterFlush, Engine};
use crate::frame::Frame;
use crate::ids::{CommandId, Epoch, RunId, VolumeId};
use crate::link::Join;
use crate::report::{Transition, TransitionKind};
use crate::role::Role;
use crate::settings::{DRAIN_LIMIT, GRANT_LIMIT, HANDSHAKE_LIMIT};
use crate::superblock::Then;
use crate::time::{Mono, Wall};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Promotion: the two sides are comparing their states.
    AwaitJoin,
    /// Promotion: what was received is made durable.
    Settling,
    Flushing,
    AskingGrant(Epoch),
    /// The new role is on its way to disk.
    RecordingPrimary {
        planned: Option<Epoch>,
    },
    /// Durable here; the peer is told before the device appears.
    Confirming(Epoch),
    /// Demotion: the device is removed.
    Closing,
    /// Demotion: the peer takes what is in flight.
    Draining {
        marked: bool,
    },
    /// Demotion: data, then bits, then an empty activity log.
    Storing,
    RecordingSecondary,
}

/// A role change under way.
#[derive(Clone, Hash)]
pub(crate) struct Change {
    pub(crate) command: CommandId,
    stage: Stage,
    request: Option<JudgedRequest>,
    started: Wall,
    deadline: Mono,
}

impl Change {
    /// Whether new writes wait.
    pub(crate) const fn freezes(&self) -> bool {
        matches!(
            self.stage,
            Stage::Draining { .. } | Stage::Storing | Stage::RecordingSecondary
        )
    }

    /// Whether a handshake may go on: nothing that it depends on moves in these stages.
    pub(crate) const fn waits_for_join(&self) -> bool {
        matches!(
            self.stage,
            Stage::AwaitJoin | Stage::Closing | Stage::Draining { .. }
        )
    }

    pub(crate) const fn asks_grant(&self) -> bool {
        matches!(
            self.stage,
            Stage::Settling | Stage::Flushing | Stage::AskingGrant(_)
        )
    }

    /// Whether the role is being given up: no device appears any more.
    pub(crate) const fn demotes(&self) -> bool {
        matches!(
            self.stage,
            Stage::Closing | Stage::Draining { .. } | Stage::Storing | Stage::RecordingSecondary
        )
    }

    /// Whether a new run has begun that the peer does not know of yet.
    pub(crate) const fn renumbers(&self) -> bool {
        matches!(
            self.stage,
            Stage::RecordingPrimary { planned: Some(_) } | Stage::Confirming(_)
        )
    }

    pub(crate) const fn wants_durable(&self) -> bool {
        matches!(self.stage, Stage::Settling)
    }

    const fn has_deadline(&self) -> bool {
        matches!(
            self.stage,
            Stage::AwaitJoin
                | Stage::Settling
                | Stage::AskingGrant(_)
                | Stage::Confirming(_)
                | Stage::Draining { .. }
        )
    }
}

impl Engine {
    pub(crate) fn set_role(
        &mut self,
        id: CommandId,
        role: Role,
        expected: Epoch,
        initialize: Option<Initialize>,
        request: JudgedRequest,
        out: &mut Vec<Effect>,
    ) {
        let may = self.may_begin(id, role, expected, initialize, &request);
        if !Self::has_work(id, may, out) {
            return;
        }
        self.change = Some(Change {
            command: id,
            stage: if role == Role::Primary {
                Stage::AwaitJoin
            } else {
                Stage::Closing
            },
            request: Some(request),
            started: self.now.wall,
            deadline: self.now.mono.after(HANDSHAKE_LIMIT),
        });
        match (role, initialize) {
            (Role::Primary, Some(_)) => self.record_first(),
            (Role::Primary, None) => {}
            (Role::Secondary, _) => self.close_device(out),
        }
    }

    /// `Ok(true)`: begin; `Ok(false)`: done already.
    fn may_begin(
        &self,
        id: CommandId,
        role: Role,
        expected: Epoch,
        initialize: Option<Initialize>,
        request: &JudgedRequest,
    ) -> Result<bool, Refusal> {
        if self.change.is_some() || self.stopping {
            return Err(Refusal::Busy);
        }
        let stale = |j: &JudgedRequest| j.uid == request.uid && request.generation < j.generation;
        if self.sb.judged.as_ref().is_some_and(stale) {
            return Err(Refusal::StaleRequest);
        }
        if self.sb.role == role && (role == Role::Secondary || self.sb.last_command == id) {
            return Ok(false);
        }
        if let Some(how) = initialize {
            if self.sb.disk != Disk::Empty {
                return Err(Refusal::AlreadyInitialized);
            }
            if how == Initialize::WithPeer {
                self.peer_is_empty()?;
            }
            return Ok(true);
        }
        if expected != self.sb.head() {
            return Err(Refusal::StaleEpoch {
                expected,
                current: self.sb.head(),
            });
        }
        if self.sb.role == role {
            return Ok(false);
        }
        if role == Role::Primary {
            match self.sb.disk {
                Disk::Empty => return Err(Refusal::NeverSynchronized),
                Disk::Inconsistent if self.link.is_target() => return Err(Refusal::SyncInProgress),
                Disk::Inconsistent if self.is_reverting() => return Err(Refusal::Reverting),
                Disk::Inconsistent => return Err(Refusal::NoConsistentData),
                Disk::Consistent => {}
            }
            let in_order = matches!(self.link.join(), Some(Join::InOrder));
            // A peer that never served was made from this copy, and holds nothing else.
            let peer_served = self.link.peer_has_served(&self.sb.lineage);
            if in_order && self.sb.in_doubt && !self.was_primary_last() && peer_served {
                return Err(Refusal::SyncInProgress);
            }
            if !self.sb.parted_from.is_none() {
                return Err(Refusal::SplitBrainUnresolved);
            }
        }
        Ok(true)
    }

    /// Whether this side's data are those that the application saw last.
    pub(crate) fn was_primary_last(&self) -> bool {
        self.sb.role_epoch == self.sb.head()
    }

    fn refuse_change(&mut self, refusal: Refusal, out: &mut Vec<Effect>) {
        if let Some(change) = self.change.take() {
            out.push(Effect::Answer {
                id: change.command,
                result: Err(refusal),
            });
        }
    }

    fn stage(&self) -> Option<Stage> {
        self.change.as_ref().map(|c| c.stage)
    }

    fn set_stage(&mut self, stage: Stage, limit: std::time::Duration) {
        let deadline = self.now.mono.after(limit);
        if let Some(change) = &mut self.change {
            change.stage = stage;
            change.deadline = deadline;
        }
    }

    /// Takes every step that has become possible, or gives up. One step often makes the next possible at
    /// once; nothing else would come by to take it.
    pub(crate) fn advance_change(&mut self, out: &mut Vec<Effect>) {
        loop {
            let before = self.stage();
            self.take_step(out);
            if self.stage().is_none() || self.stage() == before {
                return;
            }
        }
    }

    fn take_step(&mut self, out: &mut Vec<Effect>) {
        let Some(change) = &self.change else { return };
        if change.has_deadline() && self.now.mono >= change.deadline {
            return self.change_timed_out(out);
        }
        match change.stage {
            Stage::AwaitJoin if !self.link.is_comparing() => match self.may_promote() {
                Ok(()) => self.set_stage(Stage::Settling, GRANT_LIMIT),
                Err(refusal) => self.refuse_change(refusal, out),
            },
            // E2: no grant between a completion and its adoption.
            Stage::Settling if self.replica.is_settled() && !self.link.awaits_adoption() => {
                self.set_stage(Stage::Flushing, GRANT_LIMIT);
                self.flush_data(AfterFlush::Promote, out);
            }
            Stage::Draining { marked } => self.drain(marked, out),
            Stage::AwaitJoin
            | Stage::Settling
            | Stage::Flushing
            | Stage::AskingGrant(_)
            | Stage::RecordingPrimary { .. }
            | Stage::Confirming(_)
            | Stage::Closing
            | Stage::Storing
            | Stage::RecordingSecondary => {}
        }
    }

    fn change_timed_out(&mut self, out: &mut Vec<Effect>) {
        match self.stage() {
            Some(Stage::AskingGrant(epoch)) => {
                self.send(Frame::PromoteCancel { epoch }, out);
                self.refuse_change(
                    Refusal::TimedOut("the peer did not answer the request"),
                    out,
                );
            }
            Some(Stage::AwaitJoin) => {
                self.refuse_change(Refusal::TimedOut("the peer's state is not known yet"), out);
            }
            // The role is durable here; the peer learns it at the next handshake.
            Some(Stage::Confirming(_)) => self.compare_again("a promotion was not confirmed", out),
            Some(Stage::Settling) => {
                self.refuse_change(
                    Refusal::TimedOut("what was received is not durable yet"),
                    out,
                );
            }
            // What it did not take becomes dirty.
            Some(stage @ Stage::Draining { marked }) => {
                self.close_session("the peer does not drain", out);
                self.set_stage(stage, DRAIN_LIMIT);
                self.drain(marked, out);
            }
            Some(
                Stage::Flushing
                | Stage::RecordingPrimary { .. }
                | Stage::Closing
                | Stage::Storing
                | Stage::RecordingSecondary,
            )
            | None => {}
        }
    }

    pub(crate) fn change_wakeup(&self) -> Option<Mono> {
        self.change
            .as_ref()
            .filter(|c| c.has_deadline())
            .map(|c| c.deadline)
    }

    // === promotion ===

    /// Whether the peer's state allows a promotion now; apart, whether the request does.
    fn may_promote(&self) -> Result<(), Refusal> {
        let primary = self.link.peer_role() == Some(Role::Primary);
        match self.link.join() {
            Some(Join::InOrder | Join::Source(_) | Join::Behind) if primary => {
                Err(Refusal::PeerIsPrimary)
            }
            Some(Join::InOrder | Join::Source(_)) => Ok(()),
            Some(Join::Target(_) | Join::Behind | Join::Ahead) => Err(Refusal::SyncInProgress),
            Some(Join::Idle) => Err(Refusal::NeverSynchronized),
            Some(Join::Blocked(Decision::Partitioned(_))) => Err(Refusal::SplitBrainUnresolved),
            Some(Join::Blocked(_)) if primary => Err(Refusal::PeerIsPrimary),
            Some(Join::Blocked(_)) | None => self.may_go_alone(),
        }
    }

    fn may_go_alone(&self) -> Result<(), Refusal> {
        let request = self.change.as_ref().and_then(|c| c.request.as_ref());
        let lossless = request.is_some_and(|r| r.max_loss == "None");
        if lossless && self.settings.has_peer {
            Err(Refusal::PeerUnknown)
        } else {
            Ok(())
        }
    }

    fn is_linked_promotion(&self) -> bool {
        matches!(self.link.join(), Some(Join::InOrder | Join::Source(_)))
    }

    pub(crate) fn promotion_flushed(&mut self, out: &mut Vec<Effect>) {
        if self.stage() != Some(Stage::Flushing) {
            return;
        }
        // The link may have come or gone during the flush.
        if self.link.is_comparing() {
            return self.set_stage(Stage::AwaitJoin, HANDSHAKE_LIMIT);
        }
        if let Err(refusal) = self.may_promote() {
            return self.refuse_change(refusal, out);
        }
        let epoch = Epoch(self.draw_id());
        if self.is_linked_promotion() {
            self.set_stage(Stage::AskingGrant(epoch), GRANT_LIMIT);
            self.send(Frame::PromoteRequest { epoch }, out);
        } else {
            self.record_alone(epoch);
        }
    }

    fn record_first(&mut self) {
        let volume = VolumeId(self.draw_id());
        self.name_volume(volume);
        self.sb.disk = Disk::Consistent;
        self.sb.lineage.clear();
        let epoch = Epoch(self.draw_id());
        self.sb.lineage.push(epoch);
        self.sb.base_index = 0;
        self.sb.full_dirty = true;
        self.sb.peer_may_have_head = false;
        self.record_primary(TransitionKind::Creation, None);
    }

    fn record_alone(&mut self, epoch: Epoch) {
        if let Some(grant) = self.sb.grant.take() {
            self.sb.bump(grant.epoch);
        }
        if self.sb.fork.is_none() {
            self.sb.fork = Some(
                self.replica
                    .recovery
                    .map_or_else(Default::default, |r| r.position),
            );
        }
        self.sb.bump(epoch);
        self.record_primary(TransitionKind::Unplanned, None);
    }

    fn record_primary(&mut self, kind: TransitionKind, planned: Option<Epoch>) {
        if !self.link.is_source() {
            self.run = RunId(self.draw_id());
            self.guest.new_run();
        }
        let Some(change) = &mut self.change else {
            return;
        };
        let recovery = (kind == TransitionKind::Unplanned)
            .then_some(self.replica.recovery)
            .flatten();
        self.sb.transition = Some(Transition {
            kind,
            started: change.started,
            finished: self.now.wall,
            recovery,
        });
        self.sb.last_command = change.command;
        self.sb.judged = change.request.take();
        change.stage = Stage::RecordingPrimary { planned };
        self.sb.role = Role::Primary;
        self.sb.role_epoch = self.sb.head();
        self.sb.run = self.run;
        self.sb.clean = false;
        self.sb.sealed = false;
        self.nothing_given_up();
        self.forget_snapshot_error();
        self.persist(Then::BecamePrimary);
    }

    /// The new role is durable.
    pub(crate) fn became_primary(&mut self, out: &mut Vec<Effect>) {
        let Some(Stage::RecordingPrimary { planned }) = self.stage() else {
            return;
        };
        if let (Some(epoch), Some(Join::InOrder)) = (planned, self.link.join()) {
            self.set_stage(Stage::Confirming(epoch), GRANT_LIMIT);
            let run = self.run;
            return self.send(Frame::PromoteConfirm { epoch, run }, out);
        }
        self.promotion_done(out);
        if planned.is_none() {
            // Whoever connects now must compare with the new head.
            self.compare_again("the role has changed", out);
        }
    }

    fn promotion_done(&mut self, out: &mut Vec<Effect>) {
        if let Some(change) = self.change.take() {
            out.push(Effect::Answer {
                id: change.command,
                result: Ok(()),
            });
        }
        self.device.want_open = true;
    }

    /// The session ended under a change.
    pub(crate) fn change_lost_session(&mut self, out: &mut Vec<Effect>) {
        match self.stage() {
            Some(Stage::AskingGrant(_)) => {
                self.refuse_change(
                    Refusal::TimedOut("the link was lost during the request"),
                    out,
                );
            }
            Some(Stage::Confirming(_)) => self.promotion_done(out),
            // Apart now: what the request allows decides.
            Some(
                Stage::AwaitJoin
                | Stage::Settling
                | Stage::Flushing
                | Stage::RecordingPrimary { .. }
                | Stage::Closing
                | Stage::Draining { .. }
                | Stage::Storing
                | Stage::RecordingSecondary,
            )
            | None => {}
        }
    }
}
