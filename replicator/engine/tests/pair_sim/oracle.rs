//! What must hold, judged from outside: images against the history of completed writes.
//!
//! A *branch* is one history: it begins with the image that a promoted side published, and holds
//! every write that was issued on it since. Heads of lineages map to branches.
//!
//! Does not live here: how an engine keeps its promises.

use std::collections::{BTreeMap, HashMap};

use drqm_engine::ids::Epoch;
use drqm_engine::report::{Data, Gate, LinkReport, Report, Transition, TransitionKind};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::disk::DataDisk;
use crate::world::{Device, World};

pub(crate) const SECTOR: u64 = 512;

/// First word of a sector: names the write.
pub(crate) fn word(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().expect("eight bytes"))
}

struct Write {
    first: u64,
    sectors: u64,
    zero: bool,
    fua: bool,
    /// Highest write completed when this one was issued.
    dep: u64,
    /// Flushes completed when this one was issued; the first flush that covered it.
    after_flushes: u64,
    flushed: Option<u64>,
    /// When it was completed, by the primary's wall clock.
    completed: Option<i64>,
    order: u64,
    failed: bool,
    /// Durable on the side that wrote it; durable on both; applied on both.
    local: bool,
    both: bool,
    applied: bool,
}

struct Branch {
    owner: usize,
    base: Vec<u64>,
    history: BTreeMap<u64, Vec<u64>>,
    /// What the owner's disk lost in a power cut, and when.
    lost: HashMap<(u64, u64), u64>,
    completed_max: u64,
    flushes: u64,
    unpromised: Vec<u64>,
    unflushed: Vec<u64>,
}

/// What an image must be closed under: it holds everything that was completed before a write that it
/// shows was issued; or, as after a crash, what a flush had covered by then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closed {
    No,
    Flushes,
    Completions,
}

#[derive(Default)]
struct Side {
    branch: Option<usize>,
    model: HashMap<u64, u64>,
    role: Role,
    lineage: Vec<Epoch>,
    /// It has lost its process, or also its power, and not been in step since.
    crashed: bool,
    torn: bool,
    /// Last moment at which it was in step with the other side.
    in_step: u64,
}

/// The book of what was written.
pub(crate) struct Oracle {
    size: u64,
    writes: Vec<Write>,
    branches: Vec<Branch>,
    heads: HashMap<Epoch, usize>,
    sides: [Side; 2],
    completions: u64,
    pub(crate) complaint: Option<String>,
    pub(crate) apart: u64,
    pub(crate) publications: u64,
}

