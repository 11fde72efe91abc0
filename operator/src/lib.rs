//! The operator's shell: everything that talks to Kubernetes and to replicators.
//!
//! Lives here: reading the cluster, applying objects, sending commands, publishing status.
//! Does not live here: decisions (`drqm_core`), the API (`drqm_api`), the wire (`drqm_rpc`).

pub mod admin;
pub mod api_server;
pub mod args;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod context;
pub mod controller;
pub mod counters;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod replicator_client;
pub mod replicator_daemonset;
pub mod replicator_events;
pub mod runtime;
pub mod telemetry;
