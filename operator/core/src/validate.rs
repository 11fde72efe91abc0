//! Spec and facts to a value without optionals, or an error that names the field and the way out.
//!
//! Lives here: what CEL in the CRD cannot say. Does not live here: reading anything.

use std::net::{IpAddr, SocketAddr};

use drqm_api::peer_manifest::secret_name;
use drqm_api::v1alpha1::{
    BeforeResync, Bootstrap, CustomQueueManager, DeletionSpec, DrQueueManager, DrQueueManagerSpec,
    FsType, Mode, OnCongestion, OnPeerLoss, PartitionSpec, PeerSpec, PromotionSpec, Role,
    StartSpec, VerifySpec,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ServicePort};
use kube::ResourceExt;

use crate::observed::Observed;

/// A spec that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Role asked for.
    pub role: Role,
    /// `spec.promotion.requestId`; empty: none.
    pub request_id: String,
    /// Name of the queue manager.
    pub queue_manager_name: String,
    /// Whether it shall run.
    pub running: bool,
    /// The pod.
    pub template: PodTemplateSpec,
    /// Where the volume is mounted.
    pub mount_path: String,
    /// Name of the container that gets it.
    pub container: String,
    /// Ports of the Service.
    pub ports: Vec<ServicePort>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes that both sides have agreed on, as far as that is known.
    pub agreed_bytes: u64,
    /// File system.
    pub fs_type: FsType,
    /// Replication mode.
    pub mode: Mode,
    /// What is done without the peer.
    pub on_peer_loss: OnPeerLoss,
    /// What is done with a slow peer.
    pub on_congestion: OnCongestion,
    /// Bytes per second of a synchronization from here.
    pub resync_rate: Option<u64>,
    /// A verification that is still to be made.
    pub verify: Option<VerifySpec>,
    /// Port.
    pub port: u16,
    /// Address to bind and dial from.
    pub local_address: Option<String>,
    /// The other half.
    pub peer: Option<PeerSpec>,
    /// Secret of the pair.
    pub pair_secret: String,
    /// Whether the operator makes the keys (`false`: `replication.tls.secretName`).
    pub own_keys: bool,
    /// How a Primary with an empty disk begins.
    pub bootstrap: Bootstrap,
    /// What a promotion may do.
    pub promotion: PromotionSpec,
    /// What a starting Primary does.
    pub start: StartSpec,
    /// A person's decision after a partition.
    pub partition: Option<PartitionSpec>,
    /// What is kept before a synchronization.
    pub before_resync: BeforeResync,
    /// What deletion does.
    pub deletion: DeletionSpec,
}

/// Why a spec cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ValidationError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it, and the way out.
    pub message: String,
}

impl ValidationError {
    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        drqm_api::conditions::reason::INVALID_SPEC
    }
}

/// Name of the volume that is added to the pod.
pub const VOLUME_NAME: &str = "drqm-data";

/// Sector size that sizes are multiples of.
const SECTOR: u64 = 4096;

/// Checks the spec of `seen`.
///
/// # Errors
/// Names the first field that cannot be carried out, and the way out.
pub fn validate(seen: &Observed) -> Result<Valid, ValidationError> {
    let object = &seen.object;
    let spec = &object.spec;
    let uid = object
        .uid()
        .ok_or_else(|| invalid("metadata.uid", "is missing: the object was never stored"))?;
    let size_bytes = size_bytes(spec)?;
    let custom = spec.queue_manager.custom.as_ref().ok_or_else(|| {
        invalid(
            "spec.queueManager",
            "needs exactly one kind: set spec.queueManager.custom",
        )
    })?;
    let template = template(custom)?;
    let container = container(custom, &template)?;
    check_addresses(spec)?;
    Ok(Valid {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid,
        generation: object.metadata.generation.unwrap_or_default(),
        role: spec.role,
        request_id: spec.promotion.request_id.clone().unwrap_or_default(),
        queue_manager_name: spec.queue_manager.name.clone(),
        running: spec.queue_manager.running,
        template,
        mount_path: custom.volume.mount_path.clone(),
        container,
        ports: custom.ports.clone(),
        size_bytes,
        agreed_bytes: agreed_bytes(seen).unwrap_or(size_bytes),
        fs_type: spec.storage.fs_type,
        mode: spec.replication.mode,
        on_peer_loss: spec.replication.on_peer_loss,
        on_congestion: on_congestion(spec),
        resync_rate: spec.replication.limits.resync_rate_bytes_per_second,
        verify: verify(object),
        port: spec.replication.port,
        local_address: spec.replication.local_address.clone(),
        peer: spec.replication.peer.clone(),
        pair_secret: secret_name(object),
        own_keys: spec.replication.tls.is_none(),
        bootstrap: spec.bootstrap,
        promotion: spec.promotion.clone(),
        start: spec.start.clone(),
        partition: spec.partition.clone(),
        before_resync: spec.snapshots.before_resync,
        deletion: spec.deletion.clone(),
    })
}

