//! Processes with a deadline: run to their end, with their output shown as it comes if wanted, or kept
//! in the background.
//!
//! Children are process groups of their own: a Ctrl-C in the terminal reaches this program only, which
//! ends what it was doing and cleans up.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drqm_lab::interrupt::{self, Interrupted};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ui::Ui;

/// The kernel counts processor time in this part of a second.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// How long a wait may overlook an interruption.
const SLICE: Duration = Duration::from_millis(100);

/// How many characters of a complaint go into an error.
const COMPLAINT: usize = 2_000;

/// A process that has ended by itself.
#[derive(Debug)]
pub struct Finished {
    status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it ended with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// Why it failed, in one phrase.
    #[must_use]
    pub fn complaint(&self) -> String {
        let ending = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "failed".to_owned(),
        };
        let words = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        match tail(words.trim(), COMPLAINT) {
            "" => ending,
            words => format!("{ending}: {words}"),
        }
    }
}

/// Runs a process to its end, whatever its exit code.
///
/// # Errors
/// When it cannot start, does not end within the deadline, or this program is interrupted; it is killed
/// in the last two cases.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Finished> {
    finish(command, deadline, None)
}

/// As [`run`], showing each line of its output as it comes.
///
/// # Errors
/// See [`run`].
pub fn run_shown(command: &mut Command, deadline: Duration, ui: &Ui) -> Result<Finished> {
    finish(command, deadline, Some(ui))
}

/// As [`run`]; both its outputs go to a file, in the order in which they come.
///
/// # Errors
/// See [`run`].
pub fn run_into(command: &mut Command, deadline: Duration, file: &File) -> Result<Finished> {
    command.stdout(file.try_clone()?).stderr(file.try_clone()?);
    let running = Background::spawn(command, None)?;
    to_its_end(running, command, deadline)
}

/// Runs a process that must succeed and returns its standard output.
///
/// # Errors
/// See [`run`]; also when it ends with another code than 0.
pub fn output(command: &mut Command, deadline: Duration) -> Result<String> {
    let finished = run(command, deadline)?;
    if !finished.is_success() {
        bail!("`{}`: {}", describe(command), finished.complaint());
    }
    Ok(finished.stdout)
}

fn finish(command: &mut Command, deadline: Duration, ui: Option<&Ui>) -> Result<Finished> {
    let running = Background::start(command, ui)?;
    to_its_end(running, command, deadline)
}

fn to_its_end(mut running: Background, command: &Command, deadline: Duration) -> Result<Finished> {
    running.wait(deadline)?.with_context(|| {
        let seconds = deadline.as_secs();
        format!("`{}` did not end within {seconds} s", describe(command))
    })
}

/// A process that runs beside this program; dropped, it is killed with everything it started.
#[derive(Debug)]
pub struct Background {
    group: Pid,
    ended: Receiver<std::io::Result<ExitStatus>>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    over: bool,
}

impl Background {
    /// Starts a process; its output is shown as it comes, or only collected.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(command: &mut Command, ui: Option<&Ui>) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(command, ui)
    }

    /// Starts a process whose outputs lead where the command says.
    fn spawn(command: &mut Command, ui: Option<&Ui>) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", describe(command)))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.expect("the kernel numbers processes from 1 in an i32");
        let stdout = child.stdout.take().map(|pipe| collect(pipe, ui.cloned()));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, ui.cloned()));
        Ok(Self {
            group,
            ended: reap(child),
            stdout,
            stderr,
            over: false,
        })
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it (SIGKILL), with everything it started.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Processor time that it has taken so far, seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.group.as_raw_nonzero());
        let stat = std::fs::read_to_string(&path).context(path)?;
        // Behind the name, which may hold anything, the 12th and 13th field.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: Vec<f64> = ticks.filter_map(|text| text.parse().ok()).collect();
        ensure!(ticks.len() == 2, "no processor time in `{stat}`");
        Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
    }

    /// Waits for its end; `None` if it still runs at the deadline.
    ///
    /// # Errors
    /// When this program is interrupted.
    pub fn wait(&mut self, deadline: Duration) -> Result<Option<Finished>> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.ended.recv_timeout(left.min(SLICE)) {
                Ok(status) => {
                    self.over = true;
                    return Ok(Some(Finished {
                        status: status.context("cannot wait for a child")?,
                        stdout: text_of(self.stdout.take()),
                        stderr: text_of(self.stderr.take()),
                    }));
                }
                Err(RecvTimeoutError::Timeout) if interrupt::requested() => {
                    return Err(Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the process has ended before"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if !self.over {
            // It may have ended by itself in between.
            let _ = kill_process_group(self.group, signal);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process whose lines are read one by one, each with the time at which it came.
#[derive(Debug)]
pub struct Lines {
    group: Pid,
    lines: Receiver<(Instant, String)>,
}

impl Lines {
    /// Starts a process.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", describe(command)))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.expect("the kernel numbers processes from 1 in an i32");
        let pipe = child.stdout.take().expect("piped above");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
            // Reaped here, so that no zombie stays; how it ended tells nothing.
            let _ = child.wait();
        });
        Ok(Self { group, lines })
    }

    /// The lines that have come since the last call.
    pub fn arrived(&self) -> impl Iterator<Item = (Instant, String)> + '_ {
        self.lines.try_iter()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

/// The last `limit` bytes of a text, cut at a character.
#[must_use]
pub fn tail(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// The command as one line.
#[must_use]
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn reap(mut child: Child) -> Receiver<std::io::Result<ExitStatus>> {
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        // Nobody listens any more if the process was dropped.
        let _ = sender.send(child.wait());
    });
    ended
}

fn collect(pipe: impl Read + Send + 'static, ui: Option<Ui>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if let Some(ui) = &ui {
                ui.print(&line);
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    })
}

fn text_of(reader: Option<JoinHandle<String>>) -> String {
    reader
        .map(|reader| reader.join().expect("the reader does not panic"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_failing_process_is_an_outcome_with_its_words() {
        let mut command = Command::new("sh");
        let finished = run(command.args(["-c", "echo out; echo why >&2; exit 3"]), SOON);
        let finished = finished.expect("it starts");
        assert_eq!((finished.code(), &*finished.stdout), (Some(3), "out\n"));
        assert_eq!(finished.complaint(), "exit code 3: why");
        assert!(output(Command::new("false").arg("x"), SOON).is_err());
    }

    #[test]
    fn a_process_past_its_deadline_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        let error = run(
            command.args(["-c", "sleep 600 & wait"]),
            Duration::from_millis(50),
        );
        let text = error.expect_err("the deadline passes").to_string();
        assert!(text.contains("did not end"), "{text}");
    }

    #[test]
    fn a_background_process_ends_when_asked() {
        let mut sleeper = Background::start(Command::new("sleep").arg("600"), None).expect("sleep");
        assert!(
            sleeper
                .wait(Duration::ZERO)
                .expect("no interruption")
                .is_none()
        );
        sleeper.terminate();
        let finished = sleeper
            .wait(SOON)
            .expect("no interruption")
            .expect("it ends");
        assert_eq!(finished.code(), None);
    }

    #[test]
    fn tails_are_cut_at_characters() {
        assert_eq!(tail("aé", 1), "");
        assert_eq!(tail("aé", 2), "é");
    }
}
