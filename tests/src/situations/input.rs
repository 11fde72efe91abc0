//! Bad input that only a running operator and replicator can meet: status names it and the way out, and
//! nothing is lost or changed.

use anyhow::{Result, ensure};
use drqm_api::v1alpha1::EffectiveRole;
use serde_json::json;

use super::pair::{
    self, NAME, apply, apply_peer_manifest, delete, expect_left, leave, manifest, sides,
    wait_for_words, wait_until_normal,
};
use crate::demo::broker::NAMESPACE;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};

pub(super) fn pool_is_full(world: &mut World) -> Result<()> {
    let side = world.first().named("huge");
    let mut wanted = manifest(world, &side, None);
    wanted["spec"]["storage"]["size"] = json!("99Ti");
    apply(world, &side, &wanted)?;
    let words = ["spec.storage.size", "pool", "smaller"];
    let said = wait_for_words(&side, "the pool is full", &words)?;
    world.ui.print(&said);
    ensure!(side.pods()? == 0, "a pod without a volume");
    world.expect_no_device(&side)?;
    delete(world, &side)
}

/// kubelet listens on every address of the node.
pub(super) fn port_is_taken(world: &mut World) -> Result<()> {
    let both = sides(world, "knocking");
    let [first, second] = &both;
    let mut wanted = manifest(world, first, Some(second));
    wanted["spec"]["replication"]["port"] = json!(10250);
    apply(world, first, &wanted)?;
    let words = ["spec.replication.port", "10250", "choose another"];
    let said = wait_for_words(first, "the port is taken", &words)?;
    world.ui.print(&said);
    ensure!(first.pods()? == 0, "it began without its port");
    world.expect_no_device(first)?;

    // The way out that the sentence names.
    wanted["spec"]["replication"]["port"] = json!(7002);
    apply(world, first, &wanted)?;
    apply_peer_manifest(world, first, second)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    both.iter().try_for_each(|side| delete(world, side))
}

pub(super) fn image_cannot_be_pulled(world: &mut World) -> Result<()> {
    let side = world.first().named("picture");
    let good = manifest(world, &side, None);
    apply(world, &side, &good)?;
    side.wait_until_serving(SYNCHRONIZATION)?;
    leave(world, &side, "before")?;
    let before = pair::uuid(world, &side)?;

    let image = "/spec/queueManager/custom/template/spec/containers/0/image";
    let mut bad = good.clone();
    *bad.pointer_mut(image).expect("of the manifest") = json!("127.0.0.1:1/none:1");
    apply(world, &side, &bad)?;
    let said = wait_for_words(&side, "the image cannot be pulled", &["127.0.0.1:1/none:1"])?;
    world.ui.print(&said);
    ensure!(!side.status()?.serving, "it serves without an image");

    apply(world, &side, &good)?;
    side.wait_until_serving(SYNCHRONIZATION)?;
    expect_left(world, &side, "before")?;
    ensure!(
        pair::uuid(world, &side)? == before,
        "the volume was formatted anew"
    );
    delete(world, &side)
}

pub(super) fn secret_is_unknown(world: &mut World) -> Result<()> {
    let [side, other] = sides(world, "secretive");
    let mut wanted = manifest(world, &side, Some(&other));
    wanted["spec"]["replication"]["tls"] = json!({"secretName": "nobody-has-it"});
    apply(world, &side, &wanted)?;
    let said = wait_for_words(&side, "the Secret is unknown", &["nobody-has-it"])?;
    world.ui.print(&said);
    ensure!(
        side.status()?.role != EffectiveRole::Primary && side.pods()? == 0,
        "it began without keys"
    );
    delete(world, &side)
}

/// Each makes keys of its own, so that they do not know each other: neither begins. The way out is what
/// a person would do who understood: one of them is made the other's peer.
pub(super) fn two_primaries(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    apply(world, first, &manifest(world, first, Some(second)))?;
    apply(world, second, &manifest(world, second, Some(first)))?;
    for side in &both {
        let said = wait_for_words(side, "it does not begin", &["peer-manifest"])?;
        world.ui.print(&said);
        ensure!(
            side.status()?.role != EffectiveRole::Primary && side.pods()? == 0,
            "{} began beside another one",
            side.context
        );
    }
    delete(world, second)?;
    world.typed(&format!(
        "kubectl delete secret -n {NAMESPACE} --context {} -l {} --ignore-not-found",
        second.context,
        second.selector()
    ))?;
    apply_peer_manifest(world, first, second)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    leave(world, first, "first")?;
    second.wait_until_secondary(PATIENCE)
}
