//! Sizes: unlike ones, and volumes that grow.

use anyhow::{Result, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::EffectiveRole;
use serde_json::json;

use super::pair::{
    apply, apply_peer_manifest, delete, expect_left, leave, manifest, on_volume, pod_uid, sides,
    wait_for_words, wait_until_normal,
};
use crate::demo::broker::NAMESPACE;
use crate::demo::side::Side;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};
use crate::wait::{Look, wait_until};

const LARGE: i64 = 512 << 20;

/// One patch on each side: the volume grows under the queue manager, kubelet grows its file system.
pub(super) fn volume_grows(world: &mut World) -> Result<()> {
    let both = sides(world, "growing");
    let [first, second] = &both;
    let mut wanted = manifest(world, first, Some(second));
    // xfs: growing ext4 needs a capability that a machine for tests may lack.
    wanted["spec"]["storage"] = json!({"size": "320Mi", "fsType": "xfs"});
    apply(world, first, &wanted)?;
    apply_peer_manifest(world, first, second)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    leave(world, first, "when-it-was-small")?;
    let pod = pod_uid(first)?;

    grow(world, first, "512Mi")?;
    fits(first, "False", reason::SIZE_MISMATCH)?;
    let size = |side: &Side| -> Result<Option<i64>> {
        Ok(side.status()?.volume.and_then(|v| v.size_bytes))
    };
    ensure!(size(first)? == Some(320 << 20), "it has grown alone");
    grow(world, second, "512Mi")?;
    for side in &both {
        side.wait_for("the volume has grown", PATIENCE, |status| {
            (status.volume.as_ref()?.size_bytes == Some(LARGE)).then_some(())
        })?;
        fits(side, "True", reason::MATCHES)?;
    }
    // Kubelet looks when something happens to the pod, or about once a minute.
    world.typed(&format!(
        "kubectl annotate pod growing-0 -n {NAMESPACE} --context {} example.com/look=now",
        first.context
    ))?;
    // Status follows when the operator looks the next time.
    wait_until("the file system has grown", SYNCHRONIZATION, || {
        let blocks = on_volume(world, first, "stat -f -c '%b * %S' $M")?;
        let grown = blocks.split_once('*').and_then(|(count, size)| {
            Some(count.trim().parse::<i64>().ok()? * size.trim().parse::<i64>().ok()?)
        });
        Ok(match grown {
            Some(bytes) if bytes > LARGE * 8 / 10 => Look::Holds(()),
            Some(_) | None => Look::NotYet(blocks),
        })
    })?;
    ensure!(pod_uid(first)? == pod, "the queue manager was interrupted");
    on_volume(
        world,
        first,
        "dd if=/dev/urandom of=$M/much bs=1M count=350 conv=fsync status=none",
    )?;
    leave(world, first, "when-it-was-large")?;
    wait_until_normal(&both)?;

    world.ask_for(first, "Secondary")?;
    first.wait_until_secondary(PATIENCE)?;
    world.ask_for(second, "Primary")?;
    second.wait_until_serving(PATIENCE)?;
    for file in ["when-it-was-small", "when-it-was-large"] {
        expect_left(world, second, file)?;
    }
    both.iter().try_for_each(|side| delete(world, side))
}

/// Waits until the two configurations fit, or no longer do.
fn fits(side: &Side, word: &str, why: &str) -> Result<()> {
    side.wait_for("what is told of the sizes", PATIENCE, |status| {
        let told = status
            .conditions
            .iter()
            .find(|c| c.type_ == "PeerConfigMatches")?;
        (told.status == word && told.reason == why).then_some(())
    })
}

fn grow(world: &World, side: &Side, size: &str) -> Result<()> {
    world.patch(
        side,
        &format!(r#"{{"spec":{{"storage":{{"size":"{size}"}}}}}}"#),
    )
}

pub(super) fn sizes_differ(world: &mut World) -> Result<()> {
    let both = sides(world, "uneven");
    let [first, second] = &both;
    apply(world, first, &manifest(world, first, Some(second)))?;
    first.wait_for("the keys are made", PATIENCE, |status| {
        status.pair_secret.as_ref().map(drop)
    })?;
    world.typed(&format!(
        "kubectl drqm peer-manifest uneven -n {NAMESPACE} --context {} | sed 's/size: 64Mi/size: 128Mi/' | \
         kubectl apply --context {} -f -",
        first.context, second.context
    ))?;
    for side in &both {
        let said = wait_for_words(side, "the sizes differ", &["storage.size is"])?;
        world.ui.print(&said);
        ensure!(
            side.status()?.role != EffectiveRole::Primary && side.pods()? == 0,
            "{} began beside an unlike peer",
            side.context
        );
    }
    // The way out that was named; a refused request stays refused until it is asked again.
    grow(world, first, "128Mi")?;
    fits(first, "True", reason::MATCHES)?;
    world.patch(first, r#"{"spec":{"promotion":{"requestId":"again"}}}"#)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    both.iter().try_for_each(|side| delete(world, side))
}
