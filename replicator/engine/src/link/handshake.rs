//! The handshake: both states are exchanged, decided upon and compared, and what must be durable before
//! the peer hears of it is.
//!
//! Does not live here: the decision itself ([`crate::compare`]), what follows once the two have joined.

use super::{Join, Phase};
use crate::compare::{self, Decision, Extent, Facts};
use crate::effect::Effect;
use crate::engine::Engine;
use crate::frame::{Frame, PeerReport};
use crate::ids::Epoch;
use crate::resync::Target;
use crate::role::Role;
use crate::settings::{CHUNK_SHIFT, HANDSHAKE_LIMIT, PROGRESS_LOST};
use crate::superblock::Then;

impl Engine {
    /// The durable facts as the connect table needs them.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            volume: self.sb.volume,
            node: self.identity.node,
            size: self.identity.size,
            capacity: self.settings.capacity.max(self.identity.size),
            chunk_shift: CHUNK_SHIFT,
            mode: self.settings.mode,
            queue_manager: self.settings.queue_manager.clone(),
            role: self.sb.role,
            disk: self.sb.disk,
            lineage: self.sb.lineage.clone(),
            base_index: self.sb.base_index,
            full_dirty: self.sb.full_dirty,
            grant: self.sb.grant,
            crashed_primary: self.sb.crashed,
            dirty: self.marks.base().count(),
            dirty_after: self.marks.after_count(),
            role_epoch: self.sb.role_epoch,
            tail: self.guest.tail,
            fork: self.sb.fork,
            completion_sent: self.link_completion(),
            adopted: self.sb.adopted,
            sealed: self.sb.sealed,
            run: self.run,
            log: self.log_range(),
            position: self.replica.recorded,
            given_up_for: self.sb.given_up_for,
            in_doubt: self.sb.in_doubt,
            data: self.data(),
        }
    }

    pub(crate) fn advance_link(&mut self, out: &mut Vec<Effect>) {
        let ready = self.is_persisted()
            && !self.sb.bits_void
            && self.replica.is_settled()
            && self.change.as_ref().is_none_or(|c| c.waits_for_join());
        let now = self.now.mono;
        let Some(s) = &mut self.link.session else {
            return;
        };
        if matches!(s.phase, Phase::Preparing) && ready {
            let mine = Box::new(self.facts());
            let s = self.link.session.as_mut().expect("checked above");
            s.phase = Phase::Comparing {
                mine: mine.clone(),
                decided: None,
                sent: false,
                heard: None,
            };
            self.send(Frame::State(mine), out);
        }
        self.decide(out);
        let Some(s) = &self.link.session else { return };
        let silent = self.lost_at().is_some_and(|at| now >= at);
        let slow = !self.link.is_joined() && now >= s.opened.after(HANDSHAKE_LIMIT);
        let outstanding = self.is_outstanding();
        let stuck = outstanding && now >= s.progress.after(PROGRESS_LOST);
        if silent || slow || stuck {
            let reason = if silent {
                "heartbeat lost"
            } else {
                "no progress"
            };
            return self.close_session(reason, out);
        }
        if !outstanding {
            self.progress_heard();
        }
    }

    /// Whether the peer owes an acknowledgement or an answer.
    pub(super) fn is_outstanding(&self) -> bool {
        self.guest.is_outstanding() || self.resync_outstanding() || self.verification_outstanding()
    }

    pub(super) fn state_heard(
        &mut self,
        facts: Box<Facts>,
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        if self.link.is_joined() {
            return Err("a second state".to_owned());
        }
        self.link
            .peer_queue_manager
            .clone_from(&facts.queue_manager);
        self.link.report = Some(PeerReport {
            role: facts.role,
            data: facts.data,
            epoch: facts.lineage.first().copied().unwrap_or_default(),
            sealed: facts.sealed,
            mode: facts.mode,
        });
        if let Some(s) = &mut self.link.session {
            s.theirs = Some(facts);
        }
        self.decide(out);
        Ok(())
    }

    /// Once both states are known: decide, record what must be durable before the peer hears of it,
    /// tell the peer.
    pub(super) fn decide(&mut self, out: &mut Vec<Effect>) {
        let Some(s) = &mut self.link.session else {
            return;
        };
        let (Phase::Comparing { mine, decided, .. }, Some(theirs)) = (&mut s.phase, &s.theirs)
        else {
            return;
        };
        if decided.is_some() {
            return self.join_if_agreed(out);
        }
        let decision = compare::decide(mine, theirs);
        *decided = Some(decision);
        let head = theirs.lineage.first().copied().unwrap_or_default();
        let arrived = compare::completion_arrived(mine, theirs);
        let granted = compare::grant_used(mine, theirs);
        let (rooms, size) = ((mine.capacity, theirs.capacity), theirs.size);
        self.rooms_met(rooms.0, rooms.1);
        if !matches!(decision, Decision::Refused(_)) && size > self.identity.size {
            // It has grown, and we were not there.
            self.grow_to(size);
        }
        self.record_meeting(decision, head, arrived, granted);
        // Frozen before the peer hears that it may go on.
        if decision == Decision::Superseded {
            self.advance_writes(out);
        }
        self.persist(Then::SendDecision);
    }

    /// What the meeting itself changes durably.
    pub(super) fn record_meeting(
        &mut self,
        decision: Decision,
        head: Epoch,
        arrived: bool,
        granted: bool,
    ) {
        if let Some(grant) = self.sb.grant.take()
            && granted
            && !self.sb.lineage.contains(&grant.epoch)
        {
            self.sb.bump(grant.epoch);
            self.sb.peer_may_have_head = true;
        }
        if arrived {
            self.forget_completion();
            self.marks.completed();
            self.peer_has_everything();
        }
        // Given up is not yet resolved: until the other history is adopted, ours is not promoted, whatever the
        // other has become since. Nor does it outlive the partition that it is for.
        let is_open = matches!(
            decision,
            Decision::Target(_) | Decision::Partitioned(_) | Decision::Refused(_)
        );
        if self.sb.given_up_for.is_none() || !is_open {
            self.sb.parted_from = Epoch::NONE;
        }
        if !is_open {
            self.nothing_given_up();
        }
        match decision {
            Decision::InSync => {
                self.peer_has_everything();
                self.forget_snapshot_error();
            }
            Decision::Superseded => {
                self.sb.superseded_by = head;
                // What it held is at or below the peer's fork.
                self.guest.tail = None;
            }
            Decision::Partitioned(_) => {
                self.sb.parted_from = head;
                if self.guest.tail.take().is_some() && self.sb.peer_may_have_head {
                    // The tail is known to this process only; an epoch of its own outlives it.
                    let own = Epoch(self.draw_id());
                    self.sb.bump(own);
                    self.sb.role_epoch = own;
                }
            }
            Decision::AwaitFirstPrimary
            | Decision::Source(_)
            | Decision::Target(_)
            | Decision::Superseding
            | Decision::Refused(_) => {}
        }
    }

    /// The peer is known to hold our head and everything that belongs to it.
    pub(crate) fn peer_has_everything(&mut self) {
        self.sb.base_index = 0;
        self.sb.full_dirty = false;
        self.sb.peer_may_have_head = true;
        self.sb.crashed = false;
        self.sb.fork = None;
        if self.sb.superseded_by.is_none() {
            self.sb.crashed_tail_bytes = 0;
        }
        self.guest.tail = None;
    }

    pub(crate) fn decision_durable(&mut self, out: &mut Vec<Effect>) {
        let Some(s) = &mut self.link.session else {
            return;
        };
        if let Phase::Comparing {
            decided: Some(decision),
            sent,
            ..
        } = &mut s.phase
            && !*sent
        {
            *sent = true;
            let frame = Frame::Decision(*decision);
            self.send(frame, out);
        }
        self.join_if_agreed(out);
    }

    pub(super) fn decision_heard(&mut self, theirs: Decision) -> Result<(), String> {
        match self.link.session.as_mut().map(|s| &mut s.phase) {
            Some(Phase::Comparing { heard, .. }) if heard.is_none() => *heard = Some(theirs),
            Some(Phase::Preparing | Phase::Comparing { .. } | Phase::Joined(_)) | None => {
                return Err("a decision out of turn".to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn join_if_agreed(&mut self, out: &mut Vec<Effect>) {
        let Some(s) = &mut self.link.session else {
            return;
        };
        let Phase::Comparing {
            decided: Some(mine),
            sent: true,
            heard: Some(theirs),
            ..
        } = &s.phase
        else {
            return;
        };
        let decision = *mine;
        if *theirs != decision.mirrored() {
            let what = format!("decision differs: {decision:?} here, {theirs:?} there");
            return self.violation(&what, out);
        }
        s.progress = self.now.mono;
        let facts = s.theirs.as_deref().expect("a decision needs both states");
        let (their_head, their_run) = (
            facts.lineage.first().copied().unwrap_or_default(),
            facts.run,
        );
        let their_position = facts.position.unwrap_or_default().seq;
        // By a person's word, the history that this side made way for makes way for this side's.
        let serves_again = matches!(decision, Decision::Source(_))
            && facts.lineage.contains(&self.sb.superseded_by);
        if serves_again {
            self.sb.superseded_by = Epoch::NONE;
            self.device.want_open = true;
            self.persist(Then::Nothing);
        }
        let serves_log = matches!(decision, Decision::InSync | Decision::Source(Extent::Log));
        if !serves_log {
            self.log_becomes_bits();
        }
        let join = match decision {
            Decision::AwaitFirstPrimary => Join::Idle,
            Decision::InSync => Join::InOrder,
            Decision::Source(extent) => Join::Source(Box::new(self.begin_source(extent, out))),
            Decision::Target(extent) => Join::Target(Target::new(extent, self.now.mono)),
            Decision::Superseded
            | Decision::Superseding
            | Decision::Partitioned(_)
            | Decision::Refused(_) => Join::Blocked(decision),
        };
        let epoch = if their_head.is_none() {
            self.sb.head()
        } else {
            their_head
        };
        let replays = decision == Decision::Target(Extent::Log);
        // A Primary too: it may be demoted, and receive, within this session.
        let trusted = replays || decision == Decision::InSync && self.sb.role == Role::Secondary;
        self.replica.begin(epoch, their_run, trusted);
        if replays {
            self.replica.anchor_at_record();
        }
        self.link.set_join(join);
        match decision {
            Decision::Source(Extent::Log) => self.send_log(their_position, out),
            Decision::InSync => self.send_log(self.guest.last_seq, out),
            Decision::AwaitFirstPrimary
            | Decision::Source(_)
            | Decision::Target(_)
            | Decision::Superseded
            | Decision::Superseding
            | Decision::Partitioned(_)
            | Decision::Refused(_) => {}
        }
        self.joined(decision, out);
    }

    pub(super) fn joined(&mut self, decision: Decision, out: &mut Vec<Effect>) {
        self.link.unjoined = 0;
        self.link.down = None;
        if matches!(decision, Decision::Target(Extent::Bitmap | Extent::Full)) {
            self.send_own_bits(out);
        }
        self.meeting_ended(decision);
        self.ping(out);
        for id in std::mem::take(&mut self.link.waiting) {
            self.refresh(id, out);
        }
        self.complete_ready(out);
    }
}
