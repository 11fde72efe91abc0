//! The facade: the two clusters as a whole, their life from `up` to `down`, power and link.

mod clients;
mod teardown;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Lock, write_atomically};
use crate::host::Host;
use crate::images;
use crate::interrupt;
use crate::network::{self, Link, Management, Node};
use crate::packages;
use crate::progress::Progress;
use crate::state::Store;
use crate::toolchain::{self, Toolchain};

/// What a running lab takes, measured with two idle clusters.
const MEMORY: &str = "1.6 GB";

/// How to bring a lab up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take a lab that is there down first. Otherwise one that is complete stays as it is, hosts that are
    /// off are powered on, and a cut link is healed.
    pub fresh: bool,
}

/// A host as it is now.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// Which one.
    pub node: Node,
    /// Its processes run.
    pub on: bool,
    /// Its API server answers.
    pub api: bool,
    /// Its API server says that the node is Ready.
    pub ready: bool,
    /// Its address on the management link.
    pub management: std::net::Ipv4Addr,
}

/// The lab as it is now.
#[derive(Clone, Debug)]
pub struct Status {
    /// `up` came to its end, and nobody took the lab down since.
    pub complete: bool,
    /// The replication link.
    pub link: Link,
    /// Both hosts.
    pub hosts: Vec<HostStatus>,
}

/// Two one-node clusters, `dr1` and `dr2`, on this machine.
///
/// There is one lab per machine. Methods that change it take its lock for as long as they run, unless
/// [`Lab::claim`] holds it for longer; those that only look take none. All can be called from several threads.
///
/// ```no_run
/// use drqm_lab::{Lab, Node, Options, Progress, images, interrupt};
///
/// # fn main() -> anyhow::Result<()> {
/// interrupt::install()?;
/// let mut lab = Lab::open(Progress::auto())?;
/// lab.claim("cargo demo")?;
/// lab.up(&Options { fresh: true })?;
/// lab.load_image(&images::nats(lab.cache(), &lab.toolchain()?)?, None)?;
/// lab.kubectl(Node::Dr1)?.args(["get", "nodes"]).status()?;
/// lab.cut()?;
/// lab.power_off(Node::Dr1)?;
/// lab.heal()?;
/// lab.power_on(Node::Dr1)?;
/// lab.down()
/// # }
/// ```
#[derive(Debug)]
pub struct Lab {
    cache: Cache,
    folder: PathBuf,
    progress: Progress,
    claim: Option<Lock>,
    /// Orders the threads of this process, as the lock orders processes.
    turn: Mutex<()>,
}

impl Lab {
    /// The lab with its state in the cache's folder `state`.
    ///
    /// # Errors
    /// When the cache cannot be opened.
    pub fn open(progress: Progress) -> Result<Self> {
        let cache = Cache::open()?;
        let folder = cache.path("state");
        Self::new(cache, folder, progress)
    }

    /// The lab with its state in a folder of one's choice.
    ///
    /// # Errors
    /// When the folder is below `/run` or `/dev`, which hosts have of their own.
    pub fn new(cache: Cache, folder: PathBuf, progress: Progress) -> Result<Self> {
        for path in [cache.root(), &folder] {
            if ["/run", "/dev", "/proc", "/sys"]
                .iter()
                .any(|hidden| path.starts_with(hidden))
            {
                bail!(
                    "{} cannot be seen from inside a host; set XDG_CACHE_HOME to another place",
                    path.display()
                );
            }
        }
        Ok(Self {
            cache,
            folder,
            progress,
            claim: None,
            turn: Mutex::new(()),
        })
    }

    /// Keeps the lab's lock for as long as this value lives, under a name that others are told.
    ///
    /// # Errors
    /// When another process uses the lab; the message says which.
    pub fn claim(&mut self, holder: &str) -> Result<()> {
        self.claim = Some(self.lock(holder)?);
        Ok(())
    }

    /// The cache, for images and the toolchain.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The state directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What [`Lab::prepare`] and [`Lab::up`] will do to this machine, and how long it takes; for people.
    ///
    /// # Errors
    /// When this is not a Debian system.
    pub fn plan(&self) -> Result<String> {
        let mut lines = Vec::new();
        let packages = packages::missing()?;
        if !packages.is_empty() {
            lines.push(format!("install Debian packages: {}", packages.join(" ")));
        }
        let builds = toolchain::missing(&self.cache);
        if !builds.is_empty() {
            let minutes = builds
                .iter()
                .map(|(_, seconds)| seconds)
                .sum::<u64>()
                .div_ceil(60);
            let names: Vec<&str> = builds.iter().map(|(name, _)| &**name).collect();
            lines.push(format!(
                "build from Go modules: {} (about {minutes} minutes on two cores the first time, \
                 4 GB in the Go caches and {})",
                names.join(" "),
                self.cache.root().display()
            ));
        }
        lines.push(format!(
            "start two Kubernetes clusters in namespaces of their own: network namespaces {} and {}, a link \
             to each from this machine, cgroups of the same names (about 10 s, {MEMORY} of memory)",
            Node::Dr1.namespace(),
            Node::Dr2.namespace()
        ));
        lines.push("`cargo lab down` removes all of this but packages and cache".to_owned());
        Ok(lines.iter().map(|line| format!("  - {line}\n")).collect())
    }

