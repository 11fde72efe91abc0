//! The first process of every pod of the lab: holds the pod's namespaces, reaps what its containers
//! leave when they share them, and ends on SIGTERM or SIGINT.

use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{WaitOptions, wait};

/// How often orphans are collected. A zombie costs nothing but its entry.
const ROUND: Duration = Duration::from_secs(1);

fn main() {
    if let Err(error) = ctrlc::set_handler(|| exit(0)) {
        eprintln!("pause: {error}");
        exit(1);
    }
    loop {
        // ECHILD, the usual answer, means that there is nobody to wait for now.
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        sleep(ROUND);
    }
}
