//! The device is the gate: it appears only when it is certain that nobody has newer data, or the
//! configured time has passed without a word.
//!
//! Does not live here: how a device is made (the shell), who mounts it (kubelet).

use crate::command::Refusal;
use crate::compare::Decision;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::event::{FsSignature, Holder};
use crate::ids::{CommandId, Epoch, GuestId};
use crate::report::{Gate, TransitionKind};
use crate::role::Role;
use crate::settings::{Settings, WhenPeerUnknown};
use crate::superblock::{Superblock, Then};
use crate::time::Mono;
use std::time::Duration;

/// How often the removal of a superseded device is tried again while somebody holds it.
const CLOSE_RETRY: Duration = Duration::from_secs(1);

/// How often a device that could not be opened is tried again: what was in the way may be gone.
const OPEN_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Closed,
    Opening,
    Publishing,
    Open,
    Closing,
    Dead,
    Failed,
}

/// The device of one volume.
#[derive(Clone, Hash)]
pub(crate) struct Device {
    state: State,
    /// The role asks for a device, and the gate is open.
    pub(crate) want_open: bool,
    /// A started Primary waits for the peer's word until then.
    waits_until: Option<Mono>,
    held: bool,
    /// Bytes that its users see.
    size: u64,
    retry_close: Mono,
    retry_open: Mono,
    heal: Option<CommandId>,
    pub(crate) error: String,
    pub(crate) format_blocked: u64,
    /// Requests that the format guard refused and that were not answered yet.
    pub(crate) refused: Vec<GuestId>,
    pub(crate) stop_begun: bool,
    pub(crate) stop_emptying: bool,
}

impl Device {
    /// The gate of a process that has just started.
    pub(crate) fn at_start(sb: &Superblock, settings: &Settings, now: Mono) -> Self {
        let primary = sb.role == Role::Primary && sb.superseded_by.is_none();
        let waits = primary && settings.has_peer;
        Self {
            state: State::Closed,
            want_open: primary && !waits,
            waits_until: waits.then(|| now.after(settings.peer_check_timeout)),
            held: false,
            size: 0,
            retry_close: now,
            retry_open: now,
            heal: None,
            error: String::new(),
            format_blocked: 0,
            refused: Vec::new(),
            stop_begun: false,
            stop_emptying: false,
        }
    }

    /// Whether the shell is bringing the device up or down.
    pub(crate) const fn is_changing(&self) -> bool {
        matches!(
            self.state,
            State::Opening | State::Publishing | State::Closing
        )
    }

    /// Whether requests of the user are carried out.
    pub(crate) const fn serves(&self) -> bool {
        !matches!(self.state, State::Closed | State::Dead | State::Failed)
    }
}

impl Engine {
    /// What the gate says.
    pub(crate) fn gate(&self) -> Gate {
        if self.sb.role == Role::Secondary {
            return Gate::Closed;
        }
        if !self.sb.superseded_by.is_none() {
            return Gate::Superseded;
        }
        match self.device.state {
            State::Closed if self.device.held => Gate::Held,
            State::Closed if self.device.waits_until.is_some() => Gate::WaitingForPeer,
            State::Closed | State::Opening | State::Publishing | State::Closing => Gate::Opening,
            State::Open => Gate::Open,
            State::Dead => Gate::Dead,
            State::Failed => Gate::Failed,
        }
    }

    /// The two sides have compared: a waiting gate may open, or shuts.
    pub(crate) fn meeting_ended(&mut self, decision: Decision) {
        let waited = self.device.waits_until.take().is_some() || self.device.held;
        self.device.held = false;
        match decision {
            Decision::Superseded => self.device.want_open = false,
            Decision::Refused(_) if waited => {
                // Whoever answered is not our peer: as good as no answer.
                self.device.waits_until =
                    Some(self.now.mono.after(self.settings.peer_check_timeout));
            }
            Decision::AwaitFirstPrimary
            | Decision::InSync
            | Decision::Source(_)
            | Decision::Target(_)
            | Decision::Superseding
            | Decision::Partitioned(_)
            | Decision::Refused(_) => self.device.want_open |= waited,
        }
    }

    pub(crate) fn advance_device(&mut self, out: &mut Vec<Effect>) {
        self.answer_refused(out);
        let now = self.now.mono;
        // A peer that is answering right now is waited for: the handshake has a limit of its own.
        let passed = self.device.waits_until.is_some_and(|until| now >= until);
        if passed && !self.link.is_comparing() {
            self.device.waits_until = None;
            match self.settings.when_peer_unknown {
                WhenPeerUnknown::Start => self.device.want_open = true,
                WhenPeerUnknown::Hold => self.device.held = true,
            }
        }
        let superseded = !self.sb.superseded_by.is_none() && self.sb.role == Role::Primary;
        if superseded && self.device.serves() {
            self.fail_guest(out);
            if self.device.state != State::Closing && now >= self.device.retry_close {
                self.device.want_open = false;
                self.close_device(out);
            }
            return;
        }
        let demotes = self
            .change
            .as_ref()
            .is_some_and(crate::transition::Change::demotes);
        let leaves = superseded || self.stopping || demotes;
        let primary = self.sb.role == Role::Primary && !leaves;
        if primary && self.device.state == State::Failed && now >= self.device.retry_open {
            self.device.state = State::Closed;
            self.device.want_open = true;
        }
        if self.device.want_open
            && primary
            && self.device.state == State::Closed
            && self.fault.is_none()
        {
            self.open_device(out);
        }
        self.resize_device(out);
    }

