//! Two engines with disks in memory, and between them wires that carry what the fuzzer wants.
//!
//! With lies on the wire no promise about data can be kept. What must hold: no panic, no order without end,
//! nothing left over for a tick at the same moment.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use drqm_engine::command::{Command, Identity, Initialize, JudgedRequest, Keep};
use drqm_engine::event::{FsKind, FsSignature, LinkFault};
use drqm_engine::frame::{Frame, PeerHello};
use drqm_engine::ids::{CommandId, Epoch, GuestId, NodeId, SessionId, VolumeId};
use drqm_engine::report::Data;
use drqm_engine::role::Role;
use drqm_engine::settings::{
    Mode, OnCongestion, OnPeerLoss, Settings, SnapshotPolicy, VerifyOrder, WhenPeerUnknown,
};
use drqm_engine::time::{Mono, Now, Wall};
use drqm_engine::{Effect, Engine, Event, GuestRequest, IoError};

use crate::{Input, decode, encode};

const SIZE: u64 = 3 << 16;

/// No single fact brings more orders, one after the other.
const ENDLESS: usize = 20_000;

/// Frames that are on their way; more are lost.
const ON_THE_WAY: usize = 256;

struct Side {
    engine: Engine,
    data: Vec<u8>,
    meta: Vec<u8>,
    undo: Vec<u8>,
    formatted: Option<FsSignature>,
    todo: VecDeque<Event>,
    /// The next request of the disk fails.
    fails: bool,
    starts: u128,
}

/// The pair.
pub struct Pair {
    sides: [Side; 2],
    wires: [VecDeque<Frame>; 2],
    session: Option<SessionId>,
    sessions: u64,
    requests: u64,
    micros: u64,
}

/// Metadata as they are made.
fn fresh(node: NodeId) -> Vec<u8> {
    let identity = Identity {
        node,
        volume: VolumeId::NONE,
        size: SIZE,
    };
    let mut meta = vec![0; Engine::metadata_len(SIZE) as usize];
    for (offset, block) in Engine::format(&identity) {
        meta[offset as usize..][..block.len()].copy_from_slice(&block);
    }
    meta
}

/// A configuration that a byte chooses.
#[must_use]
pub fn settings(choice: u8) -> Settings {
    let bit = |n: u8| choice >> n & 1 == 1;
    Settings {
        mode: [
            Mode::Asynchronous,
            Mode::Synchronous,
            Mode::FlushSynchronous,
        ][usize::from(choice % 3)],
        has_peer: true,
        queue_manager: "QM".to_owned(),
        fs: FsKind::Xfs,
        peer_check_timeout: Duration::from_secs(30),
        when_peer_unknown: if bit(2) {
            WhenPeerUnknown::Hold
        } else {
            WhenPeerUnknown::Start
        },
        on_peer_loss: if bit(3) {
            OnPeerLoss::SuspendIo
        } else {
            OnPeerLoss::Continue
        },
        on_congestion: if bit(4) {
            OnCongestion::PullAhead
        } else {
            OnCongestion::Block
        },
        resync_rate: bit(5).then_some(4 << 20),
        snapshots: if bit(6) {
            SnapshotPolicy::Never
        } else {
            SnapshotPolicy::Required
        },
        verify: bit(7).then(|| VerifyOrder {
            request: choice.to_string(),
            repair: bit(6),
        }),
        capacity: SIZE,
        window_bytes: 1 << 20,
        log_bytes: if bit(5) { 0 } else { 256 << 10 },
    }
}

/// An engine on metadata that may be anything; its first step.
#[must_use]
pub fn open(meta: &[u8]) -> Option<Engine> {
    let mut engine = Engine::open(meta, settings(0), 7, Now::default()).ok()?;
    engine.step(Now::default(), Event::Tick, &mut Vec::new());
    Some(engine)
}

impl Side {
    fn new(n: u128) -> Self {
        let meta = fresh(NodeId(n + 1));
        let engine = Engine::open(&meta, settings(0), n + 1, Now::default());
        Self {
            engine: engine.expect("made above"),
            data: vec![0; SIZE as usize],
            meta,
            undo: Vec::new(),
            formatted: None,
            todo: VecDeque::from([Event::Tick]),
            fails: false,
            starts: n + 1,
        }
    }

    fn result(&mut self) -> Result<(), IoError> {
        if std::mem::take(&mut self.fails) {
            Err(IoError::Failed)
        } else {
            Ok(())
        }
    }

