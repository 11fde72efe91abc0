//! The API of drqm: the `DrQueueManager` custom resource and the words that go with it.
//!
//! Lives here: the types of group `drqm.io`, their defaults and CEL rules, the names of conditions,
//! reasons and labels, the words people read, and two documents derived from a resource (the peer's
//! manifest, the live state). Does not live here: decisions (`drqm-core`), clients, clocks.

pub mod conditions;
pub mod labels;
pub mod live;
pub mod names;
pub mod peer_manifest;
pub mod size;
pub mod v1alpha1;
