//! Processes by identity: a PID is only believed together with its start time and the machine's boot.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that cannot be mistaken for a later one with the same PID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    start_time: u64,
    boot: String,
}

impl Identity {
    /// The process that has this PID now; `None` if there is none.
    pub(crate) fn of(pid: i32) -> Result<Option<Self>> {
        let boot = boot_id()?;
        Ok(stat(pid).map(|stat| Self {
            pid,
            start_time: stat.start_time,
            boot,
        }))
    }

    /// Reads `PID START_TIME BOOT_ID`, as a host's start script writes it; `None` if the file is not there.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let identity = Self::parse(&text);
        identity
            .map(Some)
            .with_context(|| format!("{} is damaged: {text:?}", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            start_time: words.next()?.parse().ok()?,
            boot: words.next()?.to_owned(),
        })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(&self) -> Result<bool> {
        Ok(boot_id()? == self.boot
            && stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time))
    }

    /// The parent of whatever has this PID now.
    pub(crate) fn parent(pid: i32) -> Option<i32> {
        stat(pid).map(|stat| stat.parent)
    }

    /// The only child, or the first of them.
    pub(crate) fn child(&self) -> Result<Option<Self>> {
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if stat(pid).is_some_and(|stat| stat.parent == self.pid) {
                return Self::of(pid);
            }
        }
        Ok(None)
    }

    /// Kills it (SIGKILL) and waits until it is gone. Returns at once if it is gone already.
    ///
    /// For the first process of a PID namespace, gone means that every process in there is gone.
    ///
    /// # Errors
    /// When it does not go within the deadline: something in it is stuck in the kernel.
    pub(crate) fn kill(&self, deadline: Duration) -> Result<()> {
        let raw = Pid::from_raw(self.pid).context("PID 0 is no process")?;
        let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else {
            return Ok(());
        };
        // Looked at after the descriptor is open: from here on it cannot become another process.
        if !self.is_alive()? {
            return Ok(());
        }
        pidfd_send_signal(&pidfd, Signal::KILL).with_context(|| format!("kill {}", self.pid))?;
        let timeout = Timespec::try_from(deadline).context("the deadline is too large")?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            bail!(
                "process {} was killed and is not gone after {} s; a process in its namespace is stuck \
                 in the kernel (look for state D in `ps axo pid,stat,wchan,args`)",
                self.pid,
                deadline.as_secs()
            );
        }
        Ok(())
    }
}

/// The machine's boot, as the kernel names it.
pub(crate) fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("the boot id")?;
    Ok(text.trim().to_owned())
}

struct Stat {
    parent: i32,
    start_time: u64,
}

/// Parent and start time of a process; `None` when it does not exist or only waits to be reaped.
fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may itself hold spaces and parentheses.
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn stat_survives_odd_names() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = parse_stat(line).expect("a line of the kernel");
        assert_eq!((stat.parent, stat.start_time), (3, 4242));
    }

    #[test]
    fn a_zombie_is_gone() {
        assert!(
            parse_stat("7 (x) Z 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1").is_none()
        );
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = i32::try_from(std::process::id()).expect("a PID");
        let mut identity = Identity::of(own).expect("proc").expect("this process");
        assert!(identity.is_alive().expect("proc"));
        identity.start_time += 1;
        assert!(!identity.is_alive().expect("proc"));
        identity
            .kill(Duration::ZERO)
            .expect("nothing to kill, and this process lives on");
    }

    #[test]
    fn kill_waits_for_the_end() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep");
        let pid = i32::try_from(child.id()).expect("a PID");
        let identity = Identity::of(pid).expect("proc").expect("the child");
        identity.kill(Duration::from_secs(10)).expect("it dies");
        assert!(!identity.is_alive().expect("proc"));
        child.wait().expect("reaped");
    }

    #[test]
    fn the_written_form_is_read() {
        let identity = Identity::parse("12 345 abc-def\n").expect("three words");
        assert_eq!(
            identity,
            Identity {
                pid: 12,
                start_time: 345,
                boot: "abc-def".into()
            }
        );
        assert!(Identity::parse("12 x").is_none());
    }
}
