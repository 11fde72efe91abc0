//! One host: a one-node Kubernetes cluster in its own network, mount, PID, UTS and IPC namespaces.
//!
//! ```text
//! absent ──power on──► booting ──API, node Ready──► ready
//!    ▲                    │                           │
//!    └──── power cut ─────┴───────────────────────────┘     (state on disk stays)
//! ```
//! Default paths hold inside: `/var/lib/kubelet`, `/run/containerd`, `/var/lib/drqm`, `/run/drqm`,
//! `/dev/drqm` are the host's own; the rest of `/dev` and the file system are the machine's. The host
//! belongs to no terminal and no session: it outlives the command that started it.

mod files;
mod remains;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::{QUICK, attempt, await_value, run, tail};
use crate::interrupt::Interrupted;
use crate::network::{self, Management, Node};
use crate::pki;
use crate::process::Identity;
use crate::state::Store;
use crate::toolchain::Toolchain;

/// An API server was ready after 4 s here; on a busy machine all takes longer.
const API: Duration = Duration::from_secs(90);

/// From a ready API server to a Ready node, likewise 2 s.
const READY: Duration = Duration::from_secs(90);

/// For an image of a hundred megabytes.
const IMPORT: Duration = Duration::from_secs(120);

/// For the kernel to end a few dozen processes; longer only if one is stuck in a device.
const DEATH: Duration = Duration::from_secs(30);

/// One of the two hosts.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) node: Node,
    pub(crate) folder: PathBuf,
    pub(crate) toolchain: &'a Toolchain,
    pub(crate) management: Management,
}

