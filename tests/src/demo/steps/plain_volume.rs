//! For comparison: the queue manager's promotion, and the same StatefulSet with the same data going from 0
//! to 1 on a plain local volume, in turn.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::{DrStatusWord, QueueManagerStatusWord};
use drqm_lab::Node;
use serde_json::{Value, json};

use crate::demo::broker::{NAME, NAMESPACE};
use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};
use crate::repository;
use crate::wait::{Look, wait_out, wait_until};

/// Name of every object of the comparison.
const PLAIN: &str = "qmdr-plain";
const LABEL: &str = "demo=qmdr-plain";

/// The copy of the volume, on the host's own disk.
const COPY: &str = "/var/lib/drqm/plain.img";

/// Starts of each that are measured.
const ROUNDS: u32 = 5;

/// kubelet looks at its containers once a second, on a beat of its own, and what ends before a start
/// ends on that beat: without a pause, every start of a kind would meet it at the same moment and look
/// up to a second faster or slower than it is. So the starts of both kinds are spread over one beat.
const BEAT: Duration = Duration::from_secs(1);

pub(super) fn measure(world: &mut World) -> Result<Outcome> {
    let side = world.first().clone();
    let host = side.host.context("a host of the lab")?;
    let stateful_set = side.get(&["statefulset", NAME, "-n", NAMESPACE])?;
    let claim = side.get(&[
        "persistentvolumeclaim",
        &format!("{NAME}-data"),
        "-n",
        NAMESPACE,
    ])?;
    let volume = claim["spec"]["volumeName"]
        .as_str()
        .context("the claim is not bound")?;
    let volume = side.get(&["persistentvolume", volume])?;

    // Stopped and still Primary: the device is there, and nobody has it mounted.
    world.patch(&side, r#"{"spec":{"queueManager":{"running":false}}}"#)?;
    side.wait_for("the queue manager is stopped", PATIENCE, |status| {
        (status.queue_manager.status == QueueManagerStatusWord::EndedNormally).then_some(())
    })?;
    side.wait_until_no_pod(PATIENCE)?;
    let device = copy_volume(world, host)?;
    world.patch(&side, r#"{"spec":{"queueManager":{"running":true}}}"#)?;
    side.wait_until_serving(PATIENCE)?;
    let result = in_turn(
        world,
        &side,
        &objects(&stateful_set, &claim, &volume, &device),
    );
    world.in_host(host, &["losetup", "--detach", &device])?;
    world.in_host(host, &["rm", "-f", COPY])?;
    result?;

    let found = world.check()?;
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: String::new(),
    })
}

fn copy_volume(world: &World, host: Node) -> Result<String> {
    let link = format!("/dev/drqm/{NAMESPACE}_{NAME}");
    let (from, to) = (format!("if={link}"), format!("of={COPY}"));
    world.in_host(host, &["dd", &from, &to, "bs=1M", "conv=sparse,fsync"])?;
    let device = world.in_host(
        host,
        &["losetup", "--find", "--show", "--direct-io=on", COPY],
    )?;
    let device = device.trim().to_owned();
    ensure!(device.starts_with("/dev/loop"), "losetup answered {device}");
    Ok(device)
}

