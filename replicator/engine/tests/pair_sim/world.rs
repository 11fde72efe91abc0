//! Two engines, their disks, the link between them and the order in which things happen.
//!
//! Does not live here: what the user does ([`crate::guest`]), what must hold ([`crate::oracle`]),
//! what a person does ([`crate::operator`]).

use std::collections::{BTreeMap, HashMap};

use drqm_engine::command::{Command, Identity, Refusal};
use drqm_engine::compare::{Decision, Extent};
use drqm_engine::event::{FsKind, LinkFault};
use drqm_engine::frame::{Frame, Payload, PeerHello, WireWrite};
use drqm_engine::ids::{CommandId, NodeId, SessionId, VolumeId};
use drqm_engine::report::{Data, Gate, Report};
use drqm_engine::settings::{
    Mode, OnCongestion, OnPeerLoss, Settings, SnapshotPolicy, VerifyOrder, WINDOW_BYTES,
    WhenPeerUnknown,
};
use drqm_engine::time::{Mono, Now, Wall};
use drqm_engine::{Effect, Engine, Event};

use crate::disk::{DataDisk, MetaDisk};
use crate::guest::Guest;
use crate::io::Io;
use crate::link::Session;
use crate::oracle::Oracle;
use crate::rng::Rng;

pub(crate) const MS: u64 = 1000;
pub(crate) const SECOND: u64 = 1_000_000;

/// Picks frames.
pub(crate) type Which = fn(&Frame) -> bool;

/// What a run looks like.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) size: u64,
    /// What the volume may grow by.
    pub(crate) growth: u64,
    pub(crate) mode: Mode,
    pub(crate) when_peer_unknown: WhenPeerUnknown,
    /// One I/O request of so many fails; 0 for never.
    pub(crate) errors: u64,
    /// Percent of slow I/O requests.
    pub(crate) slow: u64,
    /// Bytes of writes on their way, and kept for a peer that is away.
    pub(crate) window_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) on_peer_loss: OnPeerLoss,
    pub(crate) on_congestion: OnCongestion,
    pub(crate) resync_rate: Option<u64>,
    pub(crate) snapshots: SnapshotPolicy,
    /// Each process that is Primary verifies once; whether it repairs what it finds.
    pub(crate) verify: Option<bool>,
    /// One order to the undo log of so many fails; 0 for never.
    pub(crate) undo_errors: u64,
    /// Whose volumes the two are.
    pub(crate) queue_managers: [&'static str; 2],
    /// Percent of frames that are lies; then only panics count.
    pub(crate) lies: u64,
    /// Mean time between two requests of the user, microseconds.
    pub(crate) pace: u64,
    pub(crate) trace: bool,
}

impl Config {
    pub(crate) fn plain(mode: Mode) -> Self {
        Self {
            size: (40 << 16) + 3 * 4096,
            growth: 0,
            mode,
            when_peer_unknown: WhenPeerUnknown::Start,
            errors: 0,
            slow: 3,
            window_bytes: WINDOW_BYTES,
            log_bytes: 0,
            on_peer_loss: OnPeerLoss::Continue,
            on_congestion: OnCongestion::Block,
            resync_rate: None,
            snapshots: SnapshotPolicy::Required,
            verify: None,
            undo_errors: 0,
            queue_managers: ["QM"; 2],
            lies: 0,
            pace: 10 * MS,
            trace: false,
        }
    }

