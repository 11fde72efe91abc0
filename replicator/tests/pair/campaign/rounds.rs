//! One round: writers, a fault, and the way back; what is promoted is judged, and at the end both copies are
//! the same.
//!
//! Each round begins and ends with the pair in step.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drqm_rpc::control::v1 as pb;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::book::{BLOCK, Book, Closed, Write};
use super::fault::{Apart, Fault, Replaced};
use super::hosts::Hosts;
use super::rng::Rng;
use super::writer::{SharedBook, Writer};
use crate::pki::{Ca, PAIR_NAME};
use crate::support::{LIMIT, Pool, Site, gate, link, request, until_normal, with_leaf};

const SIZE: u64 = 64 << 20;

/// Where the writers' part of the device begins: before it is what says that there is a file system, which
/// nobody may overwrite.
const START: u64 = 1 << 20;

/// Bytes of the writers' part; what follows is fio's.
const WRITTEN: u64 = 47 << 20;

/// Room of each pool: the volume, its metadata, an undo log, and what a person has given up.
const ROOM: u64 = 320 << 20;

/// A pair, its writers and its book.
pub(crate) struct Rounds {
    sites: [Site; 2],
    hosts: Hosts,
    ca: Ca,
    leaves: [(String, String); 2],
    book: SharedBook,
    rng: Rng,
    primary: usize,
    mode: pb::Mode,
    written: usize,
    promotions: usize,
    lacking: usize,
    /// Whether a site that is killed forgets what was not flushed.
    forgets: bool,
}

