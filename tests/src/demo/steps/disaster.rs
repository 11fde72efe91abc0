//! The node of the primary is lost under load, the other side takes over, and the lost side returns.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::{DrStatusWord, EffectiveRole, TransitionState};

use super::switch::{self, By};
use crate::demo::load::{Found, Window};
use crate::demo::options::Mode;
use crate::demo::side::Side;
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, Switch, World};
use crate::wait::{Look, wait_until};

/// Messages confirmed before the power goes, as fast as the broker takes them.
const UNDER_LOAD: usize = 2_000;

/// Messages that clients put with the survivor.
const AFTERWARDS: usize = 200;

/// For the last confirmations of a client that was asked to end.
const LAST_WORDS: Duration = Duration::from_secs(20);

pub(super) fn power_cut(world: &mut World) -> Result<Outcome> {
    let found = lose_primary(world, UNDER_LOAD, AFTERWARDS)?;
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: format!(
            "{} confirmed after the recovery point are lost",
            found.tail_missing
        ),
    })
}

/// Cuts the power of the first side when so many more messages are confirmed, promotes the second,
/// waits for more there, and looks for every one of them.
///
/// # Errors
/// When a message is missing that must be there, or anything on the way does not happen.
pub fn lose_primary(world: &mut World, under_load: usize, afterwards: usize) -> Result<Found> {
    let (lost, survivor) = (world.first().clone(), world.second().clone());
    let host = lost.host.context("a host of the lab")?;
    let before = world.load.confirmed();
    let putting = world.start_putting("")?;
    world
        .load
        .wait_until_confirmed(before + under_load, PATIENCE)?;
    world.ui.typed(&format!("cargo lab power-off {host}"));
    world.lab()?.power_off(host)?;
    // From here on whatever is confirmed is confirmed by the survivor.
    let dead = unix_millis();
    survivor.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    world.show_status(&survivor, &lost)?;

    let watch = world.watch_queue_manager(&survivor)?;
    let asked = Instant::now();
    world.ask_for(&survivor, "Primary")?;
    let ready = world.wait_until_pod_ready(&watch, asked)?;
    survivor.wait_until_serving(PATIENCE)?;
    let switch = Switch {
        to: survivor.context.clone(),
        stop: None,
        ready,
    };
    world.measured.switches.push(switch);
    world
        .load
        .wait_until_confirmed(world.load.confirmed() + afterwards, PATIENCE)?;
    putting.terminate();
    world.end_of_putting(putting, LAST_WORDS)?;

    let transition = survivor
        .status()?
        .last_transition
        .context("the promotion is not recorded")?;
    if world.mode == Mode::Asynchronous {
        let from = recovery_point(&transition)?;
        world.ui.print(&format!(
            "everything confirmed before {from} (Unix time in ms) must be there"
        ));
        world.load.forgive(Window { from, until: dead });
    }
    let found = world.check()?;
    world.show_status(&survivor, &lost)?;
    Ok(found)
}

/// The side that was lost gets its power back and becomes the Secondary of the one that took over.
///
/// # Errors
/// When it starts by itself, does not say what it is, or does not synchronize.
pub fn lost_side_returns(world: &mut World) -> Result<Outcome> {
    let (lost, survivor) = (world.first().clone(), world.second().clone());
    let host = lost.host.context("a host of the lab")?;
    world.ui.typed(&format!("cargo lab power-on {host}"));
    world.lab()?.power_on(host)?;
    let word = lost.wait_for(
        "the returned primary sees that it was overtaken",
        PATIENCE,
        |status| {
            let word = status.dr.status;
            matches!(word, DrStatusWord::Superseded | DrStatusWord::Partitioned).then_some(word)
        },
    )?;
    expect_down(world, &lost)?;
    ensure!(survivor.status()?.serving, "the survivor no longer serves");
    world.show_status(&lost, &survivor)?;

    world.ask_for(&lost, "Secondary")?;
    lost.wait_until_secondary(PATIENCE)?;
    world.wait_until_normal()?;
    let found = world.check()?;
    let transition = lost.status()?.last_transition;
    let tail = transition.and_then(|transition| transition.crashed_tail_bytes);
    ensure!(
        found.tail_missing == 0 || tail.is_some(),
        "{} messages were lost with the crashed side, and its tail is not reported",
        found.tail_missing
    );
    world.show_status(&survivor, &lost)?;
    let tail = tail.unwrap_or(0);
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: format!(
            "{}, then Normal; crashed tail at most {tail} bytes",
            drqm_api::names::dr_status(word)
        ),
    })
}

pub(super) fn home_again(world: &mut World) -> Result<Outcome> {
    let (home, survivor) = (world.first().clone(), world.second().clone());
    switch::switch(world, &survivor, &home, By::Plugin)?;
    world.wait_until_normal()?;
    let found = world.check()?;
    Ok(Outcome {
        confirmed: Some(found.confirmed),
        found: Some(found.found),
        remark: String::new(),
    })
}

/// Its resource still says Primary, and yet: no device, no pod, and a word about what to do.
fn expect_down(world: &World, side: &Side) -> Result<()> {
    // What the API remembers of the time before the power cut goes when kubelet has looked.
    wait_until("the returned side is down", PATIENCE, || {
        let status = side.status()?;
        ensure!(
            status.role == EffectiveRole::Primary,
            "it took another role by itself: {:?}",
            status.role
        );
        let pods = side.pods()?;
        Ok(if pods == 0 && !status.serving {
            Look::Holds(())
        } else {
            Look::NotYet(format!("{pods} pods, serving: {}", status.serving))
        })
    })?;
    world.expect_no_device(side)?;
    let conditions = side.status()?.conditions;
    let advice = conditions
        .iter()
        .any(|condition| condition.message.contains("Secondary"));
    ensure!(
        advice,
        "no condition says that the role has to become Secondary"
    );
    Ok(())
}

fn recovery_point(transition: &TransitionState) -> Result<u64> {
    let point = transition
        .recovery_point
        .as_ref()
        .context("the promotion states no recovery point")?;
    let time = point
        .time
        .as_ref()
        .context("the recovery point has no time")?;
    u64::try_from(time.0.as_millisecond()).context("the recovery point is before 1970")
}

fn unix_millis() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    u64::try_from(now.as_millis()).expect("the clock is not far in the future")
}
