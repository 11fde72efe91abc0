//! What this process remembers about an object between passes.
//!
//! Lives here: facts that may be forgotten at any time (a restart forgets them all), at the cost of
//! one more call. Does not live here: anything that safety depends on; that is with the data, in
//! the replicator's superblock.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use drqm_core::observed::StepRefusal;

/// What is remembered about one object.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Fingerprint of the configuration that the replicator has accepted.
    pub configured: Option<u64>,
    /// The last refusal of a role command, until another command succeeds.
    pub refused: Option<StepRefusal>,
    /// The last command that succeeded: the same one again is no reason to hurry.
    pub last_command: Option<String>,
    /// When the status was last written.
    pub status_written: Option<Instant>,
    /// The boot of the node during which the queue manager's device or pod was seen in order.
    pub settled_on_boot: Option<String>,
}

/// Everything that is remembered, by uid.
#[derive(Debug, Default)]
pub struct Memory {
    by_uid: Mutex<HashMap<String, Remembered>>,
}

impl Memory {
    /// What is remembered; nothing about an unknown object.
    pub fn of(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes what is remembered.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// Forgets an object.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        // Forgettable facts are valid whatever a panicking holder did.
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
