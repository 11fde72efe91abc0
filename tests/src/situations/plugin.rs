//! Forms of the plugin that the demonstration does not type: all namespaces, asking without waiting,
//! completion.
//!
//! Does not live here: its texts (the plugin's own tests).

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pair::{NAME, sides, wait_until_normal};
use crate::demo::broker::NAMESPACE;
use crate::demo::world::{PATIENCE, World};

pub(super) fn other_forms(world: &mut World) -> Result<()> {
    let both = sides(world, NAME);
    let [first, second] = &both;

    let all = world.typed(&format!(
        "kubectl drqm status -A -o json --context {}",
        first.context
    ))?;
    let all: Value = serde_json::from_str(&all.stdout).context("the status of all")?;
    let items = all["items"].as_array().context("a list")?;
    let names = items
        .iter()
        .map(|item| &item["drQueueManager"]["metadata"]["name"]);
    let names: Vec<_> = names.filter_map(Value::as_str).collect();
    ensure!(names == ["qm1", "qm2"], "all of the cluster are {names:?}");

    // Asked and not waited for: the answer comes at once, the switch afterwards.
    let switch = |verb: &str, context: &str| {
        format!("kubectl drqm {verb} {NAME} -n {NAMESPACE} --context {context} --wait=false")
    };
    world.typed(&switch("demote", &first.context))?;
    first.wait_until_secondary(PATIENCE)?;
    world.typed(&switch("promote", &second.context))?;
    second.wait_until_serving(PATIENCE)?;
    wait_until_normal(&both)?;
    world.typed(&format!(
        "kubectl drqm demote {NAME} -n {NAMESPACE} --context {}",
        second.context
    ))?;
    world.typed(&format!(
        "kubectl drqm promote {NAME} -n {NAMESPACE} --context {}",
        first.context
    ))?;
    first.wait_until_serving(PATIENCE)?;
    wait_until_normal(&both)?;

    // As kubectl and a shell ask for candidates.
    let words = format!(
        "kubectl drqm __complete status --context {} -n {NAMESPACE} q",
        first.context
    );
    let candidates = world.typed(&words)?.stdout;
    ensure!(
        candidates.contains(NAME) && candidates.contains("qm2"),
        "candidates are {candidates:?}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = world
            .typed(&format!("kubectl drqm completion {shell}"))?
            .stdout;
        ensure!(script.contains("peer-manifest"), "no script for {shell}");
    }
    Ok(())
}
