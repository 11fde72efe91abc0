//! One cluster as kubectl shows it: the same tool a person has, with a deadline on each look.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drqm_api::names;
use drqm_api::v1alpha1::{DrQueueManager, DrQueueManagerStatus, DrStatusWord, EffectiveRole};
use drqm_lab::Node;
use drqm_lab::interrupt::Interrupted;
use serde_json::Value;

use super::broker::NAMESPACE;
use crate::process;
use crate::wait::{Look, wait_until};

/// For one kubectl; an API server that is silent must not hold a step.
const LOOK: Duration = Duration::from_secs(15);

/// One of the two clusters.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its kubeconfig context, which is also what the other side calls it.
    pub context: String,
    /// Name of the resource that is looked at.
    pub name: String,
    /// The host, if it is one of the lab's.
    pub host: Option<Node>,
    /// Name of the node that gets the data.
    pub node: String,
    /// Address of that node for the other side.
    pub address: String,
    /// Where clients on this machine reach the broker, as host:port.
    pub broker: String,
    /// Environment of kubectl.
    pub environment: Vec<(OsString, OsString)>,
}

impl Side {
    /// The same side, looking at another resource.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Where the device of the resource appears on the node.
    #[must_use]
    pub fn device(&self) -> String {
        format!("/dev/drqm/{NAMESPACE}_{}", self.name)
    }

    /// kubectl for this cluster.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.envs(self.environment.iter().cloned());
        command
            .args(["--context", &self.context, "--request-timeout", "10s"])
            .args(arguments);
        command
    }

    /// The objects that a `kubectl get … -o json` prints.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get"], arguments, &["-o", "json"]].concat();
        let text = process::output(&mut self.kubectl(&arguments), LOOK)?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// Number of objects that match.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn count(&self, arguments: &[&str]) -> Result<usize> {
        Ok(self.get(arguments)?["items"].as_array().map_or(0, Vec::len))
    }

    /// The queue manager's resource; `None` if it does not exist.
    ///
    /// # Errors
    /// When kubectl fails or the object is not what the API says.
    pub fn resource(&self) -> Result<Option<DrQueueManager>> {
        let arguments = [
            "get",
            "drqueuemanager",
            &self.name,
            "-n",
            NAMESPACE,
            "-o",
            "json",
            "--ignore-not-found",
        ];
        let text = process::output(&mut self.kubectl(&arguments), LOOK)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text)
            .map(Some)
            .context("a DrQueueManager")
    }

    /// The resource's status, which must exist.
    ///
    /// # Errors
    /// When there is none.
    pub fn status(&self) -> Result<DrQueueManagerStatus> {
        let resource = self.resource()?;
        let status = resource.and_then(|resource| resource.status);
        status.with_context(|| format!("{} has no status on {}", self.name, self.context))
    }

    /// Waits until the status has something; statuses from before the last change of the spec do not count.
    /// An API server that does not answer is waited for, too.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_for<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut find: impl FnMut(&DrQueueManagerStatus) -> Option<T>,
    ) -> Result<T> {
        wait_until(&format!("{} on {}", what, self.context), deadline, || {
            let resource = match self.resource() {
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => return Ok(Look::NotYet(format!("{error:#}"))),
                Ok(None) => return Ok(Look::NotYet("the resource does not exist".to_owned())),
                Ok(Some(resource)) => resource,
            };
            let Some(status) = &resource.status else {
                return Ok(Look::NotYet("no status yet".to_owned()));
            };
            let current = status.observed_generation >= resource.metadata.generation;
            Ok(match current.then(|| find(status)).flatten() {
                Some(value) => Look::Holds(value),
                None => Look::NotYet(describe(status)),
            })
        })
    }

    /// Waits until the pair is in step, as this side sees it.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_for_dr(&self, word: DrStatusWord, deadline: Duration) -> Result<()> {
        self.wait_for(
            &format!("DR status {}", names::dr_status(word)),
            deadline,
            |status| (status.dr.status == word).then_some(()),
        )
    }

    /// Waits until the queue manager serves here.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_serving(&self, deadline: Duration) -> Result<()> {
        self.wait_for("the queue manager serves", deadline, |status| {
            (status.serving && status.role == EffectiveRole::Primary).then_some(())
        })
    }

    /// Waits until this side is Secondary.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_secondary(&self, deadline: Duration) -> Result<()> {
        self.wait_for("role Secondary", deadline, |status| {
            (status.role == EffectiveRole::Secondary && !status.serving).then_some(())
        })
    }

    /// Waits until no pod of the queue manager is left.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_no_pod(&self, deadline: Duration) -> Result<()> {
        wait_until(&format!("no pod on {}", self.context), deadline, || {
            Ok(match self.pods()? {
                0 => Look::Holds(()),
                pods => Look::NotYet(format!("{pods} pods")),
            })
        })
    }

    /// Label selector of the queue manager's pod.
    #[must_use]
    pub fn selector(&self) -> String {
        format!("{}={}", drqm_api::labels::QUEUE_MANAGER, self.name)
    }

    /// Pods of the queue manager.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn pods(&self) -> Result<usize> {
        self.count(&["pods", "-n", NAMESPACE, "-l", &self.selector()])
    }

    /// A condition's status and reason; `None` if it is not set.
    ///
    /// # Errors
    /// When there is no status.
    pub fn condition(&self, kind: &str) -> Result<Option<(String, String)>> {
        let conditions = self.status()?.conditions;
        let found = conditions
            .into_iter()
            .find(|condition| condition.type_ == kind);
        Ok(found.map(|condition| (condition.status, condition.reason)))
    }

    /// Fails unless a condition has this status and reason.
    ///
    /// # Errors
    /// When it has another one.
    pub fn expect_condition(&self, kind: &str, status: &str, reason: &str) -> Result<()> {
        let found = self.condition(kind)?;
        let expected = Some((status.to_owned(), reason.to_owned()));
        ensure!(
            found == expected,
            "condition {kind} on {} is {found:?}, not {status}/{reason}",
            self.context
        );
        Ok(())
    }
}

/// A status in one line, for people who wait.
#[must_use]
pub fn describe(status: &DrQueueManagerStatus) -> String {
    let request = status.request.as_ref().map_or_else(String::new, |request| {
        format!(
            ", request {:?} {}: {}",
            request.verdict, request.reason, request.message
        )
    });
    format!(
        "role {:?}, phase {:?}, queue manager {}, DR {}, link {:?}, data {:?}{request}",
        status.role,
        status.phase,
        names::queue_manager_status(status.queue_manager.status),
        names::dr_status(status.dr.status),
        status.dr.link,
        status.dr.local_data,
    )
}
