//! The files that a host is started from: configuration of its daemons, and the two scripts.
//!
//! Written anew at each power on, so that they always match the program; nothing is decided here.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Host;
use crate::images::PAUSE;
use crate::network::{SERVICES, namespace_file};

/// Folders of the machine over which a host mounts its own, and the host's folder for each.
pub(super) const PRIVATE: [(&str, &str); 7] = [
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/containerd", "containerd"),
    ("/var/lib/cni", "cni-state"),
    ("/var/lib/drqm", "drqm"),
    ("/etc/cni", "cni"),
    ("/var/log/pods", "pod-logs"),
    ("/var/log/containers", "container-logs"),
];

/// Kernel settings of the whole machine that kubelet would set: it finds them as it wants them, in files
/// of the host, and leaves the machine's alone.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Writes everything; returns the boot ID that kubelet will report.
pub(super) fn write(host: &Host<'_>) -> Result<String> {
    let folder = &host.folder;
    for name in PRIVATE
        .map(|(_, own)| own)
        .into_iter()
        .chain(["etcd", "logs", "config", "settings"])
    {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    for (name, value) in SETTINGS {
        fs::write(
            folder.join("settings").join(name.replace('/', ".")),
            format!("{value}\n"),
        )?;
    }
    // As after a real boot: kubelet sees a new one and reports the node as rebooted.
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("a random id")?;
    fs::write(folder.join("settings/boot_id"), &boot_id)?;

    let config = folder.join("config");
    for (user, file) in [
        ("admin", "admin"),
        ("kubelet", "kubelet"),
        ("controller-manager", "controller-manager"),
        ("scheduler", "scheduler"),
        ("proxy", "proxy"),
    ] {
        put(
            &config.join(format!("{file}.kubeconfig")),
            &kubeconfig(host, user),
        )?;
    }
    put(&config.join("kubelet.json"), &kubelet(host))?;
    put(&config.join("audit.json"), &audit_policy())?;
    fs::write(config.join("containerd.toml"), containerd(host))?;
    fs::create_dir_all(folder.join("cni/net.d"))?;
    put(
        &folder.join("cni/net.d/10-ptp.conflist"),
        &pod_network(host),
    )?;
    fs::write(folder.join("power-on.sh"), power_on(host))?;
    fs::write(folder.join("init.sh"), init(host))?;
    Ok(boot_id.trim().to_owned())
}

fn put(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?).with_context(|| path.display().to_string())
}

/// For programs on the host itself; they reach the API server whatever the links do.
fn kubeconfig(host: &Host<'_>, user: &str) -> Value {
    let (name, pki) = (host.node.name(), host.pki());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": pki.join("ca.crt")}}],
        "users": [{"name": user, "user": {
            "client-certificate": pki.join(format!("{user}.crt")),
            "client-key": pki.join(format!("{user}.key"))}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    })
}

/// Who wrote what, of everybody in a pod; nothing of Kubernetes' own daemons, and no reads.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system", "system:nodes"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"],
             "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            {"level": "None"},
        ],
    })
}

fn kubelet(host: &Host<'_>) -> Value {
    let pki = host.pki();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.join("ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.join("kubelet.crt"), "tlsPrivateKeyFile": pki.join("kubelet.key"),
        // The machine may have cgroup v1, and has no systemd of the host's own.
        "failCgroupV1": false, "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", host.node.namespace()),
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // The disk is the machine's, and its fullness no affair of a test; images cannot be pulled again.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDomain": "cluster.local", "resolvConf": "",
    })
}

fn containerd(host: &Host<'_>) -> String {
    let cni = host.toolchain.cni().display();
    // restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing no sandbox starts without it ("runc create
    // failed: can't get final child's PID from pipe: EOF"). NRI would listen on a socket nobody needs.
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = "/usr/sbin/runc"
    SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{cni}"]
  conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"#
    )
}

