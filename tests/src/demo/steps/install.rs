//! drqm into both clusters, by its Helm chart.

use anyhow::Result;
use serde_json::Value;

use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};
use crate::wait::{Look, wait_until};

pub(super) fn install(world: &mut World) -> Result<Outcome> {
    for side in &world.sides {
        world.typed(&helm_line(world, side))?;
    }
    for side in &world.sides {
        let context = &side.context;
        world.typed(&format!(
            "kubectl rollout status deployment/drqm-operator -n drqm-system --context {context} --timeout 120s"
        ))?;
        wait_for_replicator(side)?;
    }
    Ok(Outcome::default())
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
