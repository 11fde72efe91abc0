//! The replicator: one privileged process per node that owns the volumes' disks, devices and
//! connections, and lets [`drqm_engine`] decide.
//!
//! Lives here: I/O of every kind, wiring, the control service. Does not live here: any decision
//! about roles, data or epochs (the engine's), any Kubernetes client (there is none in this process).

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test that cannot go on panics")
)]

mod accepted;
mod admin;
mod args;
mod child;
mod clock;
mod control;
mod convert;
mod disk;
mod driver;
mod entropy;
mod frontend;
mod host;
mod memory;
mod metrics;
mod node;
mod panics;
mod peer;
mod pool;
mod runtime;
#[cfg(feature = "measure")]
mod standalone;
mod sys;
mod telemetry;
mod volume;

use std::process::ExitCode;

/// Runs the command line and returns the process' exit code: 0 done, 1 failed, 2 usage.
#[must_use]
pub fn main() -> ExitCode {
    use clap::Parser;

    panics::install();
    sys::share_arenas();
    let args = args::Args::parse();
    match args.command {
        // Before anything that could start a thread: a process with threads cannot change its
        // mount namespace.
        Some(args::Command::HostExec { host_pid, command }) => {
            child::die_with_parent();
            host::set_pid(host_pid);
            host::exec_in_host(&command)
        }
        Some(args::Command::LoopAttach { file, size, label }) => {
            child::die_with_parent();
            finish(frontend::loopdev::attach_here(&file, size, &label))
        }
        Some(args::Command::LoopResize { file, node, size }) => {
            child::die_with_parent();
            finish(frontend::loopdev::resize_here(&file, &node, size))
        }
        Some(args::Command::LoopDetach { node }) => {
            child::die_with_parent();
            finish(frontend::loopdev::detach_here(&node))
        }
        Some(args::Command::DeviceProbe { node }) => {
            child::die_with_parent();
            finish(frontend::signature::probe_here(&node))
        }
        #[cfg(feature = "measure")]
        Some(args::Command::Standalone(standalone)) => finish(standalone::run(standalone)),
        None => finish(runtime::run(args.run)),
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drqm-replicator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
