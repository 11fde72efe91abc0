//! The queue manager is deleted: refused while it runs, then done.

use anyhow::{Result, ensure};
use drqm_api::v1alpha1::QueueManagerStatusWord;

use crate::demo::broker::{NAME, NAMESPACE};
use crate::demo::table::Outcome;
use crate::demo::world::{PATIENCE, World};

/// What the plugin ends with when there is no such queue manager.
const NOT_FOUND: i32 = 5;

pub(super) fn delete(world: &mut World) -> Result<Outcome> {
    let (first, second) = (world.first().clone(), world.second().clone());
    let delete =
        |context: &str| format!("kubectl delete drqm {NAME} -n {NAMESPACE} --context {context}");
    let refused = world.attempt(&delete(&first.context))?;
    ensure!(!refused.is_success(), "a running queue manager was deleted");
    let resource = first.resource()?;
    let unharmed = resource.is_some_and(|found| found.metadata.deletion_timestamp.is_none());
    ensure!(
        unharmed && first.status()?.serving,
        "the refused deletion did something"
    );

    world.patch(&first, r#"{"spec":{"queueManager":{"running":false}}}"#)?;
    first.wait_for("the queue manager is stopped", PATIENCE, |status| {
        let stopped = status.queue_manager.status == QueueManagerStatusWord::EndedNormally;
        (stopped && !status.serving).then_some(())
    })?;
    first.wait_until_no_pod(PATIENCE)?;
    for side in [&first, &second] {
        world.typed(&delete(&side.context))?;
        ensure!(
            side.resource()?.is_none(),
            "it still exists on {}",
            side.context
        );
        let children = side.count(&[
            "statefulsets,services,persistentvolumeclaims",
            "-n",
            NAMESPACE,
            "-l",
            &side.selector(),
        ])?;
        ensure!(
            children == 0,
            "{children} objects of it are left on {}",
            side.context
        );
        let status = world.attempt(&format!(
            "kubectl drqm status {NAME} -n {NAMESPACE} --context {}",
            side.context
        ))?;
        ensure!(
            status.code() == Some(NOT_FOUND),
            "the plugin ended with {:?}",
            status.code()
        );
        world.expect_no_device(side)?;
    }
    Ok(Outcome::remark("refused while running, then deleted"))
}
