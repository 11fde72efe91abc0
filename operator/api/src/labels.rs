//! Keys of labels and annotations, the finalizer and the field managers.
//!
//! Lives here: the keys. Does not live here: values computed from objects.

/// `app.kubernetes.io/managed-by`; its value is [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// `app.kubernetes.io/instance`: name of the `DrQueueManager`.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Name of the `DrQueueManager` that an object belongs to.
pub const QUEUE_MANAGER: &str = "drqm.io/queue-manager";
/// Namespace of the `DrQueueManager`, on cluster-scoped objects.
pub const NAMESPACE: &str = "drqm.io/namespace";
/// Label of a namespace with a `DrQueueManager` in it; admission guards such namespaces.
pub const GUARDED_NAMESPACE: &str = "drqm.io/protected";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "drqm";
/// Annotation on a `DrQueueManager`: `"true"` lets the finalizer go without the replicator.
pub const SKIP_DATA_CLEANUP: &str = "drqm.io/skip-data-cleanup";
/// Finalizer of a `DrQueueManager`.
pub const FINALIZER: &str = "drqm.io/cleanup";
/// Field manager of child objects.
pub const FIELD_MANAGER: &str = "drqm-operator";
/// Field manager of status.
pub const STATUS_FIELD_MANAGER: &str = "drqm-operator/status";
/// Label of the replicator's pods, with value [`REPLICATOR`].
pub const NAME: &str = "app.kubernetes.io/name";
/// Name of the replicator's DaemonSet and value of [`NAME`] on its pods.
pub const REPLICATOR: &str = "drqm-replicator";
/// `storageClassName` of volumes and claims; no such object is needed.
pub const STORAGE_CLASS: &str = "drqm";
