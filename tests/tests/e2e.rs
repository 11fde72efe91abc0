//! The lab end to end, on two real clusters, in both modes: the steps of `cargo demo`, whose expectations
//! are about the API. Needs root; `cargo verify e2e` runs it.

use drqm_tests::demo::options::{Mode, Options};
use drqm_tests::demo::{Ending, run};
use drqm_tests::ui::Ui;

fn walk(mode: Mode) {
    let options = Options {
        mode,
        ..Options::default()
    };
    let ending = run(&options, &Ui::auto()).expect("the clusters come up and go down");
    assert_eq!(
        ending,
        Ending::Held,
        "the output above tells which step failed"
    );
}

#[test]
fn the_lab_holds_with_asynchronous_replication() {
    walk(Mode::Asynchronous);
}

#[test]
fn the_lab_holds_with_synchronous_replication() {
    walk(Mode::Synchronous);
}
