//! A node that lacks what the replicator needs: status names it, and all is well once it is there.

use anyhow::{Context, Result, ensure};

use super::pair::{apply, delete, manifest, wait_for_words};
use crate::demo::world::{SYNCHRONIZATION, World};

/// The pool of the chart's values.
pub(super) const POOL: &str = "/var/lib/drqm/pool";

/// The disk under the pool has become read-only, as a kernel does it after errors.
pub(super) fn pool_is_read_only(world: &mut World) -> Result<()> {
    // The other side's is killed by other cases: kubelet waits longer from kill to kill.
    let side = world.second().named("stiff");
    let host = side.host.context("a host of the lab")?;
    let read_only = format!("mount --bind {POOL} {POOL} && mount -o remount,bind,ro {POOL}");
    world.in_host(host, &["sh", "-c", &read_only])?;
    // A container sees the mounts of the moment when it began.
    world.in_host(host, &["pkill", "-KILL", "-x", "drqm-replicator"])?;
    apply(world, &side, &manifest(world, &side, None))?;
    let said = wait_for_words(
        &side,
        "the pool is read-only",
        &[POOL, "Read-only file system"],
    );
    let pods = side.pods();
    world.in_host(host, &["umount", POOL])?;
    world.in_host(host, &["pkill", "-KILL", "-x", "drqm-replicator"])?;
    world.ui.print(&said?);
    ensure!(pods? == 0, "it began on a read-only pool");

    side.wait_until_serving(SYNCHRONIZATION)?;
    delete(world, &side)
}
