//! The operator's decisions, without I/O.
//!
//! Input: [`observed::Observed`], plain data from one look at the world, and `now`. Output:
//! [`plan::Plan`], what to apply and the one command to give, and a status. No client, no runtime,
//! no clock; the same input gives the same output.
//!
//! Lives here: when a promotion is safe, what a request means, which objects shall exist, what status
//! says. Does not live here: reading the cluster, calling the replicator, making keys.

pub mod creation;
pub mod deletion;
pub mod desired;
pub mod observed;
pub mod outcome;
pub mod plan;
pub mod request;
pub mod retry;
pub mod role;
pub mod status;
pub mod validate;

#[cfg(test)]
mod testing;
