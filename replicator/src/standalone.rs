//! One volume without operator, and without TLS unless keys are given, for measurements: the same engine, disk, session,
//! device and NBD server as in the product. Only in a measuring build (feature `measure`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drqm_engine::command::{Command, Initialize, JudgedRequest, Refusal};
use drqm_engine::ids::{CommandId, Epoch};
use drqm_engine::role::Role;
use drqm_engine::settings::WINDOW_BYTES;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::args::StandaloneArgs;
use crate::clock::Clock;
use crate::driver::DriverCommand;
use crate::frontend::device::DeviceStatus;
use crate::frontend::loopdev::{FuseLoop, label};
use crate::frontend::{BlockExport, Guests};
use crate::peer::listen::{Acceptor, Routes};
use crate::peer::tls::PairKeys;
use crate::peer::{LinkSettings, Security};
use crate::pool::config::{
    CONFIG_VERSION, Fs, PeerConfig, ReplicationMode, Snapshots, TlsConfig, VolumeConfig,
};
use crate::pool::{Allocation, FilePool, VolumeKey};
use crate::volume::{self, Export, Shared, VolumeHandle};

/// Pause between two tries to become Primary while the peer has not answered.
const RETRY: Duration = Duration::from_millis(100);

/// What both certificates are for.
const SERVER_NAME: &str = "measure.pair.drqm.io";

/// A device if one is asked for; without, the volume is reached by its NBD socket only.
struct Asked(Option<FuseLoop>);

impl BlockExport for Asked {
    const KIND: &'static str = "standalone";

    async fn open(
        &mut self,
        size: u64,
        guests: Guests,
        died: mpsc::UnboundedSender<()>,
    ) -> Result<Option<PathBuf>, String> {
        match &mut self.0 {
            Some(device) => device.open(size, guests, died).await,
            None => Ok(None),
        }
    }

    async fn resize(&mut self, size: u64) -> Result<(), String> {
        match &mut self.0 {
            Some(device) => device.resize(size).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<(), String> {
        match &mut self.0 {
            Some(device) => device.close().await,
            None => Ok(()),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: StandaloneArgs) -> anyhow::Result<()> {
    crate::telemetry::init(&args.log, false)?;
    crate::runtime::install_crypto();
    crate::runtime::current_thread()?.block_on(serve(args))
}

async fn serve(args: StandaloneArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let key = VolumeKey::new("measure", "volume")?;
    let pool = FilePool::open(&args.pool, None, Allocation::Sparse)?;
    let config = config(&args);
    if !pool.exists(&key) {
        volume::create(&pool, &key, &config)?;
    }
    let has_peer = config.peer.is_some();
    let addresses = args.peer.iter().map(ToString::to_string).collect();
    let security = match &args.tls {
        Some(folder) => Security::Tls(Arc::new(keys(folder)?)),
        None => Security::Plain,
    };
    let link = LinkSettings {
        has_peer,
        addresses,
        local_address: None,
        security: security.clone(),
    };
    let export = export(&args);
    let shared = Shared {
        clock: Clock::start(),
        boot: crate::entropy::random_u128(),
        site: "measure".to_owned(),
        notify: broadcast::channel(16).0,
    };
    let (handle, volume) =
        volume::start(&pool, &key, &config, WINDOW_BYTES, link, export, &shared)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(volume);
    if let Some(address) = args.listen {
        let listener = std::net::TcpListener::bind(address).with_context(|| address.to_string())?;
        listener.set_nonblocking(true)?;
        let routes = Routes::default();
        let (acceptor, server) = Acceptor::new(routes.clone());
        let routed = routes.set(listener.local_addr()?.port(), &security, &handle.inbound);
        anyhow::ensure!(routed.is_ok(), "the only volume has the only route");
        tasks.spawn(server);
        tasks.spawn(acceptor.listen(listener));
    }
    let promoted = async {
        if args.primary {
            promote(&handle, has_peer).await?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        result = promoted => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = handle
        .commands
        .send(DriverCommand::Stop { drain: true })
        .await;
    handle.ended.cancelled().await;
    Ok(())
}

fn export(args: &StandaloneArgs) -> Export<Asked> {
    // Here the host is who started us.
    crate::host::set_pid(std::process::id());
    let link = args.device.clone();
    let device = link.as_ref().map(|link| {
        let mount_point = args.pool.join("fuse");
        FuseLoop::new(mount_point, label("measure", &link.to_string_lossy()))
    });
    let link = link.unwrap_or_else(|| args.pool.join("link"));
    Export {
        block: Asked(device),
        status: Arc::new(DeviceStatus::new(link, Asked::KIND, Vec::new())),
        nbd_socket: args.nbd.clone(),
    }
}

fn keys(folder: &Path) -> anyhow::Result<PairKeys> {
    let text = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let source = TlsConfig {
        ca: text("ca.crt")?,
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
        pair_id: "measure".to_owned(),
        server_name: SERVER_NAME.to_owned(),
    };
    Ok(PairKeys::new(&source)?)
}

fn config(args: &StandaloneArgs) -> VolumeConfig {
    // The listener's peer is whoever comes.
    let peer = (args.peer.is_some() || args.listen.is_some()).then(|| PeerConfig {
        name: "peer".to_owned(),
        addresses: args.peer.iter().map(ToString::to_string).collect(),
    });
    VolumeConfig {
        version: CONFIG_VERSION,
        cr_uid: String::new(),
        queue_manager: "MEASURE".to_owned(),
        size_bytes: args.size,
        fs: Fs::Xfs,
        mode: if args.synchronous {
            ReplicationMode::Synchronous
        } else if args.flush_synchronous {
            ReplicationMode::FlushSynchronous
        } else {
            ReplicationMode::Asynchronous
        },
        port: 0,
        local_address: None,
        peer,
        tls: None,
        peer_check_timeout_seconds: 30,
        hold_when_peer_unknown: false,
        suspend_io_on_peer_loss: false,
        pull_ahead_on_congestion: false,
        snapshots: Snapshots::default(),
        resync_rate: None,
        verify: None,
    }
}

async fn retry_pause() {
    tokio::time::sleep(RETRY).await;
}

async fn promote(handle: &VolumeHandle, has_peer: bool) -> anyhow::Result<()> {
    let initialize = if has_peer {
        Initialize::WithPeer
    } else {
        Initialize::WithoutPeer
    };
    loop {
        let (answer, answered) = oneshot::channel();
        let command = Command::SetRole {
            role: Role::Primary,
            expected_epoch: Epoch::NONE,
            initialize: Some(initialize),
            request: JudgedRequest {
                role: Role::Primary,
                ..JudgedRequest::default()
            },
        };
        let id = CommandId(crate::entropy::random_u128());
        handle
            .commands
            .send(DriverCommand::Order {
                id,
                command,
                answer,
            })
            .await?;
        match answered.await? {
            // A volume that was Primary before is so again by itself.
            Ok(()) | Err(Refusal::AlreadyInitialized) => return Ok(()),
            Err(Refusal::PeerUnknown | Refusal::Busy | Refusal::TimedOut(_)) => {
                retry_pause().await;
            }
            Err(other) => anyhow::bail!("not promoted: {other}"),
        }
    }
}
