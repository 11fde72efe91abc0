//! Two engines, two disks and a bad link: random lives, and the named ones that matter most.
//!
//! `cargo simulate` says how many random lives are lived (`DRQM_SIM_SCENARIOS`), where they begin
//! (`DRQM_SIM_SEED`), or which one is shown with its trace (`DRQM_SIM_SCRIPT`).

#[path = "pair_sim/campaign.rs"]
mod campaign;
#[path = "pair_sim/crash_points.rs"]
mod crash_points;
#[path = "pair_sim/device.rs"]
mod device;
#[path = "pair_sim/disk.rs"]
mod disk;
#[path = "pair_sim/guest.rs"]
mod guest;
#[path = "pair_sim/io.rs"]
mod io;
#[path = "pair_sim/liar.rs"]
mod liar;
#[path = "pair_sim/link.rs"]
mod link;
#[path = "pair_sim/operator.rs"]
mod operator;
#[path = "pair_sim/oracle.rs"]
mod oracle;
#[path = "pair_sim/random.rs"]
mod random;
#[path = "pair_sim/rng.rs"]
mod rng;
#[path = "pair_sim/scripted.rs"]
mod scripted;
#[path = "pair_sim/scripted_disks.rs"]
mod scripted_disks;
#[path = "pair_sim/scripted_doubt.rs"]
mod scripted_doubt;
#[path = "pair_sim/scripted_growth.rs"]
mod scripted_growth;
#[path = "pair_sim/scripted_heartbeats.rs"]
mod scripted_heartbeats;
#[path = "pair_sim/scripted_log.rs"]
mod scripted_log;
#[path = "pair_sim/scripted_modes.rs"]
mod scripted_modes;
#[path = "pair_sim/scripted_partition.rs"]
mod scripted_partition;
#[path = "pair_sim/scripted_policies.rs"]
mod scripted_policies;
#[path = "pair_sim/scripted_snapshot.rs"]
mod scripted_snapshot;
#[path = "pair_sim/scripted_verify.rs"]
mod scripted_verify;
#[path = "pair_sim/world.rs"]
mod world;

use crate::random::Script;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// A life with its trace, if one is asked for.
#[test]
fn a_life_can_be_lived_again() {
    let script = std::env::var("DRQM_SIM_SCRIPT").map_or_else(
        |_| Script::of(1),
        |text| text.parse().expect("numbers with commas between them"),
    );
    let trace = std::env::var_os("DRQM_SIM_SCRIPT").is_some();
    let (end, world) = random::life(&script, trace);
    assert!(end.is_ok(), "{end:?}: {:?}", world.failure);
}

/// Lives that break a promise when the rule beside them is taken out.
#[test]
fn telling_lives_keep_every_promise() {
    for (rule, script) in [
        (
            "flush-synchronous: a FUA write waits for both sides",
            "39,bbfec6409f16bdbc,5527cddc0debb311",
        ),
        (
            "flush-synchronous: a FUA write waits for both sides",
            "440,9f27f0e477086719,375f3569e1f66dc1",
        ),
        (
            "a stop waits for a device that is being formatted, and its writes go on",
            "6965,13c6d2eed81c08c8",
        ),
        (
            "what was asked about by hashes is asked again only after the answer",
            "50801,8b05433e0fc503c9,745a9d3fc4925800,e0c4933f628cffb,3bf185056ca0d2d7,97b3852c5ba823f5,\
             b36c66033e5bebfb,b8e2ea64a333846f",
        ),
    ] {
        let script = script.parse().expect("a script");
        let outcome = campaign::outcome(&script);
        assert_eq!(outcome.err(), None, "{rule}");
    }
}

#[test]
fn random_lives_keep_every_promise() {
    let (count, first) = (
        number("DRQM_SIM_SCENARIOS", 500),
        number("DRQM_SIM_SEED", 1),
    );
    let found = campaign::run(first, count);
    println!("{found}");
    assert!(
        found.failures.is_empty(),
        "{}",
        campaign::describe(&found.failures)
    );
}
