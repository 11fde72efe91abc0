//! Kubernetes, etcd, containerd, CNI plug-ins, Helm and nats-server, built from Go modules.
//!
//! Versions are constants, and each set of binaries is one folder of the cache named by them. A
//! complete folder is not looked at again: warm means that it exists.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::command::{QUICK, attempt, run};
use crate::progress::{Item, Progress};

/// The minor version is also that of every staging module, as `v0.37.1`.
pub const KUBERNETES: &str = "1.37.1";
/// The version of etcd.
pub const ETCD: &str = "3.7.1";
/// The version of containerd.
pub const CONTAINERD: &str = "2.3.4";
/// The version of the CNI plug-ins.
pub const CNI: &str = "1.9.1";
/// The version of Helm.
pub const HELM: &str = "4.2.4";
/// The version of nats-server.
pub const NATS: &str = "2.15.2";

/// What `k8s.io/kubernetes` asks for; the other modules want less.
const GO: (u32, u32) = (1, 26);

/// One binary from nothing took two minutes on two cores; this is for slow machines and mirrors.
const PATIENCE: Duration = Duration::from_secs(3_600);

const KUBERNETES_COMMANDS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "kube-proxy",
];

/// A set of binaries that is built together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Kubernetes,
    Etcd,
    Containerd,
    Cni,
    Helm,
    Nats,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Kubernetes,
        Self::Etcd,
        Self::Containerd,
        Self::Cni,
        Self::Helm,
        Self::Nats,
    ];

    fn key(self) -> String {
        match self {
            Self::Kubernetes => format!("kubernetes-{KUBERNETES}"),
            Self::Etcd => format!("etcd-{ETCD}"),
            Self::Containerd => format!("containerd-{CONTAINERD}"),
            Self::Cni => format!("cni-plugins-{CNI}"),
            Self::Helm => format!("helm-{HELM}"),
            Self::Nats => format!("nats-server-{NATS}"),
        }
    }

    /// Seconds from nothing, measured on two cores.
    fn seconds(self) -> u64 {
        match self {
            Self::Kubernetes => 360,
            Self::Etcd => 18,
            Self::Containerd => 56,
            Self::Cni => 5,
            Self::Helm => 66,
            Self::Nats => 14,
        }
    }

    fn build(self, go: &Go, folder: &Path, progress: &Progress) -> Result<()> {
        match self {
            Self::Kubernetes => build_kubernetes(go, folder, progress),
            Self::Etcd => build_etcd(go, folder, progress),
            Self::Containerd => {
                let commands = ["containerd", "containerd-shim-runc-v2", "ctr"].map(|name| {
                    format!("github.com/containerd/containerd/v2/cmd/{name}@v{CONTAINERD}")
                });
                // Without the tag it wants the headers of btrfs.
                go.install(folder, &["-tags", "no_btrfs"], &commands, progress)
            }
            Self::Cni => {
                let plugins = [
                    "main/ptp",
                    "main/loopback",
                    "ipam/host-local",
                    "meta/portmap",
                ]
                .map(|name| {
                    format!("github.com/containernetworking/plugins/plugins/{name}@v{CNI}")
                });
                go.install(folder, &[], &plugins, progress)
            }
            Self::Helm => go.install(
                folder,
                &[],
                &[format!("helm.sh/helm/v4/cmd/helm@v{HELM}")],
                progress,
            ),
            Self::Nats => go.install(
                folder,
                &[],
                &[format!("github.com/nats-io/nats-server/v2@v{NATS}")],
                progress,
            ),
        }
    }
}

/// Where the binaries are.
#[derive(Clone, Debug)]
pub struct Toolchain {
    folders: Vec<PathBuf>,
}

