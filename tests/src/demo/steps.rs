//! The steps of the lab, in their order.
//!
//! Lives here: the list. Each step is a function over the [`World`]: it types what a person types, waits
//! until the API says what it must say, and fails with what it saw instead.

mod begin;
mod delete;
mod disaster;
mod install;
mod link;
mod plain_volume;
mod switch;
mod usage;

use anyhow::Result;

pub use disaster::{lose_primary, lost_side_returns};

use super::table::Outcome;
use super::world::World;

/// What a step cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Two clusters.
    Clusters,
    /// The lab: its power switches, its link, its devices.
    Lab,
}

/// A step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What the RDQM lab does here.
    pub seed: &'static str,
    /// What it cannot do without.
    pub needs: Needs,
    /// What it does and expects.
    pub run: fn(&mut World) -> Result<Outcome>,
}

const fn step(
    name: &'static str,
    seed: &'static str,
    needs: Needs,
    run: fn(&mut World) -> Result<Outcome>,
) -> Step {
    Step {
        name,
        seed,
        needs,
        run,
    }
}

/// All of them. Each begins where the one before ended.
pub const ALL: [Step; 17] = [
    step(
        "install drqm",
        "packages on both nodes",
        Needs::Clusters,
        install::install,
    ),
    step(
        "create the primary",
        "crtmqm -rr p",
        Needs::Clusters,
        begin::create_primary,
    ),
    step(
        "create the secondary",
        "crtmqm -rr s",
        Needs::Clusters,
        begin::create_secondary,
    ),
    step(
        "status on both",
        "rdqmstatus -m QMDR",
        Needs::Clusters,
        usage::status,
    ),
    step(
        "use",
        "strmqm, amqsput",
        Needs::Clusters,
        usage::put_messages,
    ),
    step(
        "a secondary does not start",
        "strmqm on the secondary fails",
        Needs::Clusters,
        usage::standby,
    ),
    step(
        "promotion refused while the peer is primary",
        "rdqmdr -p fails",
        Needs::Clusters,
        usage::refused_promotion,
    ),
    step(
        "switch over",
        "endmqm, rdqmdr -s, rdqmdr -p, strmqm",
        Needs::Clusters,
        switch::over,
    ),
    step(
        "switch back",
        "the same, mirrored",
        Needs::Clusters,
        switch::back,
    ),
    step(
        "the same on a plain volume",
        "for comparison",
        Needs::Lab,
        plain_volume::measure,
    ),
    step("link lost", "nmcli down", Needs::Lab, link::lost),
    step("link back", "nmcli up", Needs::Lab, link::back),
    step(
        "disaster",
        "the node is lost",
        Needs::Lab,
        disaster::power_cut,
    ),
    step(
        "the lost side returns",
        "the node is back",
        Needs::Lab,
        disaster::lost_side_returns,
    ),
    step(
        "home again",
        "rdqmdr -s, rdqmdr -p",
        Needs::Lab,
        disaster::home_again,
    ),
    step("memory", "for comparison", Needs::Lab, usage::memory),
    step("delete", "dltmqm", Needs::Clusters, delete::delete),
];

/// drqm into both clusters, one by its Helm chart, the other by the kustomize base.
///
/// # Errors
/// When it does not come up.
pub fn install_in_both_ways(world: &World) -> Result<()> {
    install::install_in_both_ways(world)
}

/// From two clusters to a pair in step, whose first side serves.
///
/// # Errors
/// When a step does not hold.
pub fn bring_up_pair(world: &mut World) -> Result<()> {
    for step in [
        install::install,
        begin::create_primary,
        begin::create_secondary,
    ] {
        step(world)?;
    }
    Ok(())
}

/// Resident memory of operator and replicator, into what was measured.
///
/// # Errors
/// When one of them does not run.
pub fn measure_memory(world: &mut World) -> Result<()> {
    usage::memory(world).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps_differ() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
