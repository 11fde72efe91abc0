//! `cargo measure idle`: what drqm does and takes while nothing happens.
//!
//! Lives here: writes of the operator as the API servers noted them, memory and processor time of our
//! programs. Does not live here: how the pair comes up (`demo`), the audit policy (the lab's).

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::Value;

use super::pair;
use crate::demo::options::Mode;
use crate::demo::steps;
use crate::demo::world::World;
use crate::process::TICKS_PER_SECOND;
use crate::ui::Ui;
use crate::wait::{Look, wait_until};

/// Everything that drqm runs in its namespace has an account there.
const OURS: &str = "system:serviceaccount:drqm-system:";

/// Messages that are put first: a pair that is in use, and idle now.
const MESSAGES: u64 = 100;

/// How long.
#[derive(Clone, Debug, ClapArgs)]
pub struct IdleArgs {
    /// Minutes of watching.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub minutes: u32,
}

/// Writes by cluster, verb and resource.
type Writes = BTreeMap<(String, String, String), usize>;

/// Watches an idle pair.
///
/// # Errors
/// When the operator wrote anything but its Lease.
pub fn idle(args: &IdleArgs, ui: &Ui) -> Result<()> {
    let span = Duration::from_secs(60 * u64::from(args.minutes));
    pair::with(Mode::Asynchronous, ui, |world| watch(world, span))
}

fn watch(world: &mut World, span: Duration) -> Result<()> {
    world.put(MESSAGES)?;
    world.wait_until_normal()?;
    let before = (noted(world)?, processor_time(world)?);
    world.ui.title(&format!(
        "nothing happens for {} minutes",
        span.as_secs() / 60
    ));
    let started = Instant::now();
    wait_until("the end of the interval", span * 2, || {
        Ok(if started.elapsed() >= span {
            Look::Holds(())
        } else {
            Look::NotYet("still watching".to_owned())
        })
    })?;
    let after = (noted(world)?, processor_time(world)?);
    let mut others = 0;
    for (key, count) in &after.0 {
        let new = count - before.0.get(key).copied().unwrap_or(0);
        if new > 0 {
            let (cluster, verb, resource) = key;
            world
                .ui
                .print(&format!("{cluster}: {new} x {verb} {resource}"));
            others += if resource == "leases" { 0 } else { new };
        }
    }
    world.ui.print(&format!(
        "writes to the API besides Leases in {:.1} minutes, both clusters: {others}",
        started.elapsed().as_secs_f32() / 60.0
    ));
    for (program, ticks) in after.1 {
        let used = ticks - before.1.get(&program).copied().unwrap_or(0);
        world.ui.print(&format!(
            "processor time of {program}: {:.2} s",
            used as f64 / TICKS_PER_SECOND
        ));
    }
    steps::measure_memory(world)?;
    for line in world.measured.lines() {
        world.ui.print(&line);
    }
    ensure!(others == 0, "an idle pair made {others} writes");
    Ok(())
}

/// Writes of our programs since the clusters came up.
fn noted(world: &World) -> Result<Writes> {
    let mut writes = Writes::new();
    for side in &world.sides {
        let host = side.host.context("a host of the lab")?;
        let path = world.lab()?.log(host, "audit");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let ours: Vec<Value> = text.lines().filter_map(of_ours).collect();
        // Installing drqm has written a lot: without it the audit does not work.
        ensure!(!ours.is_empty(), "{} knows nothing of drqm", path.display());
        for entry in ours {
            let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            let key = (
                side.context.clone(),
                word(&entry["verb"]),
                word(&entry["objectRef"]["resource"]),
            );
            *writes.entry(key).or_default() += 1;
        }
    }
    Ok(writes)
}

fn of_ours(line: &str) -> Option<Value> {
    let entry: Value = serde_json::from_str(line).ok()?;
    entry["user"]["username"]
        .as_str()?
        .starts_with(OURS)
        .then_some(entry)
}

/// Ticks of user and system time of our programs, by program and side.
fn processor_time(world: &World) -> Result<BTreeMap<String, u64>> {
    let script = r#"for p in /proc/[0-9]*; do read -r c < $p/comm || continue; case $c in
        drqm-operator|drqm-replicator) read -r s < $p/stat; set -- ${s##*) }; echo $c ${12} ${13};; esac
        done 2>/dev/null; true"#;
    let mut times = BTreeMap::new();
    for side in &world.sides {
        let host = side.host.context("a host of the lab")?;
        for line in world.in_host(host, &["sh", "-c", script])?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [program, user, system] = words.as_slice() {
                let ticks = user.parse::<u64>()? + system.parse::<u64>()?;
                *times
                    .entry(format!("{program} on {}", side.context))
                    .or_default() += ticks;
            }
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_our_accounts_count() {
        let entry = |user: &str| format!(r#"{{"user":{{"username":"{user}"}},"verb":"patch"}}"#);
        assert!(of_ours(&entry("system:serviceaccount:drqm-system:drqm-operator")).is_some());
        assert!(of_ours(&entry("system:serviceaccount:default:default")).is_none());
        assert!(of_ours("half a li").is_none());
    }
}
