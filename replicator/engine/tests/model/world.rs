//! Two engines, their disks and the link between them, as one value that can be copied, hashed and gone on from.
//!
//! Does not live here: what may happen next ([`crate::action`]), what must hold ([`crate::book`]).

use std::collections::VecDeque;
use std::sync::Arc;

use drqm_engine::command::{Command, Identity};
use drqm_engine::compare::Decision;
use drqm_engine::event::{FsKind, FsSignature, Holder, LinkFault};
use drqm_engine::frame::{Frame, PeerHello};
use drqm_engine::ids::{CommandId, JobId, NodeId, SessionId, VolumeId};
use drqm_engine::report::{Gate, Report};
use drqm_engine::settings::{OnCongestion, OnPeerLoss, Settings, WINDOW_BYTES};
use drqm_engine::time::{Mono, Now, Wall};
use drqm_engine::{Completion, Effect, Engine, Event};

use crate::book::Book;
use crate::bounds::{Bounds, Budget};
use crate::disk::{Blocks, Change, Data, Queues, Request, SIZE, Sealed};

/// A frame on its way, hashed once.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) frame: Arc<Frame>,
    hash: [u8; 16],
}

impl Sent {
    fn new(frame: Frame) -> Self {
        let hash = crate::search::digest(&frame);
        Self {
            frame: Arc::new(frame),
            hash,
        }
    }
}

