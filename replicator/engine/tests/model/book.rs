//! What users wrote and were told, and what must therefore hold (guarantees G1 to G6).
//!
//! Each write puts a number of its own into one chunk; what it went over is remembered, so an image says which
//! writes it holds. What may be missing: what a person gave up, and the tail of a run that was lost.
//!
//! Does not live here: what the engines do.

use drqm_engine::report::{Data, Gate, LinkReport, Report, TransitionKind};
use drqm_engine::role::Role;
use drqm_engine::settings::Mode;

use crate::disk::{BLOCK, Image};
use crate::world::{Device, World};

/// Writes, one bit each.
pub(crate) type Set = u16;

#[derive(Clone, Debug, Hash)]
struct Write {
    owner: usize,
    over: u8,
    /// Completed, and completed and flushed, in its history before it was issued.
    after: Set,
    after_flushed: Set,
    /// When it completed, by the clock that recovery points quote.
    done: Option<i64>,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Waiting {
    Write(usize, usize),
    Flush(Set),
}

/// What one side's user, and the person at it, know.
#[derive(Clone, Debug, Default, Hash)]
struct Page {
    waiting: Vec<(u64, Waiting)>,
    /// What the user sees, once everything issued has ended.
    shown: Image,
    /// A write has failed: what its chunk shows is not known until the device is shown again.
    muddled: bool,
    /// The writes of its history.
    past: Set,
    /// What it must find again if it goes on after it was lost.
    entitled: Option<Set>,
    /// The copy was lost since it was last in step: only flushes count.
    torn: bool,
    primary: bool,
    /// It has told the other side that its history goes on there.
    superseded: bool,
    /// What it has to find, promoted with the other side's grant.
    owed: Set,
    /// Said to be on both sides since the other was there the last time.
    told: Set,
    /// The last promotion that was asked for may lose something.
    may_lose: bool,
    /// What it gives up, if the command is carried out.
    giving_up: Set,
    /// What it gave up last; whether that is being taken back.
    word: Set,
    takes_back: bool,
}

/// Everything.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Book {
    writes: Vec<Write>,
    completed: Set,
    /// Durable on the side whose user flushed; on both sides.
    flushed: [Set; 2],
    flushed_both: Set,
    /// On both sides, as status said.
    both: Set,
    /// Written by a run that was lost; and lost with its power.
    tail: Set,
    gone: Set,
    given_up: Set,
    /// In copies that were kept of what is given up.
    kept: Set,
    /// Promotions without the other side.
    apart: u8,
    pages: [Page; 2],
}

impl Book {
    fn history(&self, image: Image) -> Set {
        let mut set = 0;
        for mut value in image {
            while value > 0 {
                set |= 1 << (value - 1);
                value = self.writes[value as usize - 1].over;
            }
        }
        set
    }

    fn owned(&self, n: usize) -> Set {
        self.those(|w| w.owner == n)
    }

    fn those(&self, which: impl Fn(&Write) -> bool) -> Set {
        let those = self.writes.iter().enumerate().filter(|(_, w)| which(w));
        those.fold(0, |set, (i, _)| set | 1 << i)
    }

    /// Whether nobody has written.
    pub(crate) const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The user of a side writes to a chunk; none if it waits for an earlier one to it.
    pub(crate) fn write(&mut self, n: usize, id: u64, chunk: usize) -> Option<u8> {
        let page = &mut self.pages[n];
        let busy = |(_, w): &(u64, Waiting)| matches!(w, Waiting::Write(_, c) if *c == chunk);
        if page.waiting.iter().any(busy) {
            return None;
        }
        let index = self.writes.len();
        self.writes.push(Write {
            owner: n,
            over: page.shown[chunk],
            after: page.past & self.completed,
            after_flushed: page.past & self.flushed[n],
            done: None,
        });
        page.shown[chunk] = index as u8 + 1;
        page.past |= 1 << index;
        page.waiting.push((id, Waiting::Write(index, chunk)));
        Some(index as u8 + 1)
    }

