//! All volumes of this node: which there are, how they are configured, started, deleted.
//!
//! Lives here: the registry and its changes, one at a time. Does not live here: wire types
//! ([`crate::control`]), a volume's own work ([`crate::volume`]).

pub(crate) mod ports;
pub(crate) mod rate;
mod share;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use drqm_engine::Engine;
use drqm_engine::command::{Command, Refusal};
use drqm_engine::ids::CommandId;
use drqm_engine::report::Report;
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;

use crate::args::RunArgs;
use crate::clock::Clock;
use crate::driver::DriverCommand;
use crate::frontend::BlockExport;
use crate::frontend::device::{DeviceStatus, remove_link};
use crate::frontend::loopdev::{self, FuseLoop, Stale};
use crate::peer::link::LinkOrder;
use crate::peer::listen::{Acceptor, Routes};
use crate::peer::tls::{KeyError, PairKeys};
use crate::peer::{LinkSettings, Security};
use crate::pool::config::VolumeConfig;
use crate::pool::{self, FilePool, PoolError, VolumeKey};
use crate::runtime::Shard;
use crate::volume::{self, Export, Shared, StartError, VolumeHandle};
use ports::{PortError, Ports};
use rate::RateMeter;

/// Changes that a slow watcher may be behind; beyond it, it is told to look at everything.
const NOTICES: usize = 256;

/// A volume's driver answers a question within this, or something is stuck.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// A stopped volume's last I/O.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The longest that a command may take: a grant, a drain and a slow disk. The engine's own limits
/// come first.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Why a configuration was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigureError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("spec.replication.tls.secretName: {0}")]
    Keys(#[from] KeyError),
    #[error(
        "spec.queueManager.name: the volume belongs to {actual}, not to {wanted}; the name cannot be changed"
    )]
    OtherQueueManager { actual: String, wanted: String },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// One volume as the node knows it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) config: VolumeConfig,
    /// Running, or why not.
    pub(crate) running: Result<Arc<VolumeHandle>, String>,
    pub(crate) rate: Arc<Mutex<RateMeter>>,
}

/// The registry.
pub(crate) struct Node {
    pub(crate) args: RunArgs,
    pub(crate) pool: FilePool,
    pub(crate) shared: Shared,
    pub(crate) warnings: Vec<String>,
    shard: Shard,
    routes: Routes,
    ports: Ports,
    stale: Vec<Stale>,
    ready: AtomicBool,
    volumes: Mutex<BTreeMap<VolumeKey, Entry>>,
    /// One configuration, deletion or start at a time.
    changing: tokio::sync::Mutex<()>,
    _lock: File,
}

impl Node {
    /// Locks the node's state and pool, clears away what an earlier process left, and listens.
    pub(crate) async fn open(args: RunArgs, shard: Shard) -> anyhow::Result<Self> {
        let lock = lock_state(&args)?;
        let pool = FilePool::open(&args.pool_dir(), args.pool_capacity, args.pool_allocation)?;
        let stale = loopdev::release_stale(&loopdev::label_prefix(&args.node_name));
        for key in pool.list()? {
            // No link may stand while no device is behind it.
            remove_link(&args.device_dir.join(key.to_string()));
        }
        let routes = Routes::default();
        let (acceptor, server) = Acceptor::new(routes.clone());
        shard.run(server).await;
        let reserved = [args.control_listen.port(), args.metrics_listen.port()];
        let ports = Ports::new(args.replication_listen, reserved, acceptor);
        ports
            .listen_shared(&shard)
            .await
            .context("--replication-listen")?;
        let shared = Shared {
            clock: Clock::start(),
            boot: crate::entropy::random_u128(),
            site: args.node_name.clone(),
            notify: broadcast::channel(NOTICES).0,
        };
        Ok(Self {
            warnings: warnings(),
            args,
            pool,
            shared,
            shard,
            routes,
            ports,
            stale,
            ready: AtomicBool::new(false),
            volumes: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            _lock: lock,
        })
    }