    /// With a retained log.
    pub(crate) fn logging(mode: Mode) -> Self {
        Self {
            log_bytes: WINDOW_BYTES,
            ..Self::plain(mode)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Closed,
    Private,
    Published,
}

pub(crate) enum Action {
    Io(Io),
    Event(Event),
    Wake,
    Dial,
    Guest(u64),
    Frame(u64),
    Publish,
    Close,
    Opened,
}

/// One side.
pub(crate) struct Node {
    pub(crate) engine: Option<Engine>,
    pub(crate) incarnation: u64,
    pub(crate) data: DataDisk,
    pub(crate) meta: MetaDisk,
    pub(crate) undo: DataDisk,
    /// What was given up last.
    pub(crate) kept: Option<Vec<u8>>,
    pub(crate) device: Device,
    pub(crate) guest: Guest,
    pub(crate) session: Option<u64>,
    pub(crate) dialing: bool,
    pub(crate) commands: HashMap<CommandId, u64>,
    pub(crate) answers: HashMap<CommandId, Result<(), Refusal>>,
    pub(crate) skew: i64,
    /// Bytes that the disk has room for, and that the device has.
    pub(crate) capacity: u64,
    pub(crate) device_size: u64,
    reverts: bool,
    verified: bool,
    wake: u64,
    spins: u32,
}

/// Everything.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) nodes: [Node; 2],
    pub(crate) session: Option<Session>,
    pub(crate) sessions: u64,
    pub(crate) cut: bool,
    pub(crate) errors_on: bool,
    /// The next write or flush of this side fails.
    pub(crate) fail_next: Option<usize>,
    pub(crate) oracle: Oracle,
    pub(crate) failure: Option<String>,
    /// What this side sends is held, in order.
    pub(crate) stalled: Option<usize>,
    pub(crate) held: Vec<(SessionId, Frame)>,
    /// Frames to swallow, for scripted losses: `(sender, predicate)`.
    pub(crate) swallow: Option<(usize, Which)>,
    pub(crate) swallowed: u64,
    /// Questions whether the other is there.
    pub(crate) pings: [u64; 2],
    /// Copies that began, and absences that the log made good.
    pub(crate) copies: u64,
    /// Copies that went back to their snapshot.
    pub(crate) reverts: u64,
    pub(crate) replays: u64,
    /// Ranges that were told by their hashes, and verifications that ended.
    pub(crate) hashes: u64,
    /// Bytes that copies sent.
    pub(crate) copied: u64,
    pub(crate) verified: u64,
    /// A test has damaged a disk: a verification may find differences.
    pub(crate) rotten: bool,
    /// How often a slow peer was left behind.
    pub(crate) left_behind: u64,
    pub(crate) lies: u64,
    /// I/O requests that have ended, by side; after which of them a side is lost, perhaps with its power.
    pub(crate) ios: [u64; 2],
    pub(crate) crash_at: Option<(usize, u64, bool)>,
    /// What every I/O request of a side takes besides.
    pub(crate) drag: [u64; 2],
    queue: BTreeMap<(u64, u64), (usize, u64, Action)>,
    order: u64,
    next_command: u128,
}

impl World {
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        let (size, growth) = (config.size, config.growth);
        let node = |n: u64| Node {
            engine: None,
            incarnation: 0,
            data: DataDisk::default(),
            meta: MetaDisk::new(Engine::metadata_len(size)),
            undo: DataDisk::default(),
            kept: None,
            device: Device::Closed,
            guest: Guest::default(),
            session: None,
            dialing: false,
            commands: HashMap::new(),
            answers: HashMap::new(),
            skew: n as i64 * 3_700,
            capacity: size,
            device_size: size,
            reverts: false,
            verified: false,
            wake: u64::MAX,
            spins: 0,
        };
        let mut world = Self {
            config,
            now: SECOND,
            rng: Rng::new(seed),
            nodes: [node(0), node(1)],
            session: None,
            sessions: 0,
            cut: false,
            errors_on: true,
            fail_next: None,
            oracle: Oracle::new(size + growth),
            failure: None,
            stalled: None,
            held: Vec::new(),
            swallow: None,
            swallowed: 0,
            pings: [0; 2],
            copies: 0,
            reverts: 0,
            replays: 0,
            hashes: 0,
            copied: 0,
            verified: 0,
            rotten: false,
            left_behind: 0,
            lies: 0,
            ios: [0; 2],
            crash_at: None,
            drag: [0; 2],
            queue: BTreeMap::new(),
            order: 0,
            next_command: 0,
        };
        for n in 0..2 {
            let identity = Identity {
                node: NodeId(n as u128 + 1),
                volume: VolumeId::NONE,
                size,
            };
            for (offset, data) in Engine::format(&identity) {
                world.nodes[n].meta.put(offset, &data);
            }
            world.start(n);
        }
        world
    }

