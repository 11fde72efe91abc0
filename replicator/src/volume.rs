//! One volume: its files, its engine, and the tasks around them, put together.
//!
//! Does not live here: any of those tasks' work; which volumes there are ([`crate::node`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drqm_engine::ids::{NodeId, VolumeId};
use drqm_engine::{Engine, command::Identity};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::{Driver, DriverCommand, Inputs, Ports};
use crate::frontend::device::{Device, DeviceStatus};
use crate::frontend::{BlockExport, QUEUE};
use crate::peer::LinkSettings;
use crate::peer::link::{Inbound, Link, LinkOrder};
use crate::peer::session::OwnHello;
use crate::pool::config::VolumeConfig;
use crate::pool::{FilePool, NewVolume, PoolError, VolumeKey};

/// Commands of the operator under way at once; more wait in their calls.
const COMMANDS: usize = 16;

/// Frames and other news of the link that wait for the driver. Beyond it the peer's window fills.
const LINK_EVENTS: usize = 64;

/// Connections on their way from the listener.
const ARRIVALS: usize = 8;

/// How long local I/O that is under way may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Why a volume could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("metadata: {0}")]
    Metadata(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// What all volumes of the process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    /// New at every start of the process.
    pub(crate) boot: u128,
    /// This node's name for people.
    pub(crate) site: String,
    pub(crate) notify: broadcast::Sender<VolumeKey>,
}

/// Where a volume's device appears.
pub(crate) struct Export<E> {
    pub(crate) block: E,
    pub(crate) status: Arc<DeviceStatus>,
    pub(crate) nbd_socket: Option<PathBuf>,
}

/// The way to a running volume.
#[derive(Debug)]
pub(crate) struct VolumeHandle {
    pub(crate) commands: mpsc::Sender<DriverCommand>,
    pub(crate) link: mpsc::UnboundedSender<LinkOrder>,
    pub(crate) inbound: mpsc::Sender<Inbound>,
    pub(crate) device: Arc<DeviceStatus>,
    /// Cancelled when the volume's last task has ended and its files are closed.
    pub(crate) ended: CancellationToken,
}

/// Creates the files of a new volume: Secondary and Empty.
pub(crate) fn create(
    pool: &FilePool,
    key: &VolumeKey,
    config: &VolumeConfig,
) -> Result<(), PoolError> {
    let node = NodeId(crate::entropy::random_u128());
    let identity = Identity {
        node,
        volume: VolumeId::NONE,
        size: config.size_bytes,
    };
    let meta = Engine::format(&identity);
    let meta_len = Engine::metadata_len(config.size_bytes);
    pool.create(
        key,
        &NewVolume {
            config,
            meta_len,
            meta: &meta,
        },
    )
}

/// Opens a volume's files and engine; the returned future is the volume.
pub(crate) fn start<E: BlockExport>(
    pool: &FilePool,
    key: &VolumeKey,
    config: &VolumeConfig,
    log_bytes: u64,
    link_settings: LinkSettings,
    export: Export<E>,
    shared: &Shared,
) -> Result<(VolumeHandle, impl Future<Output = ()> + Send + use<E>), StartError> {
    let files = pool.open_volume(key)?;
    let seed = crate::entropy::random_u128();
    let engine = Engine::open(
        &files.read_meta()?,
        config.settings(log_bytes),
        seed,
        shared.clock.now(),
    )
    .map_err(|e| StartError::Metadata(e.to_string()))?;
    if !engine.holds_snapshot() {
        // What an interrupted end of a snapshot left.
        files.undo.set_len(0)?;
    }
    let wanted = engine.identity().size.max(config.size_bytes);
    if files.size < wanted {
        let actual = files.size;
        return Err(PoolError::SizeMismatch { actual, wanted }.into());
    }
    let own = OwnHello {
        node: engine.identity().node,
        boot: shared.boot,
        site: shared.site.clone(),
    };

    let (completions_in, completions) = mpsc::unbounded_channel();
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (guests_in, guests) = mpsc::channel(QUEUE);
    let (link_events_in, link_events) = mpsc::channel(LINK_EVENTS);
    let (link_in, link_orders) = mpsc::unbounded_channel();
    let (device_in, device_orders) = mpsc::unbounded_channel();
    let (inbound_in, inbound) = mpsc::channel(ARRIVALS);

    let disk = crate::disk::start(files, completions_in.clone())?;
    let device = Device::new(
        export.block,
        guests_in,
        completions_in,
        export.status.clone(),
        export.nbd_socket,
    );
    let link = Link::new(own, link_settings, link_events_in);
    let ports = Ports {
        disk,
        device: device_in,
        link: link_in.clone(),
        notify: shared.notify.clone(),
    };
    let driver = Driver::new(key.clone(), shared.clock, engine, ports);
    let inputs = Inputs {
        commands,
        completions,
        link: link_events,
        guests,
    };
    let ended = CancellationToken::new();
    let handle = VolumeHandle {
        commands: commands_in,
        link: link_in,
        inbound: inbound_in,
        device: export.status,
        ended: ended.clone(),
    };
    let last = ended.drop_guard();
    let volume = async move {
        let stop_link = CancellationToken::new();
        let mut around = JoinSet::new();
        around.spawn(device.run(device_orders));
        around.spawn(link.run(link_orders, inbound, stop_link.clone()));
        // Its end closes the device's queue, and the disk's.
        let mut completions = driver.run(inputs).await;
        stop_link.cancel();
        while let Some(ended) = around.join_next().await {
            // A task of a volume that panicked must not leave half of the volume running.
            ended.expect("device and link tasks do not panic");
        }
        // The disk threads let go of this queue after they have closed the files.
        let closed = async { while completions.recv().await.is_some() {} };
        if tokio::time::timeout(CLOSE_LIMIT, closed).await.is_err() {
            tracing::error!("local I/O did not end; the files stay open");
        }
        drop(last);
    };
    Ok((handle, volume))
}
