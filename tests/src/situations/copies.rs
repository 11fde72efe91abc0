//! Copies that are interrupted, and modes that are changed: what replication does under people's hands.

use anyhow::{Context, Result, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DataWord, DrStatusWord, Mode};
use serde_json::json;

use super::node::POOL;
use super::pair::{
    NAME, apply, apply_peer_manifest, delete, expect_left, leave, manifest, on_volume, pod_uid,
    sides, wait_until_normal,
};
use crate::demo::broker::NAMESPACE;
use crate::demo::side::Side;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};

/// A pair that ends partitioned, and goes.
const HALFWAY: &str = "halfway";

/// The primary's site is lost while the secondary is being synchronized: one patch takes the copy back to
/// what it was before, and serves it.
pub(super) fn interrupted_copy_goes_back(world: &mut World) -> Result<()> {
    let both = sides(world, HALFWAY);
    let [first, second] = &both;
    let mut wanted = manifest(world, first, Some(second));
    wanted["spec"]["storage"]["size"] = json!("256Mi");
    apply(world, first, &wanted)?;
    apply_peer_manifest(world, first, second)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    leave(world, first, "before-the-copy")?;
    wait_until_normal(&both)?;

    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    first.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    // More than is kept for a peer that is away.
    on_volume(
        world,
        first,
        "dd if=/dev/urandom of=$M/much bs=1M count=120 conv=fsync status=none",
    )?;
    shape(
        world,
        first,
        "replace dev repl root tbf rate 40mbit burst 256kb latency 400ms",
    )?;
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    second.wait_for("a synchronization is under way", PATIENCE, |status| {
        (status.dr.local_data == Some(DataWord::Syncing)).then_some(())
    })?;
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    shape(world, first, "del dev repl root")?;
    second.wait_for_dr(DrStatusWord::Inconsistent, PATIENCE)?;
    second.expect_condition("Promotable", "True", reason::NEEDS_REVERT)?;
    let snapshot = second.status()?.snapshot.context("no snapshot is told")?;
    ensure!(snapshot.used_bytes > 0, "{snapshot:?}");
    world.show_status(second, first)?;

    world.ask_for(second, "Primary")?;
    second.wait_until_serving(SYNCHRONIZATION)?;
    expect_left(world, second, "before-the-copy")?;
    let status = second.status()?;
    ensure!(status.snapshot.is_none(), "{:?}", status.snapshot);
    let transition = status.last_transition.context("no transition")?;
    ensure!(transition.recovery_point.is_some(), "{transition:?}");

    // The old primary has written alone: nobody decides for a person.
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    for side in &both {
        side.wait_for_dr(DrStatusWord::Partitioned, PATIENCE)?;
    }
    old_primary_makes_way(world, &both)?;
    both.iter().try_for_each(|side| delete(world, side))
}

/// One patch on the side that makes way: only what differs is transferred, what it had is kept.
fn old_primary_makes_way(world: &World, both: &[Side; 2]) -> Result<()> {
    let [old, new] = both;
    let alone = "written-alone";
    leave(world, old, alone)?;
    let epoch = old.status()?.epoch.context("an epoch")?.current;
    world.patch(
        old,
        &format!(
            r#"{{"spec":{{"role":"Secondary","partition":{{"resolution":"KeepRemote","epoch":"{epoch}"}}}}}}"#
        ),
    )?;
    wait_until_normal(both)?;
    ensure!(new.status()?.serving, "the survivor no longer serves");
    let kept = old.wait_for("what was given up is kept", PATIENCE, |status| {
        status.volume.as_ref()?.kept_copies.first().cloned()
    })?;
    let host = old.host.context("a host of the lab")?;
    let found = world.in_host(host, &["grep", "-c", "-a", alone, &kept])?;
    ensure!(found.trim() != "0", "{kept} does not hold what was written");
    world.show_status(old, new)?;

    // And the survivor's data are there.
    world.ask_for(new, "Secondary")?;
    new.wait_until_secondary(PATIENCE)?;
    world.ask_for(old, "Primary")?;
    old.wait_until_serving(PATIENCE)?;
    expect_left(world, old, "before-the-copy")?;
    ensure!(
        !on_volume(world, old, "ls $M")?.contains(alone),
        "{alone} came back"
    );
    wait_until_normal(both)
}

/// Changes how fast what leaves the side towards its peer may be.
fn shape(world: &World, side: &Side, how: &str) -> Result<()> {
    let host = side.host.context("a host of the lab")?;
    let words: Vec<&str> = ["tc", "qdisc"].into_iter().chain(how.split(' ')).collect();
    world.in_host(host, &words)?;
    Ok(())
}

/// A disk that returns something else than what was written: a verification finds it under a serving queue
/// manager and repairs it.
pub(super) fn rotten_byte_is_repaired(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    let (word, rotten) = ("fresh-as-written", "fresh-aS-written");
    leave(world, first, word)?;
    wait_until_normal(&both)?;
    let copy = format!("{POOL}/{NAMESPACE}_{NAME}/data");
    let host = second.host.context("a host of the lab")?;
    let spoil = format!(
        "at=$(grep -obUa {word} {copy} | tail -1 | cut -d: -f1) && \
         printf {rotten} | dd of={copy} bs=1 seek=$at conv=notrunc,fsync status=none && \
         grep -c -a {rotten} {copy}"
    );
    ensure!(world.in_host(host, &["sh", "-c", &spoil])?.trim() != "0");
    let pod = pod_uid(first)?;
    for (request, differing) in [("first", 4096), ("second", 0)] {
        world.patch(
            first,
            &format!(
                r#"{{"spec":{{"replication":{{"verify":{{"requestId":"{request}","repair":true}}}}}}}}"#
            ),
        )?;
        let ended = first.wait_for("the verification has ended", SYNCHRONIZATION, |status| {
            let v = status.verification.clone()?;
            (v.request_id == request && v.finished_at.is_some()).then_some(v)
        })?;
        ensure!(ended.differing_bytes == differing, "{ended:?}");
        wait_until_normal(&both)?;
    }
    let count = format!("grep -c -a {rotten} {copy} || true");
    let left = world.in_host(host, &["sh", "-c", &count])?;
    ensure!(left.trim() == "0", "the copy still shows {rotten}");
    ensure!(
        first.status()?.serving && pod_uid(first)? == pod,
        "the queue manager was interrupted"
    );
    world.show_status(first, second)
}

/// The mode is changed on both sides while the queue manager serves.
pub(super) fn mode_is_changed(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, _] = &both;
    let pod = pod_uid(first)?;
    for (word, mode) in [
        ("Synchronous", Mode::Synchronous),
        ("FlushSynchronous", Mode::FlushSynchronous),
        ("Asynchronous", Mode::Asynchronous),
    ] {
        for side in &both {
            world.patch(
                side,
                &format!(r#"{{"spec":{{"replication":{{"mode":"{word}"}}}}}}"#),
            )?;
        }
        for side in &both {
            side.wait_for("the mode holds", PATIENCE, |status| {
                let holds = status.dr.type_ == Some(mode) && status.dr.effective_type == Some(mode);
                (holds && status.dr.status == DrStatusWord::Normal).then_some(())
            })?;
        }
    }
    ensure!(
        first.status()?.serving && pod_uid(first)? == pod,
        "the queue manager was interrupted"
    );
    Ok(())
}
