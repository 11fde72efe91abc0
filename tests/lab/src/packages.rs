//! The Debian packages that the lab needs: which are missing, and their installation.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{QUICK, attempt, complaint, run};
use crate::progress::Progress;

/// What the lab runs, by package, and why.
const NEEDED: [(&str, &str); 14] = [
    ("binutils", "strips binaries before they go into images"),
    ("conntrack", "kube-proxy clears stale flows with it"),
    (
        "e2fsprogs",
        "kubelet and the replicator make and check ext4 with it",
    ),
    ("ethtool", "kubelet's network checks"),
    ("fuse3", "the device front-end"),
    ("hostname", "names a host"),
    ("iproute2", "namespaces, links, routes"),
    ("iptables", "kube-proxy's rules and CNI's port mappings"),
    ("kmod", "kube-proxy looks for kernel modules"),
    ("mount", "mounts, loop devices"),
    ("openssl", "keys and certificates of the clusters"),
    ("runc", "containerd starts containers with it"),
    ("util-linux", "nsenter, unshare, setsid"),
    (
        "xfsprogs",
        "kubelet and the replicator make and check XFS with it",
    ),
];

/// An installation is small, but a mirror can be slow.
const PATIENCE: Duration = Duration::from_secs(900);

/// The packages that are not installed.
///
/// # Errors
/// When this is not a Debian system.
pub fn missing() -> Result<Vec<&'static str>> {
    missing_of(&NEEDED.map(|(name, _)| name))
}

fn missing_of(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    if !Path::new("/var/lib/dpkg/status").exists() {
        bail!(
            "this is not a Debian system (no dpkg): the lab can prepare Debian 12 or newer; \
             on others install what these packages hold by yourself: {}",
            NEEDED.map(|(name, _)| name).join(" ")
        );
    }
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]);
    // It ends with 1 if it does not know one of them: that is an answer here.
    let known = attempt(query.args(wanted), QUICK)?;
    Ok(absent(wanted, &known.stdout))
}

fn absent(wanted: &[&'static str], listing: &str) -> Vec<&'static str> {
    let installed = |name: &str| {
        listing
            .lines()
            .any(|line| line.split_once(' ') == Some((name, "installed")))
    };
    let wanted = wanted.iter().copied();
    wanted.filter(|name| !installed(name)).collect()
}

/// Installs what is missing; does nothing, needs nothing, if nothing is.
///
/// # Errors
/// When not root, or when apt cannot: its own words are in the message.
pub fn ensure(progress: &Progress) -> Result<()> {
    ensure_also(&[], progress)
}

/// The same for the lab's packages and others.
///
/// # Errors
/// See [`ensure`].
pub fn ensure_also(others: &[&'static str], progress: &Progress) -> Result<()> {
    let mut wanted = NEEDED.map(|(name, _)| name).to_vec();
    wanted.extend(others);
    let missing = missing_of(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("these Debian packages are missing; install them as root: {by_hand}");
    }
    let item = progress.item(&format!("installing {}", missing.join(" ")));
    if !has_lists() {
        update()?;
    }
    let first = install(&missing)?;
    if let Err(reason) = first {
        // Lists from long ago name files that mirrors no longer have.
        item.note("again after apt-get update");
        update()?;
        if let Err(second) = install(&missing)? {
            let reason = if second.is_empty() { reason } else { second };
            bail!("apt-get install {reason}\nInstall them by hand, then try again: {by_hand}");
        }
    }
    item.done();
    Ok(())
}

fn install(packages: &[&str]) -> Result<Result<(), String>> {
    let mut apt = apt_get();
    apt.args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    let outcome = attempt(&mut apt, PATIENCE)?;
    Ok(if outcome.status.success() {
        Ok(())
    } else {
        Err(complaint(&outcome))
    })
}

fn update() -> Result<()> {
    run(apt_get().arg("update"), PATIENCE)
        .context("the package lists cannot be read; check the machine's apt sources and network")?;
    Ok(())
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "DPkg::Lock::Timeout=120"]);
    apt
}

fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let listing: String = NEEDED
            .iter()
            .filter(|(name, _)| *name != "runc")
            .map(|(name, _)| {
                format!(
                    "{name} {}\n",
                    if *name == "fuse3" {
                        "config-files"
                    } else {
                        "installed"
                    }
                )
            })
            .collect();
        assert_eq!(
            absent(&NEEDED.map(|(name, _)| name), &listing),
            ["fuse3", "runc"]
        );
    }
}
