//! `cargo verify`: every check of the repository, as named stages, each with its time.
//!
//! Lives here: running stages one after the other and telling how they ended. Does not live here: what a
//! stage does ([`stages`]). A stage that cannot run has failed; one that was not asked for is counted as
//! skipped and named.

pub mod stages;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use drqm_lab::interrupt::{self, Interrupted};

use crate::process;
use crate::repository;
use crate::ui::Ui;
use stages::{ALL, Stage};

/// How many lines of a failed stage are shown: its last ones.
const SHOWN: usize = 60;

/// How many lines are shown from each failed assertion on, wherever in the log it is.
const ASSERTION: usize = 6;

/// Checks of the repository; all of them, or those that are named.
#[derive(Debug, Parser)]
#[command(name = "cargo verify", bin_name = "cargo verify")]
pub struct Args {
    /// Stages to run, in their own order.
    #[arg(value_name = "STAGE", value_parser = stage_names())]
    pub stages: Vec<String>,
    /// List the stages.
    #[arg(long)]
    pub list: bool,
}

/// Where a stage writes what its programs say.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    fn new(stage: &str) -> Result<Self> {
        let path = repository::scratch("verify")?.join(format!("{stage}.log"));
        File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a program that must succeed; its words go into the log.
    ///
    /// # Errors
    /// When it cannot run, fails, or does not end in time.
    pub fn run(&self, command: &mut Command, deadline: Duration) -> Result<()> {
        // A failed assertion names its place; frames of the runtime would push it out of sight.
        command.env("RUST_BACKTRACE", "0");
        let line = process::describe(command);
        let mut file = File::options().append(true).open(&self.path)?;
        writeln!(file, "$ {line}").with_context(|| self.path.display().to_string())?;
        match process::run_into(command, deadline, &file)?.code() {
            Some(0) => Ok(()),
            Some(code) => bail!("`{line}` ended with {code}"),
            None => bail!("`{line}` was ended by a signal"),
        }
    }

    /// What says why the stage failed.
    fn essence(&self) -> String {
        essence(&fs::read_to_string(&self.path).unwrap_or_default())
    }
}

/// Runs stages and tells how each ended; true if all passed.
///
/// # Errors
/// When the program is interrupted, or its own files cannot be written.
pub fn run(args: &Args, ui: &Ui) -> Result<bool> {
    if args.list {
        for stage in &ALL {
            ui.print(&format!("{:10} {}", stage.name, stage.what));
        }
        return Ok(true);
    }
    let wanted = |stage: &&Stage| {
        args.stages.is_empty() || args.stages.iter().any(|name| name == stage.name)
    };
    let mut failed = Vec::new();
    let mut passed = 0;
    for stage in ALL.iter().filter(wanted) {
        if one(stage, ui)? {
            passed += 1;
        } else {
            failed.push(stage.name);
        }
    }
    let skipped: Vec<&str> = ALL
        .iter()
        .filter(|stage| !wanted(stage))
        .map(|stage| stage.name)
        .collect();
    if !skipped.is_empty() {
        ui.print(&format!("not asked for: {}", skipped.join(" ")));
    }
    if !failed.is_empty() {
        ui.print(&format!("failed: {}", failed.join(" ")));
    }
    ui.print(&format!(
        "{passed} passed, {} failed, {} skipped",
        failed.len(),
        skipped.len()
    ));
    Ok(failed.is_empty())
}

fn one(stage: &Stage, ui: &Ui) -> Result<bool> {
    interrupt::check()?;
    let log = Log::new(stage.name)?;
    let item = ui.progress().item(stage.name);
    let started = Instant::now();
    let result = (stage.run)(&log);
    let seconds = started.elapsed().as_secs_f32();
    match result {
        Ok(()) => {
            item.done();
            ui.print(&format!("{:10} passed {seconds:>7.1} s", stage.name));
            Ok(true)
        }
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => {
            drop(item);
            ui.print(&log.essence());
            ui.print(&format!(
                "{:10} FAILED {seconds:>7.1} s: {error:#}",
                stage.name
            ));
            ui.print(&format!("           all of it: {}", log.path().display()));
            Ok(false)
        }
    }
}

fn stage_names() -> Vec<&'static str> {
    ALL.iter().map(|stage| stage.name).collect()
}

/// The failed assertions of a log, each with what follows it, and the last lines.
fn essence(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let tail = lines.len().saturating_sub(SHOWN);
    let mut shown = String::new();
    let mut rest = 0;
    for (at, line) in lines.iter().enumerate() {
        if line.contains("panicked at") {
            rest = ASSERTION;
        }
        if rest > 0 || at >= tail {
            shown.push_str(line);
            shown.push('\n');
        }
        rest = rest.saturating_sub(1);
    }
    shown.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["verify", "fmt", "unit"]).is_ok());
        assert!(Args::try_parse_from(["verify", "nonsense"]).is_err());
    }

    #[test]
    fn failed_assertions_and_the_last_lines_are_shown() {
        let long = "noise\n".repeat(2 * SHOWN);
        let text = format!("{long}thread 'x' panicked at y:1:\nwhy\n{long}the end\n");
        let shown = essence(&text);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[..3], ["thread 'x' panicked at y:1:", "why", "noise"]);
        assert_eq!(
            (lines.len(), lines.last()),
            (SHOWN + ASSERTION, Some(&"the end"))
        );
        assert_eq!(essence(""), "");
    }
}
