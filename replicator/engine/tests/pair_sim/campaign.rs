//! Many lives: on all processors, with a summary; those that broke a promise are made as short as they
//! can be while they still break one.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use crate::operator::End;
use crate::random::{Script, life};
use crate::world::World;

/// How often a long campaign says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Failures that are made short; more would only be the same once more.
const SHORTENED: usize = 3;

thread_local! {
    /// Panics of this thread are found by its caller and not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    lives: u64,
    parted: u64,
    publications: u64,
    writes: u64,
    copies: u64,
    replays: u64,
    reverts: u64,
    left_behind: u64,
    hashes: u64,
    verified: u64,
    /// Lives that broke a promise, and which.
    pub(crate) failures: Vec<(Script, String)>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lives: {} ended partitioned, {} publications, {} writes, {} copies, {} replays, {} reverts, \
             {} times left behind, {} ranges told by hashes, {} verifications, {} violations",
            self.lives,
            self.parted,
            self.publications,
            self.writes,
            self.copies,
            self.replays,
            self.reverts,
            self.left_behind,
            self.hashes,
            self.verified,
            self.failures.len()
        )
    }
}

impl Found {
    fn add(&mut self, script: Script, outcome: Outcome) {
        self.lives += 1;
        match outcome {
            Ok((end, world)) => {
                self.parted += u64::from(end == End::Partitioned);
                self.publications += world.oracle.publications;
                self.writes += world.oracle.written() as u64;
                self.copies += world.copies;
                self.replays += world.replays;
                self.reverts += world.reverts;
                self.left_behind += world.left_behind;
                self.hashes += world.hashes;
                self.verified += world.verified;
            }
            Err(why) => self.failures.push((script, why)),
        }
    }
}

type Outcome = Result<(End, Box<World>), String>;

/// Lives a life; a panic is a broken promise like any other.
pub(crate) fn outcome(script: &Script) -> Outcome {
    match quietly(|| life(script, false))? {
        (Ok(end), world) => Ok((end, Box::new(world))),
        (Err(why), _) => Err(why),
    }
}

/// Does something whose panic is an answer and not printed.
pub(crate) fn quietly<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    hush();
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(what));
    QUIET.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", text.unwrap_or("without words"))
    })
}

fn hush() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
}

/// Lives `count` lives from the number `first` on.
pub(crate) fn run(first: u64, count: u64) -> Found {
    let next = AtomicU64::new(first);
    let found = Mutex::new(Found::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (next, found) = (&next, &found);
            scope.spawn(move || {
                let mut told = Instant::now();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let script = Script::of(seed);
                    let outcome = outcome(&script);
                    let mut found = found.lock().expect("adding does not panic");
                    found.add(script, outcome);
                    if thread == 0 && told.elapsed() >= PROGRESS {
                        told = Instant::now();
                        println!("{found} ({} s)", started.elapsed().as_secs());
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().expect("adding does not panic");
    found.failures.sort_by_key(|(script, _)| script.seed);
    found
}

/// The first failures, each as short as it can be, with the command that shows it.
pub(crate) fn describe(failures: &[(Script, String)]) -> String {
    let lines = failures.iter().take(SHORTENED).map(|(script, why)| {
        let (script, why) = shortened(script.clone(), why.clone());
        format!("{why}\n    cargo simulate --script {script}\n")
    });
    lines.collect()
}

/// Leaves incidents out while the life still breaks a promise.
fn shortened(mut script: Script, mut why: String) -> (Script, String) {
    let mut at = 0;
    while at < script.incidents.len() {
        let mut shorter = script.clone();
        shorter.incidents.remove(at);
        match outcome(&shorter) {
            Ok(_) => at += 1,
            Err(still) => (script, why) = (shorter, still),
        }
    }
    (script, why)
}

#[test]
fn scripts_can_be_written_down() {
    let script = Script::of(77);
    assert_eq!(script.to_string().parse(), Ok(script));
    assert!("x,1".parse::<Script>().is_err());
}
