//! What happens to people besides the demonstration: bad input, lost processes, both sides asked at once.
//! Each case has queue managers of its own on two real clusters; expectations are about the API and the
//! devices, never about printed text.
//!
//! | module | lives here |
//! |---|---|
//! | [`pair`] | a pair of queue managers to do things to |
//! | [`input`] | bad input that a running operator meets |
//! | [`copies`] | copies that are interrupted, modes that are changed |
//! | [`keys`] | certificates of one's own, exchanged and wrong |
//! | [`roles`] | roles asked for at a bad moment |
//! | [`sizes`] | unlike sizes, and volumes that grow |
//! | [`losses`] | processes, links and resources that go away |
//! | [`node`] | a node that lacks what the replicator needs |
//! | [`plugin`] | what the demonstration does not type |
//!
//! Does not live here: what the API server refuses by itself (`tests/tests/admission.rs`).

mod copies;
mod input;
mod keys;
mod losses;
mod node;
mod pair;
mod plugin;
mod roles;
mod sizes;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::demo::options::Options;
use crate::demo::world::World;
use crate::demo::{evidence, preparation, steps};
use crate::ui::Ui;

/// A case: what a person would call it, and what it does and expects.
type Case = (&'static str, fn(&mut World) -> Result<()>);

/// Cases with queue managers that exist only during the case, and the last one, which leaves the pair.
const ALONE: [Case; 10] = [
    ("the pool is full", input::pool_is_full),
    ("the port is taken", input::port_is_taken),
    ("the node's pool is read-only", node::pool_is_read_only),
    ("the image cannot be pulled", input::image_cannot_be_pulled),
    ("the Secret does not exist", input::secret_is_unknown),
    ("the sizes differ", sizes::sizes_differ),
    ("a volume grows", sizes::volume_grows),
    ("keys of one's own are exchanged", keys::are_exchanged),
    (
        "an interrupted copy goes back",
        copies::interrupted_copy_goes_back,
    ),
    ("both sides are created as Primary", input::two_primaries),
];

/// Cases of one pair, each begins where the one before ended.
const TOGETHER: [Case; 13] = [
    ("the mode is changed", copies::mode_is_changed),
    (
        "a byte of the copy has changed by itself",
        copies::rotten_byte_is_repaired,
    ),
    ("a second pair, ext4 and synchronous", roles::second_pair),
    ("the replicator is killed", losses::replicator_is_killed),
    ("the device's link is missing", losses::link_is_missing),
    ("reads of the device fail", losses::reads_fail),
    ("the plugin's other forms", plugin::other_forms),
    ("both roles are patched at once", roles::swapped_at_once),
    ("a promotion needs force", roles::promotion_needs_force),
    (
        "a resource is created again over its data",
        losses::resource_is_created_again,
    ),
    (
        "a primary suspends its I/O without its peer",
        losses::primary_suspends,
    ),
    (
        "a primary starts without its peer's word",
        losses::primary_starts_alone,
    ),
    ("both sides write on their own", roles::split_brain),
];

/// Brings two clusters up, lets every case happen, and takes the clusters down.
///
/// # Errors
/// When an expectation does not hold; logs and objects of that moment are saved.
pub fn run(ui: &Ui) -> Result<()> {
    let mut world = preparation::prepare(&Options::default(), ui)?;
    let result = steps::install_in_both_ways(&world).and_then(|()| all(&mut world));
    if result.is_err()
        && let Ok(folder) = evidence::save(&world)
    {
        ui.print(&format!(
            "logs and objects of this moment: {}",
            folder.display()
        ));
    }
    world.clean_up()?;
    result
}

fn all(world: &mut World) -> Result<()> {
    pair::make_namespace(world)?;
    for (name, case) in ALONE.into_iter().chain(TOGETHER) {
        world.ui.title(name);
        let started = Instant::now();
        case(world).with_context(|| format!("case `{name}`"))?;
        world.ui.print(&format!(
            "held: {name}, {:.1} s",
            started.elapsed().as_secs_f32()
        ));
    }
    Ok(())
}
