//! Every world that a pair of engines can get into within stated bounds: frames and requests to disks end in any
//! order, links break, processes and power are lost with any part of what was not durable, people promote,
//! demote, choose, and take copies back. In each, what users were told must hold (G1 to G6); from each end there
//! must be a way back to Normal.
//!
//! The engine is the real one. `DRQM_MODEL` names a search, or `all`; otherwise the short ones are made.
//! `cargo simulate --model` makes all.

#[path = "model/action.rs"]
mod action;
#[path = "model/book.rs"]
mod book;
#[path = "model/bounds.rs"]
mod bounds;
#[path = "model/disk.rs"]
mod disk;
#[path = "model/home.rs"]
mod home;
#[path = "model/search.rs"]
mod search;
#[path = "model/world.rs"]
mod world;

use bounds::{Bounds, LONG, SHORT};

fn wanted() -> Vec<&'static Bounds> {
    match std::env::var("DRQM_MODEL").as_deref() {
        Err(_) => SHORT.iter().collect(),
        Ok("all") => SHORT.iter().chain(LONG).collect(),
        Ok(name) => SHORT
            .iter()
            .chain(LONG)
            .filter(|b| b.name == name)
            .collect(),
    }
}

#[test]
fn no_world_within_the_bounds_breaks_a_promise() {
    let wanted = wanted();
    assert!(!wanted.is_empty(), "no search has the name in DRQM_MODEL");
    let mut states = 0;
    for bounds in wanted {
        let begun = std::time::Instant::now();
        let found = search::run(*bounds);
        println!("{}: {found}, {:.0?}", bounds.name, begun.elapsed());
        states += found.states;
        if let Some((path, why)) = found.failure {
            let path = search::shortened(*bounds, &path);
            let why = search::ends_badly(*bounds, &path, true).unwrap_or(why);
            panic!("{}: a promise is broken: {path:?}\n{why}", bounds.name);
        }
    }
    println!("{states} states in all");
}
