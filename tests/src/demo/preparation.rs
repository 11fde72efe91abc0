//! Everything before the first step: says what will be done, builds, brings the clusters up.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drqm_lab::{Lab, Node, images, interrupt};
use serde_json::Value;

use super::broker::{NAME, NAMESPACE, PORT};
use super::load::Load;
use super::options::{Contexts, Options};
use super::side::Side;
use super::world::{Images, Measured, World};
use crate::build::{self, Binaries};
use crate::process;
use crate::repository;
use crate::ui::Ui;

/// Minutes of a first build of drqm itself on two cores.
const FIRST_BUILD: u64 = 8;

/// For taking something off a cluster of the user's.
const REMOVAL: Duration = Duration::from_secs(180);

/// Brings the world into being.
///
/// # Errors
/// When something is missing or does not come up; what was started is taken down then.
pub fn prepare(options: &Options, ui: &Ui) -> Result<World> {
    match options.contexts.pair() {
        None => with_lab(options, ui),
        Some(contexts) => with_clusters(options, ui, contexts),
    }
}

/// Takes down what `--keep` left.
///
/// # Errors
/// When something cannot be removed.
pub fn take_down(contexts: &Contexts, ui: &Ui) -> Result<()> {
    match contexts.pair() {
        None => Lab::open(ui.progress().clone())?.down(),
        Some(contexts) => {
            let binaries = build::binaries()?;
            let environment = vec![path(&binaries, &inherited_path())?];
            for context in contexts {
                remove_from(&context, &environment, ui, Crd::Stays)?;
            }
            Ok(())
        }
    }
}

fn with_lab(options: &Options, ui: &Ui) -> Result<World> {
    let mut lab = Lab::open(ui.progress().clone())?;
    if lab.status()?.is_some_and(|status| status.complete) {
        bail!(
            "there is a lab on this machine already (of `--keep`, or of `cargo lab up`): `cargo demo down` \
             takes it down with its data"
        );
    }
    lab.claim("cargo demo")?;
    ui.print("This will, on this machine:");
    ui.print(lab.plan()?.trim_end());
    ui.print(&format!(
        "  - build drqm with Cargo (about {FIRST_BUILD} minutes the first time) and put it into both clusters"
    ));
    lab.prepare()?;
    let binaries = build::binaries()?;
    lab.up(&drqm_lab::Options { fresh: true })?;
    match furnish(&lab, &binaries, options, ui) {
        Ok(furniture) => Ok(furniture.into_world(lab)),
        Err(error) if options.keep => Err(error),
        Err(error) => {
            lab.down()?;
            Err(error)
        }
    }
}

/// A world without its lab.
struct Furniture {
    ui: Ui,
    sides: [Side; 2],
    options: Options,
    images: Images,
    load: Load,
    environment: Vec<(OsString, OsString)>,
}

impl Furniture {
    fn into_world(self, lab: Lab) -> World {
        World {
            ui: self.ui,
            lab: Some(lab),
            sides: self.sides,
            mode: self.options.mode,
            images: self.images,
            load: self.load,
            measured: Measured::default(),
            had_crd: [false; 2],
            environment: self.environment,
        }
    }
}

fn furnish(lab: &Lab, binaries: &Binaries, options: &Options, ui: &Ui) -> Result<Furniture> {
    let toolchain = lab.toolchain()?;
    let item = ui.progress().item("images into both clusters");
    for image in [
        images::operator(lab.cache(), &binaries.operator)?,
        images::replicator(lab.cache(), &binaries.replicator)?,
        images::nats(lab.cache(), &toolchain)?,
    ] {
        lab.load_image(&image, None)?;
    }
    item.done();
    let mut environment = vec![path(binaries, &toolchain.path())?];
    for command in [lab.kubectl(Node::Dr1)?, lab.helm(Node::Dr1)?] {
        let variables = command.get_envs();
        environment
            .extend(variables.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))));
    }
    let mut sides = Vec::new();
    for node in Node::ALL {
        sides.push(Side {
            context: node.name().to_owned(),
            name: NAME.to_owned(),
            host: Some(node),
            node: node.name().to_owned(),
            address: node.address().to_string(),
            broker: format!("{}:{PORT}", lab.management_address(node)?),
            environment: environment.clone(),
        });
    }
    let sides: [Side; 2] = sides
        .try_into()
        .map_err(|_| anyhow::anyhow!("there are two hosts"))?;
    Ok(Furniture {
        ui: ui.clone(),
        load: new_load(&sides)?,
        sides,
        options: options.clone(),
        images: Images {
            operator: images::OPERATOR.to_owned(),
            replicator: images::REPLICATOR.to_owned(),
            broker: images::nats_reference(),
            pull_policy: "Never",
        },
        environment,
    })
}

fn with_clusters(options: &Options, ui: &Ui, contexts: [String; 2]) -> Result<World> {
    let image = |image: &Option<String>, flag: &str| {
        image
            .clone()
            .with_context(|| format!("clusters of your own need {flag} IMAGE, one they can pull"))
    };
    let images = Images {
        operator: image(&options.operator_image, "--operator-image")?,
        replicator: image(&options.replicator_image, "--replicator-image")?,
        broker: options.broker_image.clone(),
        pull_policy: "IfNotPresent",
    };
    ui.print(&format!(
        "This will install drqm into the namespace drqm-system of {} and {}, with its CRD, and a queue manager \
         into a new namespace {NAMESPACE}; the data goes to /var/lib/drqm of the first Ready node of each. \
         Everything is removed at the end, unless --keep is given.",
        contexts[0], contexts[1]
    ));
    let binaries = build::binaries()?;
    let environment = vec![path(&binaries, &inherited_path())?];
    let sides = contexts.map(|context| cluster(context, &environment));
    let [first, second] = sides;
    let mut sides = [first?, second?];
    for (side, broker) in sides.iter_mut().zip([&options.broker_a, &options.broker_b]) {
        side.broker = broker.clone().unwrap_or_else(|| side.broker.clone());
    }
    for side in &sides {
        refuse_to_overwrite(side)?;
    }
    let crd = |side: &Side| side.get(&["crd", "drqueuemanagers.drqm.io"]).is_ok();
    Ok(World {
        ui: ui.clone(),
        lab: None,
        had_crd: [crd(&sides[0]), crd(&sides[1])],
        load: new_load(&sides)?,
        sides,
        mode: options.mode,
        images,
        measured: Measured::default(),
        environment,
    })
}

