//! What is saved when an expectation does not hold: logs, events and objects of that moment.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use drqm_lab::{Cache, interrupt};

use super::broker::NAMESPACE;
use super::world::World;
use crate::process;

/// For one kubectl; a dead cluster has nothing to say.
const LOOK: Duration = Duration::from_secs(15);

/// What is asked of each cluster: the file's name and kubectl's arguments.
const QUESTIONS: [(&str, &[&str]); 9] = [
    (
        "operator.log",
        &[
            "logs",
            "-n",
            "drqm-system",
            "deployment/drqm-operator",
            "--tail",
            "20000",
        ],
    ),
    (
        "operator-before.log",
        &[
            "logs",
            "-n",
            "drqm-system",
            "deployment/drqm-operator",
            "--previous",
        ],
    ),
    (
        "replicator.log",
        &[
            "logs",
            "-n",
            "drqm-system",
            "daemonset/drqm-replicator",
            "--tail",
            "20000",
        ],
    ),
    (
        "replicator-before.log",
        &[
            "logs",
            "-n",
            "drqm-system",
            "daemonset/drqm-replicator",
            "--previous",
        ],
    ),
    (
        "broker.log",
        &[
            "logs",
            "-n",
            NAMESPACE,
            "statefulset/qmdr",
            "--tail",
            "2000",
        ],
    ),
    (
        "events.txt",
        &["get", "events", "-A", "--sort-by", ".lastTimestamp"],
    ),
    (
        "drqueuemanagers.yaml",
        &["get", "drqueuemanagers", "-A", "-o", "yaml"],
    ),
    ("objects.txt", &["get", "all,pv,pvc", "-A", "-o", "wide"]),
    ("pods.txt", &["describe", "pods", "-A"]),
];

/// Saves everything and returns the folder.
///
/// # Errors
/// When the folder cannot be written. What a cluster does not answer is noted in its file.
pub fn save(world: &World) -> Result<PathBuf> {
    let _shield = interrupt::shield();
    let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let folder = Cache::open()?.path("failures").join(stamp);
    for side in &world.sides {
        let folder = folder.join(&side.context);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for (file, question) in QUESTIONS {
            let text = match process::run(&mut side.kubectl(question), LOOK) {
                Ok(finished) if finished.is_success() => finished.stdout,
                Ok(finished) => finished.complaint(),
                Err(error) => format!("{error:#}"),
            };
            fs::write(folder.join(file), text).with_context(|| file.to_owned())?;
        }
    }
    Ok(folder)
}