    /// Does what is ordered, at once; frames are returned.
    fn perform(&mut self, effect: Effect) -> Option<(SessionId, Frame)> {
        let event = match effect {
            Effect::ReadData { job, offset, len } => Event::DataRead {
                job,
                result: self.result().map(|()| {
                    Bytes::copy_from_slice(&self.data[offset as usize..][..len as usize])
                }),
            },
            Effect::WriteData {
                job, offset, data, ..
            } => {
                self.data[offset as usize..][..data.len()].copy_from_slice(&data);
                let result = self.result();
                Event::DataWritten { job, result }
            }
            Effect::ZeroData { job, offset, len } => {
                self.data[offset as usize..][..len as usize].fill(0);
                let result = self.result();
                Event::DataWritten { job, result }
            }
            Effect::FlushData { job } => {
                let result = self.result();
                Event::DataFlushed { job, result }
            }
            Effect::WriteMeta { job, offset, data } => {
                self.meta[offset as usize..][..data.len()].copy_from_slice(&data);
                let result = self.result();
                Event::MetaWritten { job, result }
            }
            Effect::WriteUndo { job, offset, data } => {
                let end = offset as usize + data.len();
                self.undo.resize(self.undo.len().max(end), 0);
                self.undo[offset as usize..end].copy_from_slice(&data);
                let result = self.result().map_err(|e| e.to_string());
                Event::UndoDone { job, result }
            }
            Effect::ReadUndo { job, offset, len } => {
                let mut bytes = vec![0; len as usize];
                let there = self.undo.get(offset as usize..).unwrap_or_default();
                let there = &there[..there.len().min(bytes.len())];
                bytes[..there.len()].copy_from_slice(there);
                let result = self.result().map(|()| bytes.into());
                Event::UndoRead { job, result }
            }
            Effect::MakeUndo { job, .. } | Effect::DropUndo { job } => {
                self.undo.clear();
                let result = self.result().map_err(|e| e.to_string());
                Event::UndoDone { job, result }
            }
            Effect::FlushUndo { job } | Effect::KeepCopy { job, .. } => {
                let result = self.result().map_err(|e| e.to_string());
                Event::UndoDone { job, result }
            }
            Effect::OpenDevice { format, .. } => {
                let made = format.map(|kind| FsSignature {
                    kind,
                    uuid: [9; 16],
                });
                self.formatted = made.or(self.formatted);
                let result = Ok(self.formatted);
                Event::DeviceOpened { result }
            }
            Effect::PublishDevice => Event::DevicePublished { result: Ok(()) },
            Effect::CloseDevice => Event::DeviceClosed { result: Ok(()) },
            Effect::CloseSession { session, .. } => Event::SessionClosed {
                session,
                fault: LinkFault::Lost(String::new()),
            },
            Effect::Send { session, frame } => return Some((session, frame)),
            Effect::CompleteGuest { .. }
            | Effect::ResizeDevice { .. }
            | Effect::DialNow
            | Effect::Answer { .. }
            | Effect::Notify
            | Effect::Stopped => return None,
        };
        self.todo.push_back(event);
        None
    }
}

