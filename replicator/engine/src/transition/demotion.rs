//! Demotion: the device is closed, the peer takes what is in flight, the end of the run is recorded.
//!
//! Does not live here: when a demotion may begin ([`super`]).

use super::{Change, Stage};
use crate::command::Refusal;
use crate::effect::Effect;
use crate::engine::{AfterFlush, Engine};
use crate::event::Holder;
use crate::ids::{CommandId, Epoch};
use crate::link::Join;
use crate::report::{Transition, TransitionKind};
use crate::role::Role;
use crate::settings::DRAIN_LIMIT;
use crate::superblock::Then;

impl Engine {
    /// Gives up role and device without a request of its own: the volume is about to be removed.
    pub(crate) fn retire(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        if self.change.is_some() {
            return out.push(Effect::Answer {
                id,
                result: Err(Refusal::Busy),
            });
        }
        if self.sb.role == Role::Secondary || self.fault.is_some() {
            return out.push(Effect::Answer { id, result: Ok(()) });
        }
        self.change = Some(Change {
            command: id,
            stage: Stage::Closing,
            request: self.sb.judged.clone(),
            started: self.now.wall,
            deadline: self.now.mono,
        });
        self.close_device(out);
    }

    /// The device is gone, or held.
    pub(crate) fn demotion_closed(&mut self, result: Result<(), Holder>, out: &mut Vec<Effect>) {
        if self.stage() != Some(Stage::Closing) {
            return;
        }
        match result {
            Ok(()) => self.set_stage(Stage::Draining { marked: false }, DRAIN_LIMIT),
            Err(Holder(who)) => self.refuse_change(Refusal::DeviceHeld(who), out),
        }
    }

    pub(crate) fn is_closing_for_demotion(&self) -> bool {
        self.stage() == Some(Stage::Closing)
    }

    pub(super) fn drain(&mut self, marked: bool, out: &mut Vec<Effect>) {
        let unsettled = !self.guest.is_settled() || self.link.awaits_adoption();
        if unsettled || self.link.is_comparing() {
            return;
        }
        if self.link.is_ahead() {
            // What it has not taken becomes dirty with the rest.
            self.close_session("the role is given up while the peer is behind", out);
        }
        if self.link.is_in_order() && !marked {
            if let Some(change) = &mut self.change {
                change.stage = Stage::Draining { marked: true };
            }
            self.send_drain_mark(out);
            return;
        }
        if !self.link.is_in_order() || self.guest.is_drained() {
            self.log_becomes_bits();
            self.set_stage(Stage::Storing, DRAIN_LIMIT);
            self.flush_data(AfterFlush::Demote, out);
        }
    }

    pub(crate) fn demotion_stored(&mut self) {
        if self.stage() == Some(Stage::Storing) {
            self.empty_activity();
        }
    }

    /// Everything of the run is on disk: record the end of it.
    pub(crate) fn demotion_emptied(&mut self) {
        if self.stage() != Some(Stage::Storing) {
            return;
        }
        self.sb.sealed = self.link.is_in_order() && self.guest.is_drained();
        // Ruling 3: a tail that the peer does not durably have must never look like its own past.
        if self.guest.tail.is_some() && self.sb.peer_may_have_head {
            let head = Epoch(self.draw_id());
            self.sb.bump(head);
            self.sb.role_epoch = head;
        }
        self.guest.tail = None;
        self.sb.role = Role::Secondary;
        self.sb.clean = true;
        self.sb.superseded_by = Epoch::NONE;
        if let Some(change) = &mut self.change {
            change.stage = Stage::RecordingSecondary;
            let kind = TransitionKind::Demotion;
            let (started, finished) = (change.started, self.now.wall);
            self.sb.transition = Some(Transition {
                kind,
                started,
                finished,
                recovery: None,
            });
            self.sb.last_command = change.command;
            self.sb.judged = change.request.take();
        }
        self.device.want_open = false;
        self.persist(Then::BecameSecondary);
    }

    pub(crate) fn became_secondary(&mut self, out: &mut Vec<Effect>) {
        if self.stage() != Some(Stage::RecordingSecondary) {
            return;
        }
        if let Some(change) = self.change.take() {
            out.push(Effect::Answer {
                id: change.command,
                result: Ok(()),
            });
        }
        let keeps = matches!(self.link.join(), Some(Join::InOrder | Join::Source(_)));
        if !keeps {
            self.compare_again("the role has changed", out);
        }
    }
}
