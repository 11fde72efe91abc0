//! Runs external programs with a deadline, and turns their failures into errors that can be read.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt::{self, Interrupted};

/// For programs that only talk to the kernel or to files.
pub(crate) const QUICK: Duration = Duration::from_secs(20);

/// How long a wait may overlook an interruption.
const SLICE: Duration = Duration::from_millis(100);

/// How many characters of a program's complaint go into an error.
const COMPLAINT: usize = 2_000;

/// What a program left.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot start, ends with an error (its last words are in the message), passes the
/// deadline, or the lab is interrupted; in the last two cases its process group is killed.
pub(crate) fn run(command: &mut Command, deadline: Duration) -> Result<String> {
    let outcome = attempt(command, deadline)?;
    if !outcome.status.success() {
        bail!("`{}` {}", describe(command), complaint(&outcome));
    }
    Ok(outcome.stdout)
}

/// As [`run`], but a failing program is an outcome, not an error.
pub(crate) fn attempt(command: &mut Command, deadline: Duration) -> Result<Outcome> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, deadline).map_err(|error| {
        if error.is::<Interrupted>() {
            error
        } else {
            error.context(format!("`{}`", describe(command)))
        }
    })?;
    Ok(Outcome {
        status,
        stdout: stdout.join().expect("the reader does not panic"),
        stderr: stderr.join().expect("the reader does not panic"),
    })
}

/// Why a program failed, in one phrase.
pub(crate) fn complaint(outcome: &Outcome) -> String {
    let ending = match (outcome.status.code(), outcome.status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    };
    let words = if outcome.stderr.trim().is_empty() {
        &outcome.stdout
    } else {
        &outcome.stderr
    };
    match tail(words.trim(), COMPLAINT) {
        "" => ending,
        words => format!("{ending}:\n{words}"),
    }
}

/// The last `limit` bytes of a text, cut at a character.
pub(crate) fn tail(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A read error here only shortens an error message.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let error = if interrupt::requested() {
            Interrupted.into()
        } else if Instant::now() >= end {
            anyhow!("did not end within {} s", deadline.as_secs())
        } else {
            thread::sleep(pause);
            pause = (pause * 2).min(SLICE);
            continue;
        };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // The group may have ended by itself in between.
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait()?;
        return Err(error);
    }
}

/// Calls `ready` until it returns a value, at most for `deadline`.
///
/// # Errors
/// When the lab is interrupted, or nothing came in time; `what` completes "no … within".
pub(crate) fn await_value<T>(
    what: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        interrupt::check()?;
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        thread::sleep(SLICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(
            Command::new("sh").args(["-c", "echo broken pipe dream >&2; exit 3"]),
            QUICK,
        )
        .expect_err("exit code 3");
        let text = format!("{error:#}");
        assert!(
            text.contains("exit code 3") && text.contains("broken pipe dream"),
            "{text}"
        );
    }

    #[test]
    fn a_program_past_its_deadline_is_killed_with_its_children() {
        let started = Instant::now();
        let error = run(
            Command::new("sh").args(["-c", "sleep 600 & wait"]),
            Duration::from_millis(50),
        )
        .expect_err("the deadline passed");
        assert!(format!("{error:#}").contains("did not end"), "{error:#}");
        assert!(started.elapsed() < QUICK);
    }

    #[test]
    fn tail_cuts_at_characters() {
        assert_eq!(tail("aé", 1), "");
        assert_eq!(tail("aé", 2), "é");
        assert_eq!(tail("aé", 9), "aé");
    }
}
