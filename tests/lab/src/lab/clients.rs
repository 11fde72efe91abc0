//! What works with a lab that is up: images, commands inside hosts and beside them, kubectl and helm.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Lab;
use crate::network::{self, Node};
use crate::toolchain::Toolchain;

impl Lab {
    /// Gives an image to one host, or to both.
    ///
    /// # Errors
    /// When a host is off or the file is no image.
    pub fn load_image(&self, tar: &Path, node: Option<Node>) -> Result<()> {
        let store = self.store()?;
        let toolchain = self.toolchain()?;
        for one in Node::ALL
            .into_iter()
            .filter(|one| node.is_none_or(|node| node == *one))
        {
            self.host(one, &toolchain, store.record.management)
                .import(tar)?;
        }
        Ok(())
    }

    /// A command inside a host: all its namespaces, the toolchain on its PATH, its own KUBECONFIG. It dies
    /// with the host.
    ///
    /// # Errors
    /// When the host is off.
    pub fn exec_in<I>(&self, node: Node, argv: I) -> Result<Command>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let store = self.store()?;
        let toolchain = self.toolchain()?;
        let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
        self.host(node, &toolchain, store.record.management)
            .enter(&argv)
    }

    /// A command with a host's network only: a client beside the host, which the power cut does not kill.
    /// After a power cut start a new one: the host's network is made anew.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn net_command<I>(&self, node: Node, argv: I) -> Result<Command>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.store()?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--net={}",
                network::namespace_file(node.namespace()).display()
            ))
            .arg("--");
        command.args(argv.into_iter().map(Into::into));
        Ok(command)
    }

    /// `kubectl` on this machine, talking to one of the clusters.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn kubectl(&self, node: Node) -> Result<Command> {
        let mut command = self.client(self.toolchain()?.kubectl())?;
        command.args(["--context", node.name()]);
        Ok(command)
    }

    /// `helm` on this machine, talking to one of the clusters.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn helm(&self, node: Node) -> Result<Command> {
        let mut command = self.client(self.toolchain()?.helm())?;
        command.args(["--kube-context", node.name()]);
        Ok(command)
    }

    /// Clients keep what they cache with the lab, not in somebody's home, and go through no proxy.
    fn client(&self, program: PathBuf) -> Result<Command> {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.kubeconfig()?)
            .env("NO_PROXY", "*");
        for (variable, folder) in [
            ("KUBECACHEDIR", "kubectl"),
            ("HELM_CACHE_HOME", "helm/cache"),
            ("HELM_CONFIG_HOME", "helm/config"),
            ("HELM_DATA_HOME", "helm/data"),
        ] {
            command.env(variable, self.folder.join("clients").join(folder));
        }
        Ok(command)
    }

    /// The log of a daemon of a host: `host`, `etcd`, `apiserver`, `containerd`, `kubelet`,
    /// `controller-manager`, `scheduler` or `proxy`.
    pub fn log(&self, node: Node, daemon: &str) -> PathBuf {
        self.folder
            .join(node.name())
            .join("logs")
            .join(format!("{daemon}.log"))
    }

    /// The toolchain: paths of kubectl and helm, for example.
    ///
    /// # Errors
    /// When it is not built.
    pub fn toolchain(&self) -> Result<Toolchain> {
        let toolchain = Toolchain::ready(&self.cache);
        toolchain.context("the lab's binaries are not built; `cargo lab build` builds them")
    }
}