    /// Installs packages and builds what is missing. Returns at once if nothing is.
    ///
    /// # Errors
    /// See [`packages::ensure`] and [`Toolchain::ensure`].
    pub fn prepare(&self) -> Result<Toolchain> {
        packages::ensure(&self.progress)?;
        Toolchain::ensure(&self.cache, &self.progress)
    }

    /// Brings both clusters up, from whatever there is; prepares the machine first.
    ///
    /// # Errors
    /// When not root, or when something does not come up in time, or interrupted; what was started is
    /// taken down then.
    pub fn up(&self, options: &Options) -> Result<()> {
        require_root()?;
        let toolchain = self.prepare()?;
        let pause = images::pause(&self.cache, &self.progress)?;
        let _guard = self.guard("cargo lab up")?;
        let running =
            Store::load(&self.folder)?.filter(|store| store.record.complete && !options.fresh);
        if let Some(store) = running {
            return self.complete(store, &toolchain, &pause);
        }
        self.take_down()?;
        let result = self.start(&toolchain, &pause);
        if let Err(error) = result {
            self.progress
                .say("the lab did not come up; taking down what was started");
            return match self.take_down() {
                Ok(()) => Err(error),
                Err(second) => Err(error.context(format!("and the clean-up failed: {second:#}"))),
            };
        }
        Ok(())
    }

    /// Takes the lab down and removes what it has created; its daemons' logs are kept in the cache's folder
    /// `logs`. Does nothing if there is no lab. An interruption does not stop it.
    ///
    /// # Errors
    /// When something cannot be removed; calling it again goes on from there.
    pub fn down(&self) -> Result<()> {
        require_root()?;
        let _guard = self.guard("cargo lab down")?;
        self.take_down()
    }