impl Toolchain {
    /// Builds what is missing. Returns at once if nothing is.
    ///
    /// # Errors
    /// When Go is missing or too old, or a build fails (with the compiler's words).
    pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let mut folders = Vec::new();
        for part in Part::ALL {
            folders.push(cache.ensure(&part.key(), progress, |folder| {
                part.build(&Go::find()?, folder, progress)
            })?);
        }
        Ok(Self { folders })
    }

    /// The toolchain if it is complete, without building anything.
    pub fn ready(cache: &Cache) -> Option<Self> {
        missing(cache).is_empty().then(|| Self {
            folders: Part::ALL
                .iter()
                .map(|part| cache.path(&part.key()))
                .collect(),
        })
    }

    fn folder(&self, part: Part) -> &Path {
        let index = Part::ALL.iter().position(|other| *other == part);
        &self.folders[index.expect("ALL lists every part")]
    }

    /// `kubectl`.
    pub fn kubectl(&self) -> PathBuf {
        self.folder(Part::Kubernetes).join("kubectl")
    }

    /// `helm`.
    pub fn helm(&self) -> PathBuf {
        self.folder(Part::Helm).join("helm")
    }

    /// `nats-server`.
    pub fn nats_server(&self) -> PathBuf {
        self.folder(Part::Nats).join("nats-server")
    }

    /// Where containerd finds the CNI plug-ins.
    pub fn cni(&self) -> &Path {
        self.folder(Part::Cni)
    }

    /// A value for PATH: the toolchain's folders, then the system's.
    pub fn path(&self) -> OsString {
        let system = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ];
        let folders = self
            .folders
            .iter()
            .cloned()
            .chain(system.map(PathBuf::from));
        std::env::join_paths(folders).expect("the cache's path was checked for colons")
    }
}

/// What is not built yet, with a guess of the seconds it takes from nothing on two cores.
pub fn missing(cache: &Cache) -> Vec<(String, u64)> {
    let absent = Part::ALL.into_iter().filter(|part| !cache.has(&part.key()));
    absent.map(|part| (part.key(), part.seconds())).collect()
}

fn build_kubernetes(go: &Go, folder: &Path, progress: &Progress) -> Result<()> {
    let modules = progress.item("fetching the modules of Kubernetes");
    let work = folder.join("module");
    fs::create_dir(&work)?;
    go.run(&work, &["mod", "init", "lab/kubernetes"])?;
    go.run(&work, &["mod", "edit", "-go=1.26.0"])?;
    // Its go.mod replaces the staging modules by folders, so `go install` refuses it: replace them here
    // by the published ones.
    let download = go.json(
        &work,
        &[
            "mod",
            "download",
            "-json",
            &format!("k8s.io/kubernetes@v{KUBERNETES}"),
        ],
    )?;
    let go_mod = download["GoMod"]
        .as_str()
        .context("`go mod download` names no GoMod")?;
    let listing = go.json(&work, &["mod", "edit", "-json", go_mod])?;
    let staging = KUBERNETES.strip_prefix("1.").expect("Kubernetes 1.x");
    let replaced = listing["Replace"]
        .as_array()
        .context("k8s.io/kubernetes replaces nothing")?;
    let edits: Vec<String> = replaced
        .iter()
        .filter_map(|replace| replace["Old"]["Path"].as_str())
        .map(|module| format!("-replace={module}={module}@v0.{staging}"))
        .collect();
    let edits = ["mod", "edit"]
        .into_iter()
        .chain(edits.iter().map(String::as_str));
    go.run(&work, &edits.collect::<Vec<_>>())?;
    let tools =
        KUBERNETES_COMMANDS.map(|name| format!("k8s.io/kubernetes/cmd/{name}@v{KUBERNETES}"));
    let get = ["get", "-tool"]
        .into_iter()
        .chain(tools.iter().map(String::as_str));
    go.run(&work, &get.collect::<Vec<_>>())?;
    modules.done();

    let flags = kubernetes_flags();
    for name in KUBERNETES_COMMANDS {
        let item = progress.item(&format!("building {name} {KUBERNETES}"));
        let output = folder.join(name);
        let package = format!("k8s.io/kubernetes/cmd/{name}");
        go.build(&work, &flags, &output, &package)?;
        item.done();
    }
    fs::remove_dir_all(&work).context("the work module")
}