    /// A larger volume is shown once both sides have it durably.
    fn resize_device(&mut self, out: &mut Vec<Effect>) {
        let size = self.identity.size;
        if self.device.state == State::Open && self.device.size < size && self.is_persisted() {
            self.device.size = size;
            out.push(Effect::ResizeDevice { size });
        }
    }

    fn open_device(&mut self, out: &mut Vec<Effect>) {
        if self.sb.clean {
            // From here on a crash leaves writes in doubt.
            self.sb.clean = false;
            self.persist(Then::Nothing);
        }
        if !self.is_persisted() {
            return;
        }
        self.device.state = State::Opening;
        self.device.error.clear();
        let created = self
            .sb
            .transition
            .is_some_and(|t| t.kind == TransitionKind::Creation);
        let blank = self.sb.fs.is_none() && created && self.sb.lineage.len() == 1;
        self.device.size = self.identity.size;
        out.push(Effect::OpenDevice {
            format: blank.then_some(self.settings.fs),
            size: self.device.size,
        });
    }

    pub(crate) fn device_opened(
        &mut self,
        result: Result<Option<FsSignature>, String>,
        out: &mut Vec<Effect>,
    ) {
        if self.device.state != State::Opening {
            return;
        }
        match (result, self.sb.fs) {
            (Err(why), _) => self.device_failed(why),
            (Ok(found), Some(known)) if found != Some(known) => {
                self.device_failed("the file system's signature cannot be read back".to_owned());
                out.push(Effect::CloseDevice);
            }
            (Ok(Some(found)), None) => {
                self.sb.fs = Some(found);
                self.persist(Then::PublishDevice);
            }
            (Ok(_), _) => self.publish_device(out),
        }
    }

    pub(crate) fn publish_device(&mut self, out: &mut Vec<Effect>) {
        if self.device.state == State::Opening {
            self.device.state = State::Publishing;
            out.push(Effect::PublishDevice);
        }
    }

    pub(crate) fn device_published(&mut self, result: Result<(), String>) {
        if self.device.state != State::Publishing {
            return;
        }
        match result {
            Ok(()) => self.device.state = State::Open,
            Err(why) => self.device_failed(why),
        }
    }

    fn device_failed(&mut self, why: String) {
        self.device.state = State::Failed;
        self.device.want_open = false;
        self.device.retry_open = self.now.mono.after(OPEN_RETRY);
        self.device.error = why;
    }

    pub(crate) fn device_died(&mut self) {
        if self.device.serves() && self.device.state != State::Closing {
            self.device.state = State::Dead;
            self.device.want_open = false;
        }
    }

    /// Removes the device; [`Engine::device_closed`] tells how that went.
    pub(crate) fn close_device(&mut self, out: &mut Vec<Effect>) {
        if self.device.state == State::Closing {
            return;
        }
        self.device.state = State::Closing;
        out.push(Effect::CloseDevice);
    }

    pub(crate) fn device_closed(&mut self, result: Result<(), Holder>, out: &mut Vec<Effect>) {
        if self.device.state == State::Failed {
            return;
        }
        let heal = self.device.heal.take();
        match &result {
            Ok(()) => {
                self.device.state = State::Closed;
                // Whoever still waits, waits at a device that is gone.
                self.fail_guest(out);
            }
            Err(holder) => {
                self.device.state = if heal.is_some() {
                    State::Dead
                } else {
                    State::Open
                };
                self.device.error = format!("held by {}", holder.0);
                self.device.retry_close = self.now.mono.after(CLOSE_RETRY);
            }
        }
        if let Some(id) = heal {
            self.device.want_open = result.is_ok();
            let result = result.map_err(|Holder(who)| Refusal::DeviceHeld(who));
            return out.push(Effect::Answer { id, result });
        }
        if self.is_closing_for_demotion() {
            self.demotion_closed(result, out);
        }
    }

    pub(crate) fn heal_device(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        if self.sb.role == Role::Primary && matches!(self.device.state, State::Dead | State::Failed)
        {
            self.device.heal = Some(id);
            self.device.state = State::Closing;
            out.push(Effect::CloseDevice);
        } else {
            out.push(Effect::Answer { id, result: Ok(()) });
        }
    }

    pub(crate) fn device_wakeup(&self) -> Option<Mono> {
        let superseded = self.sb.superseded_by != Epoch::NONE && self.sb.role == Role::Primary;
        let closes = superseded && self.device.serves() && self.device.state != State::Closing;
        let waits = self
            .device
            .waits_until
            .filter(|_| !self.link.is_comparing());
        let failed = self.sb.role == Role::Primary && self.device.state == State::Failed;
        let reopens = (failed && !self.stopping).then_some(self.device.retry_open);
        closes
            .then_some(self.device.retry_close)
            .or(reopens)
            .or(waits)
    }
}