impl Rounds {
    /// A pair in step. If it `forgets`, a site that is killed loses what it has not flushed.
    pub(crate) async fn begin(rng: Rng, forgets: bool) -> Self {
        let (hosts, ca) = (Hosts::new(), Ca::new());
        let pool = if forgets {
            Pool::Volatile(ROOM)
        } else {
            Pool::Memory(ROOM)
        };
        let sites = [
            Site::start_on("one", hosts.name(0), pool).await,
            Site::start_on("two", hosts.name(1), pool).await,
        ];
        let blocks = WRITTEN as usize / BLOCK;
        let mut rounds = Self {
            sites,
            hosts,
            leaves: [ca.leaf(PAIR_NAME), ca.leaf(PAIR_NAME)],
            ca,
            book: Arc::new(Mutex::new(Book::new(blocks))),
            rng,
            primary: 0,
            mode: pb::Mode::Asynchronous,
            written: 0,
            promotions: 0,
            lacking: 0,
            forgets,
        };
        rounds.configure().await;
        for site in &mut rounds.sites {
            site.until("linked", |s| link(s) == pb::LinkState::Connected)
                .await;
        }
        let refused = rounds.sites[0].set_role(pb::Role::Primary, "", false).await;
        assert_eq!(refused, None);
        rounds.until_open(0).await;
        // What was formatted is not the writers'.
        rounds.erase();
        rounds
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "{} writes, {} promotions apart, {} completed writes lacking there in modes or times that promise \
             no more, 0 promises broken, copies equal after every round",
            self.written, self.promotions, self.lacking
        )
    }

    /// Plays one round; what it was like.
    pub(crate) async fn play(&mut self, fault: Fault) -> String {
        let modes = [
            pb::Mode::Asynchronous,
            pb::Mode::Synchronous,
            pb::Mode::FlushSynchronous,
        ];
        self.mode = modes[self.rng.below(3) as usize];
        self.configure().await;
        let (mode, began) = (self.mode, Instant::now());
        self.sites[self.primary]
            .until("its mode", |s| s.effective_mode() == mode)
            .await;
        let (lacking, written) = (self.lacking, self.written);
        self.suffer(fault).await;
        self.hosts.heal();
        self.until_equal().await;
        for site in &mut self.sites {
            site.remove_kept_copies().await;
        }
        let image = self.image(self.primary);
        let judged = self.judge(&image, Closed::Completions, |_| true);
        assert_eq!(judged, Ok(0), "{fault:?}");
        self.turn_over(&image);
        format!(
            "{mode:?}, {} writes, {} lacking, {:.1} s",
            self.written - written,
            self.lacking - lacking,
            began.elapsed().as_secs_f32()
        )
    }

    async fn suffer(&mut self, fault: Fault) {
        let (p, s) = (self.primary, 1 - self.primary);
        let writer = self.writer(p);
        self.wait_a_while(300, 1_500).await;
        match fault {
            Fault::Apart(why) => {
                self.stay_apart(why).await;
                self.unharmed(writer).await;
            }
            Fault::Replaced(why) => {
                let newer = self.replace(why, writer).await;
                self.take_back(p).await;
                self.unharmed(newer).await;
            }
            Fault::PrimaryKilled => self.kill_and_resume(&[p], writer).await,
            Fault::BothKilled => self.kill_and_resume(&[p, s], writer).await,
            Fault::SecondaryFull => {
                let filler = self.sites[s].fill();
                self.kill_and_resume(&[p], writer).await;
                let writer = self.writer(p);
                let says = |s: &pb::VolumeState| !s.snapshot_error.is_empty();
                self.sites[s].until("why it has no snapshot", says).await;
                self.wait_a_while(100, 1_000).await;
                std::fs::remove_file(filler).unwrap();
                self.unharmed(writer).await;
            }
            Fault::SwitchedOver => {
                self.unharmed(writer).await;
                self.switch_over(p, s).await;
            }
        }
    }

    async fn stay_apart(&mut self, why: Apart) {
        let (p, s) = (self.primary, 1 - self.primary);
        match why {
            Apart::SecondaryKilled => self.sites[s].kill(),
            Apart::SecondaryStopped => self.sites[s].signal(Signal::STOP),
            Apart::LinkCut => self.hosts.cut(),
            Apart::PrimarySilenced => self.hosts.silence(p),
            Apart::SecondarySilenced => self.hosts.silence(s),
            Apart::LinkSlow => self.hosts.slow(4_000_000),
        }
        self.wait_a_while(100, 12_000).await;
        match why {
            Apart::SecondaryKilled => self.sites[s].spawn().await,
            Apart::SecondaryStopped => self.sites[s].signal(Signal::CONT),
            Apart::LinkCut
            | Apart::PrimarySilenced
            | Apart::SecondarySilenced
            | Apart::LinkSlow => self.hosts.heal(),
        }
        self.wait_a_while(0, 1_000).await;
    }

    /// The other side takes over; afterwards the old primary is alive again and does not write.
    async fn replace(&mut self, why: Replaced, writer: Writer) -> Writer {
        let p = self.primary;
        let cut = jiff::Timestamp::now().as_millisecond();
        match why {
            Replaced::Killed => {
                self.sites[p].kill();
                let newer = self.promote_and_judge(i64::MAX, Closed::Completions).await;
                assert!(wait_for_end(writer).await, "the device outlived its server");
                self.wait_a_while(0, 2_000).await;
                self.sites[p].spawn().await;
                newer
            }
            Replaced::BothKilled => {
                self.sites[p].kill();
                self.sites[1 - p].kill();
                self.sites[1 - p].spawn().await;
                let newer = self.promote_and_judge(i64::MAX, self.after_a_kill()).await;
                assert!(wait_for_end(writer).await, "the device outlived its server");
                self.sites[p].spawn().await;
                newer
            }
            Replaced::Stopped => {
                self.sites[p].signal(Signal::STOP);
                let newer = self.promote_and_judge(i64::MAX, Closed::Completions).await;
                self.wait_a_while(0, 2_000).await;
                self.sites[p].signal(Signal::CONT);
                wait_for_end(writer).await;
                newer
            }
            Replaced::CutOff => {
                self.hosts.cut();
                let newer = self.promote_and_judge(cut, Closed::Completions).await;
                self.wait_a_while(0, 2_000).await;
                wait_for_end(writer).await;
                self.hosts.heal();
                newer
            }
        }
    }

    /// Processes die, the primary's among them, and come back as what they were: nothing that was completed
    /// is missing.
    async fn kill_and_resume(&mut self, who: &[usize], writer: Writer) {
        for n in who {
            self.sites[*n].kill();
        }
        assert!(wait_for_end(writer).await, "the device outlived its server");
        for n in who.iter().rev() {
            self.sites[*n].spawn().await;
        }
        let p = self.primary;
        self.until_open(p).await;
        self.nothing_is_missing(p);
    }

    /// On the primary's own disk.
    fn nothing_is_missing(&mut self, p: usize) {
        let (image, forgets) = (self.image(p), self.forgets);
        let required = |write: &Write| !forgets || write.flushed.is_some();
        let judged = self.judge(&image, self.after_a_kill(), required);
        if let Err(why) = judged {
            panic!("{why}\n{}", self.sites[p].log());
        }
        self.turn_over(&image);
    }

    /// What a copy is closed under whose process was killed.
    fn after_a_kill(&self) -> Closed {
        if self.forgets {
            Closed::Flushes
        } else {
            Closed::Completions
        }
    }

    fn judge(
        &self,
        image: &[u8],
        closed: Closed,
        required: impl Fn(&Write) -> bool,
    ) -> Result<usize, String> {
        self.book.lock().unwrap().judge(image, closed, required)
    }

    /// What was found is what the next writers begin with.
    fn turn_over(&mut self, image: &[u8]) {
        let book = self.book.lock().unwrap();
        self.written += book.len();
        let next = book.next(image).unwrap();
        drop(book);
        self.book = Arc::new(Mutex::new(next));
    }

    /// Promotes the secondary and judges what it shows: until `cut`, the two were connected.
    async fn promote_and_judge(&mut self, cut: i64, closed: Closed) -> Writer {
        let s = 1 - self.primary;
        let state = self.promote(s).await;
        let point = state.last_transition.and_then(|t| t.recovery_point);
        let point = point.map_or(0, |point| point.time_unix_ms);
        let mode = self.mode;
        let before = |at: Option<i64>, end: i64| at.is_some_and(|at| at < end);
        let required = |write: &Write| {
            let promised = match mode {
                pb::Mode::Synchronous if closed == Closed::Flushes => before(write.flushed, cut),
                pb::Mode::Synchronous => before(write.completed, cut),
                pb::Mode::FlushSynchronous => before(write.flushed, cut),
                pb::Mode::Asynchronous | pb::Mode::Unspecified => false,
            };
            promised || before(write.completed, point)
        };
        let image = self.image(s);
        let judged = self.judge(&image, closed, required);
        self.lacking += judged.unwrap_or_else(|why| {
            let log = self.sites[s].log();
            panic!("{mode:?}, recovery point {point}, cut {cut}: {why}\n{log}")
        });
        self.turn_over(&image);
        self.promotions += 1;
        self.primary = s;
        self.writer(s)
    }

    /// A person's promotion: asked again until the side knows that its peer is gone; a copy that was
    /// being changed goes back first.
    async fn promote(&mut self, s: usize) -> pb::VolumeState {
        let deadline = Instant::now() + LIMIT;
        loop {
            let epoch = self.sites[s].state().await.epoch;
            let refusal = self.sites[s].set_role(pb::Role::Primary, &epoch, false);
            let Some(refusal) = refusal.await else { break };
            assert!(
                Instant::now() < deadline,
                "{refusal:?}\n{}",
                self.sites[s].log()
            );
            if refusal.code() == pb::RefusalCode::NoConsistentData {
                self.sites[s].revert(&epoch).await;
            }
            wait_for_change().await;
        }
        self.until_open(s).await
    }

    /// The old primary becomes secondary of the new one; if both have written, a person has chosen that one.
    async fn take_back(&mut self, p: usize) {
        let parted = |s: &pb::VolumeState| s.data() == pb::Data::Diverged;
        let site = &mut self.sites[p];
        let over = |s: &pb::VolumeState| gate(s) == pb::Gate::Superseded || parted(s);
        let state = site.until("superseded or partitioned", over).await;
        site.demote(&state.epoch).await;
        if parted(&state) {
            let epoch = site.state().await.epoch;
            assert_eq!(site.resolve(pb::Keep::Remote, &epoch).await, None);
        }
    }

    /// What fio wrote on one side it finds on the other.
    async fn switch_over(&mut self, p: usize, s: usize) {
        fio(&self.sites[p].device(), &["--do_verify=0", "--end_fsync=1"]);
        let epoch = self.sites[p].state().await.epoch;
        self.sites[p].demote(&epoch).await;
        let sealed = self.sites[p].state().await;
        assert!(sealed.sealed, "{sealed:#?}");
        self.promote(s).await;
        self.primary = s;
        fio(&self.sites[s].device(), &["--verify_only"]);
        let judged = self.judge(&self.image(s), Closed::Completions, |_| true);
        assert_eq!(judged, Ok(0));
    }

    fn writer(&mut self, n: usize) -> Writer {
        Writer::start(&self.sites[n].device(), START, &self.book, &mut self.rng)
    }

    /// The writers end; none of them met an error.
    async fn unharmed(&self, writer: Writer) {
        assert!(
            !wait_for_end(writer).await,
            "the device failed: {}",
            self.sites[self.primary].log()
        );
    }

    async fn until_open(&mut self, n: usize) -> pb::VolumeState {
        self.sites[n]
            .until("open", |s| gate(s) == pb::Gate::Open)
            .await
    }

    async fn configure(&mut self) {
        for n in 0..2 {
            let mut wanted = with_leaf(request(SIZE, "ext4"), &self.ca, self.leaves[n].clone(), 0);
            wanted.mode = self.mode.into();
            let address = format!(
                "{}:{}",
                Hosts::address(1 - n),
                self.sites[1 - n].replication
            );
            wanted.peer.as_mut().unwrap().addresses = vec![address];
            self.sites[n].configure(wanted).await.unwrap();
        }
    }

    /// The writers' part of the device.
    fn image(&self, n: usize) -> Vec<u8> {
        let mut image = vec![0; WRITTEN as usize];
        let device = File::open(self.sites[n].device()).unwrap();
        device.read_exact_at(&mut image, START).unwrap();
        image
    }

    /// Zeros instead of the file system that was made.
    fn erase(&self) {
        let device = File::options().write(true).open(self.sites[0].device());
        let device = device.unwrap();
        let zeros = vec![0; (SIZE - START) as usize];
        device.write_all_at(&zeros, START).unwrap();
        device.sync_all().unwrap();
    }

    /// The pair is in step, and what is on its way arrives: the copies are the same.
    async fn until_equal(&mut self) {
        let [one, two] = &mut self.sites;
        until_normal(one, two).await;
        let deadline = Instant::now() + LIMIT;
        loop {
            let [one, two] = self.sites.each_ref().map(Site::data);
            if one == two {
                return;
            }
            let differing = one.chunks(BLOCK).zip(two.chunks(BLOCK));
            let differing = differing.filter(|(one, two)| one != two).count();
            assert!(
                Instant::now() < deadline,
                "{differing} blocks differ\n{}\n{}",
                self.sites[0].log(),
                self.sites[1].log()
            );
            wait_for_change().await;
        }
    }

    /// The length of a fault.
    async fn wait_a_while(&mut self, low: u64, high: u64) {
        sleep(Duration::from_millis(self.rng.between(low, high))).await;
    }
}

async fn wait_for_change() {
    sleep(Duration::from_millis(50)).await;
}

/// Waits until the writers have ended; whether one met an error.
async fn wait_for_end(writer: Writer) -> bool {
    let deadline = Instant::now() + LIMIT;
    while !writer.has_ended() {
        assert!(Instant::now() < deadline, "a request is never answered");
        wait_for_change().await;
    }
    writer.has_failed()
}

/// fio's own part of the device, with its checksums.
fn fio(device: &Path, words: &[&str]) {
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--ioengine=psync", "--direct=1", "--bs=4k"]);
    fio.args(["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1"]);
    fio.arg("--verify_state_save=0");
    fio.arg(format!("--offset={}", START + WRITTEN));
    fio.arg(format!("--size={}", SIZE - START - WRITTEN));
    fio.arg(format!("--filename={}", device.display()));
    let output = fio.args(words).output();
    let output = output.expect("fio is needed: apt-get install fio");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
