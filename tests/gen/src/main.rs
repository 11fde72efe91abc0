//! `cargo gen`: writes everything that is generated and checked in; `--check` fails on drift instead.
//!
//! Lives here: the list of generated files. Does not live here: the types they come from
//! (`drqm-api` for the CRD, `replicator/rpc/proto` for the wire).

mod crd;
mod proto;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// One generated file: path below the repository and its whole content.
pub(crate) struct Generated {
    /// Path relative to the repository.
    pub(crate) path: PathBuf,
    /// The whole content.
    pub(crate) content: String,
}

fn main() -> anyhow::Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other}; usage: cargo gen [--check]"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let mut files = proto::generate(&root)?;
    files.extend(crd::generate()?);
    let mut drifted = Vec::new();
    for file in files {
        let path = root.join(&file.path);
        if std::fs::read_to_string(&path).ok().as_deref() == Some(&file.content) {
            continue;
        }
        if check {
            drifted.push(file.path);
        } else {
            let folder = path.parent().context("generated file has no folder")?;
            std::fs::create_dir_all(folder)?;
            std::fs::write(&path, &file.content)
                .with_context(|| format!("failed to write {}", path.display()))?;
            println!("wrote {}", file.path.display());
        }
    }
    if !drifted.is_empty() {
        bail!("generated files differ from their sources: {drifted:?}; run `cargo gen` and commit");
    }
    Ok(())
}
