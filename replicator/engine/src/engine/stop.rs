//! An orderly stop: the session ends, then data, bits and an empty activity log become durable.
//!
//! Does not live here: the end of a role ([`crate::transition`]).

use super::{AfterFlush, Engine};
use crate::Effect;
use crate::ids::Epoch;
use crate::role::Role;
use crate::superblock::Then;

impl Engine {
    pub(super) fn advance_stop(&mut self, out: &mut Vec<Effect>) {
        if self.stopping && self.link.is_present() {
            self.close_session("this replicator stops", out);
        }
        if !self.stopping || self.device.stop_begun || self.link.is_present() {
            return;
        }
        // Whoever brings the device up or down asks it for data, and must get them.
        // Who waits for a peer that is away is never answered: the device goes with the process.
        let settled = (self.guest.is_settled()
            || self.is_suspended() && self.guest.is_locally_done())
            && self.replica.is_settled()
            && self.is_persisted()
            && !self.device.is_changing();
        if self.fault.is_some() {
            self.device.stop_begun = true;
            out.push(Effect::Stopped);
        } else if settled && self.change.is_none() {
            self.device.stop_begun = true;
            self.log_becomes_bits();
            self.flush_data(AfterFlush::Stop, out);
        }
    }

    pub(super) fn stop_stored(&mut self) {
        self.device.stop_emptying = true;
        self.empty_activity();
    }

    /// The empty transaction of a demotion or a stop is durable.
    pub(super) fn activity_emptied(&mut self) {
        if self.device.stop_emptying {
            self.device.stop_emptying = false;
            self.sb.clean = true;
            let tail = self.guest.tail.is_some() && self.sb.peer_may_have_head;
            if tail && self.sb.role == Role::Primary {
                let head = Epoch(self.draw_id());
                self.sb.bump(head);
                self.sb.role_epoch = head;
            }
            self.persist(Then::Stop);
        } else {
            self.demotion_emptied();
        }
    }
}
