//! `cargo measure power-cut`: what a lost primary costs, several times in a row.
//!
//! Each run puts messages, cuts the primary's power at a random moment, promotes the other side, looks
//! for every confirmed message, and lets the lost side return as Secondary; the next run loses the other
//! side. Does not live here: the expectations, which are those of the demonstration's steps.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use comfy_table::{Table, presets};

use super::pair;
use crate::demo::load::Found;
use crate::demo::options::Mode;
use crate::demo::steps;
use crate::demo::world::World;
use crate::ui::Ui;

/// How often and how much.
#[derive(Clone, Debug, ClapArgs)]
pub struct PowerCutArgs {
    /// One mode only; both one after the other if not given.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Power cuts per mode.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Confirmed messages of each run, before and after the cut together.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub messages: u32,
}

/// One power cut.
struct Run {
    mode: Mode,
    lost: String,
    /// Confirmed when the power went.
    at: usize,
    found: Found,
    seconds: f32,
}

/// Runs all and prints the table.
///
/// # Errors
/// When a message is missing that must be there, or a side does not come back.
pub fn power_cut(args: &PowerCutArgs, ui: &Ui) -> Result<()> {
    let modes = args.mode.map_or_else(
        || vec![Mode::Asynchronous, Mode::Synchronous],
        |mode| vec![mode],
    );
    let mut runs = Vec::new();
    for mode in modes {
        let series = pair::with(mode, ui, |world| {
            (1..=args.runs)
                .map(|run| one(world, run, args.messages as usize))
                .collect::<Result<Vec<_>>>()
        });
        runs.extend(series?);
    }
    ui.print(&render(&runs));
    Ok(())
}

fn one(world: &mut World, run: u32, messages: usize) -> Result<Run> {
    let started = Instant::now();
    let lost = world.first().context.clone();
    let at = random_point(messages);
    world.ui.title(&format!(
        "power cut {run}: {lost} is lost after {at} of {messages} messages"
    ));
    world.load.begin_stream(&format!("orders-{run}"))?;
    let found = steps::lose_primary(world, at, messages - at)
        .with_context(|| format!("power cut {run}, of {lost} after {at} messages"))?;
    steps::lost_side_returns(world)
        .with_context(|| format!("the return of {lost} after power cut {run}"))?;
    // Whoever serves now is lost next.
    world.sides.swap(0, 1);
    Ok(Run {
        mode: world.mode,
        lost,
        at,
        found,
        seconds: started.elapsed().as_secs_f32(),
    })
}

/// Somewhere in the middle: under load on both sides of it.
fn random_point(messages: usize) -> usize {
    let margin = messages / 10;
    let random = RandomState::new().hash_one(messages) as usize;
    margin + random % (messages - 2 * margin)
}

fn render(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "mode",
        "lost",
        "power cut after",
        "confirmed",
        "found",
        "missing that must be there",
        "lost after the recovery point",
        "time",
    ]);
    for run in runs {
        table.add_row([
            drqm_api::names::mode(run.mode.spec()).to_owned(),
            run.lost.clone(),
            run.at.to_string(),
            run.found.confirmed.to_string(),
            run.found.found.to_string(),
            run.found.missing_count.to_string(),
            run.found.tail_missing.to_string(),
            format!("{:.0} s", run.seconds),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_is_inside() {
        for messages in [100, 2_000] {
            for _ in 0..100 {
                let at = random_point(messages);
                assert!((messages / 10..messages - messages / 10).contains(&at));
            }
        }
    }
}
