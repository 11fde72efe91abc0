//! drqm into both clusters: by its Helm chart, or as an overlay of the kustomize base.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};
use crate::repository;
use crate::wait::{Look, wait_until};

pub(super) fn install(world: &mut World) -> Result<Outcome> {
    for side in &world.sides {
        world.typed(&helm_line(world, side))?;
    }
    wait_until_installed(world)?;
    Ok(Outcome::default())
}

/// One cluster's owners use Helm, the other's do not.
pub(super) fn install_in_both_ways(world: &World) -> Result<()> {
    world.typed(&helm_line(world, world.first()))?;
    world.typed(&kustomize_line(world, world.second())?)?;
    wait_until_installed(world)
}

fn wait_until_installed(world: &World) -> Result<()> {
    for side in &world.sides {
        let context = &side.context;
        world.typed(&format!(
            "kubectl rollout status deployment/drqm-operator -n drqm-system --context {context} --timeout 120s"
        ))?;
        wait_for_replicator(side)?;
    }
    Ok(())
}

/// The overlay is the one that `deploy/README.md` shows.
fn kustomize_line(world: &World, side: &Side) -> Result<String> {
    let images = &world.images;
    let (name, tag) = images.operator.rsplit_once(':').context("an image's tag")?;
    let configuration = json!({
        "namespace": "drqm-system",
        "replicator": {"image": images.replicator, "imagePullPolicy": images.pull_policy},
    });
    let patch = json!([{
        "op": "replace", "path": "/data/operator.yaml", "value": configuration.to_string(),
    }]);
    let overlay = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../../deploy"],
        "images": [{"name": "drqm-operator", "newName": name, "newTag": tag}],
        "patches": [{
            "target": {"kind": "ConfigMap", "name": "drqm-operator"}, "patch": patch.to_string(),
        }],
    });
    let path = repository::scratch("demo/overlay")?.join("kustomization.yaml");
    std::fs::write(&path, serde_json::to_vec_pretty(&overlay)?)
        .with_context(|| path.display().to_string())?;
    Ok(format!(
        "kubectl apply --server-side -k target/demo/overlay --context {}",
        side.context
    ))
}

fn helm_line(world: &World, side: &Side) -> String {
    let images = &world.images;
    let mut line = format!(
        "helm install drqm charts/drqm -n drqm-system --create-namespace --kube-context {} \
         --set operator.image={} --set replicator.image={} --set operator.imagePullPolicy={policy} \
         --set replicator.imagePullPolicy={policy}",
        side.context,
        images.operator,
        images.replicator,
        policy = images.pull_policy
    );
    if side.host.is_none() {
        // The other side has to know beforehand which node it talks to.
        line.push_str(&format!(
            r" --set 'replicator.nodeSelector.kubernetes\.io/hostname={}'",
            side.node
        ));
    }
    line
}

/// The DaemonSet is made by the operator, so it is not there at once.
fn wait_for_replicator(side: &Side) -> Result<()> {
    wait_until(
        &format!("the replicator is ready on {}", side.context),
        PATIENCE,
        || {
            let found = side.get(&[
                "daemonset",
                "drqm-replicator",
                "-n",
                "drqm-system",
                "--ignore-not-found",
            ]);
            let status = match found {
                Ok(daemonset) => daemonset["status"].clone(),
                // kubectl prints nothing at all for what is not there yet.
                Err(_) => Value::Null,
            };
            let ready = status["numberReady"].as_u64().unwrap_or(0);
            let wanted = status["desiredNumberScheduled"].as_u64().unwrap_or(0);
            Ok(if ready > 0 && ready == wanted {
                Look::Holds(())
            } else {
                Look::NotYet(format!("{ready} of {wanted} pods are ready"))
            })
        },
    )
}
