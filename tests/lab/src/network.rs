//! The two hosts' networks: a namespace each, one replication link between them, and a management link
//! from each to the machine.
//!
//! ```text
//!          machine
//!   10.213.1.1    10.213.2.1          management links: kubectl and clients, never cut
//!       │             │
//!   10.213.1.2    10.213.2.2
//!     drqm-dr1      drqm-dr2          network namespaces
//!   10.0.2.14 ── repl ── 10.0.2.15    replication link: cut and healed; default routes
//! ```
//! The machine does not forward between the management links, and no host has a route over its own but
//! to the machine, so a cut link has no way around. The second octet, 213, moves on if the machine uses it.
//!
//! The namespace of a host is made anew when its power is cut: sockets of the dead host would otherwise
//! live on in the kernel and deliver what they still hold.

mod subnet;

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::command::{QUICK, attempt, run};
use crate::state::Store;
use subnet::{Subnet, in_use};

/// The name of the replication link at both ends.
const REPLICATION: &str = "repl";

/// The name of a host's end of its management link.
const MANAGEMENT: &str = "mgmt";

/// The range of Service addresses, the same in both clusters, as in any two clusters.
pub(crate) const SERVICES: &str = "10.96.0.0/16";

/// A host, which is a node and the whole of a cluster.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// The first data centre.
    Dr1,
    /// The second data centre.
    Dr2,
}

impl Node {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Dr1, Self::Dr2];

    /// The name of the host, of the Kubernetes node, of the cluster and of the kubeconfig context.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr1 => "dr1",
            Self::Dr2 => "dr2",
        }
    }

    /// The address on the replication link, which is the node's InternalIP.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Dr1 => Ipv4Addr::new(10, 0, 2, 14),
            Self::Dr2 => Ipv4Addr::new(10, 0, 2, 15),
        }
    }

    /// The other host.
    pub fn peer(self) -> Self {
        match self {
            Self::Dr1 => Self::Dr2,
            Self::Dr2 => Self::Dr1,
        }
    }

    /// The range of its pods' addresses.
    pub fn pod_subnet(self) -> &'static str {
        match self {
            Self::Dr1 => "10.244.1.0/24",
            Self::Dr2 => "10.244.2.0/24",
        }
    }

    /// Where its end of the replication link waits while its namespace is made anew.
    fn park(self) -> &'static str {
        match self {
            Self::Dr1 => "drqm-dr1-park",
            Self::Dr2 => "drqm-dr2-park",
        }
    }

    /// The name of its network namespace, and of the machine's end of its management link.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Dr1 => "drqm-dr1",
            Self::Dr2 => "drqm-dr2",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The replication link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It carries.
    Up,
    /// It was cut with [`crate::Lab::cut`].
    Cut,
}

/// The addresses of the management links: `10.OCTET.{1,2}.0/30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Management {
    octet: u8,
}

impl Management {
    pub(crate) fn new(octet: u8) -> Self {
        Self { octet }
    }

    /// The first octet from 213 on whose addresses nothing on the machine has or routes.
    pub(crate) fn choose() -> Result<Self> {
        let addresses = ip("-j -4 address show")?;
        let routes = ip("-j -4 route show table all")?;
        let used = in_use(&addresses, &routes)?;
        Self::free(&used).context(
            "every range from 10.213.1.0 to 10.254.2.3 overlaps an address or a route of this machine; \
             the lab needs one for its management links",
        )
    }

    fn free(used: &[Subnet]) -> Option<Self> {
        (213..=254).map(Self::new).find(|candidate| {
            Node::ALL.iter().all(|node| {
                let wanted = Subnet::new(candidate.machine(*node), 30);
                !used.iter().any(|other| other.overlaps(&wanted))
            })
        })
    }

    fn third(node: Node) -> u8 {
        match node {
            Node::Dr1 => 1,
            Node::Dr2 => 2,
        }
    }

    fn machine(self, node: Node) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet, Self::third(node), 1)
    }

    /// The host's address as the machine sees it.
    pub(crate) fn host(self, node: Node) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet, Self::third(node), 2)
    }
}

