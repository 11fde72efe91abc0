//! `status`: one queue manager with exact figures, both sides of a pair, or a list.

use std::time::Duration;

use drqm_api::v1alpha1::DrQueueManager;
use jiff::{Timestamp, tz::TimeZone};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    args::{KubeArgs, OutputFormat, StatusArgs},
    cluster::{Cluster, Scope},
    failure::Failure,
    output,
    view::{
        self, Detail,
        side::{Figures, Seen, Side},
    },
};

/// Shows what the arguments ask for.
pub(super) async fn run(kube: &KubeArgs, args: &StatusArgs) -> Result<(), Failure> {
    let text = match &args.name {
        Some(name) => one(kube, args, name).await?,
        None => list(kube, args).await?,
    };
    Ok(output::data(&text)?)
}

async fn one(kube: &KubeArgs, args: &StatusArgs, name: &str) -> Result<String, Failure> {
    let cluster = Cluster::connect(kube).await?;
    let peer = async {
        match &args.peer_context {
            Some(context) => {
                let namespace = args
                    .peer_namespace
                    .clone()
                    .unwrap_or_else(|| cluster.namespace.clone());
                Some(peer_side(kube, context, namespace, name).await)
            }
            None => None,
        }
    };
    let (here, peer) = tokio::join!(side(&cluster, name), peer);
    let mut sides = vec![Side {
        context: cluster.context.clone(),
        seen: Ok(here?),
    }];
    sides.extend(peer);
    let now = Timestamp::now();
    Ok(match args.output {
        None => view::block::render(&sides, now, Detail::Plain),
        Some(OutputFormat::Wide) => view::block::render(&sides, now, Detail::Wide),
        Some(OutputFormat::Rdqm) => view::rdqm::render(&sides, &TimeZone::system()),
        Some(OutputFormat::Json) => output::json(&documents(&sides))?,
        Some(OutputFormat::Yaml) => output::yaml(&documents(&sides))?,
    })
}

/// In a disaster the other cluster does not answer: that is something to show, not a failure.
async fn peer_side(kube: &KubeArgs, context: &str, namespace: String, name: &str) -> Side {
    let found = async {
        let cluster = Cluster::connect_to(kube, Some(context.to_owned()), Some(namespace)).await?;
        side(&cluster, name).await
    };
    let seen = found.await.map_err(|failure| {
        let text = failure.text();
        text.strip_prefix("error: ").unwrap_or(&text).to_owned()
    });
    Side {
        context: context.to_owned(),
        seen,
    }
}

async fn side(cluster: &Cluster, name: &str) -> Result<Seen, Failure> {
    let (object, live) = tokio::join!(
        cluster.queue_manager(name),
        cluster.live(&cluster.namespace, name)
    );
    let object = object?;
    let figures = match live {
        Ok(live) => Figures::Live(Box::new(live)),
        Err(failure) => Figures::Status {
            why: failure.text().trim_start_matches("error: ").to_owned(),
        },
    };
    Ok(Seen::new(object, figures))
}

async fn list(kube: &KubeArgs, args: &StatusArgs) -> Result<String, Failure> {
    let cluster = Cluster::connect(kube).await?;
    let scope = if args.all_namespaces {
        Scope::Cluster
    } else {
        Scope::Namespace
    };
    let objects = cluster.queue_managers(scope).await?;
    let sides = || -> Vec<Side> {
        objects
            .iter()
            .map(|object| listed(&cluster.context, object))
            .collect()
    };
    let table = |detail| match (objects.is_empty(), scope) {
        (true, Scope::Cluster) => {
            output::progress("No DrQueueManagers found.");
            String::new()
        }
        (true, Scope::Namespace) => {
            output::progress(&format!(
                "No DrQueueManagers found in namespace {}.",
                cluster.namespace
            ));
            String::new()
        }
        (false, _) => output::table(&view::list::rows(&objects, scope, detail, Timestamp::now())),
    };
    Ok(match args.output {
        None => table(Detail::Plain),
        Some(OutputFormat::Wide) => table(Detail::Wide),
        Some(OutputFormat::Rdqm) => view::rdqm::render(&sides(), &TimeZone::system()),
        Some(OutputFormat::Json) => output::json(&documents(&sides()))?,
        Some(OutputFormat::Yaml) => output::yaml(&documents(&sides()))?,
    })
}

/// A list shows what status says; asking the operator for each object would not scale.
fn listed(context: &str, object: &DrQueueManager) -> Side {
    let figures = Figures::Status {
        why: "lists show .status".to_owned(),
    };
    Side {
        context: context.to_owned(),
        seen: Ok(Seen::new(object.clone(), figures)),
    }
}

/// What `-o json` and `-o yaml` print: one item per side or object.
fn documents(sides: &[Side]) -> Value {
    let items: Vec<Value> = sides
        .iter()
        .map(|side| match &side.seen {
            Err(error) => json!({"context": side.context, "error": error}),
            Ok(seen) => {
                let mut object = seen.object.clone();
                object.managed_fields_mut().clear();
                json!({
                    "context": side.context,
                    "drQueueManager": object,
                    "live": seen.live,
                    "figuresAgeMillis": seen.figures_age(Timestamp::now()).as_ref().map(Duration::as_millis),
                })
            }
        })
        .collect();
    json!({"items": items})
}
