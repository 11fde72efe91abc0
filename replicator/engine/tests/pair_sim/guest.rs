//! The device's user: random requests, each write recognisable by its content, reads checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use drqm_engine::event::{FsKind, FsSignature};
use drqm_engine::ids::GuestId;
use drqm_engine::settings::Mode;
use drqm_engine::{Completion, Event, GuestRequest};

use crate::oracle::SECTOR;
use crate::world::{Action, Device, MS, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read {
        checked: bool,
    },
    /// Its number in the oracle's book.
    Write(u64),
    /// Every write that was completed when it was issued.
    Flush(u64),
    MakeFs,
    FlushFs,
    /// Must be refused.
    Forbidden,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) issued: u64,
}

/// The user of one side.
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) running: bool,
    pub(crate) outstanding: BTreeMap<u64, Request>,
    next: u64,
    /// Turns of an earlier run of the user are void.
    turns: u64,
}

const UUID: [u8; 16] = *b"file-system-uuid";

fn superblock() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(b"XFSB");
    image[32..48].copy_from_slice(&UUID);
    image
}

/// The file system that a device's first bytes name.
pub(crate) fn signature(head: &[u8]) -> Option<FsSignature> {
    let uuid = head.get(32..48)?.try_into().ok()?;
    let kind = FsKind::Xfs;
    (head.starts_with(b"XFSB")).then_some(FsSignature { kind, uuid })
}

/// The content of a sector of a write.
pub(crate) fn tag(write: u64, sector: u64) -> u64 {
    write << 28 | sector
}

impl World {
    pub(crate) fn make_file_system(&mut self, n: usize) {
        let data = Bytes::from(superblock());
        let request = GuestRequest::Write {
            offset: 0,
            data,
            fua: false,
        };
        self.issue(n, Kind::MakeFs, 0, 4096, request);
    }

    pub(crate) fn issue(
        &mut self,
        n: usize,
        kind: Kind,
        offset: u64,
        len: u64,
        request: GuestRequest,
    ) {
        let issued = self.now;
        let guest = &mut self.nodes[n].guest;
        guest.next += 1;
        let id = guest.next;
        guest.outstanding.insert(
            id,
            Request {
                kind,
                offset,
                len,
                issued,
            },
        );
        self.step(
            n,
            Event::Guest {
                id: GuestId(id),
                request,
            },
        );
    }

    /// The user's turn: perhaps a request, and the next turn.
    pub(crate) fn guest_turn(&mut self, n: usize, turns: u64) {
        let guest = &self.nodes[n].guest;
        if self.nodes[n].device != Device::Published || !guest.running || guest.turns != turns {
            return;
        }
        let room = self.nodes[n].engine.as_ref().is_some_and(|e| e.has_room());
        if room && self.nodes[n].guest.outstanding.len() < 8 {
            self.random_request(n);
        }
        let pause = self.rng.between(100, 2 * self.config.pace);
        self.at(pause, n, Action::Guest(turns));
    }

    /// The user begins, or goes on.
    pub(crate) fn user_goes_on(&mut self, n: usize) {
        let guest = &mut self.nodes[n].guest;
        guest.running = true;
        guest.turns += 1;
        let turns = guest.turns;
        self.at(MS, n, Action::Guest(turns));
    }

    fn random_request(&mut self, n: usize) {
        let sectors = self.nodes[n].device_size / SECTOR;
        // Few places, so that everything overlaps.
        let at = if self.rng.chance(50) {
            self.rng.between(8, 150)
        } else {
            self.rng.between(8, sectors - 1)
        };
        let longest = match self.rng.below(10) {
            0..=4 => 8,
            5..=8 => self.rng.between(1, 16),
            _ => self.rng.between(1, 400),
        };
        let len = longest.min(sectors - at) * SECTOR;
        let offset = at * SECTOR;
        match self.rng.below(100) {
            0..=54 => {
                let fua = self.rng.chance(15);
                self.write(n, offset, len, fua);
            }
            55..=61 => self.zero(n, offset, len),
            62..=72 => self.flush(n),
            73 => self.forbidden(n),
            _ => self.read(n, offset, len),
        }
    }

    pub(crate) fn write(&mut self, n: usize, offset: u64, len: u64, fua: bool) -> u64 {
        let write = self.oracle.write_issued(n, offset, len, false, fua);
        let mut data = Vec::with_capacity(len as usize);
        for sector in offset / SECTOR..(offset + len) / SECTOR {
            let word = tag(write, sector).to_le_bytes();
            for _ in 0..SECTOR / 8 {
                data.extend_from_slice(&word);
            }
        }
        self.forget_reads(n, offset, len);
        let data = Bytes::from(data);
        let request = GuestRequest::Write { offset, data, fua };
        self.issue(n, Kind::Write(write), offset, len, request);
        write
    }

