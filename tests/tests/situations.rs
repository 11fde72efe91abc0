//! Bad input, losses and roles asked for at a bad moment, on two real clusters. Needs root; `cargo verify
//! situations` runs it.

use drqm_tests::situations;
use drqm_tests::ui::Ui;

#[test]
fn every_situation_ends_as_it_should() {
    situations::run(&Ui::auto()).expect("the output above tells which case failed");
}
