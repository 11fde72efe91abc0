//! The test bed: two real Kubernetes clusters on one Linux machine, with a replication link that can
//! be cut and hosts whose power can be cut.
//!
//! Start with [`Lab`]; the binary `lab` (`cargo lab`) is a thin shell around it, and `cargo demo` and
//! the end-to-end tests use the same library. Everything is synchronous: the lab starts processes and
//! waits for them.
//!
//! | module | lives here |
//! |---|---|
//! | [`cache`] | the folder outside the checkout, its locks, builds that are complete or absent |
//! | [`packages`] | Debian packages |
//! | [`toolchain`] | Kubernetes, etcd, containerd, CNI plug-ins, Helm, nats-server from Go modules |
//! | [`image`], [`images`] | container images without a container engine |
//! | [`network`] | the two network namespaces, the replication link, the management links |
//! | [`host`] | one host: a one-node cluster in namespaces of its own; its power switch |
//! | [`lab`] | the facade over all of that, and the clean-up |
//! | [`state`] | what the lab has created, written down before it is created |
//! | [`interrupt`], [`progress`] | Ctrl-C, and what a person sees meanwhile |
//!
//! What does not live here: any knowledge of drqm itself, any Kubernetes client, any test.
//!
//! # What the lab promises
//! - It removes nothing that it has not written down as its own (`lab.json` in the state directory).
//! - A host dies at once and as a whole: the first process of its PID namespace is killed, and the
//!   kernel kills the rest. Its network links go down first, so its peer sees silence, not a goodbye.
//! - Nothing of the lab listens on an address of the machine: all servers are in network namespaces.
//!
//! Hosts share the machine's kernel. Nodes with a kernel of their own will get a module `guest`.

pub mod cache;
mod command;
pub mod host;
pub mod image;
pub mod images;
pub mod interrupt;
pub mod lab;
pub mod network;
pub mod packages;
mod pki;
mod process;
pub mod progress;
pub mod state;
pub mod toolchain;

pub use cache::Cache;
pub use lab::{HostStatus, Lab, Options, Status};
pub use network::{Link, Node};
pub use progress::Progress;
pub use toolchain::Toolchain;