/// Makes namespaces and links, all down.
pub(crate) fn create(store: &mut Store) -> Result<()> {
    if !store.record.netns_mount && !is_mount_point("/run/netns")? {
        store.update(|record| record.netns_mount = true)?;
    }
    for node in Node::ALL {
        add_namespace(store, node.namespace())?;
    }
    let [a, b] = Node::ALL.map(Node::namespace);
    ip(&format!(
        "link add {REPLICATION} netns {a} type veth peer name {REPLICATION} netns {b}"
    ))?;
    for node in Node::ALL {
        add_management(store, node)?;
    }
    Ok(())
}

/// Switches a host's links on; the replication link only if it is not cut.
pub(crate) fn plug(store: &Store, node: Node) -> Result<()> {
    let (namespace, address) = (node.namespace(), node.address());
    ip(&format!("-n {namespace} link set lo up"))?;
    ip(&format!(
        "-n {namespace} address replace {address}/24 dev {REPLICATION}"
    ))?;
    ip(&format!("-n {namespace} link set {MANAGEMENT} up"))?;
    // A host reaches Service addresses of its own cluster also while the link, and with it the default
    // route, is gone: the kernel wants some route before kube-proxy's rules turn the address into a pod's.
    ip(&format!(
        "-n {namespace} route replace {SERVICES} dev {MANAGEMENT} src {address}"
    ))?;
    if store.record.cut {
        Ok(())
    } else {
        connect(node)
    }
}

/// Switches a host's links off, without a word to anybody.
pub(crate) fn unplug(node: Node) -> Result<()> {
    for link in [REPLICATION, MANAGEMENT] {
        if holds(node.namespace(), link)? {
            ip(&format!("-n {} link set {link} down", node.namespace()))?;
        }
    }
    Ok(())
}

/// Replaces a dead host's namespace by a fresh one with the same links, down.
///
/// It can be called again after it was killed at any point.
pub(crate) fn renew(store: &mut Store, node: Node) -> Result<()> {
    let (namespace, park) = (node.namespace(), node.park());
    // The replication link is moved, not made anew: the other host must not lose its end.
    if !holds(park, REPLICATION)? {
        if !holds(namespace, REPLICATION)? {
            bail!("the replication link is gone; `cargo lab up --fresh` starts the lab anew");
        }
        remove_namespace(store, park)?;
        add_namespace(store, park)?;
        ip(&format!(
            "-n {namespace} link set {REPLICATION} netns {park}"
        ))?;
    }
    remove_link(store, namespace)?;
    remove_namespace(store, namespace)?;
    add_namespace(store, namespace)?;
    add_management(store, node)?;
    ip(&format!(
        "-n {park} link set {REPLICATION} netns {namespace}"
    ))?;
    remove_namespace(store, park)
}

/// Takes the replication link down, at the end of dr1 if it is on.
pub(crate) fn cut(store: &mut Store) -> Result<()> {
    store.update(|record| record.cut = true)?;
    let end = Node::ALL
        .into_iter()
        .find(|node| !store.record.off.contains(node));
    if let Some(node) = end {
        ip(&format!(
            "-n {} link set {REPLICATION} down",
            node.namespace()
        ))?;
    }
    Ok(())
}

/// Brings the replication link back, with the routes that went with it.
pub(crate) fn heal(store: &mut Store) -> Result<()> {
    store.update(|record| record.cut = false)?;
    for node in Node::ALL
        .into_iter()
        .filter(|node| !store.record.off.contains(node))
    {
        connect(node)?;
    }
    Ok(())
}

fn connect(node: Node) -> Result<()> {
    let namespace = node.namespace();
    ip(&format!("-n {namespace} link set {REPLICATION} up"))?;
    ip(&format!(
        "-n {namespace} route replace default via {}",
        node.peer().address()
    ))?;
    Ok(())
}

