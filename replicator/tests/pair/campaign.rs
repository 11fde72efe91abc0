//! Rounds of random faults on a pair of real processes, each on a host of its own, under writers that
//! know what depends on what.
//!
//! Lives here: how many rounds, and their order. Does not live here: what happens in one ([`rounds`], [`fault`]),
//! the hosts and their link ([`hosts`]), the writers ([`writer`]), the judge ([`book`]).
//!
//! `cargo simulate --processes N --seed S` (or `--power-cuts`) says how many (`DRQM_FAULT_ROUNDS`) and which
//! (`DRQM_FAULT_SEED`): equal seeds give equal faults in equal order, not the same interleaving.

#[path = "campaign/book.rs"]
mod book;
#[path = "campaign/fault.rs"]
mod fault;
#[path = "campaign/hosts.rs"]
mod hosts;
#[path = "../../engine/tests/pair_sim/rng.rs"]
#[expect(
    dead_code,
    reason = "shared with the simulation, which uses more of it"
)]
mod rng;
#[path = "campaign/rounds.rs"]
mod rounds;
#[path = "campaign/writer.rs"]
mod writer;

use fault::Fault;
use rng::Rng;
use rounds::Rounds;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Every fault once, in some order.
fn deck(all: &[Fault], rng: &mut Rng) -> Vec<Fault> {
    let mut deck = all.to_vec();
    for last in (1..deck.len()).rev() {
        deck.swap(last, rng.below(last as u64 + 1) as usize);
    }
    deck
}

async fn play(all: &[Fault], forgets: bool) {
    let (count, seed) = (number("DRQM_FAULT_ROUNDS", 2), number("DRQM_FAULT_SEED", 1));
    let mut rng = Rng::new(seed);
    let mut faults = Vec::new();
    while faults.len() < count as usize {
        faults.extend(deck(all, &mut rng));
    }
    faults.truncate(count as usize);
    let mut rounds = Rounds::begin(rng, forgets).await;
    for (n, fault) in faults.into_iter().enumerate() {
        let told = rounds.play(fault).await;
        println!("round {} of {count}, {fault:?}: {told}", n + 1);
    }
    println!("seed {seed}: {}", rounds.summary());
}

#[tokio::test]
async fn random_faults_lose_nothing_that_was_promised() {
    play(&Fault::ALL, false).await;
}

#[tokio::test]
async fn power_cuts_lose_nothing_that_was_flushed() {
    play(&Fault::POWER_CUTS, true).await;
}
