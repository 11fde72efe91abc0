//! The replication engine of one volume, without any I/O.
//!
//! Contract: [`Engine::step`] takes one fact and the time and appends orders. It never waits, reads
//! no clock, draws no random number, knows neither files nor sockets, and never fails: a fact that is
//! illegal in the current state ends the session it came from. The same code runs under the real
//! process, the simulator and the tests.
//!
//! Absences: no tokio, no sockets, no clock, no Kubernetes words, no wire format.

mod activity;
pub mod command;
pub mod compare;
mod device;
pub mod effect;
pub mod engine;
pub mod event;
pub mod frame;
mod growth;
mod guard;
pub mod hashes;
pub mod ids;
mod link;
mod marks;
mod meta;
mod partition;
mod replica;
pub mod report;
mod resync;
pub mod role;
pub mod settings;
mod snapshot;
mod status;
mod superblock;
pub mod time;
mod transition;
mod verify;
mod write_path;

pub use effect::{Completion, Effect};
pub use engine::{Engine, OpenError};
pub use event::{Event, GuestRequest, IoError};
