//! Access to one cluster: kubeconfig, and the handful of requests that the commands make.
//!
//! Lives here: loading the configuration, get, list, patch, and the live figures through the API
//! server's service proxy. Every request has a deadline. Does not live here: decisions, printing.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow};
use drqm_api::{live::LiveState, v1alpha1::DrQueueManager};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{GetParams, ListParams, Patch, PatchParams, Request},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{args::KubeArgs, failure::Failure};

/// Field manager of everything the plugin writes.
const FIELD_MANAGER: &str = "kubectl-drqm";

/// Longest wait for live figures: they are an extra, status has what matters.
const LIVE_DEADLINE: Duration = Duration::from_secs(2);

/// Objects per page of a list.
const PAGE: u32 = 500;

/// One cluster, seen through one context.
pub(crate) struct Cluster {
    client: Client,
    /// Name of the context, for people.
    pub(crate) context: String,
    /// The namespace that commands work in.
    pub(crate) namespace: String,
    operator_namespace: String,
    deadline: Duration,
}

impl Cluster {
    /// Reads the kubeconfig and prepares a client; nothing is sent yet.
    pub(crate) async fn connect(args: &KubeArgs) -> anyhow::Result<Self> {
        Self::connect_to(args, args.context.clone(), args.namespace.clone()).await
    }

    /// As `connect`, with another context and namespace.
    pub(crate) async fn connect_to(
        args: &KubeArgs,
        context: Option<String>,
        namespace: Option<String>,
    ) -> anyhow::Result<Self> {
        let (mut config, context) = load(args.kubeconfig.as_deref(), context).await?;
        config.connect_timeout = Some(args.request_timeout);
        config.read_timeout = Some(args.request_timeout);
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("cannot use the kubeconfig")?;
        Ok(Self {
            client,
            context,
            namespace,
            operator_namespace: args.operator_namespace.clone(),
            deadline: args.request_timeout,
        })
    }

    /// One queue manager; `NotFound` names it and its namespace.
    pub(crate) async fn queue_manager(&self, name: &str) -> Result<DrQueueManager, Failure> {
        let api: Api<DrQueueManager> = Api::namespaced(self.client.clone(), &self.namespace);
        match self.bounded(api.get_opt(name)).await? {
            Some(object) => Ok(object),
            None => Err(Failure::absent(name, &self.namespace)),
        }
    }

    /// All queue managers of the namespace, or of the cluster, by namespace and name.
    pub(crate) async fn queue_managers(
        &self,
        scope: Scope,
    ) -> Result<Vec<DrQueueManager>, Failure> {
        let api: Api<DrQueueManager> = match scope {
            Scope::Namespace => Api::namespaced(self.client.clone(), &self.namespace),
            Scope::Cluster => Api::all(self.client.clone()),
        };
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = self.bounded(api.list(&params)).await?;
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        Ok(objects)
    }

    /// A Secret of the namespace.
    pub(crate) async fn secret(&self, name: &str) -> Result<Option<Secret>, Failure> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        self.bounded(api.get_opt(name)).await
    }

    /// Names of the cluster's namespaces.
    pub(crate) async fn namespaces(&self) -> Result<Vec<String>, Failure> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let list = self
            .bounded(api.list_metadata(&ListParams::default().limit(PAGE)))
            .await?;
        Ok(list.items.iter().map(ResourceExt::name_any).collect())
    }

    /// Applies a JSON patch to one queue manager and returns the object as it is then.
    pub(crate) async fn patch(
        &self,
        name: &str,
        operations: serde_json::Value,
    ) -> Result<DrQueueManager, Failure> {
        let api: Api<DrQueueManager> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = serde_json::from_value(operations).context("malformed JSON patch")?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self
            .bounded(api.patch(name, &params, &Patch::Json::<()>(patch)))
            .await
        {
            Err(Failure::NotFound(_)) => Err(Failure::absent(name, &self.namespace)),
            other => other,
        }
    }

    /// The operator's exact figures; the error says why there are none.
    pub(crate) async fn live(&self, namespace: &str, name: &str) -> Result<LiveState, Failure> {
        let path = format!(
            "/api/v1/namespaces/{}/services/drqm-operator:http/proxy/live/{namespace}",
            self.operator_namespace
        );
        let request = Request::new(path)
            .get(name, &GetParams::default())
            .context("malformed name")?;
        within(
            "operator",
            self.deadline.min(LIVE_DEADLINE),
            self.client.request(request),
        )
        .await
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        within("API server", self.deadline, call).await
    }
}

/// Where a list looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The namespace of the command.
    Namespace,
    /// Every namespace.
    Cluster,
}

/// Names of the contexts in the kubeconfig.
pub(crate) fn contexts(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<String>> {
    Ok(read(kubeconfig)?
        .contexts
        .into_iter()
        .map(|context| context.name)
        .collect())
}

fn read(path: Option<&Path>) -> anyhow::Result<Kubeconfig> {
    match path {
        Some(path) => Kubeconfig::read_from(path)
            .with_context(|| format!("cannot read the kubeconfig {}", path.display())),
        None => Kubeconfig::read().context("cannot read the kubeconfig"),
    }
}

/// Kubectl's order: the kubeconfig, and inside a pod its service account.
async fn load(path: Option<&Path>, context: Option<String>) -> anyhow::Result<(Config, String)> {
    let kubeconfig = match read(path) {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            if path.is_none()
                && context.is_none()
                && let Ok(config) = Config::incluster()
            {
                return Ok((config, "in-cluster".to_owned()));
            }
            return Err(error);
        }
    };
    let name = context
        .clone()
        .or_else(|| kubeconfig.current_context.clone())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| anyhow!("the kubeconfig has no current context; name one with --context"))?;
    if !kubeconfig.contexts.iter().any(|entry| entry.name == name) {
        return Err(anyhow!(
            "the kubeconfig has no context {name}; see kubectl config get-contexts"
        ));
    }
    let options = KubeConfigOptions {
        context: Some(name.clone()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .with_context(|| format!("cannot use the context {name}"))?;
    Ok((config, name))
}

async fn within<T>(
    who: &str,
    deadline: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explained(error)),
        Err(_) => Err(Failure::Failed(anyhow!(
            "the {who} did not answer within {}s",
            deadline.as_secs_f32()
        ))),
    }
}

/// The server's own sentence where there is one.
fn explained(error: kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure::Failed(anyhow::Error::new(error).context("cannot talk to the API server"));
    };
    let unknown_resource = status
        .message
        .contains("could not find the requested resource")
        || status.message.contains("404 page not found");
    if status.code == 404 && unknown_resource {
        return Failure::Failed(anyhow!(
            "the cluster does not know DrQueueManagers: drqm is not installed there"
        ));
    }
    if status.code == 404 {
        return Failure::NotFound(status.message);
    }
    let mut sentences = vec![status.message.clone()];
    sentences.extend(
        status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .map(|cause| cause.message.clone())
            .filter(|cause| !cause.is_empty() && !status.message.contains(cause.as_str())),
    );
    Failure::Failed(anyhow!("{}", sentences.join(": ")))
}