/// Without the version they call themselves v0.0.0-master, and checks of version skew misfire.
fn kubernetes_flags() -> String {
    let minor = KUBERNETES.split('.').nth(1).expect("major.minor.patch");
    let stamp = |package: &str| {
        [
            ("gitVersion", &*format!("v{KUBERNETES}")),
            ("gitMajor", "1"),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ]
        .map(|(name, value)| format!(" -X {package}.{name}={value}"))
        .concat()
    };
    format!(
        "-s -w{}{}",
        stamp("k8s.io/component-base/version"),
        stamp("k8s.io/client-go/pkg/version")
    )
}

fn build_etcd(go: &Go, folder: &Path, progress: &Progress) -> Result<()> {
    let item = progress.item(&format!("building etcd {ETCD}"));
    let work = folder.join("module");
    fs::create_dir(&work)?;
    // A module of its own: Kubernetes wants other versions of etcd's client.
    go.run(&work, &["mod", "init", "lab/etcd"])?;
    go.run(
        &work,
        &[
            "get",
            "-tool",
            &format!("go.etcd.io/etcd/server/v3@v{ETCD}"),
        ],
    )?;
    go.build(
        &work,
        "-s -w",
        &folder.join("etcd"),
        "go.etcd.io/etcd/server/v3",
    )?;
    fs::remove_dir_all(&work).context("the work module")?;
    item.done();
    Ok(())
}

/// The Go command.
struct Go {
    program: PathBuf,
}

impl Go {
    fn find() -> Result<Self> {
        let advice = format!(
            "Go {}.{} or newer is needed to build Kubernetes and the broker: install it from \
             https://go.dev/dl and put it on the PATH",
            GO.0, GO.1
        );
        for program in ["go", "/usr/local/go/bin/go"] {
            let mut version = Command::new(program);
            let Ok(outcome) = attempt(version.args(["env", "GOVERSION"]), QUICK) else {
                continue;
            };
            let version = outcome.stdout.trim();
            if parse_version(version).is_some_and(|found| found >= GO) {
                return Ok(Self {
                    program: PathBuf::from(program),
                });
            }
            bail!("{program} is version {version:?}. {advice}");
        }
        bail!("there is no Go on this machine. {advice}");
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // Static binaries, and no go.work of somebody's in a parent folder.
        command
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off");
        command
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Result<String> {
        run(self.command(folder).args(arguments), PATIENCE)
    }

    fn json(&self, folder: &Path, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.run(folder, arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("the answer of `go {}`", arguments.join(" ")))
    }

    fn build(&self, work: &Path, flags: &str, output: &Path, package: &str) -> Result<()> {
        let mut command = self.command(work);
        command.args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            flags,
            "-o",
        ]);
        run(command.arg(output).arg(package), PATIENCE)?;
        Ok(())
    }

    fn install(
        &self,
        folder: &Path,
        flags: &[&str],
        packages: &[String],
        progress: &Progress,
    ) -> Result<()> {
        let title = |package: &str| {
            let path = package.split('@').next().unwrap_or(package);
            let name = path.rsplit('/').find(|part| *part != "v2").unwrap_or(path);
            format!("building {name}")
        };
        for package in packages {
            let item: Item = progress.item(&title(package));
            let mut command = self.command(folder);
            command
                .env("GOBIN", folder)
                .args(["install", "-trimpath", "-ldflags", "-s -w"]);
            run(command.args(flags).arg(package), PATIENCE)?;
            item.done();
        }
        Ok(())
    }
}

/// `go1.26.8` is (1, 26).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .strip_prefix("go")?
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_compare_as_numbers() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("go1.26rc1"), Some((1, 26)));
        assert!(parse_version("go1.9").expect("a version") < GO);
        assert_eq!(parse_version("devel"), None);
    }

    #[test]
    fn kubernetes_knows_its_version() {
        let flags = kubernetes_flags();
        for part in [
            "component-base/version.gitVersion=v1.37.1",
            "client-go/pkg/version.gitMinor=37",
        ] {
            assert!(flags.contains(part), "{flags}");
        }
    }
}
