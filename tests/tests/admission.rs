//! Manifests and bad input against a real API server: what is shipped is accepted, what is wrong is
//! refused with a message that names the field. Needs root; `cargo verify api` runs it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drqm_lab::{Lab, Node, Options, Progress};
use drqm_tests::process;
use drqm_tests::repository;
use serde_json::{Value, json};

const LOOK: Duration = Duration::from_secs(60);

const CRD: &str = "crds/drqueuemanagers.drqm.io.yaml";

/// A lab that is taken down whatever happens.
struct Cluster(Lab);

impl Cluster {
    fn start() -> Result<Self> {
        let mut lab = Lab::open(Progress::auto())?;
        let there = lab.status()?.is_some_and(|status| status.complete);
        ensure!(
            !there,
            "there is a lab on this machine already; `cargo lab down` takes it down"
        );
        lab.claim("cargo verify api")?;
        lab.up(&Options { fresh: true })?;
        Ok(Self(lab))
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<process::Finished> {
        let mut kubectl = self.0.kubectl(Node::Dr1)?;
        process::run(
            kubectl.current_dir(repository::root()).args(arguments),
            LOOK,
        )
    }

    fn succeed(&self, arguments: &[&str]) -> Result<()> {
        let finished = self.kubectl(arguments)?;
        ensure!(
            finished.is_success(),
            "kubectl {arguments:?}: {}",
            finished.complaint()
        );
        Ok(())
    }

    /// What the API server says to an object: nothing, or why not.
    fn judge(&self, verb: &[&str], object: &Value) -> Result<Option<String>> {
        let mut kubectl: Command = self.0.kubectl(Node::Dr1)?;
        kubectl.args(verb).args(["-f", "-"]);
        let mut child = kubectl
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl")?;
        child
            .stdin
            .take()
            .context("piped above")?
            .write_all(object.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((!output.status.success()).then_some(words))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("the lab is not taken down: {error:#}");
        }
    }
}

fn good() -> Value {
    json!({
        "apiVersion": "drqm.io/v1alpha1", "kind": "DrQueueManager",
        "metadata": {"name": "good", "namespace": "default"},
        "spec": {
            "role": "Primary",
            "queueManager": {"name": "GOOD.1", "custom": {
                "template": {"spec": {"containers": [{"name": "broker", "image": "example.com/broker:1"}]}},
                "volume": {"mountPath": "/data"}, "ports": [{"port": 1414}]}},
            "replication": {"localAddress": "10.0.2.14", "peer": {"name": "dr2", "addresses": ["10.0.2.15:7001"]}},
        },
    })
}

/// Pointer, value, and a part of the message that names field and way out.
fn bad_at_creation() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/metadata/name", json!("n".repeat(41)), "40 characters"),
        ("/metadata/name", json!("a.b"), "DNS label"),
        ("/spec/role", json!("Leader"), "spec.role"),
        (
            "/spec/queueManager/name",
            json!("not valid!"),
            "queueManager.name",
        ),
        (
            "/spec/queueManager/name",
            json!("N".repeat(49)),
            "queueManager.name",
        ),
        (
            "/spec/queueManager",
            json!({"name": "QM"}),
            "queueManager.custom",
        ),
        (
            "/spec/queueManager/custom/volume/mountPath",
            json!("data"),
            "mountPath",
        ),
        (
            "/spec/queueManager/custom/volume/mountPath",
            json!("/"),
            "mountPath",
        ),
        ("/spec/storage", json!({"size": "0"}), "storage.size"),
        ("/spec/storage", json!({"size": "1000000001"}), "4096-byte"),
        ("/spec/storage", json!({"size": "299Mi"}), "300Mi"),
        (
            "/spec/storage",
            json!({"size": "8Mi", "fsType": "ext4"}),
            "16Mi",
        ),
        (
            "/spec/storage",
            json!({"size": "3Gi", "fsType": "btrfs"}),
            "fsType",
        ),
        ("/spec/storage", json!({"size": "lots"}), "storage.size"),
        (
            "/spec/replication/peer/addresses",
            json!(["10.0.2.15"]),
            "host:port",
        ),
        (
            "/spec/replication/peer/addresses",
            json!(["10.0.2.15:70010"]),
            "port",
        ),
        (
            "/spec/replication/peer/addresses",
            json!(["10.0.2.999:7001"]),
            "IPv4",
        ),
        (
            "/spec/replication/peer/addresses",
            json!(["[::zz]:7001"]),
            "addresses",
        ),
        ("/spec/replication/peer/addresses", json!([]), "addresses"),
        (
            "/spec/replication/peer/addresses",
            json!(["10.0.2.14:7001"]),
            "this side itself",
        ),
        (
            "/spec/replication/localAddress",
            json!("dr1"),
            "localAddress",
        ),
        ("/spec/replication/port", json!(9441), "reserved"),
        ("/spec/replication/port", json!(1414), "reserved"),
        ("/spec/replication/port", json!(80), "spec.replication.port"),
        (
            "/spec/replication/mode",
            json!("Eventually"),
            "spec.replication.mode",
        ),
        (
            "/spec/partition",
            json!({"resolution": "KeepLocal", "epoch": "latest"}),
            "partition.epoch",
        ),
        (
            "/spec/replication/limits",
            json!({"resyncRateBytesPerSecond": 4096}),
            "resyncRateBytesPerSecond",
        ),
        (
            "/spec/replication/verify",
            json!({"requestId": ""}),
            "verify.requestId",
        ),
        (
            "/spec/replication/verify",
            json!({"repair": true}),
            "verify.requestId",
        ),
        (
            "/spec/replication/onPeerLoss",
            json!("SuspendIO"),
            "needs mode Synchronous or FlushSynchronous",
        ),
        (
            "/spec/replication/onPeerLoss",
            json!("Panic"),
            "spec.replication.onPeerLoss",
        ),
        (
            "/spec/replication",
            json!({"mode": "Synchronous", "onPeerLoss": "SuspendIO"}),
            "needs replication.peer",
        ),
        (
            "/spec/replication",
            json!({"mode": "Synchronous", "onCongestion": "PullAhead"}),
            "needs mode Asynchronous",
        ),
        (
            "/spec/replication/onCongestion",
            json!("Drop"),
            "spec.replication.onCongestion",
        ),
    ]
}