/// The broker's port is the node's, so that only one of them runs at a time.
fn in_turn(world: &mut World, side: &Side, objects: &Value) -> Result<()> {
    let file = repository::scratch("demo")?.join("plain.json");
    fs::write(&file, serde_json::to_vec_pretty(objects)?)
        .with_context(|| file.display().to_string())?;
    let context = side.context.clone();
    world.typed(&format!(
        "kubectl apply --context {context} -f target/demo/plain.json"
    ))?;
    let plain = world.watch_pod(side, LABEL)?;
    let own = world.watch_queue_manager(side)?;
    let scale = |world: &World, replicas: u8| {
        world.typed(&format!(
            "kubectl scale statefulset {PLAIN} -n {NAMESPACE} --context {context} --replicas {replicas}"
        ))
    };
    for round in 0..ROUNDS {
        let pause = BEAT * round / ROUNDS;
        world.ask_for(side, "Secondary")?;
        side.wait_until_secondary(PATIENCE)?;
        side.wait_until_no_pod(PATIENCE)?;
        wait_out(pause);
        let started = Instant::now();
        scale(world, 1)?;
        let ready = world.wait_until_pod_ready(&plain, started)?;
        world.measured.plain.push(ready);
        scale(world, 0)?;
        wait_until("the plain pod is gone", PATIENCE, || {
            Ok(match side.count(&["pods", "-n", NAMESPACE, "-l", LABEL])? {
                0 => Look::Holds(()),
                pods => Look::NotYet(format!("{pods} pods")),
            })
        })?;
        side.wait_for_dr(DrStatusWord::Inactive, PATIENCE)?;
        wait_out(pause);
        let started = Instant::now();
        world.ask_for(side, "Primary")?;
        let ready = world.wait_until_pod_ready(&own, started)?;
        world.measured.promotions.push(ready);
        side.wait_until_serving(PATIENCE)?;
    }
    world.typed(&format!(
        "kubectl delete --context {context} -f target/demo/plain.json --timeout 60s"
    ))?;
    Ok(())
}

/// The StatefulSet, claim and volume of the queue manager, under another name and on another device.
fn objects(stateful_set: &Value, claim: &Value, volume: &Value, device: &str) -> Value {
    let labels = json!({"demo": PLAIN});
    let data = format!("{PLAIN}-data");
    let mut set = stateful_set["spec"].clone();
    set["replicas"] = json!(0);
    set["serviceName"] = json!(PLAIN);
    set["selector"] = json!({"matchLabels": labels});
    set["template"]["metadata"] = json!({"labels": labels});
    for volume in set["template"]["spec"]["volumes"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        if let Some(claim) = volume.get_mut("persistentVolumeClaim") {
            claim["claimName"] = json!(data);
        }
    }
    let mut claim = claim["spec"].clone();
    claim["volumeName"] = json!(PLAIN);
    let mut volume = volume["spec"].clone();
    volume["local"]["path"] = json!(device);
    volume["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": data});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": PLAIN}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": data, "namespace": NAMESPACE}, "spec": claim},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": PLAIN, "namespace": NAMESPACE}, "spec": set},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_device_and_labels_differ() {
        let set = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "broker"}], "volumes": [
                {"name": "config", "configMap": {"name": "broker"}},
                {"name": "drqm", "persistentVolumeClaim": {"claimName": "qmdr-data"}}]}}}});
        let claim = json!({"spec": {"volumeName": "drqm-1", "storageClassName": "drqm"}});
        let volume = json!({"spec": {"local": {"path": "/dev/drqm/mq_qmdr", "fsType": "auto"}, "claimRef": {"uid": "1"}}});
        let list = objects(&set, &claim, &volume, "/dev/loop7");
        let [volume, claim, set] = list["items"].as_array().expect("a list").as_slice() else {
            panic!("three objects")
        };
        assert_eq!(
            volume["spec"]["local"],
            json!({"path": "/dev/loop7", "fsType": "auto"})
        );
        assert_eq!(volume["spec"]["claimRef"]["uid"], Value::Null);
        assert_eq!(
            claim["spec"],
            json!({"volumeName": PLAIN, "storageClassName": "drqm"})
        );
        assert_eq!(
            set["spec"]["template"]["metadata"]["labels"],
            json!({"demo": PLAIN})
        );
        let volumes = &set["spec"]["template"]["spec"]["volumes"];
        assert_eq!(
            volumes[1]["persistentVolumeClaim"]["claimName"],
            "qmdr-plain-data"
        );
        assert_eq!(volumes[0]["configMap"]["name"], "broker");
    }
}
