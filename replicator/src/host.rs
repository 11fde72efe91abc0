//! Programs of the host (mkfs, umount): the image holds nothing but this binary, so they are run in
//! the host's mount namespace through a child of our own.
//!
//! Guarantee: one at a time, each with a time limit after which it is killed.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::child;

static HOST_PID: OnceLock<u32> = OnceLock::new();

/// Says which process stands for the host; once, at start. Process 1 unless told.
pub(crate) fn set_pid(pid: u32) {
    let _ = HOST_PID.set(pid);
}

fn pid() -> u32 {
    *HOST_PID.get_or_init(|| 1)
}

/// A file below the host's first process in /proc.
pub(crate) fn proc(file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{file}", pid()))
}

/// Joins the host's mount namespace and becomes `command`. Returns only on failure.
pub(crate) fn exec_in_host(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(2);
    };
    let joined = std::fs::File::open(proc("ns/mnt")).and_then(|ns| {
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(Into::into)
    });
    if let Err(error) = joined {
        eprintln!(
            "host-exec: cannot join the host's mount namespace: {error} (needs hostPID and CAP_SYS_ADMIN)"
        );
        return ExitCode::FAILURE;
    }
    // The namespace's own search path, not the image's.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .exec();
    eprintln!("host-exec: {}: {error}", program.to_string_lossy());
    ExitCode::from(127)
}

/// Runs a program of the host and waits for it.
///
/// # Errors
/// What it wrote to standard error if it failed, or that it did not end in time.
///
/// Blocking; not for the data thread.
pub(crate) fn run(command: &[&str], limit: Duration) -> Result<(), String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = pid().to_string();
    let ours = ["host-exec", "--host-pid", &pid, "--"];
    let arguments: Vec<&OsStr> = ours.iter().chain(command).map(OsStr::new).collect();
    let name = command.first().copied().unwrap_or_default();
    child::run(&arguments, limit)
        .map(drop)
        .map_err(|e| format!("{name}: {e}"))
}
