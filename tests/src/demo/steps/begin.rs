//! The pair comes into being: the primary first, which waits for its peer, then the secondary.

use std::fs;

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::{EffectiveRole, VerdictWord};

use crate::demo::broker::{self, NAME, NAMESPACE};
use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};
use crate::repository;

pub(super) fn create_primary(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    write("broker.yaml", &broker::configuration())?;
    let manifest = broker::primary(&first, &second, world.mode, &world.images.broker);
    write("qmdr.yaml", &manifest)?;
    make_namespace(world, &first)?;
    world.typed("cat target/demo/qmdr.yaml")?;
    world.typed(&format!(
        "kubectl apply --context {} -f target/demo/qmdr.yaml",
        first.context
    ))?;
    // Its peer is configured and not there yet: an empty primary waits and says how to do without.
    let message = first.wait_for("the primary waits for its peer", PATIENCE, |status| {
        let request = status.request.as_ref()?;
        let keys = status.pair_secret.is_some() && status.dr.local_address.is_some();
        let waits = request.verdict == VerdictWord::Wait && status.role != EffectiveRole::Primary;
        (keys && waits).then(|| request.message.clone())
    })?;
    ensure!(
        message.contains("bootstrap"),
        "the message does not name `bootstrap`: {message}"
    );
    world.show_status(&first, &second)?;
    Ok(Outcome::remark("waits for its peer"))
}

pub(super) fn create_secondary(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    make_namespace(world, &second)?;
    world.typed(&format!(
        "kubectl drqm peer-manifest {NAME} -n {NAMESPACE} --context {} | kubectl apply --context {} -f -",
        first.context, second.context
    ))?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    world.wait_until_normal()?;
    world.show_status(&first, &second)?;
    let peer = second.resource()?.context("the secondary exists")?;
    ensure!(
        second.status()?.role == EffectiveRole::Secondary,
        "the second side is not Secondary: {:?}",
        peer.status
    );
    first.expect_condition("InSync", "True", "InSync")?;
    Ok(Outcome::remark("Normal on both sides"))
}

fn make_namespace(world: &World, side: &Side) -> Result<()> {
    let context = &side.context;
    world.typed(&format!(
        "kubectl create namespace {NAMESPACE} --context {context}"
    ))?;
    world.typed(&format!(
        "kubectl apply --context {context} -f target/demo/broker.yaml"
    ))?;
    Ok(())
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = repository::scratch("demo")?.join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())
}
