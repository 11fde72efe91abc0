//! The search: every world that can be reached within the bounds, each looked at once.
//!
//! Worlds are remembered by a hash of 128 bits. Two threads share what is remembered.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::action::Action;
use crate::bounds::Bounds;
use crate::world::World;

/// Collects what is hashed, for one go of BLAKE3.
#[derive(Default)]
struct Collected(Vec<u8>);

impl Hasher for Collected {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("128 bits are wanted")
    }
}

/// 128 bits: that two values share them is too improbable to happen.
pub(crate) fn digest(value: &impl Hash) -> [u8; 16] {
    let mut collected = Collected::default();
    value.hash(&mut collected);
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(&collected.0).as_bytes()[..16]);
    short
}

const SHELVES: usize = 64;

/// What a search has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) states: u64,
    pub(crate) transitions: u64,
    /// Ends of lives, each with its way back to Normal.
    pub(crate) ends: u64,
    pub(crate) deepest: u64,
    pub(crate) failure: Option<(Vec<Action>, String)>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} states, {} transitions, {} ends with a way back, at most {} steps deep",
            self.states, self.transitions, self.ends, self.deepest
        )
    }
}

struct Search {
    seen: Vec<Mutex<HashSet<[u8; 16]>>>,
    transitions: AtomicU64,
    ends: AtomicU64,
    deepest: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<(Vec<Action>, String)>>,
}

impl Search {
    fn is_new(&self, world: &World) -> bool {
        let digest = digest(world);
        let shelf = &self.seen[digest[0] as usize % SHELVES];
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.insert(digest)
    }

    fn fail(&self, path: &[Action], why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert((path.to_vec(), why));
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Nothing more happens within the bounds: the pair must find its way back.
    fn ends_here(&self, world: &World, path: &[Action]) {
        self.ends.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = world.clone().goes_home() {
            self.fail(path, why);
        }
    }

    /// Everything that follows from a world.
    fn visit(&self, world: &World, path: &mut Vec<Action>) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        self.deepest.fetch_max(path.len() as u64, Ordering::Relaxed);
        let enabled = world.enabled();
        if enabled.is_empty() {
            return self.ends_here(world, path);
        }
        for action in enabled {
            self.transitions.fetch_add(1, Ordering::Relaxed);
            let mut next = world.clone();
            next.act(action);
            path.push(action);
            if let Some(why) = next.failure.take() {
                self.fail(path, why);
            } else if self.is_new(&next) {
                self.visit(&next, path);
            }
            path.pop();
        }
    }

    /// Worlds a few steps away, to be shared out.
    fn roots(&self, first: World) -> Vec<(World, Vec<Action>)> {
        let mut roots = vec![(first, Vec::new())];
        while roots.len() < 200 {
            let mut next = Vec::new();
            for (world, path) in &roots {
                let enabled = world.enabled();
                if enabled.is_empty() {
                    self.ends_here(world, path);
                }
                for action in enabled {
                    self.transitions.fetch_add(1, Ordering::Relaxed);
                    let (mut after, mut path) = (world.clone(), path.clone());
                    after.act(action);
                    path.push(action);
                    if let Some(why) = after.failure.take() {
                        self.fail(&path, why);
                    } else if self.is_new(&after) {
                        next.push((after, path));
                    }
                }
            }
            roots = next;
            if roots.is_empty() || self.failed.load(Ordering::Relaxed) {
                return roots;
            }
        }
        roots
    }
}

/// Searches within the bounds.
pub(crate) fn run(bounds: Bounds) -> Found {
    let first = match World::at_home(bounds) {
        Ok(first) => first,
        Err(why) => {
            return Found {
                failure: Some((Vec::new(), why)),
                ..Found::default()
            };
        }
    };
    let search = Search {
        seen: (0..SHELVES).map(|_| Mutex::default()).collect(),
        transitions: AtomicU64::new(0),
        ends: AtomicU64::new(0),
        deepest: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let roots = Mutex::new(search.roots(first));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let worker = std::thread::Builder::new().stack_size(256 << 20);
            let work = || {
                while let Some((world, mut path)) = {
                    let mut roots = roots.lock().unwrap_or_else(PoisonError::into_inner);
                    roots.pop()
                } {
                    search.visit(&world, &mut path);
                }
            };
            worker.spawn_scoped(scope, work).expect("a thread");
        }
    });
    let seen = search.seen.into_iter().map(|shelf| {
        let shelf = shelf.into_inner().unwrap_or_else(PoisonError::into_inner);
        shelf.len() as u64
    });
    let failure = search.failure.into_inner();
    Found {
        states: seen.sum(),
        transitions: search.transitions.into_inner(),
        ends: search.ends.into_inner(),
        deepest: search.deepest.into_inner(),
        failure: failure.unwrap_or_else(PoisonError::into_inner),
    }
}

/// The shortest part of a path that still ends in a failure.
pub(crate) fn shortened(bounds: Bounds, path: &[Action]) -> Vec<Action> {
    let mut path = path.to_vec();
    let mut at = 0;
    while at < path.len() {
        let mut shorter = path.clone();
        shorter.remove(at);
        if ends_badly(bounds, &shorter, false).is_some() {
            path = shorter;
        } else {
            at += 1;
        }
    }
    path
}

/// What goes wrong on a path, or on the way home from it; what cannot happen is passed over.
pub(crate) fn ends_badly(bounds: Bounds, path: &[Action], is_shown: bool) -> Option<String> {
    let mut world = World::at_home(bounds).ok()?;
    world.is_shown = is_shown;
    for action in path {
        if world.enabled().contains(action) {
            world.act(*action);
        }
        if world.failure.is_some() {
            return world.failure;
        }
    }
    world.goes_home().err()
}
