//! `cargo lab`: the test bed on the command line.

use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use drqm_lab::{Lab, Link, Node, Options, Progress, Status, images, interrupt};

/// Two Kubernetes clusters on this machine, with a link to cut and power to switch off.
///
/// The clusters dr1 and dr2 run in namespaces of their own and are real: API server, etcd, kubelet,
/// containerd. Between them is one replication link (10.0.2.14 and 10.0.2.15). This machine reaches both API
/// servers over links of their own, which are never cut.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

const EXAMPLES: &str = "\
Examples:
  cargo lab up                              bring both clusters up
  export KUBECONFIG=$(cargo lab kubeconfig)
  kubectl --context dr1 get nodes           plain kubectl from this machine
  cargo lab cut; cargo lab heal             the replication link goes and comes back
  cargo lab power-off dr1                   everything on dr1 dies at once
  cargo lab power-on dr1                    and comes back with its data
  cargo lab exec dr2 -- ctr -n k8s.io containers list
  cargo lab down                            remove everything the lab has created";

#[derive(Subcommand)]
enum Verb {
    /// Bring both clusters up; install and build first what is missing.
    ///
    /// Says beforehand what it will do. Does little if the lab is up: hosts that are off are powered on, a cut
    /// link is healed.
    Up {
        /// Take a lab that is there down first, with all its data.
        #[arg(long)]
        fresh: bool,
    },
    /// Take the lab down and remove everything it has created, also what a killed run left.
    Down,
    /// Show hosts and link. Exit code 1 if there is no complete lab.
    Status,
    /// Print the path of a kubeconfig with the contexts dr1 and dr2.
    Kubeconfig,
    /// Cut the power of a host: all its processes die at once, its links go silent.
    PowerOff {
        /// Which host.
        node: Node,
    },
    /// Power a host on again, on the data it had, and wait until its node is Ready.
    PowerOn {
        /// Which host.
        node: Node,
    },
    /// Cut the replication link.
    Cut,
    /// Bring the replication link back.
    Heal,
    /// Give a container image (a tar file as `docker save` writes it) to the clusters.
    LoadImage {
        /// The tar file.
        tar: PathBuf,
        /// Only to this host.
        #[arg(long)]
        node: Option<Node>,
    },
    /// Run a command inside a host; kubectl, helm and ctr are on its PATH.
    Exec {
        /// Which host.
        node: Node,
        /// Only in the host's network, with this machine's files and processes.
        #[arg(long)]
        net: bool,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Install and build what the lab needs, without starting anything.
    Build,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    interrupt::install()?;
    let progress = Progress::auto();
    let lab = Lab::open(progress.clone())?;
    match verb {
        Verb::Up { fresh } => {
            if fresh || !lab.status()?.is_some_and(|status| status.complete) {
                progress.say(&format!("The lab will:\n{}", lab.plan()?.trim_end()));
            }
            lab.up(&Options { fresh })?;
            progress.say(&format!(
                "The lab is up. KUBECONFIG={}",
                lab.kubeconfig()?.display()
            ));
        }
        Verb::Down => lab.down()?,
        Verb::Status => return status(&lab),
        Verb::Kubeconfig => println!("{}", lab.kubeconfig()?.display()),
        Verb::PowerOff { node } => lab.power_off(node)?,
        Verb::PowerOn { node } => lab.power_on(node)?,
        Verb::Cut => lab.cut()?,
        Verb::Heal => lab.heal()?,
        Verb::LoadImage { tar, node } => lab.load_image(&tar, node)?,
        Verb::Exec { node, net, command } => {
            let mut command = if net {
                lab.net_command(node, command)?
            } else {
                lab.exec_in(node, command)?
            };
            return Err(command.exec()).context("nsenter");
        }
        Verb::Build => {
            let toolchain = lab.prepare()?;
            for image in [
                images::pause(lab.cache(), &progress)?,
                images::nats(lab.cache(), &toolchain)?,
            ] {
                progress.say(&format!("image {}", image.display()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(lab: &Lab) -> Result<ExitCode> {
    let status = lab.status()?;
    let complete = status.as_ref().is_some_and(|status| status.complete);
    let text = match status {
        Some(status) => describe(lab, &status)?,
        None => "There is no lab on this machine.\n".to_owned(),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader had enough, as `head` has.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn describe(lab: &Lab, status: &Status) -> Result<String> {
    let mut lines = Vec::new();
    for host in &status.hosts {
        let state = match (host.on, host.api, host.ready) {
            (false, _, _) => "off",
            (true, false, _) => "on, API server does not answer",
            (true, true, false) => "on, node not Ready",
            (true, true, true) => "on, node Ready",
        };
        let (node, link, here) = (host.node, host.node.address(), host.management);
        lines.push(format!(
            "{node}: {state}; {link} on the link, {here} from this machine"
        ));
    }
    lines.push(match status.link {
        Link::Up => "replication link: up".to_owned(),
        Link::Cut => "replication link: cut".to_owned(),
    });
    if status.complete {
        lines.push(format!("KUBECONFIG={}", lab.kubeconfig()?.display()));
    } else {
        lines.push(
            "It did not come up completely: `cargo lab up` starts it anew, `cargo lab down` removes it."
                .to_owned(),
        );
    }
    lines.push(format!("logs: {}/*/logs", lab.folder().display()));
    Ok(lines.join("\n") + "\n")
}