    pub(crate) fn flush(&mut self, n: usize, id: u64) {
        let covers = self.pages[n].past & self.completed;
        self.pages[n].waiting.push((id, Waiting::Flush(covers)));
    }

    pub(crate) fn has_waiting(&self, n: usize) -> bool {
        !self.pages[n].waiting.is_empty()
    }

    fn ends(&mut self, n: usize, id: u64) -> Option<Waiting> {
        let waiting = &mut self.pages[n].waiting;
        let at = waiting.iter().position(|(w, _)| *w == id)?;
        Some(waiting.remove(at).1)
    }

    /// A request has ended well, in this mode.
    pub(crate) fn completed(&mut self, n: usize, id: u64, mode: Mode, wall: i64) {
        match self.ends(n, id) {
            Some(Waiting::Write(index, _)) => {
                self.completed |= 1 << index;
                self.writes[index].done = Some(wall);
                if mode == Mode::Synchronous {
                    self.both |= 1 << index;
                }
            }
            Some(Waiting::Flush(covers)) => {
                self.flushed[n] |= covers;
                if mode.flushes_both() {
                    self.flushed_both |= covers;
                    self.both |= covers;
                }
            }
            None => {}
        }
    }

    pub(crate) fn refused(&mut self, n: usize, id: u64) {
        self.ends(n, id);
        self.pages[n].muddled = true;
    }

    pub(crate) const fn may_lose(&mut self, n: usize, may: bool) {
        self.pages[n].may_lose = may;
    }

    /// A side is lost, perhaps with its power.
    pub(crate) fn crashed(&mut self, n: usize, power: bool, left: Image) {
        let own = self.owned(n);
        let left = self.history(left);
        let page = &mut self.pages[n];
        page.torn = true;
        if page.primary {
            self.tail |= own;
            self.gone |= page.past & !left;
            let found = page.past & self.completed;
            let kept = if power {
                found & self.flushed[n]
            } else {
                found
            };
            page.entitled = Some(page.entitled.unwrap_or(Set::MAX) & kept);
        }
        if power {
            self.both &= self.flushed_both;
        }
    }

    pub(crate) fn process_ended(&mut self, n: usize) {
        self.pages[n].waiting.clear();
    }

    /// A side makes way: if the other lacks something of its history, it says so.
    pub(crate) fn superseded(
        &mut self,
        n: usize,
        [own, other]: [Image; 2],
        counted: u64,
    ) -> Option<String> {
        self.pages[n].superseded = true;
        let lost = self.completed & self.history(own) & !self.history(other) & !self.given_up;
        let bytes = u64::from(lost.count_ones()) * BLOCK;
        (bytes > counted).then(|| format!("loses {bytes} bytes, and says {counted}: {self:?}"))
    }

    /// The other side gives way: this one goes on.
    pub(crate) const fn goes_on(&mut self, n: usize) {
        self.pages[n].superseded = false;
    }

    /// A person gives up what only side `n` has.
    pub(crate) fn gives_up(&mut self, n: usize, own: Image, other: Image) {
        let lost = self.history(own) & !self.history(other) & !self.given_up;
        self.pages[n].giving_up = lost;
        self.given_up |= lost;
    }

    /// A command is answered; nothing is given up unless the side says so.
    pub(crate) fn answered(&mut self, n: usize, is_done: bool, says_given_up: bool) {
        let page = &mut self.pages[n];
        let asked = std::mem::take(&mut page.giving_up);
        if is_done && says_given_up {
            page.word |= asked;
        } else {
            self.given_up &= !asked;
        }
        if std::mem::take(&mut page.takes_back) && is_done {
            self.given_up &= !std::mem::take(&mut page.word);
        }
    }

    /// A person takes back what was said to be given up.
    pub(crate) const fn takes_back(&mut self, n: usize) {
        self.pages[n].takes_back = true;
    }