fn pod_network(host: &Host<'_>) -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        // The other host routes answers back, so pods keep their addresses on the way.
        {"type": "ptp", "ipMasq": false, "ipam": {
            "type": "host-local", "dataDir": "/run/cni",
            "ranges": [[{"subnet": host.node.pod_subnet()}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// The outer script: says who it is, then becomes the parent of the host's first process.
fn power_on(host: &Host<'_>) -> String {
    let folder = host.folder.display();
    let namespace = namespace_file(host.node.namespace());
    // Not `ip netns exec`: it makes a mount namespace per command, and mounts of kubelet would not reach
    // containerd. The 20th field after the name is the start time.
    format!(
        r#"#!/bin/bash
# Generated. The identity is on disk before anything else exists: a host can always be found again.
set -eu
read -r stat < /proc/$$/stat
set -- ${{stat##*)}}
read -r boot < /proc/sys/kernel/random/boot_id
echo "$$ ${{20}} $boot" > {folder}/host.pid.new
mv {folder}/host.pid.new {folder}/host.pid
exec nsenter --net={namespace} \
  unshare --mount --pid --uts --ipc --fork --kill-child --mount-proc bash {folder}/init.sh
"#,
        namespace = namespace.display(),
    )
}

/// The host's first process: mounts, then daemons. When it is killed, the kernel kills all of them.
///
/// `mount -n`: without it, mount(8) makes a folder in the machine's `/run`.
fn init(host: &Host<'_>) -> String {
    let mut script = String::from("#!/bin/bash\n# Generated.\nset -eu\n");
    let folder = host.folder.display();
    let line = |script: &mut String, text: std::fmt::Arguments<'_>| {
        script.write_fmt(text).expect("writing to a String");
        script.push('\n');
    };
    line(
        &mut script,
        format_args!("export PATH={}", host.toolchain.path().to_string_lossy()),
    );
    line(
        &mut script,
        format_args!("unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy"),
    );
    line(
        &mut script,
        format_args!(
            "cd {folder}\nhostname {}\nmount -n --make-rshared /",
            host.node
        ),
    );
    line(
        &mut script,
        format_args!("share() {{ mount -n \"$@\"; mount -n --make-rshared \"${{@: -1}}\"; }}"),
    );
    for (target, own) in PRIVATE {
        line(
            &mut script,
            format_args!("share --bind {folder}/{own} {target}"),
        );
    }
    // /run is empty after a boot. /dev is the machine's: devices are; links to them are not.
    line(
        &mut script,
        format_args!(
            "share -t tmpfs -o mode=755 tmpfs /run\nmkdir -p /run/netns /run/drqm /run/lock"
        ),
    );
    line(
        &mut script,
        format_args!("share -t tmpfs -o mode=755 tmpfs /dev/drqm"),
    );
    for (name, _) in SETTINGS {
        let own = name.replace('/', ".");
        line(
            &mut script,
            format_args!("mount -n --bind {folder}/settings/{own} /proc/sys/{name}"),
        );
    }
    line(
        &mut script,
        format_args!("mount -n --bind {folder}/settings/boot_id /proc/sys/kernel/random/boot_id"),
    );
    line(
        &mut script,
        format_args!("echo 1 > /proc/sys/net/ipv4/ip_forward"),
    );
    script.push_str(
        r#"keep() {
  name=$1; shift
  while :; do "$@" >> "logs/$name.log" 2>&1 || :; echo "$name ended and is started again" >> "logs/$name.log"; sleep 1; done &
}
"#,
    );
    for daemon in first_daemons(host) {
        line(&mut script, format_args!("keep {daemon}"));
    }
    // The others would only fail, wait and take processor time from the API server until it listens.
    line(
        &mut script,
        format_args!("until (: < /dev/tcp/127.0.0.1/6443) 2> /dev/null; do sleep 0.1; done"),
    );
    for daemon in second_daemons(host) {
        line(&mut script, format_args!("keep {daemon}"));
    }
    // Bash collects orphans while it waits, as a first process must.
    script.push_str("while :; do wait; sleep 1; done\n");
    script
}

fn first_daemons(host: &Host<'_>) -> Vec<String> {
    let (node, address) = (host.node, host.node.address());
    vec![
        // Without fsync: a power cut here loses processes, not the machine's page cache.
        format!(
            "etcd etcd --name {node} --data-dir etcd --unsafe-no-fsync \
             --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
             --listen-peer-urls http://127.0.0.1:2380"
        ),
        format!(
            "apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
             --service-cluster-ip-range {SERVICES} --advertise-address {address} --secure-port 6443 \
             --client-ca-file pki/ca.crt --tls-cert-file pki/apiserver.crt \
             --tls-private-key-file pki/apiserver.key --kubelet-client-certificate pki/admin.crt \
             --kubelet-client-key pki/admin.key --kubelet-preferred-address-types InternalIP \
             --service-account-issuer https://kubernetes.default.svc \
             --service-account-key-file pki/sa.pub --service-account-signing-key-file pki/sa.key \
             --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
             --audit-policy-file config/audit.json --audit-log-path logs/audit.log \
             --allow-privileged=true"
        ),
        "containerd containerd -c config/containerd.toml".to_owned(),
    ]
}

fn second_daemons(host: &Host<'_>) -> Vec<String> {
    let (node, address, pods) = (host.node, host.node.address(), host.node.pod_subnet());
    vec![
        format!(
            "kubelet kubelet --config config/kubelet.json --kubeconfig config/kubelet.kubeconfig \
             --hostname-override {node} --node-ip {address}"
        ),
        // It starts by asking for fifty service accounts and tokens, at 20 requests a second by default.
        format!(
            "controller-manager kube-controller-manager --kubeconfig config/controller-manager.kubeconfig \
             --service-account-private-key-file pki/sa.key --root-ca-file pki/ca.crt \
             --use-service-account-credentials --allocate-node-cidrs --cluster-cidr {pods} \
             --leader-elect=false --cluster-signing-cert-file pki/ca.crt \
             --cluster-signing-key-file pki/ca.key --kube-api-qps 300 --kube-api-burst 500"
        ),
        "scheduler kube-scheduler --kubeconfig config/scheduler.kubeconfig --leader-elect=false"
            .to_owned(),
        // Its limits on connection tracking are settings of the machine, hence the zeroes.
        format!(
            "proxy kube-proxy --kubeconfig config/proxy.kubeconfig --hostname-override {node} \
             --proxy-mode iptables --cluster-cidr {pods} --conntrack-max-per-core 0 \
             --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0"
        ),
    ]
}
