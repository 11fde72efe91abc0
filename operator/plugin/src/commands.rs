//! One module per verb: read, check, patch. Does not live here: printing, wording, layout.

mod complete;
mod peer_manifest;
mod status;
mod switch;

use clap::CommandFactory;
use drqm_api::v1alpha1::Role;

use crate::{
    args::{Args, Command},
    failure::Failure,
    output,
};

/// Runs the command that the arguments name.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Status(status) => status::run(&args.kube, &status).await,
        Command::PeerManifest(manifest) => peer_manifest::run(&args.kube, &manifest).await,
        Command::Promote(switch) => switch::run(&args.kube, &switch, Role::Primary).await,
        Command::Demote(switch) => switch::run(&args.kube, &switch, Role::Secondary).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let mut command = Args::command().bin_name("kubectl-drqm");
            clap_complete::generate(shell, &mut command, "kubectl-drqm", &mut script);
            Ok(output::data(&String::from_utf8_lossy(&script))?)
        }
        Command::Version => Ok(output::data(concat!(
            "kubectl-drqm ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        ))?),
        Command::Complete { words } => complete::run(words).await,
    }
}