fn on_congestion(spec: &DrQueueManagerSpec) -> OnCongestion {
    let by_mode = match spec.replication.mode {
        Mode::Asynchronous => OnCongestion::PullAhead,
        Mode::FlushSynchronous | Mode::Synchronous => OnCongestion::Block,
    };
    spec.replication.on_congestion.unwrap_or(by_mode)
}

/// The size that the volume has: while it has not grown, its users have no more.
fn agreed_bytes(seen: &Observed) -> Option<u64> {
    let told = seen.replicator.volume().map(|volume| volume.size_bytes);
    let remembered = || {
        let volume = seen.object.status.as_ref()?.volume.as_ref()?;
        u64::try_from(volume.size_bytes?).ok()
    };
    told.or_else(remembered)
}

/// What is asked for and has not ended: status remembers what has.
fn verify(object: &DrQueueManager) -> Option<VerifySpec> {
    let last = object.status.as_ref().and_then(|s| s.verification.as_ref());
    let done = |order: &&VerifySpec| {
        last.is_some_and(|v| v.request_id == order.request_id && v.finished_at.is_some())
    };
    let order = object.spec.replication.verify.as_ref();
    order.filter(|order| !done(order)).cloned()
}

fn invalid(field: &'static str, message: impl Into<String>) -> ValidationError {
    ValidationError {
        field,
        message: message.into(),
    }
}

fn size_bytes(spec: &DrQueueManagerSpec) -> Result<u64, ValidationError> {
    const FIELD: &str = "spec.storage.size";
    let text = &spec.storage.size.0;
    let bytes = drqm_api::size::bytes(&spec.storage.size)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| {
            invalid(
                FIELD,
                format!("{text:?} is not a size in whole bytes; use for example 3Gi"),
            )
        })?;
    let least: u64 = match spec.storage.fs_type {
        FsType::Xfs => 300 << 20,
        FsType::Ext4 => 16 << 20,
    };
    if bytes % SECTOR != 0 {
        return Err(invalid(
            FIELD,
            format!("{text} is not a multiple of {SECTOR} bytes; use a binary suffix as in 3Gi"),
        ));
    }
    if bytes < least {
        return Err(invalid(
            FIELD,
            format!(
                "{text} is less than the {}Mi that its file system needs",
                least >> 20
            ),
        ));
    }
    Ok(bytes)
}

fn template(custom: &CustomQueueManager) -> Result<PodTemplateSpec, ValidationError> {
    const FIELD: &str = "spec.queueManager.custom.template";
    let template: PodTemplateSpec = serde_json::from_value(custom.template.clone())
        .map_err(|error| invalid(FIELD, format!("is not a pod template: {error}")))?;
    let pod = template.spec.as_ref().ok_or_else(|| {
        invalid(
            FIELD,
            "has no spec; give it a spec with at least one container",
        )
    })?;
    if pod.containers.is_empty() {
        return Err(invalid(FIELD, "has no containers; give it at least one"));
    }
    if pod
        .volumes
        .iter()
        .flatten()
        .any(|volume| volume.name == VOLUME_NAME)
    {
        return Err(invalid(
            FIELD,
            format!("has a volume {VOLUME_NAME:?}, the name of the replicated one; rename it"),
        ));
    }
    Ok(template)
}

fn container(
    custom: &CustomQueueManager,
    template: &PodTemplateSpec,
) -> Result<String, ValidationError> {
    const FIELD: &str = "spec.queueManager.custom.volume";
    let containers = template
        .spec
        .as_ref()
        .map_or(&[][..], |pod| &pod.containers);
    let chosen = match &custom.volume.container {
        Some(name) => containers.iter().find(|container| container.name == *name),
        None => containers.first(),
    };
    let chosen = chosen.ok_or_else(|| {
        let names: Vec<&str> = containers
            .iter()
            .map(|container| &*container.name)
            .collect();
        invalid(
            FIELD,
            format!(
                "container is none of the template's containers ({})",
                names.join(", ")
            ),
        )
    })?;
    let path = custom.volume.mount_path.trim_end_matches('/');
    if !path.starts_with('/') {
        return Err(invalid(
            FIELD,
            "mountPath must be an absolute path below /, as in /data",
        ));
    }
    let taken = chosen
        .volume_mounts
        .iter()
        .flatten()
        .any(|mount| mount.mount_path.trim_end_matches('/') == path);
    if taken {
        return Err(invalid(
            FIELD,
            format!("mountPath {path} already has a mount in the template; remove that one"),
        ));
    }
    Ok(chosen.name.clone())
}

