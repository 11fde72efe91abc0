//! The state of a volume and of the node, gathered from engine, device, host and pool.
//!
//! Does not live here: what the state means.

use std::sync::{Arc, PoisonError};

use drqm_engine::Engine;
use drqm_engine::report::Report;
use drqm_engine::settings::WINDOW_BYTES;
use drqm_rpc::control::v1 as pb;

use crate::convert;
use crate::frontend::BlockExport;
use crate::frontend::device::DeviceStatus;
use crate::frontend::holders::{self, User};
use crate::frontend::loopdev::FuseLoop;
use crate::node::{Entry, Node};
use crate::pool::VolumeKey;
use crate::pool::config::VolumeConfig;

/// What the host says about a device.
#[derive(Debug, Default)]
struct Seen {
    held_by: String,
    dead: bool,
    usage: Option<(u64, u64)>,
    memory: u64,
    cpu_seconds: f64,
}

/// A volume that is configured, or was and left its data; none if there is nothing by that name.
pub(crate) async fn volume(node: &Arc<Node>, key: &VolumeKey) -> Option<pb::VolumeState> {
    match node.entry(key) {
        None => leftover(node, key).await,
        Some(Entry {
            config,
            running: Err(error),
            ..
        }) => Some(failed(key, &config, error)),
        Some(entry @ Entry { running: Ok(_), .. }) => Some(running(node, key, entry).await),
    }
}

fn failed(key: &VolumeKey, config: &VolumeConfig, error: String) -> pb::VolumeState {
    let data = pb::Data::Failed.into();
    pb::VolumeState {
        configured: true,
        error,
        data,
        ..convert::configured_state(key, config)
    }
}

async fn running(node: &Arc<Node>, key: &VolumeKey, entry: Entry) -> pb::VolumeState {
    let state = convert::configured_state(key, &entry.config);
    let Ok(handle) = &entry.running else {
        return state;
    };
    let Some(report) = node.report(handle).await else {
        return failed(key, &entry.config, "the volume does not answer".to_owned());
    };
    let now = node.shared.clock.now();
    let (rate, cpu) = {
        let device = handle.device.clone();
        // /proc can be slow on a busy host; never on this thread.
        let seen = tokio::task::spawn_blocking(move || look(&device))
            .await
            .unwrap_or_default();
        let mut meter = entry.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = report
            .sync
            .as_ref()
            .map_or(0, |sync| meter.sample(now.mono, sync));
        let cpu = meter.cpu_percent(now.mono, seen.cpu_seconds);
        (rate, (seen, cpu))
    };
    let state = convert::with_report(state, &report, &entry.config, now, rate);
    let kept = node.pool.kept(key);
    let state = pb::VolumeState {
        kept_copies: kept.iter().map(|p| p.display().to_string()).collect(),
        ..state
    };
    with_device(state, &report, &handle.device, cpu.0, cpu.1)
}

fn look(status: &DeviceStatus) -> Seen {
    let dead = status.dead_mounts();
    let Some(number) = status.number() else {
        let held_by = dead
            .first()
            .map(|m| m.display().to_string())
            .unwrap_or_default();
        return Seen {
            held_by,
            dead: !dead.is_empty(),
            ..Seen::default()
        };
    };
    let users: Vec<User> = holders::users(number);
    let mount = holders::host_mounts(number).into_iter().next();
    let (memory, cpu_seconds) = holders::load(&users);
    let described = holders::describe(number, &users);
    let held_by = match dead.first() {
        Some(mount) if described.is_empty() => mount.display().to_string(),
        Some(_) | None => described,
    };
    let usage = mount.as_deref().and_then(holders::usage);
    Seen {
        held_by,
        dead: !dead.is_empty(),
        usage,
        memory,
        cpu_seconds,
    }
}

fn with_device(
    state: pb::VolumeState,
    report: &Report,
    status: &DeviceStatus,
    seen: Seen,
    cpu_percent: f64,
) -> pb::VolumeState {
    let engine = state.device.clone().unwrap_or_default();
    // While a dead device is mounted its users see errors, whether or not a new one stands ready.
    let open = report.gate == drqm_engine::report::Gate::Open;
    let gate = if seen.dead && open {
        pb::Gate::Dead.into()
    } else {
        engine.gate
    };
    let device = pb::Device {
        gate,
        path: status.link.display().to_string(),
        front_end: status.kind.to_owned(),
        held_by: seen.held_by,
        ..engine
    };
    let file_system = seen
        .usage
        .map(|(used_bytes, allocated_bytes)| pb::FileSystem {
            used_bytes,
            allocated_bytes,
        });
    pb::VolumeState {
        device: Some(device),
        file_system,
        holder_memory_bytes: seen.memory,
        holder_cpu_percent: cpu_percent,
        ..state
    }
}

/// A volume that was let go: its data are described, so that nobody takes them for nothing.
async fn leftover(node: &Arc<Node>, key: &VolumeKey) -> Option<pb::VolumeState> {
    let (node, key) = (node.clone(), key.clone());
    let described = tokio::task::spawn_blocking(move || describe_leftover(&node, &key));
    described.await.ok().flatten()
}

fn describe_leftover(node: &Node, key: &VolumeKey) -> Option<pb::VolumeState> {
    if !node.pool.exists(key) {
        return None;
    }
    let bare = pb::VolumeState {
        volume: Some(convert::volume_ref(key)),
        role: pb::Role::Secondary.into(),
        data: pb::Data::Failed.into(),
        ..pb::VolumeState::default()
    };
    let fail = |error: String| {
        Some(pb::VolumeState {
            error,
            ..bare.clone()
        })
    };
    let config = match node.pool.retained(key) {
        Ok(Some(config)) => config,
        Ok(None) => return fail("the volume's configuration is missing".to_owned()),
        Err(error) => return fail(error.to_string()),
    };
    let files = match node.pool.open_volume(key) {
        Ok(files) => files,
        Err(error) => return fail(error.to_string()),
    };
    let now = node.shared.clock.now();
    let opened = files
        .read_meta()
        .map_err(|e| e.to_string())
        .and_then(|meta| {
            Engine::open(&meta, config.settings(WINDOW_BYTES), 0, now).map_err(|e| e.to_string())
        });
    match opened {
        Ok(engine) => {
            let state = convert::configured_state(key, &config);
            let state = convert::with_report(state, &engine.report(), &config, now, 0);
            Some(pb::VolumeState {
                configured: false,
                ..state
            })
        }
        Err(error) => fail(error),
    }
}

/// Pool, front-ends, and every volume on this node.
pub(crate) async fn node(node: &Arc<Node>) -> pb::NodeState {
    let mut keys = node.pool.list().unwrap_or_default();
    keys.extend(node.keys());
    keys.sort();
    keys.dedup();
    let mut volumes = Vec::with_capacity(keys.len());
    for key in keys {
        volumes.extend(volume(node, &key).await);
    }
    let (capacity, free) = node.pool.capacity().unwrap_or_default();
    let block = node.warnings.is_empty().then(|| FuseLoop::KIND.to_owned());
    let socket = node.args.nbd_dir.as_ref().map(|_| "nbd-socket".to_owned());
    pb::NodeState {
        node: node.args.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pool_kind: "file".to_owned(),
        pool_path: node.pool.root().display().to_string(),
        pool_capacity_bytes: capacity,
        pool_free_bytes: free,
        front_ends: block.into_iter().chain(socket).collect(),
        volumes,
        warnings: node.warnings.clone(),
        address: node
            .args
            .host_ip
            .unwrap_or(node.args.control_listen.ip())
            .to_string(),
    }
}
