//! The Service of a queue manager, published only while it may serve.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{child_metadata, pod_selector};
use crate::validate::Valid;

/// The Service; `None` if the queue manager has no ports.
#[must_use]
pub fn service(valid: &Valid) -> Option<Service> {
    (!valid.ports.is_empty()).then(|| Service {
        metadata: child_metadata(valid, valid.name.clone()),
        spec: Some(ServiceSpec {
            selector: Some(pod_selector(valid)),
            ports: Some(
                valid
                    .ports
                    .iter()
                    .map(|port| {
                        let mut port = port.clone();
                        // The key of the list in server-side apply: without it a later
                        // change of the port would add a second entry.
                        port.protocol.get_or_insert_with(|| "TCP".to_owned());
                        port
                    })
                    .collect(),
            ),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}