impl Pair {
    /// Two empty sides that have not met.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sides: [Side::new(0), Side::new(1)],
            wires: [VecDeque::new(), VecDeque::new()],
            session: None,
            sessions: 0,
            requests: 0,
            micros: 1,
        }
    }

    /// A Primary, its Secondary, both in step.
    pub fn begin(&mut self) {
        self.settle();
        self.connect();
        self.deliver_all();
        self.set_role(0, Role::Primary);
        self.connect();
        self.deliver_all();
        let report = self.sides[1].engine.report();
        assert_eq!(report.data, Data::UpToDate, "{report:?}");
    }

    /// One thing that the fuzzer wants.
    pub fn obey(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        let n = usize::from(byte >> 7);
        match byte % 16 {
            0 => self.deliver_all(),
            1 => {
                let frame = self.wires[n].pop_front();
                self.receive(n, frame);
            }
            2 => {
                let frame = self.wires[n].pop_front();
                self.receive(n, frame.and_then(|frame| spoiled(frame, input)));
            }
            3 => drop(self.wires[n].pop_front()),
            4 => {
                let frame = self.wires[n].front().cloned();
                self.receive(n, frame);
            }
            5 => {
                let len = input.word() % 1024;
                self.receive(n, decode(input.bytes(len.into())));
            }
            6 => self.connect(),
            7 => self.pass(u64::from(input.byte()) * 250_000),
            8 => self.write(n, input),
            9 => self.role(n, input.byte()),
            10 => self.restart(n),
            11 => self.give(n, Event::Configured(settings(input.byte()))),
            12 => self.order(n, input.byte()),
            13 => self.sides[n].fails = true,
            14 => self.give(n, Event::DeviceDied),
            _ => {
                if let Some(session) = self.session.take() {
                    let fault = LinkFault::Lost(String::new());
                    self.give(n, Event::SessionClosed { session, fault });
                }
            }
        }
        self.settle();
    }

    fn now(&self) -> Now {
        Now {
            mono: Mono(self.micros),
            wall: Wall(1_700_000_000_000 + (self.micros / 1000) as i64),
        }
    }

    fn give(&mut self, n: usize, event: Event) {
        self.sides[n].todo.push_back(event);
    }

    /// Everything that is to be done is done; a tick brings nothing.
    fn settle(&mut self) {
        let (now, mut out, mut steps) = (self.now(), Vec::new(), 0);
        for n in 0..2 {
            while let Some(event) = self.sides[n].todo.pop_front() {
                steps += 1;
                assert!(steps < ENDLESS, "it never comes to rest");
                self.sides[n].engine.step(now, event.clone(), &mut out);
                let told = out.len();
                self.sides[n].engine.step(now, Event::Tick, &mut out);
                let left = &out[told..];
                assert!(left.is_empty(), "{n}, after {event:?}: left over: {left:?}");
                for effect in out.drain(..) {
                    if let Some((session, frame)) = self.sides[n].perform(effect)
                        && Some(session) == self.session
                        && self.wires[1 - n].len() < ON_THE_WAY
                    {
                        self.wires[1 - n].push_back(frame);
                    }
                }
            }
        }
    }

    fn connect(&mut self) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.session = Some(session);
        for n in 0..2 {
            self.wires[n].clear();
            let hello = PeerHello {
                node: NodeId(2 - n as u128),
                version: String::new(),
                site: String::new(),
            };
            let remote = String::new();
            self.give(
                n,
                Event::SessionOpened {
                    session,
                    hello,
                    remote,
                },
            );
        }
        self.settle();
    }

    fn receive(&mut self, n: usize, frame: Option<Frame>) {
        if let (Some(session), Some(frame)) = (self.session, frame) {
            self.give(n, Event::FrameReceived { session, frame });
            self.settle();
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..ENDLESS {
            let mut quiet = true;
            for n in 0..2 {
                if let Some(frame) = self.wires[n].pop_front() {
                    quiet = false;
                    self.receive(n, Some(frame));
                }
            }
            if quiet {
                return;
            }
        }
        panic!("they talk without end");
    }

    fn pass(&mut self, micros: u64) {
        self.micros += micros;
        for n in 0..2 {
            self.give(n, Event::Tick);
        }
    }

    fn write(&mut self, n: usize, input: &mut Input<'_>) {
        if !self.sides[n].engine.has_room() {
            return;
        }
        self.requests += 1;
        let (id, choice) = (GuestId(self.requests), input.byte());
        let offset = u64::from(choice % 46) * 4096;
        let request = match choice {
            0..192 => GuestRequest::Write {
                offset,
                data: vec![input.byte(); 4096].into(),
                fua: choice.is_multiple_of(8),
            },
            192..210 => GuestRequest::Zero { offset, len: 8192 },
            210..240 => GuestRequest::Flush,
            _ => GuestRequest::Read { offset, len: 4096 },
        };
        self.give(n, Event::Guest { id, request });
    }

    fn set_role(&mut self, n: usize, role: Role) {
        let report = self.sides[n].engine.report();
        let is_first = role == Role::Primary && report.lineage.is_empty();
        let command = Command::SetRole {
            role,
            expected_epoch: report.lineage.first().copied().unwrap_or(Epoch::NONE),
            initialize: is_first.then_some(Initialize::WithPeer),
            request: JudgedRequest::default(),
        };
        self.command(n, command);
    }

    fn role(&mut self, n: usize, choice: u8) {
        let role = if choice.is_multiple_of(2) {
            Role::Primary
        } else {
            Role::Secondary
        };
        self.set_role(n, role);
    }

    fn order(&mut self, n: usize, choice: u8) {
        let report = self.sides[n].engine.report();
        let expected_epoch = report.lineage.first().copied().unwrap_or(Epoch::NONE);
        let keep = if choice.is_multiple_of(2) {
            Keep::Local
        } else {
            Keep::Remote
        };
        let command = match choice % 5 {
            0 => Command::Revert { expected_epoch },
            1 | 2 => Command::Resolve {
                expected_epoch,
                keep,
            },
            3 => Command::Refresh,
            _ => Command::HealDevice,
        };
        self.command(n, command);
    }

    fn command(&mut self, n: usize, command: Command) {
        self.requests += 1;
        let id = CommandId(self.requests.into());
        self.give(n, Event::Command { id, command });
        self.settle();
    }

    /// The process dies and comes back; the other side sees the session end.
    fn restart(&mut self, n: usize) {
        let now = self.now();
        let side = &mut self.sides[n];
        side.todo.clear();
        side.fails = false;
        side.starts += 2;
        let opened = Engine::open(&side.meta, settings(0), side.starts, now);
        side.engine = opened.expect("its own metadata");
        side.todo.push_back(Event::Tick);
        if let Some(session) = self.session.take() {
            let fault = LinkFault::Lost(String::new());
            self.give(1 - n, Event::SessionClosed { session, fault });
        }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// The frame with some bytes changed, if it is still one.
fn spoiled(frame: Frame, input: &mut Input<'_>) -> Option<Frame> {
    let mut bytes = encode(frame);
    for _ in 0..=input.byte() % 4 {
        let (at, with) = (usize::from(input.word()), input.byte());
        if let Some(last) = bytes.len().checked_sub(1) {
            bytes[at.min(last)] ^= with;
        }
    }
    decode(&bytes)
}
