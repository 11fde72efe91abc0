//! The owner loop of one volume: waits for a fact, lets the engine decide, performs its orders.
//!
//! Lives here: nothing but that loop; the volume's state is the engine's. No lock, and nothing is
//! awaited while orders are performed: each goes to a queue for which the engine has a bound.
//!
//! A panic of the engine fences the volume: nothing that it had decided is performed, its session
//! ends, and its I/O is held, not failed, until the process starts anew; as after a crash, the
//! activity log covers what was under way.

mod spin;

use std::collections::HashMap;
use std::time::Duration;

use drqm_engine::command::{Command, Refusal};
use drqm_engine::event::LinkFault;
use drqm_engine::ids::{CommandId, GuestId, SessionId};
use drqm_engine::report::{Data, LinkReport, Report};
use drqm_engine::settings::Settings;
use drqm_engine::{Completion, Effect, Engine, Event, GuestRequest};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::disk::{Disk, DiskJob, MetaJob, UndoJob};
use crate::frontend::device::DeviceOrder;
use crate::frontend::{GuestCall, Reply};
use crate::metrics::METRICS;
use crate::peer::link::{LinkEvent, LinkOrder};
use crate::peer::session::Outbound;
use crate::pool::VolumeKey;
use spin::Spin;

/// How long an orderly stop may take; what is not durable then is found by the next start.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A volume without anything to do looks up this often.
const IDLE: Duration = Duration::from_secs(60);

/// Inputs of one kind that are taken in a row.
const BATCH: usize = 32;

/// What others ask of a volume.
#[derive(Debug)]
pub(crate) enum DriverCommand {
    Order {
        id: CommandId,
        command: Command,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    Report(oneshot::Sender<Box<Report>>),
    Configure(Settings),
    /// Ends the volume: in order when `drain`, at once after a retirement.
    Stop {
        drain: bool,
    },
}

/// Everything that the loop reads from.
pub(crate) struct Inputs {
    pub(crate) commands: mpsc::Receiver<DriverCommand>,
    /// Completions of disk and device; what is under way is bounded by the engine.
    pub(crate) completions: mpsc::UnboundedReceiver<Event>,
    pub(crate) link: mpsc::Receiver<LinkEvent>,
    pub(crate) guests: mpsc::Receiver<GuestCall>,
}

/// Everything that orders go to.
pub(crate) struct Ports {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) device: mpsc::UnboundedSender<DeviceOrder>,
    pub(crate) link: mpsc::UnboundedSender<LinkOrder>,
    pub(crate) notify: broadcast::Sender<VolumeKey>,
}

/// The loop's state: the engine, and where answers go.
pub(crate) struct Driver {
    key: VolumeKey,
    clock: Clock,
    engine: Engine,
    ports: Ports,
    effects: Vec<Effect>,
    guests: HashMap<GuestId, Reply>,
    last_guest: u64,
    answers: HashMap<CommandId, Vec<oneshot::Sender<Result<(), Refusal>>>>,
    session: Option<(SessionId, Outbound)>,
    /// A frame that somebody waits for was queued since I/O was last performed in this thread.
    sent: bool,
    spin: Spin,
    stop_by: Option<Instant>,
    stopped: bool,
    logged: Option<String>,
    /// What is reported since the engine panicked.
    fenced: Option<Box<Report>>,
}

impl Driver {
    pub(crate) fn new(key: VolumeKey, clock: Clock, engine: Engine, ports: Ports) -> Self {
        Self {
            key,
            clock,
            engine,
            ports,
            effects: Vec::new(),
            guests: HashMap::new(),
            last_guest: 0,
            answers: HashMap::new(),
            session: None,
            sent: false,
            spin: Spin::new(std::time::Instant::now()),
            stop_by: None,
            stopped: false,
            logged: None,
            fenced: None,
        }
    }