/// Removes what the record names, and only that.
pub(crate) fn remove(store: &mut Store) -> Result<()> {
    for link in store.record.links.clone() {
        remove_link(store, &link)?;
    }
    for namespace in store.record.namespaces.clone() {
        remove_namespace(store, &namespace)?;
    }
    if store.record.netns_mount && is_mount_point("/run/netns")? {
        // Others may have put theirs there since; then it stays.
        if fs::read_dir("/run/netns")?.next().is_none() {
            // Not umount(8), which would leave /run/mount.
            rustix::mount::unmount("/run/netns", rustix::mount::UnmountFlags::empty())
                .context("/run/netns")?;
            fs::remove_dir("/run/netns").context("/run/netns")?;
        }
    }
    store.update(|record| record.netns_mount = false)
}

fn add_namespace(store: &mut Store, name: &str) -> Result<()> {
    if namespace_file(name).exists() {
        bail!(
            "there is a network namespace {name} already, and this lab has not made it. If it is left \
             over from a lab whose state was deleted, remove it with: ip netns delete {name}"
        );
    }
    store.update(|record| {
        record.namespaces.insert(name.to_owned());
    })?;
    ip(&format!("netns add {name}"))?;
    Ok(())
}

fn remove_namespace(store: &mut Store, name: &str) -> Result<()> {
    if namespace_file(name).exists() {
        ip(&format!("netns delete {name}"))?;
    }
    store.update(|record| {
        record.namespaces.remove(name);
    })
}

fn add_management(store: &mut Store, node: Node) -> Result<()> {
    let (namespace, link) = (node.namespace(), node.namespace());
    let management = store.record.management;
    if link_exists(link) {
        bail!(
            "there is a network link {link} already, and this lab has not made it. If it is left over from \
             a lab whose state was deleted, remove it with: ip link delete {link}"
        );
    }
    store.update(|record| {
        record.links.insert(link.to_owned());
    })?;
    ip(&format!(
        "link add {link} type veth peer name {MANAGEMENT} netns {namespace}"
    ))?;
    // Whatever the machine forwards for others, it forwards nothing that comes in here.
    let forwarding = format!("/proc/sys/net/ipv4/conf/{link}/forwarding");
    fs::write(&forwarding, "0").context(forwarding)?;
    ip(&format!(
        "address add {}/30 dev {link}",
        management.machine(node)
    ))?;
    ip(&format!("link set {link} up"))?;
    ip(&format!(
        "-n {namespace} address add {}/30 dev {MANAGEMENT}",
        management.host(node)
    ))?;
    Ok(())
}

/// The namespace behind a link is destroyed some time after its name is gone; the link is needed again
/// before that.
fn remove_link(store: &mut Store, link: &str) -> Result<()> {
    if link_exists(link) {
        ip(&format!("link delete {link}"))?;
    }
    store.update(|record| {
        record.links.remove(link);
    })
}

/// Whether a namespace exists and has this link.
fn holds(namespace: &str, link: &str) -> Result<bool> {
    if !namespace_file(namespace).exists() {
        return Ok(false);
    }
    let mut show = Command::new("ip");
    show.args(["-n", namespace, "link", "show", "dev", link]);
    Ok(attempt(&mut show, QUICK)?.status.success())
}

/// The file that stands for a namespace.
pub(crate) fn namespace_file(name: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(name)
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn is_mount_point(path: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path)))
}

/// Runs `ip` with words that hold no spaces.
fn ip(words: &str) -> Result<String> {
    run(Command::new("ip").args(words.split(' ')), QUICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn management_avoids_what_the_machine_uses() {
        let used = |texts: &[&str]| -> Vec<Subnet> {
            texts
                .iter()
                .map(|text| text.parse().expect("a subnet"))
                .collect()
        };
        assert_eq!(
            Management::free(&used(&["192.0.2.0/24"])),
            Some(Management::new(213))
        );
        assert_eq!(
            Management::free(&used(&["10.213.2.1", "10.214.0.0/15"])),
            Some(Management::new(216))
        );
        assert_eq!(Management::free(&used(&["10.0.0.0/8"])), None);
    }

    #[test]
    fn the_ends_of_a_management_link_differ_in_one_subnet() {
        let management = Management::new(213);
        assert_eq!(management.machine(Node::Dr2).to_string(), "10.213.2.1");
        assert_eq!(management.host(Node::Dr2).to_string(), "10.213.2.2");
    }
}
