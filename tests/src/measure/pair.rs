//! A pair of the demonstration to measure on: clusters, drqm, a queue manager that serves.
//!
//! Does not live here: what is measured, how the pair comes up (`demo`).

use anyhow::Result;

use crate::demo::options::{Mode, Options};
use crate::demo::world::World;
use crate::demo::{evidence, preparation, steps};
use crate::ui::Ui;

/// Brings a pair up, lets `measure` work on it, and takes everything down again, whatever happens.
///
/// # Errors
/// When the pair does not come up, or `measure` fails; logs and objects of that moment are saved.
pub(super) fn with<T>(
    mode: Mode,
    ui: &Ui,
    measure: impl FnOnce(&mut World) -> Result<T>,
) -> Result<T> {
    let options = Options {
        mode,
        ..Options::default()
    };
    let mut world = preparation::prepare(&options, ui)?;
    let result = steps::bring_up_pair(&mut world).and_then(|()| measure(&mut world));
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