/// The first Ready node gets the data, so that both sides know each other's address beforehand.
fn cluster(context: String, environment: &[(OsString, OsString)]) -> Result<Side> {
    let mut side = Side {
        context,
        name: NAME.to_owned(),
        host: None,
        node: String::new(),
        address: String::new(),
        broker: String::new(),
        environment: environment.to_vec(),
    };
    let nodes = side.get(&["nodes"])?;
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    };
    let node = nodes["items"].as_array().into_iter().flatten().find(ready);
    let node = node.with_context(|| format!("{} has no Ready node", side.context))?;
    let addresses = node["status"]["addresses"].as_array();
    let internal = addresses
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP");
    let address: IpAddr = internal
        .and_then(|address| address["address"].as_str())
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("a node of {} has no InternalIP", side.context))?;
    side.node = node["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    side.address = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    side.broker = format!("{}:{PORT}", side.address);
    Ok(side)
}

fn refuse_to_overwrite(side: &Side) -> Result<()> {
    for namespace in ["drqm-system", NAMESPACE] {
        let found = side.get(&["namespace", namespace, "--ignore-not-found"]);
        ensure!(
            found.map_or(true, |found| found.is_null()),
            "{} has a namespace {namespace} already: the demonstration makes its own and removes it; \
             `cargo demo down --context-a … --context-b …` removes what an earlier one left",
            side.context
        );
    }
    Ok(())
}

fn new_load(sides: &[Side; 2]) -> Result<Load> {
    let ledger = repository::scratch("demo")?.join("confirmed.log");
    match fs::remove_file(&ledger) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| ledger.display().to_string());
        }
        Ok(()) | Err(_) => {}
    }
    let servers = format!("{},{}", sides[0].broker, sides[1].broker);
    Ok(Load::new(servers, "target/demo/confirmed.log".into()))
}

fn path(binaries: &Binaries, rest: &OsString) -> Result<(OsString, OsString)> {
    let folders =
        std::iter::once(binaries.plugin_folder().to_owned()).chain(std::env::split_paths(rest));
    let path = std::env::join_paths(folders)
        .context("a folder with a colon in its name cannot be on the PATH")?;
    Ok(("PATH".into(), path))
}

fn inherited_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Whether the CRD goes, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crd {
    Goes,
    Stays,
}

/// Removes from clusters of the user's what the demonstration has put there.
pub(super) fn uninstall(world: &World) -> Result<()> {
    for (side, had_crd) in world.sides.iter().zip(world.had_crd) {
        let crd = if had_crd { Crd::Stays } else { Crd::Goes };
        remove_from(&side.context, &world.environment, &world.ui, crd)?;
    }
    Ok(())
}

fn remove_from(
    context: &str,
    environment: &[(OsString, OsString)],
    ui: &Ui,
    crd: Crd,
) -> Result<()> {
    let _shield = interrupt::shield();
    let item = ui
        .progress()
        .item(&format!("removing the demonstration from {context}"));
    let run = |program: &str, arguments: &[&str]| -> Result<process::Finished> {
        let mut command = Command::new(program);
        command.envs(environment.iter().cloned()).args(arguments);
        process::run(&mut command, REMOVAL)
    };
    // Absent is as good as removed, so only the last word of each kind is believed.
    let stop = r#"{"spec":{"deletion":{"whileRunning":"Stop","data":"Delete"}}}"#;
    let place = ["--context", context, "-n", NAMESPACE];
    run(
        "kubectl",
        &[
            &place[..],
            &["patch", "drqm", NAME, "--type", "merge", "-p", stop],
        ]
        .concat(),
    )?;
    run(
        "kubectl",
        &[&place[..], &["delete", "drqm", NAME, "--ignore-not-found"]].concat(),
    )?;
    let namespace = [
        "--context",
        context,
        "delete",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
    ];
    let removed = run("kubectl", &namespace)?;
    ensure!(
        removed.is_success(),
        "namespace {NAMESPACE}: {}",
        removed.complaint()
    );
    run(
        "helm",
        &[
            "uninstall",
            "drqm",
            "-n",
            "drqm-system",
            "--kube-context",
            context,
            "--ignore-not-found",
        ],
    )?;
    let namespace = [
        "--context",
        context,
        "delete",
        "namespace",
        "drqm-system",
        "--ignore-not-found",
    ];
    let removed = run("kubectl", &namespace)?;
    ensure!(
        removed.is_success(),
        "namespace drqm-system: {}",
        removed.complaint()
    );
    if crd == Crd::Goes {
        let crd = [
            "--context",
            context,
            "delete",
            "crd",
            "drqueuemanagers.drqm.io",
            "--ignore-not-found",
        ];
        let removed = run("kubectl", &crd)?;
        ensure!(removed.is_success(), "the CRD: {}", removed.complaint());
    }
    item.done();
    Ok(())
}
