//! Processes, links and resources that go away: what is there afterwards is what was there before.

use anyhow::{Context, Result, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{DrStatusWord, EffectiveRole, VerdictWord};

use super::pair::{
    self, NAME, OTHER, apply, expect_left, leave, pod_uid, sides, wait_until_normal,
};
use crate::demo::broker::NAMESPACE;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};
use crate::wait::{Look, wait_until};

/// The device dies under the queue manager; ruling 21: the operator heals the pod by itself.
pub(super) fn replicator_is_killed(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    let before = pair::uuid(world, first)?;
    leave(world, first, "before-the-kill")?;
    let host = first.host.context("a host of the lab")?;
    let pod = pod_uid(first)?;
    world.in_host(host, &["pkill", "-KILL", "-x", "drqm-replicator"])?;
    first.wait_for("another pod serves", SYNCHRONIZATION, |status| {
        let healed = pod_uid(first).is_ok_and(|now| now != pod);
        (healed && status.serving).then_some(())
    })?;
    ensure!(
        pair::uuid(world, first)? == before,
        "the volume was formatted anew"
    );
    expect_left(world, first, "before-the-kill")?;
    wait_until_normal(&both)?;
    ensure!(
        second.status()?.role == EffectiveRole::Secondary,
        "the secondary took over"
    );
    Ok(())
}