    pub(crate) fn zero(&mut self, n: usize, offset: u64, len: u64) {
        let write = self.oracle.write_issued(n, offset, len, true, false);
        self.forget_reads(n, offset, len);
        let request = GuestRequest::Zero { offset, len };
        self.issue(n, Kind::Write(write), offset, len, request);
    }

    pub(crate) fn flush(&mut self, n: usize) {
        let upto = self.oracle.completions();
        self.issue(n, Kind::Flush(upto), 0, 0, GuestRequest::Flush);
    }

    pub(crate) fn forbidden(&mut self, n: usize) {
        let request = GuestRequest::Zero {
            offset: 0,
            len: 4096,
        };
        if signature(&self.nodes[n].data.read(0, 4096)).is_some() {
            self.issue(n, Kind::Forbidden, 0, 4096, request);
        }
    }

    pub(crate) fn read(&mut self, n: usize, offset: u64, len: u64) {
        let writes = self.nodes[n].guest.outstanding.values();
        let checked = !writes
            .filter(|r| matches!(r.kind, Kind::Write(_)))
            .any(|r| r.offset < offset + len && offset < r.offset + r.len);
        let request = GuestRequest::Read {
            offset,
            len: len as u32,
        };
        self.issue(n, Kind::Read { checked }, offset, len, request);
    }

    /// Reads that a new write overlaps may see either content.
    fn forget_reads(&mut self, n: usize, offset: u64, len: u64) {
        for r in self.nodes[n].guest.outstanding.values_mut() {
            if matches!(r.kind, Kind::Read { .. })
                && r.offset < offset + len
                && offset < r.offset + r.len
            {
                r.kind = Kind::Read { checked: false };
            }
        }
    }

    pub(crate) fn guest_completed(&mut self, n: usize, id: GuestId, completion: Completion) {
        let Some(request) = self.nodes[n].guest.outstanding.remove(&id.0) else {
            return self.fail(format!("node {n} answers request {} twice", id.0));
        };
        let done = !matches!(completion, Completion::Error);
        match (request.kind, completion) {
            (Kind::Forbidden, completion) => {
                if completion != Completion::Error {
                    self.fail(format!("node {n} let the file system be destroyed"));
                }
            }
            (Kind::Read { checked }, Completion::Data(data)) => {
                if data.len() as u64 != request.len {
                    self.fail("a short read");
                } else if checked {
                    self.check_read(n, request.offset, &data);
                }
            }
            (Kind::Read { .. }, Completion::Done | Completion::Error) => {}
            (Kind::Write(write), _) => self.write_answered(n, write, done),
            (Kind::Flush(upto), _) if done => {
                let mode = self.stated_mode(n);
                self.oracle.flush_completed(n, upto, mode);
            }
            (Kind::MakeFs, _) if done => {
                self.issue(n, Kind::FlushFs, 0, 0, GuestRequest::Flush);
            }
            (Kind::FlushFs, _) if done => self.at(1, n, Action::Opened),
            (Kind::Flush(_), _) => {}
            (Kind::MakeFs | Kind::FlushFs, _) => {
                let result = Err("mkfs failed".to_owned());
                self.at(1, n, Action::Event(Event::DeviceOpened { result }));
            }
        }
    }

    /// The mode that status claims.
    fn stated_mode(&self, n: usize) -> Mode {
        self.report(n).map(|r| r.effective_mode).unwrap_or_default()
    }

    fn write_answered(&mut self, n: usize, write: u64, done: bool) {
        let superseded = self.report(n).is_some_and(|r| {
            r.superseded_by.is_some() && r.role == drqm_engine::role::Role::Primary
        });
        if done && superseded {
            self.fail(format!("node {n} is superseded and completes a write"));
        }
        let (wall, mode) = (self.clock(n).wall.0, self.stated_mode(n));
        self.oracle.write_answered(n, write, done, wall, mode);
    }

    fn check_read(&mut self, n: usize, offset: u64, data: &[u8]) {
        let first = offset / SECTOR;
        for (i, sector) in data.chunks(SECTOR as usize).enumerate() {
            let s = first + i as u64;
            if s < 8 {
                continue;
            }
            let expected = self.oracle.model(n, s);
            let found = crate::oracle::word(sector);
            if expected.is_some_and(|e| e != found) {
                return self.fail(format!(
                    "node {n} reads write {} at sector {s}, write {:?} was last",
                    found >> 28,
                    expected.map(|e| e >> 28)
                ));
            }
        }
    }
}
