//! The main job: the disaster-recovery lab on two real clusters, step by step, with every expectation
//! checked on the API.
//!
//! Lives here: the course of it, from an empty machine to the table at the end. Does not live here: what
//! a step does (`steps`), which tools it does it with (`world`).
//!
//! | module | lives here |
//! |---|---|
//! | [`options`] | the command line |
//! | [`preparation`] | binaries, images, clusters: everything before the first step |
//! | [`world`] | the two sides, the tools, what has been counted so far |
//! | [`side`] | one cluster as kubectl shows it |
//! | [`broker`] | the queue manager of the demonstration, as manifests |
//! | [`load`] | messages put and found again |
//! | [`steps`] | the steps, each a function over the world |
//! | [`table`] | the table at the end |
//! | [`evidence`] | what is saved when an expectation does not hold |

pub mod broker;
pub mod evidence;
pub mod load;
pub mod options;
pub mod preparation;
pub mod side;
pub mod steps;
pub mod table;
pub mod world;

use std::time::Instant;

use anyhow::{Error, Result};
use drqm_lab::interrupt::Interrupted;

use crate::ui::Ui;
use options::{Mode, Options};
use steps::{Needs, Step};
use table::{Row, Table};
use world::World;

/// How a demonstration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every expectation held.
    Held,
    /// One did not.
    Failed,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// Runs the whole demonstration and cleans up.
///
/// # Errors
/// When the preparation fails; a step that fails is an ending, after its evidence was saved.
pub fn run(options: &Options, ui: &Ui) -> Result<Ending> {
    let started = Instant::now();
    let world = preparation::prepare(options, ui)?;
    let (world, ending) = walk(world, options.mode, started);
    if options.keep {
        world.tell_what_is_kept();
    } else {
        world.clean_up()?;
    }
    Ok(ending)
}

fn walk(mut world: World, mode: Mode, started: Instant) -> (World, Ending) {
    let mut table = Table::new(mode);
    let result = steps::ALL
        .iter()
        .try_for_each(|step| one(step, &mut world, &mut table));
    let ending = match &result {
        Ok(()) => Ending::Held,
        Err(error) if error.is::<Interrupted>() => Ending::Interrupted,
        Err(_) => Ending::Failed,
    };
    for step in steps::ALL.iter().skip(table.len()) {
        table.add(Row::not_run(step.name));
    }
    world.ui.title("the lab, step by step");
    world.ui.print(&table.render());
    for line in world.measured.lines() {
        world.ui.print(&line);
    }
    world
        .ui
        .print(&format!("{:.0} s in all", started.elapsed().as_secs_f32()));
    if let Err(error) = result {
        tell(&world, ending, &error);
    }
    (world, ending)
}

fn one(step: &Step, world: &mut World, table: &mut Table) -> Result<()> {
    world.ui.title(&format!("{} ({})", step.name, step.seed));
    if step.needs == Needs::Lab && world.lab.is_none() {
        world
            .ui
            .print("not run: it needs the lab (power, link, devices)");
        table.add(Row::not_run(step.name));
        return Ok(());
    }
    let started = Instant::now();
    let result = (step.run)(world);
    table.add(Row::of(step.name, started.elapsed(), &result));
    result.map(drop).map_err(|error| {
        if error.is::<Interrupted>() {
            error
        } else {
            error.context(format!("step `{}`", step.name))
        }
    })
}

fn tell(world: &World, ending: Ending, error: &Error) {
    if ending == Ending::Interrupted {
        world.ui.print("interrupted");
        return;
    }
    world.ui.print(&format!("\nFAILED: {error:#}"));
    match evidence::save(world) {
        Ok(folder) => world.ui.print(&format!(
            "logs and objects of this moment: {}",
            folder.display()
        )),
        Err(error) => world
            .ui
            .print(&format!("logs could not be saved: {error:#}")),
    }
}