    pub(crate) const fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Whether every volume found on disk was opened, or found broken.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The node's own addresses, as far as it was told.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        let told = [
            self.args.control_listen.ip(),
            self.args.replication_listen.ip(),
        ];
        let told = told.into_iter().chain(self.args.host_ip);
        told.filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
            .collect()
    }

    pub(crate) const fn shared_port(&self) -> u16 {
        self.args.replication_listen.port()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeKey, Entry>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entry(&self, key: &VolumeKey) -> Option<Entry> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn keys(&self) -> Vec<VolumeKey> {
        self.lock().keys().cloned().collect()
    }

    /// Resumes every configured volume, without being told by anybody.
    pub(crate) async fn start_volumes(&self) {
        let _turn = self.changing.lock().await;
        for key in self.pool.list().unwrap_or_default() {
            match self.pool.config(&key) {
                Ok(Some(config)) => {
                    if let Err(error) = self.start(&key, config).await {
                        tracing::error!(volume = %key, %error, "the volume cannot be started");
                    }
                }
                Ok(None) => tracing::info!(volume = %key, "kept without configuration"),
                Err(error) => {
                    tracing::error!(volume = %key, %error, "the volume cannot be started")
                }
            }
        }
        self.share_log_memory().await;
        self.ready.store(true, Ordering::Relaxed);
    }

    async fn start(&self, key: &VolumeKey, config: VolumeConfig) -> Result<(), ConfigureError> {
        let started = self.try_start(key, &config).await;
        let running = match &started {
            Ok(handle) => Ok(handle.clone()),
            Err(error) => Err(error.to_string()),
        };
        self.lock().insert(
            key.clone(),
            Entry {
                config,
                running,
                rate: Arc::default(),
            },
        );
        started.map(drop)
    }

    async fn try_start(
        &self,
        key: &VolumeKey,
        config: &VolumeConfig,
    ) -> Result<Arc<VolumeHandle>, ConfigureError> {
        let link = link_settings(config)?;
        let name = key.to_string();
        let label = loopdev::label(&self.args.node_name, &name);
        let dead = self
            .stale
            .iter()
            .filter(|s| s.label == label)
            .map(|s| s.device)
            .collect();
        let mount_point = self.args.state_dir.join("run").join(&name);
        let export = Export {
            block: FuseLoop::new(mount_point, label),
            status: Arc::new(DeviceStatus::new(
                self.args.device_dir.join(&name),
                FuseLoop::KIND,
                dead,
            )),
            nbd_socket: self
                .args
                .nbd_dir
                .as_ref()
                .map(|dir| dir.join(format!("{name}.sock"))),
        };
        let security = link.security.clone();
        let (handle, volume) = {
            let log_bytes = self.log_share(key);
            volume::start(
                &self.pool,
                key,
                config,
                log_bytes,
                link,
                export,
                &self.shared,
            )?
        };
        self.shard.run(volume).await;
        let handle = Arc::new(handle);
        // A route that is taken leaves the volume without inbound connections, not without life:
        // a configuration that would do this was refused when it came.
        let routed = self.routes.set(config.port, &security, &handle.inbound);
        if routed.is_err() {
            tracing::error!(volume = %key, "another volume is reached by the same name and port");
        }
        if let Err(error) = self
            .ports
            .need(config.port, config.local_address, &self.shard)
            .await
        {
            tracing::error!(volume = %key, %error, "no listener");
        }
        Ok(handle)
    }

    /// Creates or changes a volume. All checks come before the first change.
    pub(crate) async fn configure(
        &self,
        key: &VolumeKey,
        config: VolumeConfig,
    ) -> Result<(), ConfigureError> {
        let _turn = self.changing.lock().await;
        let link = link_settings(&config)?;
        let current = self.entry(key);
        let known = match &current {
            Some(entry) => Some(entry.config.clone()),
            None => self.pool.retained(key)?,
        };
        if let Some(known) = &known {
            check_fixed(known, &config)?;
        }
        if !self.pool.exists(key) {
            self.check_route(key, &config)?;
            self.ports
                .need(config.port, config.local_address, &self.shard)
                .await?;
            volume::create(&self.pool, key, &config)?;
            let started = self.start(key, config).await;
            self.share_log_memory().await;
            return started;
        }
        self.check_route(key, &config)?;
        self.ports
            .need(config.port, config.local_address, &self.shard)
            .await?;
        if known.is_some_and(|known| known.size_bytes < config.size_bytes) {
            self.pool.grow(
                key,
                config.size_bytes,
                Engine::metadata_len(config.size_bytes),
            )?;
        }
        match current {
            Some(Entry {
                config: old,
                running: Ok(handle),
                ..
            }) => {
                if old != config {
                    self.pool.store_config(key, &config)?;
                    self.reconfigure(key, &handle, &config, link).await;
                }
                Ok(())
            }
            Some(Entry {
                running: Err(_), ..
            })
            | None => {
                // Opened first: a directory that lost a file keeps its old configuration.
                drop(self.pool.open_volume(key)?);
                self.pool.store_config(key, &config)?;
                let started = self.start(key, config).await;
                self.share_log_memory().await;
                started
            }
        }
    }

    async fn reconfigure(
        &self,
        key: &VolumeKey,
        handle: &VolumeHandle,
        config: &VolumeConfig,
        link: LinkSettings,
    ) {
        let routed = self
            .routes
            .set(config.port, &link.security, &handle.inbound);
        debug_assert!(routed.is_ok(), "checked before");
        let _ = handle
            .commands
            .send(DriverCommand::Configure(
                config.settings(self.log_share(key)),
            ))
            .await;
        let _ = handle.link.send(LinkOrder::Settings(link));
        if let Some(entry) = self.lock().get_mut(key) {
            entry.config = config.clone();
        }
        self.drop_unused_ports();
    }

    fn drop_unused_ports(&self) {
        let used = self.lock().values().map(|e| e.config.port).collect();
        self.ports.keep_only(&used);
    }

    /// Two volumes of this node may not be reached by the same name and port.
    fn check_route(&self, key: &VolumeKey, config: &VolumeConfig) -> Result<(), PortError> {
        let name = |c: &VolumeConfig| {
            c.tls
                .as_ref()
                .map(|t| (c.port, t.server_name.to_ascii_lowercase()))
        };
        let wanted = name(config);
        let same = |other: &Entry| wanted.is_some() && name(&other.config) == wanted;
        let volumes = self.lock();
        match volumes.iter().find(|(k, other)| *k != key && same(other)) {
            Some((other, _)) => Err(PortError::NameTaken {
                other: other.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Sends a command to a volume and waits for its answer.
    pub(crate) async fn order(
        &self,
        handle: &VolumeHandle,
        id: CommandId,
        command: Command,
    ) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let order = DriverCommand::Order {
            id,
            command,
            answer,
        };
        let asked = async {
            handle.commands.send(order).await.ok()?;
            answered.await.ok()
        };
        match timeout(COMMAND_LIMIT, asked).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(Refusal::DiskFailed("the volume has stopped".to_owned())),
            Err(_) => Err(Refusal::TimedOut("the volume did not answer")),
        }
    }

    /// The engine's view of a volume; none when it does not answer.
    pub(crate) async fn report(&self, handle: &VolumeHandle) -> Option<Box<Report>> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            handle
                .commands
                .send(DriverCommand::Report(answer))
                .await
                .ok()?;
            answered.await.ok()
        };
        timeout(REPORT_LIMIT, asked).await.ok().flatten()
    }

    /// Reports of all running volumes.
    pub(crate) async fn reports(&self) -> Vec<(VolumeKey, Box<Report>)> {
        let mut reports = Vec::new();
        for key in self.keys() {
            if let Some(Entry {
                running: Ok(handle),
                ..
            }) = self.entry(&key)
            {
                reports.extend(self.report(&handle).await.map(|r| (key, r)));
            }
        }
        reports
    }

    /// Ends a volume and forgets it; with `erase` its data too. Nothing happens to a volume whose
    /// device is held.
    pub(crate) async fn delete(
        &self,
        key: &VolumeKey,
        erase: bool,
    ) -> Result<Result<(), Refusal>, PoolError> {
        let _turn = self.changing.lock().await;
        if let Some(Entry {
            running: Ok(handle),
            ..
        }) = self.entry(key)
        {
            let id = CommandId(crate::entropy::random_u128());
            if let Err(refusal) = self.order(&handle, id, Command::Retire).await {
                return Ok(Err(refusal));
            }
            self.routes.remove(&handle.inbound);
            let _ = handle
                .commands
                .send(DriverCommand::Stop { drain: false })
                .await;
            if timeout(END_LIMIT, handle.ended.cancelled()).await.is_err() {
                return Ok(Err(Refusal::TimedOut("local I/O did not end")));
            }
        }
        if erase {
            self.pool.erase(key)?;
        } else if self.pool.exists(key) {
            self.pool.retain(key)?;
        }
        self.lock().remove(key);
        self.share_log_memory().await;
        self.drop_unused_ports();
        let _ = self.shared.notify.send(key.clone());
        Ok(Ok(()))
    }

    /// Stops every volume in order.
    pub(crate) async fn stop(&self) {
        let _turn = self.changing.lock().await;
        let entries: Vec<Entry> = self.lock().values().cloned().collect();
        let handles: Vec<_> = entries.into_iter().filter_map(|e| e.running.ok()).collect();
        for handle in &handles {
            let _ = handle
                .commands
                .send(DriverCommand::Stop { drain: true })
                .await;
        }
        for handle in &handles {
            handle.ended.cancelled().await;
        }
    }
}

