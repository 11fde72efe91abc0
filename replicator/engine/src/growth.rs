//! Growing the volume: the Secondary first, so that nothing is ever written that it has no room for.
//!
//! ```text
//!  primary                                       secondary
//!            ◄── Capacity ──── both ─────────────►
//!  the smaller of the two is larger than the volume:
//!            ─── Grow{size} ────────────────────►  durable
//!            ◄── Grown{size} ────────────────────
//!  durable, then the device grows
//! ```
//! A crash in between leaves the Secondary the larger one; the smaller side follows when they meet, before
//! anything else. While the peer is away the size stays what both have agreed on. What is new reads as zeros on
//! both sides; whoever provides the room sees to that.
//!
//! Does not live here: room on the disk (the shell's), whether two sizes fit ([`crate::compare`]).

use crate::compare::{self, Decision, Mismatch};
use crate::effect::Effect;
use crate::engine::Engine;
use crate::frame::Frame;
use crate::ids::SessionId;
use crate::link::Join;
use crate::role::Role;
use crate::settings::HASHED_BLOCK;
use crate::superblock::Then;

/// What the two sides know of each other's room, in one session.
#[derive(Clone, Hash, Default)]
pub(crate) struct Rooms {
    /// The peer's.
    pub(crate) theirs: u64,
    /// What it was told of ours.
    told: u64,
    /// What it was asked to take.
    offered: u64,
}

impl Engine {
    /// The peer has answered a state with ours, which holds what we have room for.
    pub(crate) fn rooms_met(&mut self, mine: u64, theirs: u64) {
        self.link.rooms = Rooms {
            theirs,
            told: mine,
            offered: 0,
        };
    }

    pub(crate) fn advance_growth(&mut self, out: &mut Vec<Effect>) {
        if self.fault.is_some() || self.stopping {
            return;
        }
        let (size, room) = (self.identity.size, self.settings.capacity);
        if !self.settings.has_peer && room > size {
            self.grow_to(room);
        }
        if self.link.is_joined() && self.link.rooms.told != room {
            self.link.rooms.told = room;
            self.send(Frame::Capacity(room), out);
        }
        let goal = room.min(self.link.rooms.theirs);
        let leads = matches!(self.link.join(), Some(Join::InOrder))
            && self.sb.role == Role::Primary
            && self.sb.grant.is_none()
            && self.change.is_none();
        if leads && goal > size && self.link.rooms.offered != goal {
            self.link.rooms.offered = goal;
            self.send(Frame::Grow(goal), out);
        }
    }

    /// The peer has room for so much now: what did not fit may.
    pub(crate) fn capacity_heard(&mut self, bytes: u64, out: &mut Vec<Effect>) {
        self.link.rooms.theirs = bytes;
        let theirs = self.link.theirs().map_or(0, |facts| facts.size);
        let fits = compare::fits(
            [self.identity.size, theirs],
            [self.settings.capacity, bytes],
        );
        if fits && self.link.blocked() == Some(Decision::Refused(Mismatch::Size)) {
            self.compare_again("there is room on both sides now", out);
        }
    }

    /// The Primary asks us to take a larger size. `Err` names what is wrong with it.
    pub(crate) fn growth_asked(&mut self, size: u64) -> Result<(), String> {
        let fits = size > self.identity.size && size <= self.settings.capacity;
        if !fits || !size.is_multiple_of(HASHED_BLOCK) {
            return Err(format!("a volume of {size} bytes"));
        }
        self.grow_to(size);
        let session = self.link.session_id();
        self.persist(Then::SendGrown(session));
        Ok(())
    }

    /// The larger size is durable here: the Primary may use it.
    pub(crate) fn growth_durable(&mut self, session: Option<SessionId>, out: &mut Vec<Effect>) {
        if self.link.session_id() == session {
            self.send(Frame::Grown(self.identity.size), out);
        }
    }

    /// The peer has the larger size durably.
    pub(crate) fn growth_heard(&mut self, size: u64) -> Result<(), String> {
        if size != self.link.rooms.offered {
            return Err(format!("a volume of {size} bytes that nobody asked for"));
        }
        if size > self.identity.size {
            self.grow_to(size);
        }
        Ok(())
    }

    /// Everything here has this size from now on; its users see it when it is durable.
    pub(crate) fn grow_to(&mut self, size: u64) {
        self.sb.size = size;
        self.identity.size = size;
        self.marks.grow(size);
        self.activity.grow(size);
        self.snapshots.grow(size);
        self.verification_grows(size);
        self.persist(Then::Nothing);
    }
}