    /// A copy has been kept; it must hold what is given up.
    pub(crate) fn copy_kept(&mut self, n: usize, image: Image) -> Option<String> {
        let history = self.history(image);
        self.kept |= history;
        let word = self.pages[n].word;
        let missing = word & !history;
        (missing != 0).then(|| format!("keeps {image:?} without {missing:b}: {self:?}"))
    }

    /// What nobody has been told to be lost.
    fn owed(&self) -> Set {
        self.completed & !self.given_up & (!self.tail | self.both)
    }

    fn missing(&self, owed: Set, image: Image) -> Option<String> {
        let missing = owed & !self.history(image);
        (missing != 0).then(|| format!("writes {missing:b} are missing in {image:?}: {self:?}"))
    }

    fn closed(&self, n: usize, image: Image) -> Option<String> {
        let history = self.history(image);
        for (i, write) in self.writes.iter().enumerate() {
            let needs = if self.pages[n].torn {
                write.after_flushed
            } else {
                write.after
            };
            let needs = needs & !self.gone & !history;
            if history >> i & 1 == 1 && needs != 0 {
                let text = format!("write {i} is in {image:?} without {needs:b} before it");
                return Some(format!("{text}: {self:?}"));
            }
        }
        None
    }

    /// A side shows its device.
    fn shows(&mut self, n: usize, report: &Report, image: Image) -> Option<String> {
        let kind = report.transition.map(|t| t.kind);
        let wrong = if self.pages[n].superseded {
            Some("its history goes on at the other side".to_owned())
        } else if let Some(entitled) = self.pages[n].entitled {
            self.missing(entitled & !self.given_up, image)
        } else if kind == Some(TransitionKind::Unplanned) {
            let both = self.completed & self.both & !self.given_up;
            let stated = report.transition.and_then(|t| t.recovery);
            let until = stated.map_or(0, |r| r.position.wall.0);
            self.missing(both, image)
                .or_else(|| self.closed(n, image))
                .or_else(|| self.missing(self.done_before(1 - n, until) & !self.given_up, image))
        } else {
            self.missing(self.pages[n].owed & !self.given_up, image)
        };
        self.pages[n].past = self.history(image);
        self.pages[n].shown = image;
        self.pages[n].muddled = false;
        wrong
    }

    /// What the user of a side was told to be done before this moment.
    fn done_before(&self, n: usize, wall: i64) -> Set {
        self.those(|w| w.owner == n && w.done.is_some_and(|at| at < wall))
    }

    /// While nothing is asked of it, a device shows what its user wrote.
    fn shows_what_was_written(&self, n: usize, image: Image) -> bool {
        let page = &self.pages[n];
        page.muddled || !page.waiting.is_empty() || page.shown == image
    }

    /// Both copies are this, and everything is durable as far as it was promised: what is in it is not lost.
    fn in_step(&mut self, image: Image) -> Option<String> {
        if let Some(why) = self.missing(self.owed(), image) {
            return Some(why);
        }
        let here = self.history(image);
        let vanished = self.given_up & self.completed & !here & !self.kept;
        if vanished != 0 {
            return Some(format!("{vanished:b} were given up and not kept: {self:?}"));
        }
        self.tail &= !here;
        self.given_up &= !here;
        for page in &mut self.pages {
            page.word = 0;
        }
        None
    }

