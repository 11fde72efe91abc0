//! `kubectl drqm`: watch and switch disaster-recovery pairs of queue managers.
//!
//! Layers: `args` → `commands` (reads and patches by `cluster`) → `view` and `request` (pure) →
//! `output` (the only printing). Invariants
//! - Nothing but `spec.role` and `spec.promotion.requestId` is written, always with a precondition.
//! - The other side's cluster is only contacted through the context that the person names.
//! - stdout carries data, stderr carries progress; exit codes are those of `failure`.

mod args;
mod cluster;
mod commands;
mod failure;
#[cfg(test)]
mod fixtures;
mod output;
mod request;
mod view;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::args::Args;

/// Runs the program and returns its exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    // clap prints usage errors by itself and leaves with 2, help and version with 0.
    let args = Args::parse_from(words);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::progress(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::progress(&failure.text());
            ExitCode::from(failure.exit_code())
        }
    }
}