fn check_addresses(spec: &DrQueueManagerSpec) -> Result<(), ValidationError> {
    let replication = &spec.replication;
    let local = match &replication.local_address {
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            invalid(
                "spec.replication.localAddress",
                format!("{text:?} is not an IP address; give one of this cluster's node"),
            )
        })?),
        None => None,
    };
    let own = local.map(|address| SocketAddr::new(address, replication.port));
    for address in replication.peer.iter().flat_map(|peer| &peer.addresses) {
        const FIELD: &str = "spec.replication.peer.addresses";
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(invalid(
                FIELD,
                format!("{address:?} has no port; give host:port, as in 10.0.2.15:7001"),
            ));
        }
        if own.is_some() && address.parse().ok() == own {
            return Err(invalid(
                FIELD,
                format!("{address} is this side itself; give the other cluster's address"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use drqm_api::v1alpha1::{Role, TlsSpec};
    use serde_json::json;

    use super::*;
    use crate::observed::LinkState;
    use crate::testing::{observed, volume};

    fn seen() -> Observed {
        let volume = volume(
            Role::Primary,
            LinkState::Down,
            drqm_api::v1alpha1::DataWord::Empty,
            None,
        );
        observed(Role::Primary, volume)
    }

    fn custom(seen: &mut Observed) -> &mut CustomQueueManager {
        seen.object
            .spec
            .queue_manager
            .custom
            .as_mut()
            .expect("set by the builder")
    }

    #[test]
    fn a_slow_peer_is_left_behind_only_where_nobody_waits_for_it() {
        let congestion = |mode, chosen| {
            let mut seen = seen();
            seen.object.spec.replication.mode = mode;
            seen.object.spec.replication.on_congestion = chosen;
            validate(&seen).expect("valid").on_congestion
        };
        let (block, ahead) = (OnCongestion::Block, OnCongestion::PullAhead);
        assert_eq!(congestion(Mode::Asynchronous, None), ahead);
        assert_eq!(congestion(Mode::Asynchronous, Some(block)), block);
        assert_eq!(congestion(Mode::FlushSynchronous, None), block);
        assert_eq!(congestion(Mode::Synchronous, None), block);
    }

    #[test]
    fn a_good_spec() {
        let valid = validate(&seen()).expect("valid");
        assert_eq!(valid.size_bytes, 3 << 30);
        assert_eq!(valid.container, "broker");
        assert_eq!(valid.pair_secret, "qmdr-pair");
        assert!(valid.own_keys);
        let mut seen = seen();
        seen.object.spec.replication.tls = Some(TlsSpec {
            secret_name: "mine".to_owned(),
        });
        let valid = validate(&seen).expect("valid");
        assert_eq!(
            (valid.pair_secret.as_str(), valid.own_keys),
            ("mine", false)
        );
    }

    #[test]
    fn bad_specs_name_the_field() {
        type Change = fn(&mut Observed);
        let cases: [(&str, Change); 12] = [
            ("spec.storage.size", |s| {
                s.object.spec.storage.size.0 = "0".into()
            }),
            ("spec.storage.size", |s| {
                s.object.spec.storage.size.0 = "3GiB".into()
            }),
            ("spec.storage.size", |s| {
                s.object.spec.storage.size.0 = "299Mi".into()
            }),
            ("spec.storage.size", |s| {
                s.object.spec.storage.size.0 = "1000000001".into()
            }),
            ("spec.storage.size", |s| {
                s.object.spec.storage.size.0 = "8Ei".into()
            }),
            ("spec.queueManager", |s| {
                s.object.spec.queue_manager.custom = None
            }),
            ("spec.queueManager.custom.template", |s| {
                custom(s).template = json!({ "spec": { "containers": 5 } });
            }),
            ("spec.queueManager.custom.template", |s| {
                custom(s).template = json!({})
            }),
            ("spec.queueManager.custom.volume", |s| {
                custom(s).volume.container = Some("other".into());
            }),
            ("spec.queueManager.custom.volume", |s| {
                custom(s).template["spec"]["containers"][0]["volumeMounts"] =
                    json!([{ "name": "x", "mountPath": "/data/" }]);
            }),
            ("spec.replication.localAddress", |s| {
                s.object.spec.replication.local_address = Some("node1".into());
            }),
            ("spec.replication.peer.addresses", |s| {
                let peer = s.object.spec.replication.peer.as_mut().expect("set");
                peer.addresses = vec!["10.0.2.14:7001".into()];
            }),
        ];
        for (index, (field, change)) in cases.into_iter().enumerate() {
            let mut seen = seen();
            change(&mut seen);
            let error = validate(&seen).expect_err(field);
            assert_eq!(error.field, field, "case {index}: {error}");
        }
    }
}
