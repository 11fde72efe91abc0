//! Children of ours: this same binary with a hidden subcommand.
//!
//! Why children: the host's programs need another mount namespace, and **no thread of this process may
//! wait for a device that this process serves**. Killed in such a wait, the process would never die:
//! the wait ends only with its own FUSE descriptor, and that only with the process.
//!
//! Guarantee: each has a time limit after which it is killed, and none outlives the process.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Pause between two looks at a running child.
const LOOK: Duration = Duration::from_millis(2);

/// Runs a subcommand and returns what it wrote to standard output.
///
/// # Errors
/// What it wrote to standard error if it failed, or that it did not end in time.
///
/// Blocking; not for the data thread.
pub(crate) fn run(arguments: &[&OsStr], limit: Duration) -> Result<String, String> {
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start a child: {e}"))?;
    // Read beside the waiting, or a talkative child would block on a full pipe.
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let Some(status) = wait(&mut child, limit).map_err(|e| e.to_string())? else {
        let _ = child.kill();
        // Not waited for without an end: it may hang in the kernel.
        reap(child);
        return Err(format!("it did not end within {} s", limit.as_secs()));
    };
    let (stdout, stderr) = (
        stdout.join().unwrap_or_default(),
        stderr.join().unwrap_or_default(),
    );
    if status.success() {
        Ok(stdout)
    } else {
        Err(format!("{} ({status})", stderr.trim()))
    }
}

/// How the child ended; `None` when it did not in time.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if started.elapsed() < limit => std::thread::sleep(LOOK),
            None => return Ok(None),
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn reap(mut child: std::process::Child) {
    std::thread::spawn(move || child.wait());
}

/// Called by a child first thing: it dies with the thread that waits for it.
pub(crate) fn die_with_parent() {
    let kill = rustix::process::Signal::KILL;
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(kill)) {
        eprintln!("PR_SET_PDEATHSIG: {error}");
    }
}
