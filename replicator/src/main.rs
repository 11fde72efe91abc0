//! Entry of `drqm-replicator`. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    drqm_replicator::main()
}