    pub(crate) fn settings(&self, n: usize) -> Settings {
        Settings {
            mode: self.config.mode,
            has_peer: true,
            queue_manager: self.config.queue_managers[n].to_owned(),
            fs: FsKind::Xfs,
            peer_check_timeout: std::time::Duration::from_secs(30),
            when_peer_unknown: self.config.when_peer_unknown,
            on_peer_loss: self.config.on_peer_loss,
            on_congestion: self.config.on_congestion,
            resync_rate: self.config.resync_rate,
            snapshots: self.config.snapshots,
            verify: self.config.verify.map(|repair| VerifyOrder {
                request: "a word".to_owned(),
                repair,
            }),
            capacity: self.nodes[n].capacity,
            window_bytes: self.config.window_bytes,
            log_bytes: self.config.log_bytes,
        }
    }

    pub(crate) fn clock(&self, n: usize) -> Now {
        Now {
            mono: Mono(self.now),
            wall: Wall(1_700_000_000_000 + self.now as i64 / 1000 + self.nodes[n].skew),
        }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.config.trace {
            let line = format!("{:>12.3}  {}", self.now as f64 / 1000.0, text());
            println!("{line}");
        }
    }

    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.note(|| format!("FAILED: {why}"));
        if self.failure.is_none() && self.config.lies == 0 {
            self.failure = Some(format!("at {:.3} ms: {why}", self.now as f64 / 1000.0));
        }
    }

    pub(crate) fn report(&self, n: usize) -> Option<Report> {
        self.nodes[n]
            .engine
            .as_ref()
            .map(drqm_engine::Engine::report)
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.nodes[n].engine.is_some()
    }

    pub(crate) fn at(&mut self, delay: u64, n: usize, action: Action) {
        self.order += 1;
        let incarnation = self.nodes[n].incarnation;
        let key = (self.now + delay, self.order);
        self.queue.insert(key, (n, incarnation, action));
    }

    // === life of a process ===

    pub(crate) fn start(&mut self, n: usize) {
        if self.is_up(n) {
            return;
        }
        self.note(|| format!("{n}: process starts"));
        let seed = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
        let (settings, now) = (self.settings(n), self.clock(n));
        match Engine::open(&self.nodes[n].meta.raw, settings, seed, now) {
            Ok(engine) => {
                let node = &mut self.nodes[n];
                if !engine.holds_snapshot() {
                    node.undo = DataDisk::default();
                }
                node.engine = Some(engine);
            }
            Err(e) => return self.fail(format!("node {n} does not open: {e}")),
        }
        self.oracle.restarted(n, &self.nodes[n].data, self.now);
        self.step(n, Event::Tick);
        self.dial_later(n);
    }

    /// The process ends without a word. With the power, what was cached goes too.
    pub(crate) fn crash(&mut self, n: usize, power: bool) {
        if !self.is_up(n) {
            return;
        }
        self.note(|| format!("{n}: {}", if power { "power cut" } else { "killed" }));
        self.ended(n);
        let node = &mut self.nodes[n];
        for disk in [&mut node.data, &mut node.undo] {
            if power {
                disk.power_cut(&mut self.rng);
            } else {
                disk.process_died();
            }
        }
        node.meta.power_cut(&mut self.rng);
        self.oracle.crashed(n, power);
        self.break_session();
    }

    fn ended(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.incarnation += 1;
        node.engine = None;
        node.device = Device::Closed;
        node.guest = Guest::default();
        node.session = None;
        node.dialing = false;
        node.commands.clear();
        node.wake = u64::MAX;
    }

    // === time ===

    /// Lets everything happen that is due within the next `span`.
    pub(crate) fn run(&mut self, span: u64) {
        let until = self.now + span;
        while self.failure.is_none() {
            match self.queue.first_key_value() {
                Some((key, _)) if key.0 <= until => {}
                Some(_) | None => break,
            }
            let Some(((at, _), (n, incarnation, action))) = self.queue.pop_first() else {
                break;
            };
            self.now = self.now.max(at);
            if incarnation == self.nodes[n].incarnation && self.is_up(n) {
                self.act(n, action);
            }
        }
        self.now = self.now.max(until);
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Io(io) => {
                self.io_ended(n, io);
                self.count_io(n);
            }
            Action::Event(event) => self.step(n, event),
            Action::Wake => {
                if self.nodes[n].wake <= self.now {
                    self.nodes[n].wake = u64::MAX;
                    self.step(n, Event::Tick);
                    self.watch_spinning(n);
                }
            }
            Action::Dial => self.dial(n),
            Action::Guest(turns) => self.guest_turn(n, turns),
            Action::Frame(session) => self.frame_due(n, session),
            Action::Publish => self.published(n),
            Action::Close => self.closed(n),
            Action::Opened => self.device_ready(n),
        }
    }

    fn count_io(&mut self, n: usize) {
        self.ios[n] += 1;
        if let Some((side, at, power)) = self.crash_at
            && (side, at) == (n, self.ios[n])
        {
            self.crash(n, power);
        }
    }

    /// A wake-up that asks for another one at once would burn a core.
    fn watch_spinning(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.spins = if node.wake <= self.now {
            node.spins + 1
        } else {
            0
        };
        let spins = node.spins;
        assert!(spins <= 20, "node {n} wakes itself without end");
    }

    pub(crate) fn step(&mut self, n: usize, event: Event) {
        if self.config.trace {
            self.trace_event(n, &event);
        }
        let now = self.clock(n);
        let mut out = Vec::new();
        let Some(engine) = self.nodes[n].engine.as_mut() else {
            return;
        };
        let cause = event.clone();
        engine.step(now, event, &mut out);
        // Nothing may be left over for the next fact: it may not come for a minute.
        let mut late = Vec::new();
        engine.step(now, Event::Tick, &mut late);
        assert!(
            late.is_empty(),
            "after {:.200} a tick brought {:.400}",
            format!("{cause:?}"),
            format!("{late:?}")
        );
        let wake = engine.next_wakeup().map(|m| m.0.max(self.now));
        self.observe(n);
        for effect in out {
            self.perform(n, effect);
        }
        if let Some(at) = wake
            && self.is_up(n)
            && at < self.nodes[n].wake
        {
            self.nodes[n].wake = at;
            self.at(at - self.now, n, Action::Wake);
        }
    }

    fn trace_event(&mut self, n: usize, event: &Event) {
        let quiet = matches!(
            event,
            Event::Tick | Event::DataWritten { .. } | Event::DataRead { .. } | Event::Guest { .. }
        );
        let frames = matches!(
            event,
            Event::FrameReceived {
                frame: Frame::Ping { .. } | Frame::Pong { .. },
                ..
            }
        );
        if !quiet && !frames {
            let text = format!("{event:?}");
            self.note(|| format!("{n} <- {}", text.chars().take(230).collect::<String>()));
        }
    }

    // === effects ===

    fn perform(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::CompleteGuest { id, completion } => self.guest_completed(n, id, completion),
            Effect::OpenDevice { format, size } => {
                self.nodes[n].device_size = size;
                self.open_device(n, format.is_some());
            }
            Effect::ResizeDevice { size } => {
                self.note(|| format!("{n}: the device has {size} bytes"));
                self.nodes[n].device_size = size;
            }
            Effect::PublishDevice => {
                let delay = self.latency();
                self.at(delay, n, Action::Publish);
            }
            Effect::CloseDevice => {
                let delay = self.latency();
                self.at(delay, n, Action::Close);
            }
            Effect::Send { session, frame } => {
                self.copies += u64::from(matches!(frame, Frame::ResyncBegin { .. }));
                let replay = Frame::Decision(Decision::Source(Extent::Log));
                self.replays += u64::from(frame == replay);
                self.hashes += u64::from(matches!(frame, Frame::Hashes { .. }));
                self.copied += copied_bytes(&frame);
                self.left_behind += u64::from(frame == Frame::LeftBehind);
                self.sent(n, session, frame);
            }
            Effect::CloseSession {
                session,
                reason,
                is_violation,
            } => {
                self.note(|| format!("{n}: closes session {}: {reason}", session.0));
                if is_violation {
                    self.fail(format!("node {n} ends the session: {reason}"));
                }
                self.close_session(n, session.0);
            }
            Effect::DialNow => {
                let delay = self.rng.between(MS, 5 * MS);
                self.at(delay, n, Action::Dial);
            }
            Effect::Answer { id, result } => {
                self.note(|| format!("{n}: answer {id:?} {result:?}"));
                if self.nodes[n].commands.remove(&id).is_none() {
                    self.fail(format!("node {n} answers {id:?} without being asked"));
                }
                self.nodes[n].answers.insert(id, result);
            }
            Effect::Notify => {}
            Effect::Stopped => self.stopped(n),
            order @ (Effect::ReadData { .. }
            | Effect::WriteData { .. }
            | Effect::ZeroData { .. }
            | Effect::FlushData { .. }
            | Effect::WriteMeta { .. }
            | Effect::ReadUndo { .. }
            | Effect::WriteUndo { .. }
            | Effect::FlushUndo { .. }
            | Effect::MakeUndo { .. }
            | Effect::DropUndo { .. }
            | Effect::KeepCopy { .. }) => self.begin_io(n, order),
        }
    }

    fn stopped(&mut self, n: usize) {
        self.note(|| format!("{n}: stopped"));
        self.ended(n);
        self.nodes[n].data.process_died();
        self.nodes[n].undo.process_died();
        self.nodes[n].meta.settle();
        if let Some(s) = &self.session
            && s.open[n]
        {
            self.break_session();
        }
    }

    // === commands ===

    pub(crate) fn command(&mut self, n: usize, command: Command) -> CommandId {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.nodes[n].commands.insert(id, self.now);
        self.step(n, Event::Command { id, command });
        id
    }

    /// Checks what must hold after every step.
    fn observe(&mut self, n: usize) {
        let Some(report) = self.report(n) else { return };
        let reverts = report.snapshot.is_some_and(|s| s.reverted.is_some());
        let done = self.nodes[n].reverts && !reverts && report.data == Data::Behind;
        self.reverts += u64::from(done);
        self.nodes[n].reverts = reverts;
        let verification = report.verification.as_ref();
        let ended = verification.is_some_and(|v| v.finished.is_some());
        self.verified += u64::from(ended && !self.nodes[n].verified);
        self.nodes[n].verified = ended;
        if !self.rotten && verification.is_some_and(|v| v.differing > 0) {
            self.fail("a verification finds differences that nobody made");
        }
        if self.oracle.observe(n, &report, self.now) {
            self.oracle.begins(n, &report, &self.nodes[n].data);
        }
        if let Some(why) = self.oracle.complaint.take() {
            self.fail(why);
        }
    }

    /// Nothing may wait for ever.
    pub(crate) fn check_patience(&mut self) {
        let late = |since: &u64| self.now > since + 60 * SECOND;
        for n in 0..2 {
            let node = &self.nodes[n];
            if !self.is_up(n) {
                continue;
            }
            if node.commands.values().any(late) {
                return self.fail(format!("node {n} does not answer a command"));
            }
            if node.guest.outstanding.values().any(|r| late(&r.issued)) {
                return self.fail(format!("node {n} does not answer its user"));
            }
        }
    }

    pub(crate) fn gate(&self, n: usize) -> Option<Gate> {
        self.report(n).map(|r| r.gate)
    }

    pub(crate) fn hello(n: usize) -> PeerHello {
        PeerHello {
            node: NodeId(n as u128 + 1),
            version: "1".to_owned(),
            site: format!("site {n}"),
        }
    }

    pub(crate) fn lost(session: u64) -> Event {
        Event::SessionClosed {
            session: SessionId(session),
            fault: LinkFault::Lost("lost".to_owned()),
        }
    }
}

/// Bytes of a frame that are part of a copy.
fn copied_bytes(frame: &Frame) -> u64 {
    let Frame::Writes { writes, .. } = frame else {
        return 0;
    };
    let bytes = |w: &WireWrite| match &w.payload {
        Payload::Data { data, .. } if w.resync => data.len() as u64,
        Payload::Data { .. } | Payload::Zero { .. } | Payload::FlushMark => 0,
    };
    writes.iter().map(bytes).sum()
}
