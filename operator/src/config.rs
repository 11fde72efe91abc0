//! The operator's configuration file.
//!
//! Lives here: reading and checking `operator.yaml`; the only use of `serde_yaml` in this binary
//! (unmaintained upstream: trusted input only, and this file comes with the installation).
//! Does not live here: the DaemonSet made from it (`drqm_core::desired::replicator`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use drqm_core::desired::replicator::{PortsConfig, ReplicatorConfig};
use serde::Deserialize;

/// Everything the installation decides about the operator.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Namespace of the operator and of its replicators.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// How replicators are deployed.
    pub replicator: ReplicatorConfig,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what is expected.
    #[error("failed to understand the configuration {path}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// A value is missing or makes no sense.
    #[error("configuration {path}: {field} {complaint}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// What is wrong, and what would be right.
        complaint: &'static str,
    },
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = serde_yaml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })?;
        // Chart values give an empty text for "none".
        config
            .replicator
            .priority_class_name
            .take_if(|name| name.is_empty());
        config
            .replicator
            .image_pull_policy
            .take_if(|policy| policy.is_empty());
        let complain = |field, complaint| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                field,
                complaint,
            })
        };
        let replicator = &config.replicator;
        if config.namespace.is_empty() {
            return complain(
                "namespace",
                "is empty; give the namespace of the installation",
            );
        }
        if replicator.image.trim().is_empty() {
            return complain(
                "replicator.image",
                "is empty; give the image of drqm-replicator",
            );
        }
        if !Path::new(&replicator.pool.path).is_absolute() {
            return complain(
                "replicator.pool.path",
                "is relative; give a directory from the root",
            );
        }
        if replicator.pool.capacity_bytes == Some(0) {
            return complain(
                "replicator.pool.capacityBytes",
                "is 0; leave it out for no bound",
            );
        }
        let PortsConfig {
            replication,
            control,
            metrics,
        } = replicator.ports;
        if replication < 1024 || control < 1024 || metrics < 1024 {
            return complain(
                "replicator.ports",
                "has a port below 1024; choose 1024 to 65535",
            );
        }
        if replication == control || control == metrics || replication == metrics {
            return complain("replicator.ports", "names one port twice; they must differ");
        }
        Ok(config)
    }
}

fn default_namespace() -> String {
    "drqm-system".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("operator.yaml"))
    }

    #[test]
    fn the_smallest_file_gets_defaults() {
        let config = parse("replicator: {image: drqm-replicator:dev}").expect("valid");
        assert_eq!(config.namespace, "drqm-system");
        assert_eq!(config.replicator.ports.replication, 7001);
        assert_eq!(config.replicator.pool.path, "/var/lib/drqm/pool");
    }

    #[test]
    fn a_full_file_is_read() {
        let config = parse(
            "namespace: drqm\nreplicator:\n  image: i\n  imagePullPolicy: Never\n  nodeSelector: {a: b}\n  \
             tolerations: [{operator: Exists}]\n  resources: {limits: {memory: 1Gi}}\n  \
             pool: {kind: file, path: /data, capacityBytes: 1024}\n  \
             ports: {replication: 7002, control: 7442, metrics: 9442}\n  logLevel: debug\n  \
             priorityClassName: p\n",
        )
        .expect("valid");
        assert_eq!(config.replicator.pool.capacity_bytes, Some(1024));
        assert_eq!(config.replicator.tolerations.len(), 1);
    }

    #[test]
    fn bad_values_name_the_field() {
        for (text, field) in [
            ("replicator: {image: ''}", "replicator.image"),
            ("namespace: ''\nreplicator: {image: i}", "namespace"),
            (
                "replicator: {image: i, pool: {kind: file, path: data}}",
                "replicator.pool.path",
            ),
            (
                "replicator: {image: i, pool: {kind: file, capacityBytes: 0}}",
                "replicator.pool.capacityBytes",
            ),
            (
                "replicator: {image: i, ports: {control: 80}}",
                "replicator.ports",
            ),
            (
                "replicator: {image: i, ports: {control: 7001}}",
                "replicator.ports",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        assert!(matches!(
            parse("replicator: {image: i, imagee: j}"),
            Err(ConfigError::Parse { .. })
        ));
    }
}
