//! The pair in daily use: status, messages, a secondary that stays down, a promotion that is refused.

use anyhow::{Context, Result, bail, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::{EffectiveRole, VerdictWord};
use serde_json::Value;

use crate::demo::broker::{NAME, NAMESPACE};
use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};
use crate::wait::{Look, wait_until};

/// Messages that are put before anything happens to the pair.
const MESSAGES: u64 = 2_000;

/// What the plugin ends with when a request was refused.
const REFUSED: i32 = 3;

pub(super) fn status(world: &mut World) -> Result<Outcome> {
    let (first, second) = (
        world.first().context.clone(),
        world.second().context.clone(),
    );
    let both = format!(
        "kubectl drqm status {NAME} -n {NAMESPACE} --context {first} --peer-context {second}"
    );
    world.typed(&both)?;
    let rdqm = world.typed(&format!("{both} -o rdqm"))?;
    ensure!(
        rdqm.stdout
            .contains("DR status:                              Normal"),
        "rdqmstatus' words"
    );
    let json = world.typed(&format!("{both} -o json | head -c 600; echo ' …'"))?;
    ensure!(json.stdout.starts_with('{'), "-o json prints no JSON");
    world.typed(&format!("{both} -o yaml | head -n 12"))?;
    world.typed(&format!(
        "kubectl get drqm -n {NAMESPACE} --context {first}"
    ))?;
    world.typed(&format!(
        "kubectl get drqm -n {NAMESPACE} --context {second} -o wide"
    ))?;
    Ok(Outcome::default())
}

pub(super) fn put_messages(world: &mut World) -> Result<Outcome> {
    world.put(MESSAGES)?;
    let found = world.check()?;
    ensure!(
        found.found == MESSAGES,
        "{} of {MESSAGES} messages are there",
        found.found
    );
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: String::new(),
    })
}

pub(super) fn standby(world: &mut World) -> Result<Outcome> {
    let second = world.second().clone();
    second.expect_condition("Ready", "True", reason::STANDBY)?;
    let status = second.status()?;
    ensure!(
        !status.serving && status.role == EffectiveRole::Secondary,
        "a Secondary serves"
    );
    ensure!(second.pods()? == 0, "a Secondary has a pod");
    world.typed(&format!(
        "kubectl get pods -n {NAMESPACE} --context {}",
        second.context
    ))?;
    world.expect_no_device(&second)?;
    Ok(Outcome::remark("Ready=True/Standby: no device, no pod"))
}

pub(super) fn refused_promotion(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    world.ask_for(&second, "Primary")?;
    let (reason, message) =
        second.wait_for("the promotion is refused and latched", PATIENCE, |status| {
            let request = status.request.as_ref()?;
            (request.verdict == VerdictWord::Refuse && request.latched)
                .then(|| (request.reason.clone(), request.message.clone()))
        })?;
    world.ui.print(&format!("refused: {reason}: {message}"));
    ensure!(
        reason == reason::PEER_IS_PRIMARY,
        "refused for {reason}, not {}",
        reason::PEER_IS_PRIMARY
    );
    second.expect_condition("RoleSettled", "False", reason::PEER_IS_PRIMARY)?;
    expect_refusal_event(&second)?;
    let line = format!(
        "kubectl drqm promote {NAME} -n {NAMESPACE} --context {} --timeout 60s",
        second.context
    );
    let plugin = world.attempt(&line)?;
    ensure!(
        plugin.code() == Some(REFUSED),
        "the plugin ended with {:?}, not {REFUSED}",
        plugin.code()
    );
    // Nothing has changed.
    let (here, there) = (first.status()?, second.status()?);
    ensure!(
        here.serving && here.role == EffectiveRole::Primary,
        "the primary no longer serves"
    );
    ensure!(
        there.role == EffectiveRole::Secondary && !there.serving,
        "the secondary took the role"
    );
    ensure!(second.pods()? == 0, "the secondary has a pod");
    world.expect_no_device(&second)?;
    world.show_status(&second, &first)?;
    // Taken back: it could still be granted when the primary is demoted in time.
    world.ask_for(&second, "Secondary")?;
    second.wait_for("the request is taken back", PATIENCE, |status| {
        let request = status.request.as_ref()?;
        (request.verdict == VerdictWord::Steady).then_some(())
    })?;
    Ok(Outcome::remark(format!("{reason}, exit code {REFUSED}")))
}

fn expect_refusal_event(side: &Side) -> Result<()> {
    wait_until("an Event about the refusal", PATIENCE, || {
        let events = side.get(&["events", "-n", NAMESPACE])?;
        let about = |event: &&Value| {
            let object = &event["involvedObject"];
            object["kind"] == "DrQueueManager" && object["name"] == NAME
        };
        let found = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(about);
        let reasons: Vec<&str> = found.filter_map(|event| event["reason"].as_str()).collect();
        Ok(if reasons.contains(&"PromotionRefused") {
            Look::Holds(())
        } else {
            Look::NotYet(format!("Events {}", reasons.join(", ")))
        })
    })
}

/// Reads VmRSS of operator and replicator on both hosts.
pub(super) fn memory(world: &mut World) -> Result<Outcome> {
    // The name of a process has 15 characters, which is exactly enough.
    let script = r#"for p in /proc/[0-9]*; do read -r c < $p/comm || continue; case $c in
        drqm-operator|drqm-replicator) while read -r k v _; do [ $k = VmRSS: ] && echo $c $v; done < $p/status;; esac
        done 2>/dev/null; true"#;
    let mut remarks = Vec::new();
    for side in world.sides.clone() {
        let host = side.host.context("a host of the lab")?;
        let text = world.in_host(host, &["sh", "-c", script])?;
        for program in ["drqm-operator", "drqm-replicator"] {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(program)?.trim().parse::<u64>().ok());
            let Some(kibibytes) = line else {
                bail!("{program} does not run on {}: {text}", side.context)
            };
            remarks.push(format!("{} MiB", kibibytes / 1024));
            world
                .measured
                .memory
                .push((format!("{program} on {}", side.context), kibibytes));
        }
    }
    Ok(Outcome::remark(remarks.join(", ")))
}