impl Oracle {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            writes: Vec::new(),
            branches: Vec::new(),
            heads: HashMap::new(),
            sides: Default::default(),
            completions: 0,
            complaint: None,
            apart: 0,
            publications: 0,
        }
    }

    fn complain(&mut self, why: String) {
        self.complaint.get_or_insert(why);
    }

    pub(crate) fn completions(&self) -> u64 {
        self.completions
    }

    pub(crate) fn written(&self) -> usize {
        self.writes.len()
    }

    pub(crate) fn write_issued(
        &mut self,
        n: usize,
        offset: u64,
        len: u64,
        zero: bool,
        fua: bool,
    ) -> u64 {
        let number = self.writes.len() as u64 + 1;
        let (first, sectors) = (offset / SECTOR, len / SECTOR);
        let b = self.sides[n]
            .branch
            .expect("only a published side is written");
        let branch = &mut self.branches[b];
        for s in first..first + sectors {
            branch.history.entry(s).or_default().push(number);
            let content = if zero {
                0
            } else {
                crate::guest::tag(number, s)
            };
            self.sides[n].model.insert(s, content);
        }
        self.writes.push(Write {
            first,
            sectors,
            zero,
            fua,
            dep: branch.completed_max,
            after_flushes: branch.flushes,
            flushed: None,
            completed: None,
            order: 0,
            failed: false,
            local: false,
            both: false,
            applied: false,
        });
        number
    }

    pub(crate) fn write_answered(
        &mut self,
        n: usize,
        number: u64,
        done: bool,
        wall: i64,
        mode: Mode,
    ) {
        self.completions += 1;
        let order = self.completions;
        let w = &mut self.writes[number as usize - 1];
        if !done {
            w.failed = true;
            let (first, sectors) = (w.first, w.sectors);
            for s in first..first + sectors {
                self.sides[n].model.remove(&s);
            }
            return;
        }
        w.completed = Some(wall);
        w.order = order;
        w.local = w.fua;
        w.both = w.fua && mode.flushes_both();
        w.applied = mode == Mode::Synchronous;
        if let Some(b) = self.sides[n].branch {
            let branch = &mut self.branches[b];
            branch.completed_max = branch.completed_max.max(number);
            branch.unpromised.push(number);
            branch.unflushed.push(number);
        }
    }

    pub(crate) fn flush_completed(&mut self, n: usize, upto: u64, mode: Mode) {
        let Some(b) = self.sides[n].branch else {
            return;
        };
        let writes = &mut self.writes;
        self.branches[b].flushes += 1;
        let flush = self.branches[b].flushes;
        self.branches[b].unflushed.retain(|number| {
            let w = &mut writes[*number as usize - 1];
            let covered = w.order <= upto;
            if covered {
                w.flushed = Some(flush);
            }
            w.local |= covered;
            w.both |= covered && mode.flushes_both();
            !covered
        });
    }

    /// The content that a read must see; unknown after a failed write.
    pub(crate) fn model(&self, n: usize, sector: u64) -> Option<u64> {
        self.sides[n].model.get(&sector).copied()
    }

    /// Volumes too large to be looked at whole are only compared with each other.
    const fn is_judged(&self) -> bool {
        self.size < 1 << 30
    }

    fn tags(&self, disk: &DataDisk) -> Vec<u64> {
        if !self.is_judged() {
            return Vec::new();
        }
        let image = disk.read(0, self.size);
        image.chunks(SECTOR as usize).map(word).collect()
    }

    // === life of a side ===

    pub(crate) fn crashed(&mut self, n: usize, power: bool) {
        self.sides[n].torn |= power;
        self.sides[n].crashed = true;
    }

    pub(crate) fn restarted(&mut self, n: usize, disk: &DataDisk, now: u64) {
        let Some(b) = self.sides[n].branch else {
            return;
        };
        if self.branches[b].owner != n {
            return;
        }
        // Whatever was under way and is not answered never will be.
        for numbers in self.branches[b].history.values() {
            for number in numbers {
                let w = &mut self.writes[*number as usize - 1];
                w.failed |= w.completed.is_none();
            }
        }
        if self.sides[n].torn && self.is_judged() {
            let tags = self.tags(disk);
            match self.places(&tags, b) {
                Ok(places) => self.note_lost(b, &places, now),
                Err(why) => self.complain(format!("node {n} after a power cut: {why}")),
            }
        }
    }

    fn note_lost(&mut self, b: usize, places: &BTreeMap<u64, usize>, now: u64) {
        let branch = &mut self.branches[b];
        // A later flush promises nothing for what a power cut took.
        branch.unflushed.clear();
        for (s, place) in places {
            for number in &branch.history[s][*place..] {
                if self.writes[*number as usize - 1].local {
                    let why = format!("flushed write {number} is gone after a power cut");
                    self.complaint.get_or_insert(why);
                }
                branch.lost.entry((*s, *number)).or_insert(now);
            }
        }
    }

    // === images ===

    /// For every sector with a history: how many of its writes are at or below what it shows.
    fn places(&self, tags: &[u64], b: usize) -> Result<BTreeMap<u64, usize>, String> {
        let branch = &self.branches[b];
        let mut places = BTreeMap::new();
        for (s, found) in tags.iter().enumerate().skip(8) {
            let sector = s as u64;
            let Some(history) = branch.history.get(&sector) else {
                if branch.base[s] != *found {
                    return Err(format!(
                        "sector {s} changed without a write: {:x}",
                        found >> 28
                    ));
                }
                continue;
            };
            let shows = |number: u64| {
                let zero = self.writes[number as usize - 1].zero;
                *found
                    == if zero {
                        0
                    } else {
                        crate::guest::tag(number, sector)
                    }
            };
            let place = history.iter().rposition(|g| shows(*g)).map(|p| p + 1);
            let place = place.or_else(|| (branch.base[s] == *found).then_some(0));
            let Some(place) = place else {
                let last = history.last();
                return Err(format!(
                    "sector {s} shows write {} of another history, last is {last:?}",
                    found >> 28
                ));
            };
            places.insert(sector, place);
        }
        Ok(places)
    }

    /// Whether an image holds every write that `must` names, and is closed as it must be.
    fn check(
        &self,
        n: usize,
        tags: &[u64],
        b: usize,
        closed: Closed,
        must: impl Fn(&Write) -> bool,
    ) -> Result<(), String> {
        let places = self.places(tags, b)?;
        let branch = &self.branches[b];
        let (mut reach, mut reacher) = (0, 0);
        for (s, place) in &places {
            if *place > 0 && tags[*s as usize] != 0 {
                let number = branch.history[s][*place - 1];
                let w = &self.writes[number as usize - 1];
                let needs = match closed {
                    Closed::No => 0,
                    Closed::Flushes => w.after_flushes,
                    Closed::Completions => w.dep,
                };
                if needs > reach {
                    (reach, reacher) = (needs, number);
                }
            }
        }
        for (s, place) in &places {
            for number in &branch.history[s][*place..] {
                let w = &self.writes[*number as usize - 1];
                let met = self.sides[n].in_step;
                let lost = branch.lost.get(&(*s, *number)).is_some_and(|at| met > *at);
                if lost && branch.owner != n
                    || branch.owner == n && branch.lost.contains_key(&(*s, *number))
                {
                    continue;
                }
                if w.completed.is_some() && must(w) {
                    return Err(format!("completed write {number} is missing at sector {s}"));
                }
                let needed = match closed {
                    Closed::No => false,
                    Closed::Flushes => w.flushed.is_some_and(|flush| flush <= reach),
                    Closed::Completions => *number <= reach,
                };
                if needed && !w.failed {
                    return Err(format!(
                        "write {number} is missing at sector {s}, write {reacher} after it is there"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Side `n` shows its device.
    pub(crate) fn published(&mut self, n: usize, report: &Report, disk: &DataDisk) {
        self.publications += 1;
        self.begins(n, report, disk);
    }

    /// Side `n` begins, or goes on with, a history of its own: with its device, or with its promotion
    /// apart from the other, whose later writes it gives up even if it never shows its device.
    pub(crate) fn begins(&mut self, n: usize, report: &Report, disk: &DataDisk) {
        let tags = self.tags(disk);
        let known = report
            .lineage
            .iter()
            .find_map(|e| self.heads.get(e).copied());
        // A demotion that a power cut took back before it was durable has ended nothing.
        let head = report.lineage.first().and_then(|e| self.heads.get(e));
        let resumed = head.is_some_and(|b| self.branches[*b].owner == n);
        let again = self.sides[n].serving_branch(known) || resumed;
        if let Some(b) = known
            && self.is_judged()
            && let Err(why) = self.judge(n, b, again, report, &tags)
        {
            self.complain(format!("node {n} serves a wrong image: {why}"));
        }
        let side = &mut self.sides[n];
        (side.torn, side.crashed) = (false, false);
        side.model = (0..).zip(tags.iter().copied()).skip(8).collect();
        let b = match known.filter(|_| again) {
            Some(b) => b,
            None => {
                self.branches.push(Branch {
                    owner: n,
                    base: tags,
                    history: BTreeMap::new(),
                    lost: HashMap::new(),
                    completed_max: 0,
                    flushes: 0,
                    unpromised: Vec::new(),
                    unflushed: Vec::new(),
                });
                self.branches.len() - 1
            }
        };
        self.sides[n].branch = Some(b);
        // Under an epoch below the head that is not known, nobody has served: it names what came before.
        let before = known.unwrap_or(b);
        for (age, epoch) in report.lineage.iter().enumerate() {
            if self.heads.contains_key(epoch) {
                break;
            }
            self.heads.insert(*epoch, if age == 0 { b } else { before });
        }
    }

    fn judge(
        &self,
        n: usize,
        b: usize,
        again: bool,
        report: &Report,
        tags: &[u64],
    ) -> Result<(), String> {
        let (torn, own) = (self.sides[n].torn, self.branches[b].owner == n);
        if own {
            return self.check(n, tags, b, Closed::No, |w| w.local || !torn);
        }
        let transition = report
            .transition
            .ok_or("a promotion without a transition")?;
        if transition.kind == TransitionKind::Planned && !again {
            return self.check(n, tags, b, Closed::No, |_| true);
        }
        let position = transition.recovery.unwrap_or_default().position;
        let current = self.heads.get(&position.epoch) == Some(&b);
        let point = if current { position.wall.0 } else { 0 };
        let before = |w: &Write| w.completed.is_some_and(|at| at < point);
        let closed = if self.sides[n].crashed {
            Closed::Flushes
        } else {
            Closed::Completions
        };
        self.check(n, tags, b, closed, |w| {
            before(w) || if torn { w.both } else { w.applied }
        })
    }

    // === every step ===

    /// Whether the side was promoted apart since the last look.
    pub(crate) fn observe(&mut self, n: usize, report: &Report, now: u64) -> bool {
        let side = &mut self.sides[n];
        let apart = |t: &Transition| t.kind == TransitionKind::Unplanned;
        let taken = side.role == Role::Secondary && report.role == Role::Primary;
        let promoted = taken && report.transition.as_ref().is_some_and(apart);
        side.role = report.role;
        if report.lineage != side.lineage {
            side.lineage.clone_from(&report.lineage);
            let head = report.lineage.first().copied().unwrap_or_default();
            // A head that a side minted while it served; a peer's head counts from its publication.
            if let Some(b) = side.branch {
                self.heads.entry(head).or_insert(b);
            }
        }
        let side = &mut self.sides[n];
        if report.role == Role::Secondary {
            side.branch = None;
        }
        let connected = report.link == LinkReport::Connected;
        if report.role == Role::Secondary && report.data == Data::UpToDate && connected {
            (side.torn, side.crashed) = (false, false);
            side.in_step = now;
        }
        let inconsistent = matches!(
            report.data,
            Data::Syncing | Data::InconsistentSnap | Data::InconsistentNoSnap
        );
        if report.role == Role::Primary && inconsistent {
            self.complain(format!("node {n} is Primary with an inconsistent copy"));
        }
        self.promise(n, report);
        promoted
    }

    /// While synchronous, everything completed is on both sides.
    fn promise(&mut self, n: usize, report: &Report) {
        if report.effective_mode != Mode::Synchronous || report.role != Role::Primary {
            return;
        }
        if let Some(b) = self.sides[n].branch {
            for number in std::mem::take(&mut self.branches[b].unpromised) {
                self.writes[number as usize - 1].applied = true;
            }
        }
    }
}

impl Side {
    fn serving_branch(&self, known: Option<usize>) -> bool {
        known.is_some() && self.branch == known
    }
}

impl World {
    pub(crate) fn check_publication(&mut self, n: usize) {
        let (Some(report), other) = (self.report(n), self.report(1 - n)) else {
            return;
        };
        self.oracle.published(n, &report, &self.nodes[n].data);
        let both = self.nodes[1 - n].device == Device::Published;
        let joined = |r: &Report| r.link == LinkReport::Connected;
        if both && joined(&report) && other.as_ref().is_some_and(joined) {
            let parted = report.data == Data::Diverged;
            let superseded = other.is_some_and(|r| r.gate == Gate::Superseded);
            if !parted && !superseded {
                self.fail("two devices are up in one session");
            }
        }
        if let Some(why) = self.oracle.complaint.take() {
            self.fail(why);
        }
    }
}