    /// After every step of a side.
    fn observe(&mut self, n: usize, report: &Report) -> Option<&'static str> {
        let promoted = !self.pages[n].primary && report.role == Role::Primary;
        if promoted {
            self.pages[n].owed = self.owed();
        }
        let page = &mut self.pages[n];
        page.primary = report.role == Role::Primary;
        if !page.primary {
            page.entitled = None;
            page.superseded = false;
            let connected = report.link == LinkReport::Connected;
            page.torn &= !(connected && report.data == Data::UpToDate);
        } else if report.effective_mode == Mode::Synchronous {
            let new = self.completed & page.past & !page.told;
            self.both |= new;
            page.told |= new;
        } else {
            page.told = 0;
        }
        let apart = report.transition.map(|t| t.kind) == Some(TransitionKind::Unplanned);
        self.apart += u8::from(promoted && apart);
        if promoted && apart && !self.pages[n].may_lose {
            return Some("went apart though it was to lose nothing");
        }
        if report.data == Data::Diverged && self.writes.is_empty() && self.apart <= 1 {
            return Some("is Partitioned though nobody wrote");
        }
        match report.data {
            Data::Failed => Some("failed"),
            Data::Syncing | Data::InconsistentSnap | Data::InconsistentNoSnap
                if report.role == Role::Primary =>
            {
                Some("is Primary with an inconsistent copy")
            }
            Data::Empty
            | Data::UpToDate
            | Data::SyncSource
            | Data::Behind
            | Data::Syncing
            | Data::InconsistentSnap
            | Data::InconsistentNoSnap
            | Data::Diverged => None,
        }
    }
}

impl World {
    pub(crate) fn observe(&mut self, n: usize) {
        let Some(report) = self.report(n) else { return };
        if self.report(1 - n).is_some_and(|r| r.given_up) {
            self.book.goes_on(n);
        }
        if let Some(why) = self.book.observe(n, &report) {
            self.fail(format!("side {n} {why}"));
        }
        let (image, device) = (self.sides[n].data.image(), self.sides[n].device);
        if device == Device::Published && !self.book.shows_what_was_written(n, image) {
            let book = format!("{:?}", self.book);
            self.fail(format!("side {n} shows {image:?} to its user: {book}"));
        }
    }

    pub(crate) fn published(&mut self, n: usize) {
        let Some(report) = self.report(n) else { return };
        let image = self.sides[n].data.image();
        if let Some(why) = self.book.shows(n, &report, image) {
            self.fail(format!("side {n} serves a wrong image: {why}"));
        }
        self.check_devices();
    }

    fn check_devices(&mut self) {
        let (Some(a), Some(b)) = (self.report(0), self.report(1)) else {
            return;
        };
        let shown = self.sides.iter().all(|s| s.device == Device::Published);
        let excused = |r: &Report| {
            r.link != LinkReport::Connected
                || r.data == Data::Diverged
                || r.gate == Gate::Superseded
        };
        if shown && self.is_linked() && !excused(&a) && !excused(&b) {
            self.fail("two devices are up in one session");
        }
    }

    /// Whether nothing is under way anywhere.
    pub(crate) fn is_quiet(&self) -> bool {
        let quiet = |n: usize| {
            let side = &self.sides[n];
            side.io.data.is_empty() && side.io.meta.is_empty() && !self.book.has_waiting(n)
        };
        let link = self.link.as_ref();
        quiet(0) && quiet(1) && link.is_none_or(|l| l.to.iter().all(|q| q.is_empty()))
    }

    /// Whether the pair is Normal, one side serving.
    pub(crate) fn is_normal(&self) -> bool {
        let (Some(a), Some(b)) = (self.report(0), self.report(1)) else {
            return false;
        };
        let good = |r: &Report| {
            r.data == Data::UpToDate
                && r.link == LinkReport::Connected
                && r.out_of_sync_bytes == 0
                && (r.role == Role::Secondary || r.gate == Gate::Open)
        };
        self.is_linked() && a.role != b.role && good(&a) && good(&b)
    }

    /// What must hold when nothing is under way.
    pub(crate) fn check_quiet(&mut self) {
        self.check_devices();
        if !self.is_normal() {
            return;
        }
        let [a, b] = [0, 1].map(|n: usize| self.sides[n].data.image());
        if a != b {
            return self.fail(format!(
                "Normal, and the copies are {a:?} and {b:?}: {:?}",
                self.book
            ));
        }
        if let Some(why) = self.book.in_step(a) {
            self.fail(format!("Normal: {why}"));
        }
    }
}
