//! Roles asked for at a bad moment: both at once, without the peer, on both sides of a cut link.

use anyhow::{Result, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DrStatusWord, VerdictWord};
use serde_json::json;

use super::pair::{
    NAME, OTHER, apply, apply_peer_manifest, expect_left, leave, manifest, sides, wait_until_normal,
};
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};

pub(super) fn second_pair(world: &mut World) -> Result<()> {
    let both = sides(world, OTHER);
    let [first, second] = &both;
    let mut wanted = manifest(world, first, Some(second));
    wanted["spec"]["replication"]["mode"] = json!("Synchronous");
    apply(world, first, &wanted)?;
    apply_peer_manifest(world, first, second)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    leave(world, first, "synchronous")?;
    wait_until_normal(&sides(world, NAME))
}

/// One commit swaps both roles: each cluster's GitOps applies its half when it likes.
pub(super) fn swapped_at_once(world: &mut World) -> Result<()> {
    let both = sides(world, OTHER);
    let [old, new] = &both;
    world.ask_for(new, "Primary")?;
    world.ask_for(old, "Secondary")?;
    old.wait_until_secondary(PATIENCE)?;
    new.wait_until_serving(PATIENCE)?;
    ensure!(old.pods()? == 0, "two pods");
    world.expect_no_device(old)?;
    expect_left(world, new, "synchronous")?;
    wait_until_normal(&both)
}

pub(super) fn promotion_needs_force(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    let cautious = r#"{"spec":{"promotion":{"whenPeerUnknown":"RequireForce"}}}"#;
    world.patch(second, cautious)?;
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    second.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    world.ask_for(second, "Primary")?;
    let message = second.wait_for("the promotion is refused", PATIENCE, |status| {
        let request = status.request.as_ref()?;
        let refused =
            request.verdict == VerdictWord::Refuse && request.reason == reason::PEER_UNKNOWN;
        refused.then(|| request.message.clone())
    })?;
    world.ui.print(&message);
    ensure!(
        message.contains("promotion.whenPeerUnknown"),
        "the way out is not named: {message}"
    );
    world.expect_no_device(second)?;
    world.ask_for(second, "Secondary")?;
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    wait_until_normal(&both)?;
    world.patch(
        second,
        r#"{"spec":{"promotion":{"whenPeerUnknown":"Allow"}}}"#,
    )?;
    ensure!(first.status()?.serving, "the primary no longer serves");
    Ok(())
}

/// The link is cut, the second side is promoted although the first one lives, and both write: when they
/// meet again, both say so and neither gives anything up.
pub(super) fn split_brain(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    second.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    world.ask_for(second, "Primary")?;
    second.wait_until_serving(SYNCHRONIZATION)?;
    leave(world, first, "only-here")?;
    leave(world, second, "only-there")?;
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    for side in &both {
        side.wait_for_dr(DrStatusWord::Partitioned, PATIENCE)?;
        side.expect_condition("SplitBrain", "True", reason::DETECTED)?;
    }
    expect_left(world, first, "only-here")?;
    expect_left(world, second, "only-there")?;
    world.show_status(first, second)
}