impl std::hash::Hash for Sent {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// One connection. It ends with an end mark in a direction, or as a whole.
#[derive(Clone, Hash)]
pub(crate) struct Link {
    pub(crate) number: u64,
    /// On their way to each side.
    pub(crate) to: [VecDeque<Sent>; 2],
    /// The side has ended it: nothing more comes from there.
    pub(crate) ended: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Device {
    Closed,
    Private,
    Published,
}

/// One side.
#[derive(Clone, Hash)]
pub(crate) struct Side {
    pub(crate) engine: Option<Engine>,
    pub(crate) lives: u64,
    pub(crate) data: Data,
    pub(crate) meta: Blocks,
    pub(crate) undo: Blocks,
    pub(crate) io: Queues,
    pub(crate) device: Device,
    /// A session that this side still believes in.
    pub(crate) session: Option<u64>,
    /// It waits for the end of a round of dials.
    pub(crate) dials: bool,
    /// A command that is not answered.
    pub(crate) command: Option<CommandId>,
    commands: u64,
    guests: u64,
}

/// Everything.
#[derive(Clone, Hash)]
pub(crate) struct World {
    pub(crate) bounds: Bounds,
    pub(crate) left: Budget,
    pub(crate) now: u64,
    pub(crate) sides: [Side; 2],
    pub(crate) link: Option<Link>,
    pub(crate) sessions: u64,
    pub(crate) book: Book,
    pub(crate) failure: Option<String>,
    /// What happens is printed.
    pub(crate) is_shown: bool,
}

const SIGNATURE: FsSignature = FsSignature {
    kind: FsKind::Xfs,
    uuid: *b"file-system-uuid",
};

impl World {
    /// Two formatted sides whose processes run.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let side = |n: u128| {
            let identity = Identity {
                node: NodeId(n + 1),
                volume: VolumeId::NONE,
                size: SIZE,
            };
            let mut meta = Blocks::default();
            for (offset, data) in Engine::format(&identity) {
                meta.put(offset, &Sealed::new(data));
            }
            Side {
                engine: None,
                lives: 0,
                data: Data::default(),
                meta,
                undo: Blocks::default(),
                io: Queues::default(),
                device: Device::Closed,
                session: None,
                dials: false,
                command: None,
                commands: 0,
                guests: 0,
            }
        };
        let mut world = Self {
            bounds,
            left: Budget::default(),
            now: 1_000_000,
            sides: [side(0), side(1)],
            link: None,
            sessions: 0,
            book: Book::default(),
            failure: None,
            is_shown: false,
        };
        world.start(0);
        world.start(1);
        world
    }

    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.failure.get_or_insert(why);
    }

    pub(crate) fn report(&self, n: usize) -> Option<Report> {
        self.sides[n].engine.as_ref().map(Engine::report)
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.sides[n].engine.is_some()
    }

    pub(crate) fn clock(&self) -> Now {
        Now {
            mono: Mono(self.now),
            wall: Wall(self.now as i64 / 1000),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            mode: self.bounds.mode,
            has_peer: true,
            queue_manager: "QM".to_owned(),
            fs: FsKind::Xfs,
            peer_check_timeout: self.bounds.peer_check,
            when_peer_unknown: self.bounds.when_peer_unknown,
            on_peer_loss: self.bounds.on_peer_loss,
            on_congestion: OnCongestion::Block,
            resync_rate: None,
            snapshots: self.bounds.snapshots,
            verify: None,
            capacity: SIZE,
            window_bytes: WINDOW_BYTES,
            log_bytes: if self.bounds.keeps_log {
                WINDOW_BYTES
            } else {
                0
            },
        }
    }

    // === life of a process ===

    pub(crate) fn start(&mut self, n: usize) {
        let raw = self.sides[n].meta.read(0, Engine::metadata_len(SIZE));
        let seed = (n as u128 + 1) << 64 | u128::from(self.sides[n].lives);
        match Engine::open(&raw, self.settings(), seed, self.clock()) {
            Ok(engine) => {
                if !engine.holds_snapshot() {
                    self.sides[n].undo.clear();
                }
                self.sides[n].engine = Some(engine);
            }
            Err(e) => return self.fail(format!("side {n} does not open: {e}")),
        }
        self.sides[n].lives += 1;
        self.step(n, Event::Tick);
    }

    /// The process has ended; what its disks were doing is the caller's business.
    pub(crate) fn ended(&mut self, n: usize) {
        let side = &mut self.sides[n];
        side.engine = None;
        side.device = Device::Closed;
        side.session = None;
        side.dials = false;
        side.command = None;
        side.io = Queues::default();
        self.link = None;
        self.book.process_ended(n);
    }

    // === facts and orders ===

    pub(crate) fn step(&mut self, n: usize, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut steps = 0;
        while let Some(event) = events.pop_front() {
            let now = self.clock();
            let mut out = Vec::new();
            let Some(engine) = self.sides[n].engine.as_mut() else {
                return;
            };
            if self.is_shown {
                println!("  {n} <- {:.200}", format!("{event:?}"));
            }
            engine.step(now, event, &mut out);
            let wakes = engine.next_wakeup().is_some_and(|at| at <= now.mono);
            for effect in out {
                self.perform(n, effect, &mut events);
            }
            if events.is_empty() && wakes {
                events.push_back(Event::Tick);
            }
            steps += 1;
            if steps > 100 {
                return self.fail(format!("side {n} wakes itself without end"));
            }
        }
        self.observe(n);
    }

    fn perform(&mut self, n: usize, effect: Effect, events: &mut VecDeque<Event>) {
        if self.is_shown && !matches!(effect, Effect::Notify) {
            println!("  {n}      -> {:.200}", format!("{effect:?}"));
        }
        match effect {
            Effect::CompleteGuest { id, completion } => {
                let Some(report) = self.report(n) else { return };
                if completion == Completion::Done {
                    let wall = self.clock().wall.0;
                    let never_alone = self.bounds.on_peer_loss == OnPeerLoss::SuspendIo;
                    let mode = if never_alone {
                        self.bounds.mode
                    } else {
                        report.effective_mode
                    };
                    self.book.completed(n, id.0, mode, wall);
                } else {
                    if report.gate != Gate::Superseded {
                        self.fail(format!(
                            "side {n} fails a request, its gate {:?}",
                            report.gate
                        ));
                    }
                    self.book.refused(n, id.0);
                }
            }
            Effect::OpenDevice { .. } => {
                self.sides[n].device = Device::Private;
                let result = Ok(Some(SIGNATURE));
                events.push_back(Event::DeviceOpened { result });
            }
            Effect::PublishDevice => {
                self.sides[n].device = Device::Published;
                self.published(n);
                events.push_back(Event::DevicePublished { result: Ok(()) });
            }
            Effect::CloseDevice => {
                let held = self.book.has_waiting(n);
                let result = if held {
                    Err(Holder("the user".to_owned()))
                } else {
                    self.sides[n].device = Device::Closed;
                    Ok(())
                };
                events.push_back(Event::DeviceClosed { result });
            }
            Effect::Send { session, frame } => {
                if frame == Frame::Decision(Decision::Superseded) {
                    self.makes_way(n);
                }
                self.send(n, session.0, frame);
            }
            Effect::CloseSession {
                session,
                reason,
                is_violation,
            } => {
                if is_violation {
                    self.fail(format!("side {n} ends the session: {reason}"));
                }
                self.close_session(n, session.0, events);
            }
            Effect::DialNow => self.sides[n].dials = true,
            Effect::Answer { id, result } => {
                let side = &mut self.sides[n];
                if side.command.take() != Some(id) {
                    self.fail(format!("side {n} answers {id:?} without being asked"));
                }
                let says = self.report(n).is_some_and(|r| r.given_up);
                self.book.answered(n, result.is_ok(), says);
            }
            Effect::ResizeDevice { .. } | Effect::Notify | Effect::Stopped => {}
            order @ (Effect::ReadData { .. }
            | Effect::ReadUndo { .. }
            | Effect::WriteData { .. }
            | Effect::ZeroData { .. }
            | Effect::FlushData { .. }
            | Effect::WriteMeta { .. }
            | Effect::MakeUndo { .. }
            | Effect::WriteUndo { .. }
            | Effect::FlushUndo { .. }
            | Effect::DropUndo { .. }
            | Effect::KeepCopy { .. }) => self.begin_io(n, order, events),
        }
    }

    fn makes_way(&mut self, n: usize) {
        let images = [n, 1 - n].map(|n| self.sides[n].data.image());
        let counted = self.report(n).map_or(0, |r| r.crashed_tail_bytes);
        if let Some(why) = self.book.superseded(n, images, counted) {
            self.fail(format!("side {n} {why}"));
        }
    }

    /// Reads end at once.
    fn begin_io(&mut self, n: usize, order: Effect, events: &mut VecDeque<Event>) {
        let side = &mut self.sides[n];
        let mut queue = |request| side.io.data.push_back(request);
        match order {
            Effect::ReadData { job, offset, len } => {
                let result = Ok(side.data.read(offset, len.into()));
                events.push_back(Event::DataRead { job, result });
            }
            Effect::ReadUndo { job, offset, len } => {
                let result = Ok(side.undo.read(offset, len.into()).into());
                events.push_back(Event::UndoRead { job, result });
            }
            Effect::WriteData {
                job,
                offset,
                data,
                fua,
            } => queue(Request::Write(job, Change::of(offset, &data), fua)),
            Effect::ZeroData { job, offset, len } => {
                queue(Request::Write(job, Change::zero(offset, len), false));
            }
            Effect::FlushData { job } => queue(Request::Flush(job, side.data.cover())),
            Effect::WriteMeta { job, offset, data } => {
                side.io.meta.push_back((job, offset, Sealed::new(data)));
            }
            Effect::WriteUndo { job, offset, data } => {
                queue(Request::UndoWrite(job, offset, Sealed::new(data)));
            }
            Effect::FlushUndo { job } => queue(Request::UndoFlush(job)),
            Effect::MakeUndo { job, .. } | Effect::DropUndo { job } => {
                queue(Request::UndoEmpty(job));
            }
            Effect::KeepCopy { job, .. } => queue(Request::Keep(job)),
            Effect::CompleteGuest { .. }
            | Effect::OpenDevice { .. }
            | Effect::ResizeDevice { .. }
            | Effect::PublishDevice
            | Effect::CloseDevice
            | Effect::Send { .. }
            | Effect::CloseSession { .. }
            | Effect::DialNow
            | Effect::Answer { .. }
            | Effect::Notify
            | Effect::Stopped => unreachable!("no order to a disk"),
        }
    }

    /// The oldest request to the data, or the undo log, ends.
    pub(crate) fn data_ends(&mut self, n: usize) {
        let side = &mut self.sides[n];
        let Some(request) = side.io.data.pop_front() else {
            return;
        };
        let undo = |job: JobId| Event::UndoDone {
            job,
            result: Ok(()),
        };
        let event = match request {
            Request::Write(job, change, fua) => {
                side.data.write(&change, fua);
                let result = Ok(());
                Event::DataWritten { job, result }
            }
            Request::Flush(job, cover) => {
                side.data.flushed(&cover);
                let result = Ok(());
                Event::DataFlushed { job, result }
            }
            Request::UndoWrite(job, offset, data) => {
                side.undo.put(offset, &data);
                undo(job)
            }
            Request::UndoFlush(job) => undo(job),
            Request::Keep(job) => {
                let image = side.data.image();
                if let Some(why) = self.book.copy_kept(n, image) {
                    self.fail(format!("side {n} {why}"));
                }
                undo(job)
            }
            Request::UndoEmpty(job) => {
                side.undo.clear();
                undo(job)
            }
        };
        self.step(n, event);
    }

    /// The oldest write of metadata ends.
    pub(crate) fn meta_ends(&mut self, n: usize) {
        let side = &mut self.sides[n];
        let Some((job, offset, data)) = side.io.meta.pop_front() else {
            return;
        };
        side.meta.put(offset, &data);
        let result = Ok(());
        self.step(n, Event::MetaWritten { job, result });
    }

    // === the link ===

    /// A session between two processes that run; one that there was is broken by it.
    pub(crate) fn connect(&mut self) {
        self.sessions += 1;
        let number = self.sessions;
        self.link = Some(Link {
            number,
            to: Default::default(),
            ended: [false; 2],
        });
        for n in 0..2 {
            self.sides[n].session = Some(number);
            self.sides[n].dials = false;
        }
        for n in 0..2 {
            let hello = PeerHello {
                node: NodeId(2 - n as u128),
                ..PeerHello::default()
            };
            let event = Event::SessionOpened {
                session: SessionId(number),
                hello,
                remote: String::new(),
            };
            self.step(n, event);
        }
    }

    fn send(&mut self, n: usize, session: u64, frame: Frame) {
        if let Some(link) = &mut self.link
            && link.number == session
            && !link.ended[n]
            && !link.ended[1 - n]
        {
            link.to[1 - n].push_back(Sent::new(frame));
        }
    }

    fn close_session(&mut self, n: usize, session: u64, events: &mut VecDeque<Event>) {
        if let Some(link) = self.link.as_mut().filter(|l| l.number == session) {
            link.ended[n] = true;
            link.to[n].clear();
        }
        if self.sides[n].session == Some(session) {
            self.sides[n].session = None;
        }
        events.push_back(Self::lost(session));
    }

    fn lost(session: u64) -> Event {
        Event::SessionClosed {
            session: SessionId(session),
            fault: LinkFault::Lost(String::new()),
        }
    }

    /// The next frame reaches a side.
    pub(crate) fn deliver(&mut self, n: usize) {
        let Some(link) = &mut self.link else { return };
        let session = SessionId(link.number);
        if let Some(sent) = link.to[n].pop_front() {
            let frame = Arc::unwrap_or_clone(sent.frame);
            self.step(n, Event::FrameReceived { session, frame });
        }
    }

    /// Whether frames can still reach this side in its session.
    pub(crate) fn is_lost(&self, n: usize) -> bool {
        let side = &self.sides[n];
        side.session.is_some_and(|number| {
            self.link
                .as_ref()
                .filter(|l| l.number == number)
                .is_none_or(|l| l.ended[1 - n] && l.to[n].is_empty())
        })
    }

    /// A side learns that its session is no more.
    pub(crate) fn notice(&mut self, n: usize) {
        if let Some(session) = self.sides[n].session.take() {
            self.step(n, Self::lost(session));
        }
    }

    pub(crate) fn dial_fails(&mut self, n: usize) {
        self.sides[n].dials = false;
        let fault = LinkFault::Lost(String::new());
        self.step(n, Event::DialFailed { fault });
    }

    /// Whether both sides believe in the session that there is.
    pub(crate) fn is_linked(&self) -> bool {
        self.link.as_ref().is_some_and(|l| {
            !l.ended[0] && !l.ended[1] && self.sides.iter().all(|s| s.session == Some(l.number))
        })
    }

    // === commands and requests ===

    pub(crate) fn command(&mut self, n: usize, command: Command) {
        let side = &mut self.sides[n];
        side.commands += 1;
        let id = CommandId((n as u128 + 1) << 64 | u128::from(side.commands));
        side.command = Some(id);
        self.step(n, Event::Command { id, command });
    }

    /// A number for a request of the user.
    pub(crate) fn next_guest(&mut self, n: usize) -> u64 {
        self.sides[n].guests += 1;
        self.sides[n].guests
    }
}
