//! The images of the lab: pause, the broker, and drqm's own binaries, each a static binary on nothing.
//!
//! They are written into the cache's folder `images` and taken from there while their source is the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, write_atomically};
use crate::command::{QUICK, run};
use crate::image::{Image, ImageFile};
use crate::progress::Progress;
use crate::toolchain::{NATS, Toolchain};

/// What containerd is told to start pods with.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// The operator's image in the lab.
pub const OPERATOR: &str = "drqm.io/drqm-operator:dev";

/// The replicator's image in the lab.
pub const REPLICATOR: &str = "drqm.io/drqm-replicator:dev";

/// Nobody in particular, as distroless images number it; by number so that kubelet can see it is not root.
const NOBODY: &str = "65532:65532";

/// A debug build of the smallest binary, when its dependencies have to be built too.
const BUILD: Duration = Duration::from_secs(900);

/// The broker's image name, with its version.
pub fn nats_reference() -> String {
    format!("drqm.io/lab/nats-server:{NATS}")
}

/// The broker's image; entrypoint `/nats-server`.
///
/// # Errors
/// When it cannot be written.
pub fn nats(cache: &Cache, toolchain: &Toolchain) -> Result<PathBuf> {
    from_binary(
        cache,
        &nats_reference(),
        &toolchain.nats_server(),
        "nats-server",
        None,
    )
}

/// The pause image. The binary is this crate's `pause`, built with Cargo when the image is not in the
/// cache yet.
///
/// # Errors
/// When Cargo cannot build it or the image cannot be written.
pub fn pause(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let source = include_str!("bin/pause.rs");
    let output = folder(cache)?.join(format!("pause-{:016x}.tar", fingerprint(source.as_bytes())));
    if output.exists() {
        return Ok(output);
    }
    let item = progress.item("building the pause image");
    write(PAUSE, &build_pause()?, "pause", Some(NOBODY), &output)?;
    item.done();
    Ok(output)
}

/// The operator's image, from a binary that Cargo built; runs as a number that is not root.
///
/// # Errors
/// When the binary cannot be read or the image cannot be written.
pub fn operator(cache: &Cache, binary: &Path) -> Result<PathBuf> {
    from_binary(cache, OPERATOR, binary, "drqm-operator", Some(NOBODY))
}

/// The replicator's image, from a binary that Cargo built; runs as root.
///
/// # Errors
/// When the binary cannot be read or the image cannot be written.
pub fn replicator(cache: &Cache, binary: &Path) -> Result<PathBuf> {
    from_binary(cache, REPLICATOR, binary, "drqm-replicator", None)
}

/// An image with one static binary, `/NAME`, as its entrypoint, without debugging symbols.
///
/// # Errors
/// When the binary is dynamically linked (nothing in the image could load it) or unreadable.
pub fn from_binary(
    cache: &Cache,
    reference: &str,
    binary: &Path,
    name: &str,
    user: Option<&str>,
) -> Result<PathBuf> {
    let output = folder(cache)?.join(format!("{name}.tar"));
    let stamp_file = output.with_extension("stamp");
    let stamp = stamp(reference, binary, user)?;
    if output.exists() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(output);
    }
    write(reference, binary, name, user, &output)?;
    write_atomically(&stamp_file, stamp.as_bytes())?;
    Ok(output)
}

fn folder(cache: &Cache) -> Result<PathBuf> {
    let folder = cache.path("images");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Everything that decides the content of an image, without reading the binary.
fn stamp(reference: &str, binary: &Path, user: Option<&str>) -> Result<String> {
    let meta = fs::metadata(binary).with_context(|| {
        format!(
            "there is no binary {}; build it with Cargo first",
            binary.display()
        )
    })?;
    Ok(format!(
        "{reference} {} {} {}.{:09} {}",
        binary.display(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        user.unwrap_or("root")
    ))
}

fn write(
    reference: &str,
    binary: &Path,
    name: &str,
    user: Option<&str>,
    output: &Path,
) -> Result<()> {
    let stripped = output.with_extension("stripped");
    run(
        Command::new("strip").arg("-o").arg(&stripped).arg(binary),
        QUICK,
    )?;
    let headers = run(
        Command::new("readelf")
            .arg("--program-headers")
            .arg(&stripped),
        QUICK,
    )?;
    if headers.contains("INTERP") {
        fs::remove_file(&stripped)?;
        bail!(
            "{} is dynamically linked; an image from scratch needs a static binary",
            binary.display()
        );
    }
    let image = Image {
        reference: reference.to_owned(),
        entrypoint: vec![format!("/{name}")],
        files: vec![ImageFile {
            path: format!("/{name}"),
            source: stripped.clone(),
            mode: 0o755,
        }],
        user: user.map(str::to_owned),
    };
    let written = image.write(output);
    fs::remove_file(&stripped)?;
    written
}

fn build_pause() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "build",
            "--quiet",
            "--package",
            "drqm-lab",
            "--bin",
            "pause",
        ])
        .args(["--message-format", "json"]);
    let messages = run(&mut command, BUILD).context("the pause image needs its binary")?;
    let artefact = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "pause")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    artefact.context("Cargo built `pause` and did not say where")
}

/// FNV-1a: tells versions of a source apart; no protection against anybody.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_fnv_1a() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = stamp("x:1", Path::new("/nowhere/drqm"), None).expect_err("absent");
        assert!(
            format!("{error:#}").contains("/nowhere/drqm; build it"),
            "{error:#}"
        );
    }
}
