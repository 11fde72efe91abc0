//! The replicator's DaemonSet, from the operator's configuration.
//!
//! Lives here: the object and the part of the configuration that shapes it. Does not live here: reading
//! the configuration file, the Secrets that are mounted.
//!
//! Privileged, in the host's network and process namespaces, with the host's /dev: it makes block
//! devices that kubelet mounts. It gets no service account token; it never talks to Kubernetes.

use std::collections::BTreeMap;

use drqm_api::labels;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, HTTPGetAction, HostPathVolumeSource, ObjectFieldSelector,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SecretVolumeSource, SecurityContext,
    Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

/// Secret with the replicator's half of the control channel's keys.
pub const CONTROL_SERVER_SECRET: &str = "drqm-control-server";

const STATE_DIR: &str = "/var/lib/drqm";
const CONTROL_TLS_DIR: &str = "/etc/drqm/control";

/// The part of the operator's configuration that shapes the replicator.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicatorConfig {
    /// Image.
    pub image: String,
    /// When to pull it.
    #[serde(default)]
    pub image_pull_policy: Option<String>,
    /// Nodes it runs on; empty: all.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints it tolerates.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Requests and limits.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Where volumes are.
    #[serde(default)]
    pub pool: PoolConfig,
    /// Ports.
    #[serde(default)]
    pub ports: PortsConfig,
    /// Log filter.
    #[serde(default = "log_level")]
    pub log_level: String,
    /// Priority class.
    #[serde(default)]
    pub priority_class_name: Option<String>,
}

/// Where volumes are.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolConfig {
    /// Kind of pool.
    pub kind: PoolKind,
    /// Directory on the node, for kind `file`.
    #[serde(default = "pool_path")]
    pub path: String,
    /// How much of it may be used. Default: what the file system has.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// When a volume takes the room that it may need.
    #[serde(default)]
    pub allocation: Allocation,
}

/// When a volume takes the room that it may need.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// From the beginning.
    #[default]
    Full,
    /// As it is written.
    Sparse,
}

/// Kinds of pools.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Files in a directory.
    #[default]
    File,
}

/// Ports on the node's address.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortsConfig {
    /// Peer streams of all pairs.
    pub replication: u16,
    /// The operator's control channel.
    pub control: u16,
    /// Health and metrics.
    pub metrics: u16,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            kind: PoolKind::File,
            path: pool_path(),
            capacity_bytes: None,
            allocation: Allocation::Full,
        }
    }
}

impl Default for PortsConfig {
    fn default() -> Self {
        Self {
            replication: 7001,
            control: 7441,
            metrics: 9441,
        }
    }
}

fn pool_path() -> String {
    format!("{STATE_DIR}/pool")
}

fn log_level() -> String {
    "info".to_owned()
}

/// The DaemonSet. `secrets` changes when the mounted Secret does, so that pods take new keys;
/// `owner` is the operator's Deployment, so that uninstalling takes the DaemonSet with it.
#[must_use]
pub fn daemon_set(
    namespace: &str,
    config: &ReplicatorConfig,
    secrets: &str,
    owner: Option<OwnerReference>,
) -> DaemonSet {
    let labels: BTreeMap<String, String> = [
        (labels::NAME, labels::REPLICATOR),
        (labels::MANAGED_BY, labels::MANAGER),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    DaemonSet {
        metadata: ObjectMeta {
            name: Some(labels::REPLICATOR.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.clone()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(labels.clone()),
                match_expressions: None,
            },
            // One node after the other: both halves of no pair live in one cluster, but several
            // primaries may.
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    max_surge: None,
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(
                        [("drqm.io/control-keys".to_owned(), secrets.to_owned())].into(),
                    ),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(config)),
            },
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

fn pod(config: &ReplicatorConfig) -> PodSpec {
    let mut volumes = vec![
        host_path("dev", "/dev", "Directory"),
        host_path("state", STATE_DIR, "DirectoryOrCreate"),
        Volume {
            name: "control".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(CONTROL_SERVER_SECRET.to_owned()),
                default_mode: Some(0o400),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if pool_is_elsewhere(config) {
        volumes.push(host_path("pool", &config.pool.path, "DirectoryOrCreate"));
    }
    PodSpec {
        containers: vec![container(config)],
        volumes: Some(volumes),
        host_network: Some(true),
        host_pid: Some(true),
        dns_policy: Some("ClusterFirstWithHostNet".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: (!config.node_selector.is_empty()).then(|| config.node_selector.clone()),
        tolerations: (!config.tolerations.is_empty()).then(|| config.tolerations.clone()),
        priority_class_name: config.priority_class_name.clone(),
        termination_grace_period_seconds: Some(30),
        ..PodSpec::default()
    }
}

fn container(config: &ReplicatorConfig) -> Container {
    let mut mounts = vec![
        mount("dev", "/dev"),
        mount("state", STATE_DIR),
        VolumeMount {
            read_only: Some(true),
            ..mount("control", CONTROL_TLS_DIR)
        },
    ];
    if pool_is_elsewhere(config) {
        mounts.push(mount("pool", &config.pool.path));
    }
    Container {
        name: "replicator".to_owned(),
        image: Some(config.image.clone()),
        image_pull_policy: config.image_pull_policy.clone(),
        args: Some(arguments(config)),
        env: Some(vec![
            field("NODE_NAME", "spec.nodeName"),
            field("HOST_IP", "status.hostIP"),
            EnvVar {
                name: "RUST_LOG".to_owned(),
                value: Some(config.log_level.clone()),
                value_from: None,
            },
        ]),
        resources: Some(config.resources.clone()),
        security_context: Some(SecurityContext {
            privileged: Some(true),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        readiness_probe: Some(probe("/readyz", config.ports.metrics, 1, 3)),
        liveness_probe: Some(probe("/healthz", config.ports.metrics, 10, 6)),
        ..Container::default()
    }
}

fn arguments(config: &ReplicatorConfig) -> Vec<String> {
    let mut arguments = vec![
        "--node-name=$(NODE_NAME)".to_owned(),
        format!("--state-dir={STATE_DIR}"),
        format!("--pool-dir={}", config.pool.path),
        format!("--replication-listen=0.0.0.0:{}", config.ports.replication),
        format!("--control-listen=$(HOST_IP):{}", config.ports.control),
        format!("--metrics-listen=$(HOST_IP):{}", config.ports.metrics),
        format!("--control-tls-dir={CONTROL_TLS_DIR}"),
    ];
    if let Some(capacity) = config.pool.capacity_bytes {
        arguments.push(format!("--pool-capacity={capacity}"));
    }
    if config.pool.allocation == Allocation::Sparse {
        arguments.push("--pool-allocation=sparse".to_owned());
    }
    arguments
}

fn pool_is_elsewhere(config: &ReplicatorConfig) -> bool {
    !std::path::Path::new(&config.pool.path).starts_with(STATE_DIR)
}

fn host_path(name: &str, path: &str, type_: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: path.to_owned(),
            type_: Some(type_.to_owned()),
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn probe(path: &str, port: u16, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
