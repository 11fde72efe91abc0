//! What the main job (`cargo demo`), the tests on real clusters and `cargo verify` are made of.
//!
//! Start with [`demo::run`] and [`verify::run`]. Everything is synchronous: these programs start
//! processes (kubectl, helm, cargo, `drqm-load`) and look at the API until a condition holds.
//!
//! | module | lives here |
//! |---|---|
//! | [`wait`] | the one place that waits for a condition |
//! | [`process`] | processes with a deadline, in the foreground and in the background |
//! | [`build`] | drqm's own binaries, by Cargo |
//! | [`ui`] | what a person sees |
//! | [`demo`] | the lab of the main job as named steps over a `World` |
//! | [`measure`] | numbers: writes beside those of others, power cuts, an idle pair |
//! | [`situations`] | bad input, losses, roles asked for at a bad moment |
//! | [`verify`] | the stages of `cargo verify` |
//! | [`repository`] | where the checkout is |
//!
//! What does not live here: the test bed (`drqm-lab`), any code of the operator or the replicator.

pub mod build;
pub mod demo;
pub mod measure;
pub mod process;
pub mod repository;
pub mod simulate;
pub mod situations;
pub mod ui;
pub mod verify;
pub mod wait;
