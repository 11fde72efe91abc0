//! The queue manager of the demonstration: NATS JetStream, described as any broker would be.
//!
//! Lives here: the manifests, as a person would write them. Nothing in drqm knows NATS.

use super::options::Mode;
use super::side::Side;

/// Namespace of the queue manager, on both sides.
pub const NAMESPACE: &str = "mq";
/// Name of the resource, on both sides.
pub const NAME: &str = "qmdr";
/// Name of the queue manager.
pub const QUEUE_MANAGER: &str = "QMDR";
/// Port for clients, on the node's address.
pub const PORT: u16 = 4222;

/// The replicated volume: mkfs.xfs makes nothing below 300 MiB.
const SIZE: &str = "512Mi";

/// The broker's configuration. Every message is on the disk before it is confirmed.
#[must_use]
pub fn configuration() -> String {
    format!(
        "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: broker
  namespace: {NAMESPACE}
data:
  nats.conf: |
    listen: 0.0.0.0:{PORT}
    http_port: 8222
    jetstream {{
      store_dir: /data/jetstream
      sync_interval: always
    }}
"
    )
}

/// The first half of the pair. The other one is printed by `kubectl drqm peer-manifest`.
#[must_use]
pub fn primary(here: &Side, there: &Side, mode: Mode, image: &str) -> String {
    let (address, peer, peer_address) = (&here.address, &there.context, &there.address);
    let mode = drqm_api::names::mode(mode.spec());
    format!(
        "\
apiVersion: drqm.io/v1alpha1
kind: DrQueueManager
metadata:
  name: {NAME}
  namespace: {NAMESPACE}
spec:
  role: Primary
  queueManager:
    name: {QUEUE_MANAGER}
    custom:
      template:
        spec:
          terminationGracePeriodSeconds: 10
          containers:
            - name: broker
              image: {image}
              imagePullPolicy: IfNotPresent
              args: [\"-c\", /etc/nats/nats.conf]
              ports:
                - name: client
                  containerPort: {PORT}
                  hostPort: {PORT}
              readinessProbe:
                httpGet:
                  path: /healthz?js-enabled-only=true
                  port: 8222
                periodSeconds: 1
              volumeMounts:
                - name: config
                  mountPath: /etc/nats
          volumes:
            - name: config
              configMap:
                name: broker
      volume:
        mountPath: /data
      ports:
        - name: client
          port: {PORT}
  storage:
    size: {SIZE}
  replication:
    mode: {mode}
    localAddress: {address}
    peer:
      name: {peer}
      addresses: [\"{peer_address}:7001\"]
"
    )
}
