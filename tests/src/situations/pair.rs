//! Queue managers to do things to: manifests, and what is asked of their file systems.
//!
//! Does not live here: what is done to them.

use std::fs;

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::DrStatusWord;
use serde_json::{Value, json};

use crate::demo::broker::NAMESPACE;
use crate::demo::side::Side;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};
use crate::repository;

/// The pair of the cases that belong together.
pub(super) const NAME: &str = "qm1";

/// The other pair of the same nodes, behind the same port; synchronous.
pub(super) const OTHER: &str = "qm2";

/// Enough for ext4.
const SMALL: &str = "64Mi";

/// The namespace, on both sides.
pub(super) fn make_namespace(world: &World) -> Result<()> {
    for side in &world.sides {
        world.typed(&format!(
            "kubectl create namespace {NAMESPACE} --context {}",
            side.context
        ))?;
    }
    Ok(())
}

/// Both sides, looking at one resource.
pub(super) fn sides(world: &World, name: &str) -> [Side; 2] {
    [world.first().named(name), world.second().named(name)]
}

/// A queue manager that a person would write down, for this side, with that peer.
pub(super) fn manifest(world: &World, here: &Side, there: Option<&Side>) -> Value {
    let mut spec = json!({
        "role": "Primary",
        "queueManager": {
            "name": here.name.to_uppercase(),
            "custom": {
                "template": {"spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "broker", "image": world.images.broker,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["-js", "-sd", "/data/jetstream", "-m", "8222"],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz?js-enabled-only=true", "port": 8222},
                            "periodSeconds": 1},
                    }]}},
                "volume": {"mountPath": "/data"},
                "ports": [{"name": "client", "port": 4222}],
            }},
        "storage": {"size": SMALL, "fsType": "ext4"},
        "deletion": {"whileRunning": "Stop", "data": "Delete"},
    });
    if let Some(there) = there {
        spec["replication"] = json!({
            "localAddress": here.address,
            "peer": {"name": there.context, "addresses": [format!("{}:7001", there.address)]},
        });
    }
    json!({
        "apiVersion": "drqm.io/v1alpha1", "kind": "DrQueueManager",
        "metadata": {"name": here.name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

/// Applies a manifest.
pub(super) fn apply(world: &World, side: &Side, manifest: &Value) -> Result<()> {
    let file = format!("situation-{}-{}.json", side.name, side.context);
    let path = repository::scratch("demo")?.join(&file);
    fs::write(&path, serde_json::to_vec_pretty(manifest)?)
        .with_context(|| path.display().to_string())?;
    world.typed(&format!(
        "kubectl apply --context {} -f target/demo/{file}",
        side.context
    ))?;
    Ok(())
}

/// What the other side's plugin prints, applied here.
pub(super) fn apply_peer_manifest(world: &World, from: &Side, to: &Side) -> Result<()> {
    world.typed(&format!(
        "kubectl drqm peer-manifest {} -n {NAMESPACE} --context {} | kubectl apply --context {} -f -",
        from.name, from.context, to.context
    ))?;
    Ok(())
}

/// Both sides see the pair in step.
pub(super) fn wait_until_normal(sides: &[Side; 2]) -> Result<()> {
    for side in sides {
        side.wait_for_dr(DrStatusWord::Normal, SYNCHRONIZATION)?;
    }
    Ok(())
}

/// Removes the resource with its data.
pub(super) fn delete(world: &World, side: &Side) -> Result<()> {
    world.typed(&format!(
        "kubectl delete drqm {} -n {NAMESPACE} --context {} --timeout 120s",
        side.name, side.context
    ))?;
    ensure!(side.resource()?.is_none(), "it still exists");
    Ok(())
}

/// Waits until some sentence of the status has all the words; returns it.
pub(super) fn wait_for_words(side: &Side, what: &str, words: &[&str]) -> Result<String> {
    side.wait_for(what, PATIENCE, |status| {
        let request = status.request.iter().map(|request| &request.message);
        let conditions = status.conditions.iter().map(|one| &one.message);
        let mut sentences = conditions.chain(request);
        sentences
            .find(|text| words.iter().all(|word| text.contains(word)))
            .cloned()
    })
}

/// UID of the queue manager's pod.
pub(super) fn pod_uid(side: &Side) -> Result<String> {
    let pods = side.get(&["pods", "-n", NAMESPACE, "-l", &side.selector()])?;
    let uid = pods["items"][0]["metadata"]["uid"].as_str();
    Ok(uid.context("no pod")?.to_owned())
}

/// UUID of the file system on the device.
pub(super) fn uuid(world: &World, side: &Side) -> Result<String> {
    let host = side.host.context("a host of the lab")?;
    world.in_host(
        host,
        &["blkid", "-p", "-o", "value", "-s", "UUID", &side.device()],
    )
}

/// Runs a script with `$M`, where the queue manager's file system is mounted on its node.
pub(super) fn on_volume(world: &World, side: &Side, script: &str) -> Result<String> {
    let host = side.host.context("a host of the lab")?;
    let script = format!(
        "d=$(readlink -f {}) && M=$(findmnt -rn -S $d -o TARGET | head -n 1) && [ -n \"$M\" ] && {script}",
        side.device()
    );
    world.in_host(host, &["sh", "-c", &script])
}

/// Writes a file of the queue manager's, durably.
pub(super) fn leave(world: &World, side: &Side, file: &str) -> Result<()> {
    on_volume(
        world,
        side,
        &format!("echo {file} > $M/{file} && sync -f $M"),
    )?;
    Ok(())
}

/// As [`leave`], without waiting for its end.
pub(super) fn leave_in_background(world: &World, side: &Side, file: &str) -> Result<()> {
    let done = done(file);
    on_volume(
        world,
        side,
        &format!(
            "{{ (echo {file} > $M/{file} && sync -f $M && touch {done}) > /dev/null 2>&1 < /dev/null & }}"
        ),
    )?;
    Ok(())
}

/// Whether what was left in the background is durable.
pub(super) fn is_left(world: &World, side: &Side, file: &str) -> Result<bool> {
    let host = side.host.context("a host of the lab")?;
    let look = format!("if [ -e {} ]; then echo yes; else echo no; fi", done(file));
    Ok(world.in_host(host, &["sh", "-c", &look])?.trim() == "yes")
}

/// Tells, on the node's own disk, that a file is durable.
fn done(file: &str) -> String {
    format!("/var/lib/drqm/{file}.done")
}

/// Fails unless the file is there with its content.
pub(super) fn expect_left(world: &World, side: &Side, file: &str) -> Result<()> {
    let text = on_volume(world, side, &format!("cat $M/{file}"))?;
    ensure!(
        text.trim() == file,
        "{file} on {} holds {text:?}",
        side.context
    );
    Ok(())
}
