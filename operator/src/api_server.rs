//! Calls to the API server: each with a deadline, each failure named by what it was for.
//!
//! Lives here: read, apply, delete; the memory that keeps an idle pair free of writes.
//! Does not live here: what is applied (`drqm_core::desired`), in which order (`controller::apply`).

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use crate::metrics::{Metrics, WriteOutcome};

/// Field manager of objects.
pub const FIELD_MANAGER: &str = "drqm-operator";
/// Field manager of the status. Another one, because an apply of the object must not give up the
/// fields of the status.
pub const STATUS_FIELD_MANAGER: &str = "drqm-operator/status";

/// The API server answers within milliseconds, or is in trouble.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a call was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading one object.
    Read,
    /// Reading several.
    List,
    /// Creating, where an existing object must win.
    Create,
    /// Server-side apply.
    Apply,
    /// Deleting.
    Delete,
    /// Writing a status.
    PatchStatus,
    /// Writing a label.
    Label,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Create => "create",
            Self::Apply => "apply",
            Self::Delete => "delete",
            Self::PatchStatus => "write the status of",
            Self::Label => "label",
        }
    }
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[error("failed to {} {object}", operation.as_str())]
pub struct ApiError {
    /// What it was for.
    pub operation: Operation,
    /// Kind and name.
    pub object: String,
    /// Why.
    #[source]
    pub source: ApiErrorSource,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiErrorSource {
    /// The API server refused, or the connection failed.
    #[error("the API server says no, or cannot be reached")]
    Client(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer within {0:?}")]
    Deadline(Duration),
    /// The object cannot be written as JSON.
    #[error("the object cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

impl ApiError {
    /// The status code of the API server's answer.
    pub fn code(&self) -> Option<u16> {
        let ApiErrorSource::Client(error) = &self.source else {
            return None;
        };
        if let kube::Error::Api(status) = error.as_ref() {
            Some(status.code)
        } else {
            None
        }
    }

    /// Whether the same call can succeed without a change by somebody: not when forbidden, invalid
    /// or in conflict with another owner.
    pub fn is_transient(&self) -> bool {
        !matches!(self.code(), Some(400 | 403 | 409 | 422))
    }
}

/// Kind and name of an object.
fn described<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

/// Runs a call with a deadline.
pub async fn call<K, R>(
    operation: Operation,
    name: &str,
    request: impl Future<Output = Result<R, kube::Error>>,
) -> Result<R, ApiError>
where
    K: Resource<DynamicType = ()>,
{
    let source = match timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => ApiErrorSource::Client(Box::new(error)),
        Err(_) => ApiErrorSource::Deadline(DEADLINE),
    };
    Err(ApiError {
        operation,
        object: described::<K>(name),
        source,
    })
}

/// Reads an object; None when there is none.
pub async fn read<K>(api: &Api<K>, name: &str) -> Result<Option<K>, ApiError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    call::<K, _>(Operation::Read, name, api.get_opt(name)).await
}

/// Deletes an object; one that is gone already is success. `uid` keeps a successor of the same
/// name alive.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: Option<&str>) -> Result<(), ApiError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let parameters = DeleteParams {
        preconditions: uid.map(|uid| Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    match call::<K, _>(Operation::Delete, name, api.delete(name, &parameters)).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Remembers what was applied and what came of it, so that nothing is written twice.
#[derive(Default)]
pub struct AppliedObjects {
    by_owner: Mutex<HashMap<String, HashMap<String, Fingerprint>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    desired: u64,
    live: u64,
}

impl AppliedObjects {
    /// Applies `desired` unless the live object is as the last apply of the same content left it.
    /// `owner` is the uid under which `forget` drops the memory.
    ///
    /// *Guarantees*: an object that somebody changed or deleted is applied again.
    pub async fn apply<K>(
        &self,
        metrics: &Metrics,
        api: &Api<K>,
        owner: &str,
        name: &str,
        desired: &impl Serialize,
    ) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let encode = |error| ApiError {
            operation: Operation::Apply,
            object: described::<K>(name),
            source: ApiErrorSource::Encode(error),
        };
        let desired = serde_json::to_value(desired).map_err(encode)?;
        let key = format!("{}/{name}", K::kind(&()));
        let wanted = hash_of(&desired);
        if let Some(known) = self.remembered(owner, &key)
            && known.desired == wanted
            && let Some(live) = read(api, name).await?
            && known.live == essence(&live).map_err(encode)?
        {
            return Ok(live);
        }
        // Forced: the set of fields is minimal and these objects are ours. Without it one
        // `kubectl edit` of a child would stop the operator for good.
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let answer = call::<K, _>(
            Operation::Apply,
            name,
            api.patch(name, &parameters, &Patch::Apply(&desired)),
        )
        .await;
        metrics.apply(if answer.is_ok() {
            WriteOutcome::Ok
        } else {
            WriteOutcome::Failed
        });
        let live = answer?;
        let fingerprint = Fingerprint {
            desired: wanted,
            live: essence(&live).map_err(encode)?,
        };
        self.lock()
            .entry(owner.to_owned())
            .or_default()
            .insert(key, fingerprint);
        tracing::debug!(kind = %K::kind(&()), name, "applied");
        Ok(live)
    }

    /// Forgets everything of an owner.
    pub fn forget(&self, owner: &str) {
        self.lock().remove(owner);
    }

    fn remembered(&self, owner: &str, key: &str) -> Option<Fingerprint> {
        self.lock().get(owner)?.get(key).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, HashMap<String, Fingerprint>>> {
        // A map of hashes is valid whatever a panicking holder did.
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash of what a person could have changed: not the status, and not what each write changes.
fn essence(live: &impl Serialize) -> Result<u64, serde_json::Error> {
    let mut value = serde_json::to_value(live)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for volatile in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(volatile);
            }
        }
    }
    Ok(hash_of(&value))
}

/// JSON objects are ordered maps here, so equal content gives equal text.
fn hash_of(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn only_what_a_person_could_change_counts() {
        let live = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"replicas": 1}, "status": {"ready": 0}});
        let mut later = live.clone();
        later["metadata"]["resourceVersion"] = json!("2");
        later["status"]["ready"] = json!(1);
        let essence = |value: &serde_json::Value| super::essence(value).expect("JSON");
        assert_eq!(essence(&live), essence(&later));
        later["spec"]["replicas"] = json!(0);
        assert_ne!(essence(&live), essence(&later));
    }
}
