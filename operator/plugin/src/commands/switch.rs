//! `promote` and `demote`: write the wish, wait for the answer, report what happens meanwhile.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use drqm_api::{
    names,
    v1alpha1::{DrQueueManager, DrQueueManagerStatus, Role},
};

use crate::{
    args::{KubeArgs, SwitchArgs},
    cluster::Cluster,
    failure::{Failure, sentence},
    output,
    request::{self, Answer, Ask},
    view,
};

/// Time between two looks. The role change itself takes some tenths of a second.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Asks for `wish` and, unless told not to, waits for the answer.
pub(super) async fn run(kube: &KubeArgs, args: &SwitchArgs, wish: Role) -> Result<(), Failure> {
    let started = Instant::now();
    let cluster = Cluster::connect(kube).await?;
    let shown = cluster.queue_manager(&args.name).await?;
    output::progress(&format!("{}: {}", cluster.context, view::one_line(&shown)));
    let asked = send(&cluster, &args.name, &shown, wish).await?;
    let written = asked.metadata.generation != shown.metadata.generation;
    let generation = asked.metadata.generation.unwrap_or_default();
    if !written && request::answer(&asked, wish, generation) == Answer::Done {
        return Ok(output::data(&format!(
            "drqueuemanager.drqm.io/{} unchanged\n",
            args.name
        ))?);
    }
    if args.wait {
        wait(&cluster, args, &asked, wish, started).await
    } else {
        let verb = match wish {
            Role::Primary => "promotion requested",
            Role::Secondary => "demotion requested",
        };
        Ok(output::data(&format!(
            "drqueuemanager.drqm.io/{} {verb}\n",
            args.name
        ))?)
    }
}

/// Writes the wish and returns the object that carries it.
async fn send(
    cluster: &Cluster,
    name: &str,
    shown: &DrQueueManager,
    wish: Role,
) -> Result<DrQueueManager, Failure> {
    let request_id = format!("kubectl-drqm-{}", jiff::Timestamp::now());
    let operations = match request::ask(shown, wish, &request_id) {
        Ask::ChangeRole(operations) => operations,
        Ask::Renew(operations) => {
            output::progress(&format!(
                "spec.role is {} already and was refused; asking again with requestId {request_id}",
                names::role(wish)
            ));
            operations
        }
        Ask::Stands => return Ok(shown.clone()),
    };
    match cluster.patch(name, operations).await {
        Err(Failure::Failed(error)) => {
            // The server words a failed precondition like any other; look what is true now.
            let now = cluster.queue_manager(name).await?;
            if now.metadata.generation == shown.metadata.generation {
                return Err(Failure::Failed(error));
            }
            Err(Failure::Failed(anyhow!(
                "somebody changed {name} meanwhile: spec.role is {} now; look at it and ask again",
                names::role(now.spec.role)
            )))
        }
        other => other,
    }
}

async fn wait(
    cluster: &Cluster,
    args: &SwitchArgs,
    asked: &DrQueueManager,
    wish: Role,
    started: Instant,
) -> Result<(), Failure> {
    let generation = asked.metadata.generation.unwrap_or_default();
    let mut before: Option<DrQueueManagerStatus> = asked.status.clone();
    let mut object = asked.clone();
    let mut unreachable = false;
    loop {
        let waiting_for = match request::answer(&object, wish, generation) {
            Answer::Done => return report(&args.name, &object, wish, started.elapsed()),
            Answer::Refused { reason, message } => {
                return Err(Failure::Refused { reason, message });
            }
            Answer::Overtaken => {
                return Err(Failure::Failed(anyhow!(
                    "somebody set spec.role to {} meanwhile",
                    names::role(object.spec.role)
                )));
            }
            Answer::Pending(text) => text,
        };
        let left = args.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(Failure::TimedOut {
                after: args.timeout,
                last: format!("the request stands; last: {waiting_for}"),
            });
        }
        tokio::time::sleep(LOOK_EVERY.min(left)).await;
        match cluster.queue_manager(&args.name).await {
            Ok(now) => {
                unreachable = false;
                if let Some(after) = &now.status {
                    for line in request::changes(before.as_ref(), after) {
                        output::progress(&format!(
                            "{:>7.1}s  {line}",
                            started.elapsed().as_secs_f32()
                        ));
                    }
                    before = Some(after.clone());
                }
                object = now;
            }
            // An API server that restarts in the middle of a switch is no reason to give up.
            Err(Failure::Failed(error)) => {
                if !unreachable {
                    output::progress(&format!(
                        "{:>7.1}s  {}; still trying",
                        started.elapsed().as_secs_f32(),
                        sentence(&error)
                    ));
                }
                unreachable = true;
            }
            Err(other) => return Err(other),
        }
    }
}

fn report(name: &str, object: &DrQueueManager, wish: Role, took: Duration) -> Result<(), Failure> {
    if let Some(line) = object
        .status
        .as_ref()
        .and_then(view::loss_of_last_transition)
    {
        output::progress(&line);
    }
    output::progress(&format!(
        "{:>7.1}s  {}",
        took.as_secs_f32(),
        view::one_line(object)
    ));
    let verb = match wish {
        Role::Primary => "promoted",
        Role::Secondary => "demoted",
    };
    Ok(output::data(&format!(
        "drqueuemanager.drqm.io/{name} {verb}\n"
    ))?)
}
