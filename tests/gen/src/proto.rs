//! Rust code of the two gRPC services, from their .proto files.
//!
//! protox compiles the files, so no protoc is needed; the result is checked in, so that a normal
//! build generates nothing.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::Generated;

const FILES: [&str; 2] = ["drqm/control/v1/control.proto", "drqm/peer/v1/peer.proto"];

/// Generates `replicator/rpc/src/generated/*.rs`.
pub(crate) fn generate(root: &Path) -> anyhow::Result<Vec<Generated>> {
    let include = root.join("replicator/rpc/proto");
    let descriptors = protox::compile(FILES.map(|f| include.join(f)), [&include])
        .context("failed to compile the .proto files")?;
    let out = std::env::temp_dir().join(format!("drqm-gen-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .bytes(".drqm.peer.v1")
        .out_dir(&out)
        .compile_fds(descriptors)
        .context("failed to generate the gRPC code")?;
    let mut files = Vec::new();
    for name in ["drqm.control.v1.rs", "drqm.peer.v1.rs"] {
        let content = std::fs::read_to_string(out.join(name))?;
        files.push(Generated {
            path: PathBuf::from("replicator/rpc/src/generated").join(name),
            content,
        });
    }
    std::fs::remove_dir_all(&out)?;
    Ok(files)
}
