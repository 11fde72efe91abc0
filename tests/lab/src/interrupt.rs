//! Ctrl-C and SIGTERM as a flag that every wait of the lab looks at.
//!
//! Children of the lab run in process groups of their own, so that a Ctrl-C in the terminal reaches
//! only the program itself, which then ends what it was doing and cleans up.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};

static RAISED: AtomicBool = AtomicBool::new(false);
static SHIELDS: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler for SIGINT, SIGTERM and SIGHUP; once per process.
///
/// # Errors
/// When a handler is installed already.
pub fn install() -> Result<()> {
    ctrlc::set_handler(raise).context("cannot install the Ctrl-C handler")
}

/// Sets the flag, as a signal would.
pub fn raise() {
    RAISED.store(true, Ordering::SeqCst);
}

/// Whether the program was asked to end and no [`Shield`] is held.
pub fn requested() -> bool {
    RAISED.load(Ordering::SeqCst) && SHIELDS.load(Ordering::SeqCst) == 0
}

/// An error when the program was asked to end; for use between steps.
///
/// # Errors
/// When [`requested`] is true.
pub fn check() -> Result<()> {
    if requested() {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// The error of everything that ended because of an interruption; find it with `downcast_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// While it lives, interruption does not show: clean-up runs to its end.
#[derive(Debug)]
pub struct Shield(());

/// Starts a section that an interruption does not stop.
pub fn shield() -> Shield {
    SHIELDS.fetch_add(1, Ordering::SeqCst);
    Shield(())
}

impl Drop for Shield {
    fn drop(&mut self) {
        SHIELDS.fetch_sub(1, Ordering::SeqCst);
    }
}
