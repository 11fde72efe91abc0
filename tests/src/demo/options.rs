//! The command line of `cargo demo`.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use drqm_api::v1alpha1;

const EXAMPLES: &str = "\
Examples:
  cargo demo                       the whole lab, asynchronous replication
  cargo demo --mode synchronous    the same, synchronous: a power cut loses nothing confirmed
  cargo demo --keep                leave the clusters up for a look around
  cargo demo down                  take down what was kept
  cargo demo --context-a here --context-b there \\
    --operator-image registry.example.com/drqm/drqm-operator:0.1.0 \\
    --replicator-image registry.example.com/drqm/drqm-replicator:0.1.0
                                   on clusters of your own; steps that need power and link are not run";

/// The disaster-recovery lab, end to end, on two Kubernetes clusters of this machine.
///
/// Builds what it needs, brings the clusters dr1 and dr2 up, installs drqm into each, and walks through
/// switchover, a cut link and a power cut with a broker whose every confirmed message is counted. Exit
/// code 0 only if every expectation held.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo", after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of the demonstration.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to do the demonstration.
    #[command(flatten)]
    pub options: Options,
}

/// What to do instead of the demonstration.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take down what `--keep` left, or a killed run.
    Down(Contexts),
}

/// How to do the demonstration.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Options {
    /// How the pair replicates.
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Leave the clusters up at the end.
    #[arg(long)]
    pub keep: bool,
    /// Use clusters that are there, instead of the lab.
    #[command(flatten)]
    pub contexts: Contexts,
    /// Image of the operator that both clusters can pull.
    #[arg(long, value_name = "IMAGE", requires = "context_a")]
    pub operator_image: Option<String>,
    /// Image of the replicator that both clusters can pull.
    #[arg(long, value_name = "IMAGE", requires = "context_a")]
    pub replicator_image: Option<String>,
    /// Image of the broker that both clusters can pull.
    #[arg(
        long,
        value_name = "IMAGE",
        requires = "context_a",
        default_value = "docker.io/library/nats:2"
    )]
    pub broker_image: String,
    /// Where this machine reaches the first cluster's broker, if not at its node's address.
    #[arg(long, value_name = "HOST:PORT", requires = "context_a")]
    pub broker_a: Option<String>,
    /// Where this machine reaches the second cluster's broker, if not at its node's address.
    #[arg(long, value_name = "HOST:PORT", requires = "context_b")]
    pub broker_b: Option<String>,
}

/// Two clusters that are there.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Contexts {
    /// kubeconfig context of the first cluster.
    #[arg(long, value_name = "CONTEXT", requires = "context_b")]
    pub context_a: Option<String>,
    /// kubeconfig context of the second cluster.
    #[arg(long, value_name = "CONTEXT", requires = "context_a")]
    pub context_b: Option<String>,
}

impl Contexts {
    /// Both, if they are given.
    #[must_use]
    pub fn pair(&self) -> Option<[String; 2]> {
        Some([self.context_a.clone()?, self.context_b.clone()?])
    }
}

/// How the pair replicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A write completes when the primary has it.
    #[default]
    Asynchronous,
    /// A flush completes when both have it durably, a write when the primary has it.
    FlushSynchronous,
    /// A write completes when both have it.
    Synchronous,
}

impl Mode {
    /// The mode as the API spells it.
    #[must_use]
    pub fn spec(self) -> v1alpha1::Mode {
        match self {
            Self::Asynchronous => v1alpha1::Mode::Asynchronous,
            Self::FlushSynchronous => v1alpha1::Mode::FlushSynchronous,
            Self::Synchronous => v1alpha1::Mode::Synchronous,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn one_context_alone_is_refused() {
        assert!(Args::try_parse_from(["demo", "--context-a", "x"]).is_err());
        let args = Args::try_parse_from(["demo", "--context-a", "x", "--context-b", "y"]);
        let pair = args.expect("both are given").options.contexts.pair();
        assert_eq!(pair, Some(["x".to_owned(), "y".to_owned()]));
    }

    #[test]
    fn images_need_clusters_that_are_there() {
        assert!(Args::try_parse_from(["demo", "--operator-image", "x"]).is_err());
    }
}