    /// Looks at the lab without changing or locking anything; `None` if there is no lab.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub fn status(&self) -> Result<Option<Status>> {
        let Some(store) = Store::load(&self.folder)? else {
            return Ok(None);
        };
        let toolchain = self.toolchain()?;
        let mut hosts = Vec::new();
        for node in Node::ALL {
            let host = self.host(node, &toolchain, store.record.management);
            let on = host.identity()?.is_some();
            let (api, ready) = if on { host.probe()? } else { (false, false) };
            let management = host.management.host(node);
            hosts.push(HostStatus {
                node,
                on,
                api,
                ready,
                management,
            });
        }
        let link = if store.record.cut {
            Link::Cut
        } else {
            Link::Up
        };
        Ok(Some(Status {
            complete: store.record.complete,
            link,
            hosts,
        }))
    }

    /// A kubeconfig with the contexts `dr1` and `dr2`, for any client on this machine. It works while the
    /// replication link is cut, too.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.store()?;
        let path = self.kubeconfig_path();
        if !path.exists() {
            bail!("the lab is not up yet: {} comes with it", path.display());
        }
        Ok(path)
    }

    /// The address of a host for clients on this machine (NodePorts, for example); never cut, silent while
    /// the host's power is off.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn management_address(&self, node: Node) -> Result<std::net::Ipv4Addr> {
        Ok(self.store()?.record.management.host(node))
    }

    /// Cuts the power of a host: it dies at once, with all its pods; its state on disk stays. Does nothing
    /// if it is off.
    ///
    /// # Errors
    /// When a process of it does not die: it is stuck in the kernel.
    pub fn power_off(&self, node: Node) -> Result<()> {
        let _guard = self.guard("cargo lab power-off")?;
        let mut store = self.store()?;
        if store.record.off.contains(&node) {
            return Ok(());
        }
        let toolchain = self.toolchain()?;
        self.cut_power(
            &self.host(node, &toolchain, store.record.management),
            &mut store,
        )
    }

    /// Powers a host on, on the state it had, and waits until its node is Ready again. Does nothing if it
    /// is on.
    ///
    /// # Errors
    /// When it does not become Ready in time; it stays on then, to be looked at.
    pub fn power_on(&self, node: Node) -> Result<()> {
        let _guard = self.guard("cargo lab power-on")?;
        let mut store = self.store()?;
        let toolchain = self.toolchain()?;
        let pause = images::pause(&self.cache, &self.progress)?;
        let host = self.host(node, &toolchain, store.record.management);
        if is_on(&host, &store)? {
            return Ok(());
        }
        self.settle(&host, &mut store)?;
        store.update(|record| {
            record.off.remove(&node);
        })?;
        let item = self.progress.item(&format!("power on {node}"));
        let boot_id = host.power_on(&store)?;
        host.await_ready(&boot_id, &pause)?;
        item.done();
        Ok(())
    }

    /// Cuts the replication link. Does nothing if it is cut.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn cut(&self) -> Result<()> {
        let _guard = self.guard("cargo lab cut")?;
        network::cut(&mut self.store()?)
    }

    /// Brings the replication link back. Does nothing if it is there.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn heal(&self) -> Result<()> {
        let _guard = self.guard("cargo lab heal")?;
        network::heal(&mut self.store()?)
    }

    fn start(&self, toolchain: &Toolchain, pause: &Path) -> Result<()> {
        interrupt::check()?;
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let mut store = Store::create(&self.folder, Management::choose()?)?;
        teardown::make_mount_points(&mut store)?;
        network::create(&mut store)?;
        self.boot(&store, &Node::ALL, toolchain, pause)?;
        self.write_kubeconfig(&store, toolchain)?;
        store.update(|record| record.complete = true)
    }

    /// Brings a lab that is there to the state that `up` promises.
    fn complete(&self, mut store: Store, toolchain: &Toolchain, pause: &Path) -> Result<()> {
        let mut dead = Vec::new();
        for node in Node::ALL {
            let host = self.host(node, toolchain, store.record.management);
            if !is_on(&host, &store)? {
                self.settle(&host, &mut store)?;
                dead.push(node);
            }
        }
        if store.record.cut {
            // Hosts that are off get theirs with their power.
            network::heal(&mut store)?;
        }
        store.update(|record| record.off.clear())?;
        self.boot(&store, &dead, toolchain, pause)
    }

    /// A host that died by itself, was killed by somebody, or half switched off, is from here on switched off.
    fn settle(&self, host: &Host<'_>, store: &mut Store) -> Result<()> {
        if store.record.off.contains(&host.node) {
            Ok(())
        } else {
            self.cut_power(host, store)
        }
    }

    fn cut_power(&self, host: &Host<'_>, store: &mut Store) -> Result<()> {
        // Half a power cut is no state that anything else expects.
        let _shield = interrupt::shield();
        store.update(|record| {
            record.dying.insert(host.node);
        })?;
        let detached = host.power_off(store)?;
        self.report_loops(host.node, &detached);
        store.update(|record| {
            record.dying.remove(&host.node);
            record.off.insert(host.node);
        })
    }

    /// Powers hosts on, at the same time.
    fn boot(
        &self,
        store: &Store,
        nodes: &[Node],
        toolchain: &Toolchain,
        pause: &Path,
    ) -> Result<()> {
        let one = |node: Node| -> Result<()> {
            let host = self.host(node, toolchain, store.record.management);
            let item = self.progress.item(&format!("cluster {node}"));
            let boot_id = host.power_on(store)?;
            host.await_ready(&boot_id, pause)?;
            item.done();
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(move || one(*node)))
                .collect();
            let results = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic in a boot"));
            // All of them, before the first error ends this.
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn write_kubeconfig(&self, store: &Store, toolchain: &Toolchain) -> Result<()> {
        let (mut clusters, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
        for node in Node::ALL {
            let host = self.host(node, toolchain, store.record.management);
            let [cluster, user, context] = host.kubeconfig_parts()?;
            clusters.push(cluster);
            users.push(user);
            contexts.push(context);
        }
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": Node::Dr1.name(),
            "clusters": clusters, "users": users, "contexts": contexts,
        });
        let path = self.kubeconfig_path();
        write_atomically(&path, &serde_json::to_vec_pretty(&config)?)?;
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, owner_only).context("the kubeconfig's permissions")
    }

    fn kubeconfig_path(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    fn host<'a>(&self, node: Node, toolchain: &'a Toolchain, management: Management) -> Host<'a> {
        Host {
            node,
            folder: self.folder.join(node.name()),
            toolchain,
            management,
        }
    }

    fn store(&self) -> Result<Store> {
        Store::load(&self.folder)?
            .context("there is no lab on this machine; `cargo lab up` makes one")
    }

    fn report_loops(&self, node: Node, detached: &[String]) {
        if !detached.is_empty() {
            self.progress.say(&format!(
                "{node}: detached what it left: {}",
                detached.join(" ")
            ));
        }
    }

    fn lock(&self, holder: &str) -> Result<Lock> {
        Lock::take(&self.cache.path("lab.lock"), holder)
    }

    /// Both orders: among threads, and among processes unless claimed.
    fn guard(&self, holder: &str) -> Result<(std::sync::MutexGuard<'_, ()>, Option<Lock>)> {
        // The mutex guards no data that a panic could have left half done.
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let claim = if self.claim.is_some() {
            None
        } else {
            Some(self.lock(holder)?)
        };
        Ok((turn, claim))
    }
}

fn is_on(host: &Host<'_>, store: &Store) -> Result<bool> {
    Ok(host.identity()?.is_some() && !store.record.dying.contains(&host.node))
}

fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab makes namespaces and mounts: run it as root");
    }
    Ok(())
}
