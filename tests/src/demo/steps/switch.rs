//! Planned switches, with clients that know both addresses and go on.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::demo::broker::{NAME, NAMESPACE};
use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, Switch, World};

/// What clients put meanwhile: enough for the whole switch, slow enough not to be the load of it.
const MEANWHILE: &str = "--count 400 --rate 40";

/// By patches, as GitOps does it.
pub(super) fn over(world: &mut World) -> Result<Outcome> {
    let (old, new) = (world.first().clone(), world.second().clone());
    while_clients_go_on(world, &old, &new, By::Patch)
}

/// By the plugin, as people do it.
pub(super) fn back(world: &mut World) -> Result<Outcome> {
    let (old, new) = (world.second().clone(), world.first().clone());
    while_clients_go_on(world, &old, &new, By::Plugin)
}

/// How a person asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Patch,
    Plugin,
}

fn while_clients_go_on(world: &mut World, old: &Side, new: &Side, by: By) -> Result<Outcome> {
    let before = world.load.confirmed();
    let putting = world.start_putting(MEANWHILE)?;
    world.load.wait_until_confirmed(before + 40, PATIENCE)?;
    switch(world, old, new, by)?;
    let put = world.end_of_putting(putting, PATIENCE)?;
    ensure!(put.reconnects > 0, "the client did not notice the switch");
    let found = world.check()?;
    world.wait_until_normal()?;
    world.show_status(new, old)?;
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: format!("clients went on, {} reconnects", put.reconnects),
    })
}

/// Stops the old side, starts the new one, and measures both.
pub(super) fn switch(world: &mut World, old: &Side, new: &Side, by: By) -> Result<()> {
    let watch = world.watch_queue_manager(new)?;
    let started = Instant::now();
    ask(world, old, "Secondary", by)?;
    old.wait_until_secondary(PATIENCE)?;
    let stop = started.elapsed();
    let started = Instant::now();
    ask(world, new, "Primary", by)?;
    let ready = world.wait_until_pod_ready(&watch, started)?;
    new.wait_until_serving(PATIENCE)?;
    ensure!(old.pods()? == 0, "the old side still has a pod");
    world.expect_no_device(old)?;
    world.measured.switches.push(Switch {
        to: new.context.clone(),
        stop: Some(stop),
        ready,
    });
    Ok(())
}

fn ask(world: &World, side: &Side, role: &str, by: By) -> Result<()> {
    match by {
        By::Patch => world.ask_for(side, role),
        By::Plugin => {
            let verb = if role == "Primary" {
                "promote"
            } else {
                "demote"
            };
            let context = &side.context;
            world.typed(&format!(
                "kubectl drqm {verb} {NAME} -n {NAMESPACE} --context {context}"
            ))?;
            Ok(())
        }
    }
}