impl Host<'_> {
    fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// Folders on the machine that must exist for a host to mount its own there.
    pub(crate) fn mount_points() -> impl Iterator<Item = &'static str> {
        files::PRIVATE
            .into_iter()
            .map(|(target, _)| target)
            .chain(["/dev/drqm"])
    }

    /// Starts the host and returns the boot ID its node will report. Network links must exist.
    pub(crate) fn power_on(&self, store: &Store) -> Result<String> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        pki::ensure(&self.pki(), self.node, self.management.host(self.node))?;
        let boot_id = files::write(self)?;
        let cgroup = self.node.namespace();
        // Pods of the life before left theirs: after a boot there are none.
        remains::remove_cgroups(cgroup)?;
        remains::create_cgroups(cgroup)?;
        network::plug(store, self.node)?;

        let pid_file = self.folder.join("host.pid");
        if pid_file.exists() {
            fs::remove_file(&pid_file)?;
        }
        let log = File::create(self.log("host")).context("the host's log")?;
        let mut script = Command::new("setsid");
        script
            .arg("--fork")
            .arg("bash")
            .arg(self.folder.join("power-on.sh"));
        script
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        let status = script.status().context("setsid")?;
        if !status.success() {
            bail!(
                "the host {} cannot be started: {}",
                self.node,
                self.last_words("host")
            );
        }
        await_value(&format!("the start of host {}", self.node), QUICK, || {
            Identity::read(&pid_file)
        })?;
        Ok(boot_id)
    }

    /// Cuts the power: links first, then every process at once. Returns the loop devices that had to be
    /// detached by hand.
    pub(crate) fn power_off(&self, store: &mut Store) -> Result<Vec<String>> {
        network::unplug(self.node)?;
        let detached = kill(self.node, &self.folder)?;
        network::renew(store, self.node)?;
        Ok(detached)
    }

    /// Waits until the API server is ready, gives containerd the pause image, and waits until the node of
    /// this boot is Ready and pods can be made.
    pub(crate) fn await_ready(&self, boot_id: &str, pause: &Path) -> Result<()> {
        let node = self.node;
        await_value(&format!("{node}: API server ready"), API, || {
            self.check_alive()?;
            let answer = self.kubectl(&["get", "--raw", "/readyz"])?;
            Ok((answer.as_deref() == Some("ok")).then_some(()))
        })
        .map_err(|error| self.explain(error, "apiserver"))?;
        await_value(&format!("{node}: containerd ready"), API, || {
            let mut ctr = self.enter(&["ctr".into(), "version".into()])?;
            Ok(attempt(&mut ctr, QUICK)?.status.success().then_some(()))
        })
        .map_err(|error| self.explain(error, "containerd"))?;
        self.import(pause)?;
        // After a power cut the API still says Ready, of the boot before.
        let fields = "jsonpath={.status.nodeInfo.bootID} \
                      {.status.conditions[?(@.type=='Ready')].status}";
        await_value(&format!("{node}: node Ready"), READY, || {
            self.check_alive()?;
            let answer = self.kubectl(&["get", "node", node.name(), "-o", fields])?;
            Ok((answer == Some(format!("{boot_id} True"))).then_some(()))
        })
        .map_err(|error| self.explain(error, "kubelet"))?;
        await_value(&format!("{node}: service account"), READY, || {
            Ok(self
                .kubectl(&["get", "serviceaccount", "default", "-o", "name"])?
                .map(drop))
        })
        .map_err(|error| self.explain(error, "controller-manager"))
    }

    /// Whether the API server answers, and the node's Ready condition as it says.
    pub(crate) fn probe(&self) -> Result<(bool, bool)> {
        let fields = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let answer = self.kubectl(&["get", "node", self.node.name(), "-o", fields])?;
        Ok((answer.is_some(), answer.as_deref() == Some("True")))
    }

    /// The outer process, if the host is on.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        identity(&self.folder)
    }

    /// A command inside the host's namespaces, with the toolchain on its PATH.
    pub(crate) fn enter(&self, argv: &[std::ffi::OsString]) -> Result<Command> {
        let first = self
            .identity()?
            .map(|outer| outer.child())
            .transpose()?
            .flatten();
        let first =
            first.with_context(|| format!("host {} is off; power it on first", self.node))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", first.pid));
        command
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--"])
            .args(argv);
        command.env("PATH", self.toolchain.path());
        command.env("KUBECONFIG", self.folder.join("config/admin.kubeconfig"));
        Ok(command)
    }

    /// Gives an image to containerd.
    pub(crate) fn import(&self, image: &Path) -> Result<()> {
        let file = File::open(image).with_context(|| image.display().to_string())?;
        let argv = ["ctr", "--namespace", "k8s.io", "images", "import", "-"];
        let mut ctr = self.enter(&argv.map(Into::into))?;
        run(ctr.stdin(file), IMPORT)
            .with_context(|| format!("{} on host {}", image.display(), self.node))?;
        Ok(())
    }

    /// The log of one of the daemons.
    pub(crate) fn log(&self, daemon: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{daemon}.log"))
    }

    /// For the machine: over the management link, with everything in one value.
    pub(crate) fn kubeconfig_parts(&self) -> Result<[serde_json::Value; 3]> {
        let (name, pki) = (self.node.name(), self.pki());
        let server = format!("https://{}:6443", self.management.host(self.node));
        Ok([
            serde_json::json!({"name": name, "cluster": {
                "server": server, "certificate-authority-data": pki::base64(&pki.join("ca.crt"))?}}),
            serde_json::json!({"name": name, "user": {
                "client-certificate-data": pki::base64(&pki.join("admin.crt"))?,
                "client-key-data": pki::base64(&pki.join("admin.key"))?}}),
            serde_json::json!({"name": name, "context": {"cluster": name, "user": name}}),
        ])
    }

    /// The answer of the API server from the machine's side; `None` if it gives none.
    fn kubectl(&self, arguments: &[&str]) -> Result<Option<String>> {
        let pki = self.pki();
        let mut kubectl = Command::new(self.toolchain.kubectl());
        kubectl
            .arg(format!(
                "--server=https://{}:6443",
                self.management.host(self.node)
            ))
            .arg(format!(
                "--certificate-authority={}",
                pki.join("ca.crt").display()
            ))
            .arg(format!(
                "--client-certificate={}",
                pki.join("admin.crt").display()
            ))
            .arg(format!("--client-key={}", pki.join("admin.key").display()))
            .args(["--request-timeout=3s", "--kubeconfig=/dev/null"])
            .args(arguments)
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .env("NO_PROXY", "*");
        let outcome = attempt(&mut kubectl, QUICK)?;
        Ok(outcome
            .status
            .success()
            .then(|| outcome.stdout.trim().to_owned()))
    }

    fn check_alive(&self) -> Result<()> {
        if self.identity()?.is_none() {
            bail!("host {} has ended: {}", self.node, self.last_words("host"));
        }
        Ok(())
    }

    /// Adds what a daemon said last to an error that is about it.
    fn explain(&self, error: anyhow::Error, daemon: &str) -> anyhow::Error {
        if error.is::<Interrupted>() {
            return error;
        }
        anyhow!("{error:#}; {}", self.last_words(daemon))
    }

    fn last_words(&self, daemon: &str) -> String {
        let path = self.log(daemon);
        let text = fs::read_to_string(&path).unwrap_or_default();
        format!(
            "the end of {}:\n{}",
            path.display(),
            tail(text.trim(), 1_500)
        )
    }
}

fn identity(folder: &Path) -> Result<Option<Identity>> {
    let Some(identity) = Identity::read(&folder.join("host.pid"))? else {
        return Ok(None);
    };
    Ok(if identity.is_alive()? {
        Some(identity)
    } else {
        None
    })
}

/// Kills a host by what its folder says, wherever it came from, and everything that is left of it in the
/// kernel but its network. Returns the loop devices that had to be detached by hand.
pub(crate) fn kill(node: Node, folder: &Path) -> Result<Vec<String>> {
    let outer = identity(folder)?;
    let first = outer.as_ref().map(Identity::child).transpose()?.flatten();
    let loops = remains::loops(first.as_ref(), folder)?;
    for process in first.iter().chain(&outer) {
        process.kill(DEATH)?;
    }
    let detached = remains::detach(&loops, folder)?;
    remains::remove_cgroups(node.namespace())?;
    Ok(detached)
}
