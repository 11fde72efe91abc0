//! The world of the demonstration: two sides, the tools a person has, and what was counted so far.
//!
//! Lives here: everything a step does by. Does not live here: what is expected (`steps`), how the world
//! comes to be (`preparation`).

mod measured;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drqm_api::v1alpha1::DrStatusWord;
use drqm_lab::{Lab, Node, interrupt};

use super::broker::NAMESPACE;
use super::load::{Found, Load, Put, intact};
use super::options::Mode;
use super::side::Side;
use crate::process::{self, Background, Finished, Lines};
use crate::repository;
use crate::ui::Ui;
use crate::wait::{Look, wait_until};

pub use measured::{Measured, Switch};

/// For a command that a person types and sees the end of.
const TYPED: Duration = Duration::from_secs(300);

/// A first synchronization, or one after a break, with two clusters on two cores.
pub const SYNCHRONIZATION: Duration = Duration::from_secs(180);

/// For anything that takes seconds when all is well.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Which image is given to the charts, and how it is pulled.
#[derive(Clone, Debug)]
pub struct Images {
    /// The operator's.
    pub operator: String,
    /// The replicator's.
    pub replicator: String,
    /// The broker's.
    pub broker: String,
    /// `Never` where images were put onto the nodes.
    pub pull_policy: &'static str,
}

/// The world of the demonstration.
#[derive(Debug)]
pub struct World {
    /// What a person sees.
    pub ui: Ui,
    /// The test bed; `None` on clusters of the user's own.
    pub lab: Option<Lab>,
    /// Both sides; the first one begins as Primary.
    pub sides: [Side; 2],
    /// How the pair replicates.
    pub mode: Mode,
    /// The images.
    pub images: Images,
    /// Messages put so far.
    pub load: Load,
    /// Times and sizes.
    pub measured: Measured,
    /// The CRD was in the cluster before us, by side.
    pub had_crd: [bool; 2],
    /// Environment of every command: PATH, KUBECONFIG.
    pub environment: Vec<(OsString, OsString)>,
}

impl World {
    /// The side that begins as Primary.
    #[must_use]
    pub fn first(&self) -> &Side {
        &self.sides[0]
    }

    /// The side that begins as Secondary.
    #[must_use]
    pub fn second(&self) -> &Side {
        &self.sides[1]
    }

