//! The replication link is lost and comes back.

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::{DrStatusWord, EffectiveRole};

use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};

/// Messages that are put while the pair is apart.
const APART: u64 = 500;

pub(super) fn lost(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    for side in [&first, &second] {
        side.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    }
    let before = first.status()?.dr.out_of_sync_bytes.unwrap_or(0);
    world.put(APART)?;
    let after = first.wait_for("out-of-sync data grows", PATIENCE, |status| {
        status.dr.out_of_sync_bytes.filter(|bytes| *bytes > before)
    })?;
    ensure!(first.status()?.serving, "the primary no longer serves");
    let there = second.status()?;
    ensure!(
        there.role == EffectiveRole::Secondary && !there.serving,
        "the secondary started"
    );
    there
        .recovery_point
        .context("the secondary does not say what its copy is worth")?;
    world.show_status(&first, &second)?;
    let found = world.check()?;
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: format!("{} KB out of sync", after / 1024),
    })
}

pub(super) fn back(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    let copy = world.watch_copy(&second)?;
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    world.wait_until_normal()?;
    // What was written meanwhile is in the primary's log: the copy was never worth less than before.
    let words: Vec<String> = copy.arrived().map(|(_, word)| word).collect();
    ensure!(
        words.last().is_some_and(|word| word == "UpToDate")
            && words
                .iter()
                .all(|word| word == "UpToDate" || word == "Behind"),
        "the copy was {}",
        words.join(", ")
    );
    ensure!(first.status()?.serving, "the primary no longer serves");
    first.expect_condition("InSync", "True", "InSync")?;
    world.show_status(&first, &second)?;
    Ok(Outcome::remark(
        "Normal on both sides, the copy never inconsistent",
    ))
}