/// The device's link goes while kubelet looks for it: kubelet mounts what it finds, and must find nothing
/// that it would format.
pub(super) fn link_is_missing(world: &mut World) -> Result<()> {
    let [first, _] = sides(world, NAME);
    let before = pair::uuid(world, &first)?;
    leave(world, &first, "before-the-link-went")?;
    world.patch(&first, r#"{"spec":{"queueManager":{"running":false}}}"#)?;
    first.wait_until_no_pod(PATIENCE)?;
    let host = first.host.context("a host of the lab")?;
    let (link, away) = (first.device(), format!("{}.away", first.device()));
    world.in_host(host, &["mv", &link, &away])?;
    world.patch(&first, r#"{"spec":{"queueManager":{"running":true}}}"#)?;
    let what = format!("kubelet looks for the link on {}", first.context);
    wait_until(&what, PATIENCE, || {
        let events = first.get(&[
            "events",
            "-n",
            NAMESPACE,
            "--field-selector",
            "reason=FailedMount",
        ])?;
        let pod = format!("{NAME}-0");
        let found = events["items"].as_array().into_iter().flatten();
        let missed = found.filter(|event| event["involvedObject"]["name"] == pod.as_str());
        Ok(match missed.count() {
            0 => Look::NotYet("no mount has failed yet".to_owned()),
            _ => Look::Holds(()),
        })
    })?;
    world.in_host(host, &["mv", &away, &link])?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    ensure!(
        pair::uuid(world, &first)? == before,
        "the volume was formatted anew"
    );
    expect_left(world, &first, "before-the-link-went")
}

/// The queue manager is stopped and its device dies: kubelet, told to start it, finds a device whose reads
/// fail, for as long as the operator needs to see it and to put another one in its place. Nothing formats it.
pub(super) fn reads_fail(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, _] = &both;
    let before = pair::uuid(world, first)?;
    leave(world, first, "before-the-reads-failed")?;
    world.patch(first, r#"{"spec":{"queueManager":{"running":false}}}"#)?;
    first.wait_until_no_pod(PATIENCE)?;
    let host = first.host.context("a host of the lab")?;
    let script = format!(
        "pkill -KILL -x drqm-replicator; ! dd if={} of=/dev/null bs=4096 count=1 iflag=direct",
        first.device()
    );
    world.in_host(host, &["sh", "-c", &script])?;
    world.patch(first, r#"{"spec":{"queueManager":{"running":true}}}"#)?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    ensure!(
        pair::uuid(world, first)? == before,
        "the volume was formatted anew"
    );
    expect_left(world, first, "before-the-reads-failed")?;
    wait_until_normal(&both)
}

/// GitOps brings an old resource back over data that were kept: it promotes nothing by itself.
pub(super) fn resource_is_created_again(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    world.patch(second, r#"{"spec":{"deletion":{"data":"Retain"}}}"#)?;
    let kept = second.resource()?.context("it exists")?;
    let mut kept = serde_json::to_value(kept)?;
    pair::delete(world, second)?;
    for field in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "finalizers",
    ] {
        kept["metadata"]
            .as_object_mut()
            .context("metadata")?
            .remove(field);
    }
    kept.as_object_mut().context("an object")?.remove("status");
    let mut promoting = kept.clone();
    promoting["spec"]["role"] = "Primary".into();
    apply(world, second, &promoting)?;
    let message = second.wait_for("the request is taken for an old one", PATIENCE, |status| {
        let request = status.request.as_ref()?;
        let held =
            request.verdict == VerdictWord::Hold && request.reason == reason::STALE_ROLE_REQUEST;
        held.then(|| request.message.clone())
    })?;
    world.ui.print(&message);
    world.expect_no_device(second)?;
    ensure!(first.status()?.serving, "the primary no longer serves");
    world.ask_for(second, "Secondary")?;
    wait_until_normal(&both)?;
    world.patch(second, r#"{"spec":{"deletion":{"data":"Delete"}}}"#)
}

/// Told to, a synchronous primary holds its writes while the link is down, says so, and goes on by itself.
pub(super) fn primary_suspends(world: &mut World) -> Result<()> {
    let both = sides(world, OTHER);
    // As the switch before has left them.
    let [away, first] = &both;
    world.patch(
        first,
        r#"{"spec":{"replication":{"onPeerLoss":"SuspendIO"}}}"#,
    )?;
    wait_until_normal(&both)?;
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    let said = pair::wait_for_words(first, "writes wait", &["replication.onPeerLoss"])?;
    world.ui.print(&said);
    first.expect_condition("Ready", "False", reason::IO_SUSPENDED)?;
    pair::leave_in_background(world, first, "while-suspended")?;
    away.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    ensure!(
        !pair::is_left(world, first, "while-suspended")?,
        "a write was answered that the peer lacks"
    );
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    wait_until_normal(&both)?;
    wait_until("the write is answered", PATIENCE, || {
        Ok(match pair::is_left(world, first, "while-suspended")? {
            true => Look::Holds(()),
            false => Look::NotYet("it still waits".to_owned()),
        })
    })?;
    expect_left(world, first, "while-suspended")?;
    first.wait_until_serving(PATIENCE)?;
    world.patch(
        first,
        r#"{"spec":{"replication":{"onPeerLoss":"Continue"}}}"#,
    )
}

/// The node reboots while the link is down: told to hold, the primary keeps its device closed until it
/// hears of its peer, and then goes on by itself.
pub(super) fn primary_starts_alone(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;
    let before = pair::uuid(world, first)?;
    leave(world, first, "before-the-reboot")?;
    world.patch(
        first,
        r#"{"spec":{"start":{"whenPeerUnknown":"Hold","peerCheckTimeoutSeconds":1}}}"#,
    )?;
    let host = first.host.context("a host of the lab")?;
    world.ui.typed(&format!("cargo lab power-off {host}"));
    world.lab()?.power_off(host)?;
    second.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    world.ui.typed("cargo lab cut");
    world.lab()?.cut()?;
    world.ui.typed(&format!("cargo lab power-on {host}"));
    world.lab()?.power_on(host)?;
    let said = pair::wait_for_words(first, "the device is held", &["start.whenPeerUnknown"])?;
    world.ui.print(&said);
    world.expect_no_device(first)?;
    world.ui.typed("cargo lab heal");
    world.lab()?.heal()?;
    first.wait_until_serving(SYNCHRONIZATION)?;
    ensure!(
        pair::uuid(world, first)? == before,
        "the volume was formatted anew"
    );
    expect_left(world, first, "before-the-reboot")?;
    wait_until_normal(&both)
}