    /// Runs until the volume was stopped. The queue of completions is returned: it ends when the
    /// local I/O has.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> mpsc::UnboundedReceiver<Event> {
        self.step(Event::Tick);
        let tick = sleep_until(self.wakeup());
        tokio::pin!(tick);
        while !self.stopped {
            if self.ports.disk.has_queued() {
                self.perform_queued(&mut inputs.completions).await;
                continue;
            }
            let due = self.wakeup();
            if tick.deadline() != due {
                tick.as_mut().reset(due);
            }
            let has_room = self.has_room();
            let awaited = !self.guests.is_empty() || self.engine.peer_waits();
            let looks = self.spin.looks(awaited, std::time::Instant::now());
            // Rare sources first: none can be starved by the guest, whose input is last and gated by
            // room. Completions are bounded by what is under way, frames by the peer's window.
            tokio::select! {
                biased;
                command = inputs.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    // Every handle is gone: the process ends.
                    None => self.stop(),
                },
                () = &mut tick => self.ticked(),
                Some(event) = inputs.completions.recv() => {
                    self.step(event);
                    self.take_completions(&mut inputs.completions);
                }
                Some(event) = inputs.link.recv() => {
                    self.linked(event);
                    self.take_completions(&mut inputs.completions);
                }
                Some(call) = inputs.guests.recv(), if has_room => {
                    self.guest(call);
                    self.take_guests(&mut inputs.guests);
                }
                () = tokio::task::yield_now(), if looks => continue,
            }
            self.spin.event(std::time::Instant::now());
        }
        inputs.completions
    }

    /// I/O in this thread: after the frames of the same step that somebody waits for have left, since the peer works
    /// meanwhile.
    async fn perform_queued(&mut self, completions: &mut mpsc::UnboundedReceiver<Event>) {
        if std::mem::take(&mut self.sent) {
            tokio::task::yield_now().await;
        }
        self.ports.disk.perform_queued();
        self.take_completions(completions);
    }

    /// Completions that are there already, as many as may be before the others are looked at again.
    fn take_completions(&mut self, completions: &mut mpsc::UnboundedReceiver<Event>) {
        for _ in 0..BATCH {
            let Ok(event) = completions.try_recv() else {
                break;
            };
            self.step(event);
        }
    }

    /// Requests that are there already, while there is room for them.
    fn take_guests(&mut self, guests: &mut mpsc::Receiver<GuestCall>) {
        for _ in 0..BATCH {
            if !self.has_room() {
                break;
            }
            let Ok(call) = guests.try_recv() else { break };
            self.guest(call);
        }
    }

    fn has_room(&self) -> bool {
        self.fenced.is_none() && self.engine.has_room()
    }

    fn wakeup(&self) -> Instant {
        let due = match &self.fenced {
            None => self.engine.next_wakeup(),
            Some(_) => None,
        };
        let engine = due.map(|at| self.clock.instant(at));
        let next = engine.unwrap_or_else(|| Instant::now() + IDLE);
        self.stop_by.map_or(next, |stop| stop.min(next))
    }

    fn ticked(&mut self) {
        if self.stop_by.is_some_and(|by| by <= Instant::now()) {
            tracing::warn!(volume = %self.key, "the volume did not stop in time");
            self.stopped = true;
            return;
        }
        self.step(Event::Tick);
    }

    fn obey(&mut self, command: DriverCommand) {
        match command {
            DriverCommand::Order {
                id,
                command,
                answer,
            } => {
                self.answers.entry(id).or_default().push(answer);
                self.step(Event::Command { id, command });
            }
            DriverCommand::Report(answer) => {
                let report = self.fenced.clone();
                let _ = answer.send(report.unwrap_or_else(|| Box::new(self.engine.report())));
            }
            DriverCommand::Configure(settings) => self.step(Event::Configured(settings)),
            DriverCommand::Stop { drain: true } => self.stop(),
            DriverCommand::Stop { drain: false } => self.stopped = true,
        }
    }

    fn stop(&mut self) {
        if self.fenced.is_some() {
            self.stopped = true;
        } else if self.stop_by.is_none() {
            self.stop_by = Some(Instant::now() + STOP_LIMIT);
            self.link(LinkOrder::Last);
            self.step(Event::StopRequested);
        }
    }

    fn linked(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened {
                session,
                hello,
                remote,
                outbound,
            } => {
                self.session = Some((session, outbound));
                self.step(Event::SessionOpened {
                    session,
                    hello,
                    remote,
                });
            }
            LinkEvent::Frame { session, frame } => {
                self.step(Event::FrameReceived { session, frame });
            }
            LinkEvent::Closed { session, fault } => {
                self.session.take_if(|(current, _)| *current == session);
                self.step(Event::SessionClosed { session, fault });
            }
            LinkEvent::DialFailed(fault) => self.step(Event::DialFailed { fault }),
        }
    }

    fn guest(&mut self, call: GuestCall) {
        self.last_guest += 1;
        let id = GuestId(self.last_guest);
        METRICS.count_guest(&call.request);
        tracing::trace!(volume = %self.key, id = id.0, request = kind(&call.request), "guest");
        self.guests.insert(id, call.reply);
        self.step(Event::Guest {
            id,
            request: call.request,
        });
    }

    fn step(&mut self, event: Event) {
        if self.fenced.is_some() {
            return self.end_what_waits();
        }
        let mut effects = std::mem::take(&mut self.effects);
        let (engine, now) = (&mut self.engine, self.clock.now());
        match crate::panics::caught(|| engine.step(now, event, &mut effects)) {
            Ok(()) => {
                for effect in effects.drain(..) {
                    self.perform(effect);
                }
                self.effects = effects;
            }
            Err(text) => self.fence(&text),
        }
    }

    fn fence(&mut self, text: &str) {
        tracing::error!(volume = %self.key, panic = text, "the volume is fenced");
        let error = format!(
            "internal error: {text}; the volume is fenced, its I/O waits: restart this node's \
             replicator pod to recover it, and report the error"
        );
        let mut report = match crate::panics::caught(|| self.engine.report()) {
            Ok(report) => report,
            // Nothing true could be said of this volume any more.
            Err(_) => std::process::abort(),
        };
        report.data = Data::Failed;
        report.link = LinkReport::Down(LinkFault::Lost("the volume is fenced".to_owned()));
        report.error = error;
        self.fenced = Some(Box::new(report));
        self.end_what_waits();
        let _ = self.ports.notify.send(self.key.clone());
    }

    /// Of a fenced volume: commands are refused, a session ends; requests of the device are held.
    fn end_what_waits(&mut self) {
        let Some(report) = &self.fenced else { return };
        for answer in self.answers.drain().flat_map(|(_, answers)| answers) {
            let _ = answer.send(Err(Refusal::DiskFailed(report.error.clone())));
        }
        if let Some((session, _)) = self.session.take() {
            let reason = "this volume is fenced".to_owned();
            self.link(LinkOrder::Close { session, reason });
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::CompleteGuest { id, completion } => self.complete(id, completion),
            Effect::ReadData { job, offset, len } => {
                self.ports.disk.submit(DiskJob::Read { job, offset, len });
            }
            Effect::WriteData {
                job,
                offset,
                data,
                fua,
            } => {
                self.ports.disk.submit(DiskJob::Write {
                    job,
                    offset,
                    data,
                    fua,
                });
            }
            Effect::ZeroData { job, offset, len } => {
                self.ports.disk.submit(DiskJob::Zero { job, offset, len });
            }
            Effect::FlushData { job } => self.ports.disk.submit(DiskJob::Flush { job }),
            Effect::WriteMeta { job, offset, data } => {
                self.ports.disk.write_meta(MetaJob { job, offset, data });
            }
            Effect::MakeUndo { job, bytes } => self.undo(UndoJob::Make { job, bytes }),
            Effect::WriteUndo { job, offset, data } => {
                self.undo(UndoJob::Write { job, offset, data });
            }
            Effect::FlushUndo { job } => self.undo(UndoJob::Flush { job }),
            Effect::ReadUndo { job, offset, len } => {
                self.undo(UndoJob::Read { job, offset, len });
            }
            Effect::DropUndo { job } => self.undo(UndoJob::Drop { job }),
            Effect::KeepCopy { job, epoch } => self.undo(UndoJob::Keep { job, epoch }),
            Effect::OpenDevice { format, size } => self.device(DeviceOrder::Open { format, size }),
            Effect::ResizeDevice { size } => self.device(DeviceOrder::Resize { size }),
            Effect::PublishDevice => self.device(DeviceOrder::Publish),
            Effect::CloseDevice => self.device(DeviceOrder::Close),
            Effect::Send { session, frame } => {
                if let Some((_, outbound)) = self.session.as_ref().filter(|(s, _)| *s == session) {
                    let awaited = self.engine.is_awaited(&frame);
                    outbound.send(frame, awaited);
                    self.sent |= awaited;
                }
            }
            Effect::CloseSession {
                session,
                reason,
                is_violation,
            } => {
                if is_violation {
                    METRICS.violations.inc();
                }
                tracing::info!(volume = %self.key, session = session.0, reason, "closing the session");
                self.link(LinkOrder::Close { session, reason });
            }
            Effect::DialNow => self.link(LinkOrder::DialNow),
            Effect::Answer { id, result } => {
                for answer in self.answers.remove(&id).into_iter().flatten() {
                    // Whoever asked may have gone; the command was carried out all the same.
                    let _ = answer.send(result.clone());
                }
            }
            Effect::Notify => self.changed(),
            Effect::Stopped => self.stopped = true,
        }
    }

    fn complete(&mut self, id: GuestId, completion: Completion) {
        tracing::trace!(volume = %self.key, id = id.0, "guest answered");
        if matches!(completion, Completion::Error) {
            METRICS.guest_errors.inc();
        }
        match self.guests.remove(&id) {
            Some(reply) => reply.complete(completion),
            None => debug_assert!(false, "the engine answered {id:?} twice"),
        }
    }

    fn undo(&mut self, job: UndoJob) {
        self.ports.disk.undo(job);
    }

    // The tasks behind these queues end only after this loop.
    fn device(&self, order: DeviceOrder) {
        let _ = self.ports.device.send(order);
    }

    fn link(&self, order: LinkOrder) {
        let _ = self.ports.link.send(order);
    }

    /// Tells the operator, and logs what changed.
    fn changed(&mut self) {
        let report = self.engine.report();
        let line = format!(
            "{:?} {:?} gate {:?} link {:?}",
            report.role, report.data, report.gate, report.link
        );
        if self.logged.as_ref() != Some(&line) {
            tracing::info!(volume = %self.key, state = line, error = report.error, device_error = report.device_error);
            self.logged = Some(line);
        }
        // Nobody may be watching.
        let _ = self.ports.notify.send(self.key.clone());
    }
}

const fn kind(request: &GuestRequest) -> &'static str {
    match request {
        GuestRequest::Read { .. } => "read",
        GuestRequest::Write { .. } => "write",
        GuestRequest::Zero { .. } => "zero",
        GuestRequest::Flush => "flush",
    }
}

#[cfg(test)]
mod tests;
