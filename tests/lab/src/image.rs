//! Container images as tar files (`docker load`'s format), without a container engine.
//!
//! One layer, no history, no times: the same content gives the same bytes. Which images there are is
//! in [`crate::images`].

mod ustar;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use ustar::{Archive, Kind};

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The full name, for example `drqm.io/drqm-operator:dev`.
    pub reference: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The files; folders above them are made.
    pub files: Vec<ImageFile>,
    /// `UID` or `UID:GID` as numbers (kubelet cannot check `runAsNonRoot` on a name); root if absent.
    pub user: Option<String>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Absolute path in the image.
    pub path: String,
    /// Where its content is now.
    pub source: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

impl Image {
    /// Writes the image; a file that is there already is replaced at once, at the end.
    ///
    /// # Errors
    /// When a source cannot be read, a path is not absolute, or writing fails.
    pub fn write(&self, output: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = self.config(&digest(&layer)?).to_string();
        let config_name = format!("{}.json", digest(config.as_bytes())?);
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": ["layer.tar"]}]);

        let draft = output.with_extension("tar.new");
        let file = File::create(&draft).with_context(|| draft.display().to_string())?;
        let mut archive = Archive::new(BufWriter::new(file));
        archive.add(&config_name, Kind::File, 0o644, config.as_bytes())?;
        archive.add("layer.tar", Kind::File, 0o644, &layer)?;
        archive.add(
            "manifest.json",
            Kind::File,
            0o644,
            manifest.to_string().as_bytes(),
        )?;
        archive.finish()?;
        std::fs::rename(&draft, output).with_context(|| output.display().to_string())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut files: Vec<&ImageFile> = self.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut archive = Archive::new(Vec::new());
        let mut folders = BTreeSet::new();
        for file in files {
            let path = file.path.strip_prefix('/').filter(|path| !path.is_empty());
            let path = path
                .with_context(|| format!("not an absolute path in the image: {:?}", file.path))?;
            for (end, _) in path.match_indices('/') {
                if folders.insert(&path[..end]) {
                    archive.add(&path[..end], Kind::Folder, 0o755, &[])?;
                }
            }
            let content =
                std::fs::read(&file.source).with_context(|| file.source.display().to_string())?;
            archive.add(path, Kind::File, file.mode, &content)?;
        }
        Ok(archive.finish()?)
    }

    fn config(&self, layer: &str) -> serde_json::Value {
        let mut config = json!({
            "Entrypoint": self.entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        });
        if let Some(user) = &self.user {
            config["User"] = json!(user);
        }
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created_by": "drqm-lab"}],
        })
    }
}

/// The name that images have for this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SHA-256 in hexadecimal, by the system's `sha256sum`.
fn digest(content: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum")?;
    // It writes nothing before it has read everything, so this cannot lock up.
    child
        .stdin
        .take()
        .expect("piped above")
        .write_all(content)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().next() {
        Some(digest) if output.status.success() && digest.len() == 64 => Ok(digest.to_owned()),
        Some(_) | None => bail!("sha256sum answered {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(arguments: &[&str]) -> String {
        let output = Command::new("tar").args(arguments).output().expect("tar");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(
            digest(b"abc").expect("sha256sum"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn an_image_has_layer_config_and_manifest_and_the_same_bytes_each_time() {
        let folder = std::env::temp_dir().join(format!("drqm-lab-image-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let source = folder.join("program");
        std::fs::write(&source, "#!").expect("a file");
        let image = Image {
            reference: "drqm.io/lab/test:1".into(),
            entrypoint: vec!["/usr/bin/program".into()],
            files: vec![ImageFile {
                path: "/usr/bin/program".into(),
                source,
                mode: 0o755,
            }],
            user: Some("65532:65532".into()),
        };
        let output = folder.join("image.tar");
        image.write(&output).expect("written");
        let first = std::fs::read(&output).expect("there");
        image.write(&output).expect("written again");
        assert_eq!(first, std::fs::read(&output).expect("there"));

        let file = output.to_str().expect("text");
        let manifest: serde_json::Value =
            serde_json::from_str(&tar(&["-xOf", file, "manifest.json"])).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "drqm.io/lab/test:1");
        let config = manifest[0]["Config"].as_str().expect("a name");
        let config: serde_json::Value =
            serde_json::from_str(&tar(&["-xOf", file, config])).expect("JSON");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/program"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = folder.join("layer.tar");
        tar(&[
            "-xf",
            file,
            "-C",
            folder.to_str().expect("text"),
            "layer.tar",
        ]);
        let bytes = std::fs::read(&layer).expect("there");
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            json!(format!("sha256:{}", digest(&bytes).expect("sha256sum")))
        );
        assert_eq!(
            tar(&["-tf", layer.to_str().expect("text")]),
            "usr/\nusr/bin/\nusr/bin/program\n"
        );
        std::fs::remove_dir_all(&folder).expect("clean");
    }

    #[test]
    fn a_relative_path_is_refused() {
        let image = Image {
            reference: "x:1".into(),
            entrypoint: vec![],
            files: vec![ImageFile {
                path: "program".into(),
                source: "/etc/hostname".into(),
                mode: 0o755,
            }],
            user: None,
        };
        let error = image.layer().expect_err("relative");
        assert!(error.to_string().contains("\"program\""), "{error}");
    }
}
