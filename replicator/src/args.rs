//! Command line. Each flag has an environment name; nothing reads the environment after this.
//!
//! Does not live here: checks that need the machine (they are where the thing is used).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::pool::Allocation;

/// Block replication of a node's drqm volumes.
#[derive(Debug, Parser)]
#[command(
    name = "drqm-replicator",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a program of the host in the host's mount namespace.
    #[command(hide = true)]
    HostExec {
        /// See the flag of the same name.
        #[arg(long, default_value_t = 1)]
        host_pid: u32,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Binds a loop device to a file and prints the device.
    #[command(hide = true)]
    LoopAttach {
        /// What the device shows.
        file: PathBuf,
        /// Bytes that it must have.
        size: u64,
        /// By which it is found again.
        label: String,
    },
    /// Makes a loop device as large as its file.
    #[command(hide = true)]
    LoopResize {
        /// What the device shows.
        file: PathBuf,
        /// Which.
        node: PathBuf,
        /// Bytes that it must have.
        size: u64,
    },
    /// Releases a loop device.
    #[command(hide = true)]
    LoopDetach {
        /// Which.
        node: PathBuf,
    },
    /// Reads the first block of a device that must be writable, and prints the file system on it.
    #[command(hide = true)]
    DeviceProbe {
        /// Which.
        node: PathBuf,
    },
    /// One volume without a control plane, for measurements and process tests.
    #[cfg(feature = "measure")]
    #[command(hide = true)]
    Standalone(StandaloneArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Name of this node; part of every private path and device label.
    #[arg(long, env = "DRQM_NODE_NAME", default_value = "")]
    pub(crate) node_name: String,
    /// Private directory: lock, mount points of devices, NBD sockets.
    #[arg(long, env = "DRQM_STATE_DIR", default_value = "/var/lib/drqm")]
    pub(crate) state_dir: PathBuf,
    /// Directory that holds the volumes' files [default: <state-dir>/pool]
    #[arg(long, env = "DRQM_POOL_DIR")]
    pub(crate) pool_dir: Option<PathBuf>,
    /// Bytes that all volumes together may have [default: the file system's size]
    #[arg(long, env = "DRQM_POOL_CAPACITY")]
    pub(crate) pool_capacity: Option<u64>,
    /// When the volumes' files take their room.
    #[arg(long, env = "DRQM_POOL_ALLOCATION", value_enum, default_value_t = Allocation::Full)]
    pub(crate) pool_allocation: Allocation,
    /// Bytes of memory for what peers do not have yet, of all volumes together. Each may use its part of it, at
    /// most 64 MiB and at least 1 MiB.
    #[arg(long, env = "DRQM_LOG_MEMORY", default_value_t = 512 << 20)]
    pub(crate) log_memory: u64,
    /// Address of the shared replication port.
    #[arg(long, env = "DRQM_REPLICATION_LISTEN", default_value = "0.0.0.0:7001")]
    pub(crate) replication_listen: SocketAddr,
    /// Address of the operator's control service.
    #[arg(long, env = "DRQM_CONTROL_LISTEN", default_value = "127.0.0.1:7441")]
    pub(crate) control_listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "DRQM_METRICS_LISTEN", default_value = "127.0.0.1:9441")]
    pub(crate) metrics_listen: SocketAddr,
    /// Directory with ca.crt, server.crt and server.key of the control service.
    #[arg(
        long,
        env = "DRQM_CONTROL_TLS_DIR",
        default_value = "/etc/drqm/control"
    )]
    pub(crate) control_tls_dir: PathBuf,
    /// This node's address as others see it [default: the control address]
    #[arg(long, env = "DRQM_HOST_IP")]
    pub(crate) host_ip: Option<IpAddr>,
    /// Directory of the links that kubelet mounts.
    #[arg(long, env = "DRQM_DEVICE_DIR", default_value = "/dev/drqm")]
    pub(crate) device_dir: PathBuf,
    /// Also export each Primary volume as an NBD socket in this directory.
    #[arg(long, env = "DRQM_NBD_DIR")]
    pub(crate) nbd_dir: Option<PathBuf>,
    /// Process whose mount namespace is the host's. Another than 1 where that cannot be looked into.
    #[arg(long, env = "DRQM_HOST_PID", default_value_t = 1, hide = true)]
    pub(crate) host_pid: u32,
    /// Log filter, as in `info` or `drqm_replicator=debug,info`.
    #[arg(long, env = "DRQM_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Log as JSON lines.
    #[arg(long, env = "DRQM_LOG_JSON")]
    pub(crate) log_json: bool,
}

impl RunArgs {
    pub(crate) fn pool_dir(&self) -> PathBuf {
        self.pool_dir
            .clone()
            .unwrap_or_else(|| self.state_dir.join("pool"))
    }
}

#[cfg(feature = "measure")]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StandaloneArgs {
    /// Pool directory; the volume in it is called `measure_volume` and made when missing.
    #[arg(long)]
    pub(crate) pool: PathBuf,
    /// Bytes, when it is made.
    #[arg(long, default_value = "1073741824")]
    pub(crate) size: u64,
    /// Serve the volume on this NBD socket while it is Primary.
    #[arg(long)]
    pub(crate) nbd: Option<PathBuf>,
    /// Make a block device with an XFS of the volume while it is Primary, and a link to it here.
    #[arg(long)]
    pub(crate) device: Option<PathBuf>,
    /// Accept the peer here.
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
    /// Dial the peer there.
    #[arg(long)]
    pub(crate) peer: Option<SocketAddr>,
    /// Become Primary: at once without a peer, as soon as the peer has answered with one.
    #[arg(long)]
    pub(crate) primary: bool,
    /// Complete a write only when the peer has it.
    #[arg(long)]
    pub(crate) synchronous: bool,
    /// Complete a flush only when the peer has it.
    #[arg(long, conflicts_with = "synchronous")]
    pub(crate) flush_synchronous: bool,
    /// Plain TCP; named so that nobody uses it by mistake.
    #[arg(long, required_unless_present = "tls")]
    pub(crate) plaintext: bool,
    /// Keys in this folder: `ca.crt`, `tls.crt`, `tls.key`, for the name `measure.pair.drqm.io`.
    #[arg(long, conflicts_with = "plaintext")]
    pub(crate) tls: Option<PathBuf>,
    /// Log filter.
    #[arg(long, default_value = "warn")]
    pub(crate) log: String,
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
    fn host_exec_takes_everything_after_the_dashes() {
        let args = Args::parse_from(["drqm-replicator", "host-exec", "--", "mkfs.xfs", "-f", "/x"]);
        assert!(
            matches!(args.command, Some(Command::HostExec { command, .. }) if command.len() == 3)
        );
    }
}
