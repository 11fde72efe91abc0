//! drqm's own binaries, built by the Cargo that runs this program, in its profile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, repository};

/// The binaries that a demonstration needs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `drqm-operator`.
    pub operator: PathBuf,
    /// `drqm-replicator`.
    pub replicator: PathBuf,
    /// `kubectl-drqm`.
    pub plugin: PathBuf,
    /// `drqm-load`.
    pub load: PathBuf,
}

impl Binaries {
    /// The folder that makes `kubectl drqm` a command when it is on the PATH.
    ///
    /// # Panics
    /// Never: a binary is in a folder.
    #[must_use]
    pub fn plugin_folder(&self) -> &Path {
        self.plugin.parent().expect("a binary is in a folder")
    }
}

/// Builds them. Cargo shows its own progress.
///
/// # Errors
/// When Cargo cannot build them.
pub fn binaries() -> Result<Binaries> {
    let mut build = cargo();
    build.arg("build");
    for package in [
        "drqm-operator",
        "drqm-replicator",
        "kubectl-drqm",
        "drqm-load",
    ] {
        build.args(["--package", package]);
    }
    let messages = artefacts(&mut build)?;
    let find = |name: &str| {
        executable(&messages, name).with_context(|| format!("Cargo built no binary {name}"))
    };
    Ok(Binaries {
        operator: find("drqm-operator")?,
        replicator: find("drqm-replicator")?,
        plugin: find("kubectl-drqm")?,
        load: find("drqm-load")?,
    })
}

/// Builds a replicator that can serve one volume without a control plane, for measurements only.
///
/// # Errors
/// When Cargo cannot build it.
pub fn measuring_replicator(profile: &str) -> Result<PathBuf> {
    binary("drqm-replicator", profile, &["--features", "measure"])
}

/// Builds the client that puts messages, in a profile of its own.
///
/// # Errors
/// When Cargo cannot build it.
pub fn load(profile: &str) -> Result<PathBuf> {
    binary("drqm-load", profile, &[])
}

fn binary(name: &str, profile: &str, options: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--profile", profile, "--package", name]);
    let messages = artefacts(build.args(options))?;
    executable(&messages, name).with_context(|| format!("Cargo built no binary {name}"))
}

/// Cargo as it runs this program.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository::root());
    cargo
}

/// Runs a build and returns what Cargo says about its artefacts.
fn artefacts(build: &mut Command) -> Result<String> {
    build.args(["--bins", "--message-format", "json-render-diagnostics"]);
    // No deadline: a first build takes as long as it takes, and Cargo shows that it goes on. A Ctrl-C
    // reaches it directly, it is in this program's process group.
    let output = build
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    drqm_lab::interrupt::check()?;
    if !output.status.success() {
        bail!("`{}` failed; its words are above", process::describe(build));
    }
    String::from_utf8(output.stdout).context("cargo's messages")
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let artefacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut named = artefacts.filter(|message| message["target"]["name"] == name);
    named.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_by_the_name_of_its_target() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"drqm-load"},"executable":null}
not JSON
{"reason":"compiler-artifact","target":{"name":"drqm-load"},"executable":"/t/drqm-load"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "drqm-load"),
            Some("/t/drqm-load".into())
        );
        assert_eq!(executable(messages, "other"), None);
    }
}