    /// The lab, for steps that need it.
    ///
    /// # Errors
    /// When there is none; such steps are not run then.
    pub fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("this step needs the lab")
    }

    /// Shows a command as a person would type it, and runs exactly that, showing its output.
    ///
    /// # Errors
    /// When it cannot run or does not end; its exit code is for the caller.
    pub fn attempt(&self, line: &str) -> Result<Finished> {
        self.ui.typed(line);
        process::run_shown(&mut self.shell(line), TYPED, &self.ui)
    }

    /// As [`World::attempt`]; the command must succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn typed(&self, line: &str) -> Result<Finished> {
        let finished = self.attempt(line)?;
        ensure!(finished.is_success(), "`{line}`: {}", finished.complaint());
        Ok(finished)
    }

    /// Patches the resource, as a person would.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn patch(&self, side: &Side, patch: &str) -> Result<()> {
        let (name, context) = (&side.name, &side.context);
        self.typed(&format!(
            "kubectl patch drqm {name} -n {NAMESPACE} --context {context} --type merge -p '{patch}'"
        ))?;
        Ok(())
    }

    /// Asks for a role.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn ask_for(&self, side: &Side, role: &str) -> Result<()> {
        self.patch(side, &format!(r#"{{"spec":{{"role":"{role}"}}}}"#))
    }

    /// Shows both sides' status, in rdqmstatus' words; `from` is the side that is asked first.
    ///
    /// # Errors
    /// When that side does not answer. The other one need not.
    pub fn show_status(&self, from: &Side, other: &Side) -> Result<()> {
        let (here, there) = (&from.context, &other.context);
        let name = &from.name;
        self.typed(&format!(
            "kubectl drqm status {name} -n {NAMESPACE} --context {here} --peer-context {there} -o rdqm \
             --request-timeout 5s"
        ))?;
        Ok(())
    }

    /// Puts messages in the foreground.
    ///
    /// # Errors
    /// When they are not all confirmed.
    pub fn put(&mut self, count: u64) -> Result<Put> {
        let finished = self.typed(&self.load.put_line(&format!("--count {count}")))?;
        self.load.took(&finished)
    }

    /// Starts to put messages beside what happens next.
    ///
    /// # Errors
    /// When the process cannot start.
    pub fn start_putting(&self, limits: &str) -> Result<Background> {
        let line = self.load.put_line(limits);
        self.ui.typed(&format!("{line} &"));
        Background::start(&mut self.shell(&format!("exec {line}")), None)
    }

    /// Waits for the end of such a put.
    ///
    /// # Errors
    /// When it does not end in time, or failed.
    pub fn end_of_putting(&mut self, mut putting: Background, deadline: Duration) -> Result<Put> {
        let finished = putting.wait(deadline)?;
        let finished = finished.with_context(|| {
            format!(
                "drqm-load put: not all messages are confirmed within {} s",
                deadline.as_secs()
            )
        })?;
        let put = self.load.took(&finished)?;
        self.ui.print(finished.stdout.trim_end());
        Ok(put)
    }

    /// Reads everything back: each confirmed number must be there and intact.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<Found> {
        intact(&self.attempt(&self.load.check_line())?)
    }

    /// Waits until both sides are in step, and shows how far a synchronization is.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_normal(&self) -> Result<()> {
        let mut bar = self.ui.percent("synchronization");
        wait_until("DR status Normal on both sides", SYNCHRONIZATION, || {
            let figures = self.live_figures();
            let mut normal = 0;
            let mut seen = Vec::new();
            for side in &self.sides {
                match side.resource() {
                    Ok(Some(resource)) => match &resource.status {
                        Some(status) => {
                            let current =
                                status.observed_generation >= resource.metadata.generation;
                            normal +=
                                usize::from(current && status.dr.status == DrStatusWord::Normal);
                            seen.push(super::side::describe(status));
                        }
                        None => seen.push("no status".to_owned()),
                    },
                    Ok(None) => seen.push("no resource".to_owned()),
                    Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
                    Err(error) => seen.push(format!("{error:#}")),
                }
            }
            if let Some((percent, remark)) = figures {
                bar.show(percent, &remark);
            }
            Ok(if normal == 2 {
                Look::Holds(())
            } else {
                Look::NotYet(seen.join(" | "))
            })
        })
    }

    /// Progress and expected end as both sides tell them, while they tell any.
    fn live_figures(&self) -> Option<(f64, String)> {
        let mut status = self.program("kubectl-drqm");
        let (here, there) = (&self.first().context, &self.second().context);
        status.args([
            "status",
            &self.first().name,
            "-n",
            NAMESPACE,
            "-o",
            "json",
            "--request-timeout",
            "5s",
        ]);
        status.args(["--context", here, "--peer-context", there]);
        // Only a picture for people: without it the wait goes on.
        let finished = process::run(&mut status, PATIENCE).ok()?;
        let document: serde_json::Value = serde_json::from_str(&finished.stdout).ok()?;
        let mut percent = None;
        let mut remarks = Vec::new();
        for item in document["items"].as_array()? {
            let dr = &item["live"]["dr"];
            if let Some(progress) = dr["syncProgressPercent"].as_str() {
                percent = percent.or(progress.parse().ok());
                let end = dr["estimatedCompletionTime"]
                    .as_str()
                    .unwrap_or("end not known yet");
                remarks.push(format!(
                    "{}: {progress} %, {end}",
                    item["context"].as_str()?
                ));
            }
        }
        Some((percent?, remarks.join("; ")))
    }

    /// Fails if there is a device on a side that must not have one.
    ///
    /// # Errors
    /// When there is one.
    pub fn expect_no_device(&self, side: &Side) -> Result<()> {
        let Some(host) = side.host else { return Ok(()) };
        let link = side.device();
        let finished = process::run(
            &mut self.lab()?.exec_in(host, ["test", "-L", &link])?,
            PATIENCE,
        )?;
        ensure!(
            finished.code() == Some(1),
            "{link} is there on {}",
            side.context
        );
        self.ui.print(&format!(
            "no device on {}: {link} does not exist",
            side.context
        ));
        Ok(())
    }

    /// Watches for the moment in which the queue manager's pod is Ready.
    ///
    /// # Errors
    /// When kubectl cannot start.
    pub fn watch_pod(&self, side: &Side, selector: &str) -> Result<Lines> {
        let ready = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
        self.watch(side, &["pods", "-l", selector], ready)
    }

    /// Watches what the copy of a side is worth, in the words of its status.
    ///
    /// # Errors
    /// When kubectl cannot start.
    pub fn watch_copy(&self, side: &Side) -> Result<Lines> {
        self.watch(side, &["drqm", &side.name], "{.status.dr.localData}")
    }

    /// One field of objects, a line for each change.
    fn watch(&self, side: &Side, objects: &[&str], field: &str) -> Result<Lines> {
        let mut watch = Command::new("kubectl");
        watch.envs(self.environment.iter().cloned());
        watch.args([
            "--context",
            &side.context,
            "get",
            "-n",
            NAMESPACE,
            "--watch",
        ]);
        watch.args(objects);
        watch.args(["-o", &format!(r#"jsonpath={field}{{"\n"}}"#)]);
        Lines::start(&mut watch)
    }

    /// Waits for that moment; what the watch said before `since` does not count.
    ///
    /// # Errors
    /// See [`wait_until`].
    pub fn wait_until_pod_ready(&self, watch: &Lines, since: Instant) -> Result<Duration> {
        let mut seen = 0;
        wait_until("the pod is Ready", PATIENCE, || {
            for (time, line) in watch.arrived() {
                seen += 1;
                if line == "True" && time > since {
                    return Ok(Look::Holds(time - since));
                }
            }
            Ok(Look::NotYet(format!(
                "{seen} changes of the pod, none of them Ready"
            )))
        })
    }

    /// A watch on the queue manager's own pod.
    ///
    /// # Errors
    /// When kubectl cannot start.
    pub fn watch_queue_manager(&self, side: &Side) -> Result<Lines> {
        self.watch_pod(side, &side.selector())
    }

    /// A command inside a host that must succeed; returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn in_host(&self, host: Node, argv: &[&str]) -> Result<String> {
        process::output(
            &mut self.lab()?.exec_in(host, argv.iter().copied())?,
            PATIENCE,
        )
    }

    /// A program of ours with the environment of every command.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .envs(self.environment.iter().cloned())
            .current_dir(repository::root());
        command
    }

    fn shell(&self, line: &str) -> Command {
        let mut shell = self.program("bash");
        shell.args(["-o", "pipefail", "-c", line]);
        shell
    }

    /// Says how to go on with what `--keep` leaves.
    pub fn tell_what_is_kept(&self) {
        let config = self.lab.as_ref().and_then(|lab| lab.kubeconfig().ok());
        let config: Option<PathBuf> = config;
        self.ui.print("\nThe clusters stay up:");
        if let Some(path) = config {
            self.ui
                .print(&format!("  export KUBECONFIG={}", path.display()));
        }
        for side in &self.sides {
            self.ui
                .print(&format!("  kubectl --context {} get drqm -A", side.context));
        }
        self.ui.print("  cargo demo down     takes them down");
    }

    /// Takes down what the demonstration has made.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clean_up(&self) -> Result<()> {
        let _shield = interrupt::shield();
        match &self.lab {
            Some(lab) => lab.down(),
            None => super::preparation::uninstall(self),
        }
    }
}