fn check_fixed(known: &VolumeConfig, wanted: &VolumeConfig) -> Result<(), ConfigureError> {
    if known.size_bytes > wanted.size_bytes {
        let (actual, wanted) = (known.size_bytes, wanted.size_bytes);
        return Err(PoolError::SizeMismatch { actual, wanted }.into());
    }
    if known.queue_manager != wanted.queue_manager {
        return Err(ConfigureError::OtherQueueManager {
            actual: known.queue_manager.clone(),
            wanted: wanted.queue_manager.clone(),
        });
    }
    Ok(())
}

/// How a configured volume reaches its peer.
pub(crate) fn link_settings(config: &VolumeConfig) -> Result<LinkSettings, KeyError> {
    let security = match &config.tls {
        Some(tls) => Security::Tls(Arc::new(PairKeys::new(tls)?)),
        None => Security::None,
    };
    let addresses = config
        .peer
        .as_ref()
        .map(|p| p.addresses.clone())
        .unwrap_or_default();
    Ok(LinkSettings {
        has_peer: config.peer.is_some(),
        addresses,
        local_address: config.local_address,
        security,
    })
}

fn lock_state(args: &RunArgs) -> anyhow::Result<File> {
    let dir = &args.state_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("--state-dir {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    pool::lock(&file, &path)?;
    Ok(file)
}

fn warnings() -> Vec<String> {
    let needed = [
        ("/dev/fuse", "no block device can be made without FUSE"),
        (
            "/dev/loop-control",
            "no block device can be made without loop devices",
        ),
    ];
    let missing = needed
        .iter()
        .filter(|(path, _)| !std::path::Path::new(path).exists());
    missing
        .map(|(path, why)| format!("{path} is missing: {why}"))
        .collect()
}