fn bad_at_change() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/spec/queueManager/name", json!("OTHER"), "cannot change"),
        ("/spec/bootstrap", json!("New"), "bootstrap cannot change"),
        ("/spec/storage", json!({"size": "2Gi"}), "cannot shrink"),
        (
            "/spec/storage",
            json!({"size": "3Gi", "fsType": "ext4"}),
            "fsType cannot change",
        ),
    ]
}

fn with(pointer: &str, value: Value) -> Value {
    let mut object = good();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = object
        .pointer_mut(parent)
        .expect("the pointer's parent is there");
    parent[key] = value;
    object
}

fn expect(verdict: Option<String>, part: &str, what: &str, breaches: &mut Vec<String>) {
    match verdict {
        Some(words) if words.contains(part) => {}
        Some(words) => breaches.push(format!("{what}: no {part:?} in: {words}")),
        None => breaches.push(format!("{what}: accepted")),
    }
}

#[test]
fn the_api_server_takes_what_is_right_and_refuses_what_is_wrong() {
    let cluster = Cluster::start().expect("the lab comes up");
    check(&cluster).expect("the API server answers as it must");
}

fn check(cluster: &Cluster) -> Result<()> {
    cluster.succeed(&["create", "namespace", "drqm-system"])?;
    cluster.succeed(&["apply", "--server-side", "-f", CRD])?;
    cluster.succeed(&[
        "wait",
        "--for",
        "condition=Established",
        "crd/drqueuemanagers.drqm.io",
        "--timeout",
        "30s",
    ])?;
    cluster.succeed(&[
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "deploy/install.yaml",
    ])?;

    let mut breaches = Vec::new();
    let dry = ["create", "--dry-run=server", "--validate=strict"];
    if let Some(words) = cluster.judge(&dry, &good())? {
        bail!("the good object is refused: {words}");
    }
    for (pointer, value, part) in bad_at_creation() {
        let what = format!("{pointer} = {value}");
        expect(
            cluster.judge(&dry, &with(pointer, value))?,
            part,
            &what,
            &mut breaches,
        );
    }
    // Nothing of drqm runs here, so the object is only an object.
    cluster.judge(&["create"], &good())?;
    for (pointer, value, part) in bad_at_change() {
        let what = format!("{pointer} becomes {value}");
        let verdict = cluster.judge(&["replace", "--dry-run=server"], &with(pointer, value))?;
        expect(verdict, part, &what, &mut breaches);
    }
    ensure!(
        breaches.is_empty(),
        "{} of the bad inputs:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
    Ok(())
}
