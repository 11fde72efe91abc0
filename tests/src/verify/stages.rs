//! The stages of `cargo verify`: what each one runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use drqm_lab::{Cache, Progress, Toolchain, packages};

use super::Log;
use crate::build::cargo;
use crate::process;
use crate::repository;
use crate::simulate;

/// For anything that compiles, from nothing, on a slow machine.
const COMPILE: Duration = Duration::from_secs(3_600);

/// For programs that only read files.
const QUICK: Duration = Duration::from_secs(120);

/// Clusters, twice, with everything built before.
const CLUSTERS: Duration = Duration::from_secs(2_400);

/// The version that `.deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// Runs the fuzz targets.
const CARGO_FUZZ: &str = "0.13.2";

/// What reads what others wrote.
const FUZZ_TARGETS: [&str; 4] = ["frame", "metadata", "nbd", "step"];

/// Each, for so long.
const FUZZ_SECONDS: u64 = 60;

/// A stage.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it checks.
    pub what: &'static str,
    /// Checks it.
    pub run: fn(&Log) -> Result<()>,
}

/// All stages, cheap ones first.
pub const ALL: [Stage; 13] = [
    Stage {
        name: "fmt",
        what: "rustfmt has nothing to change",
        run: fmt,
    },
    Stage {
        name: "tidy",
        what: "rules of the repository: sizes, headers, dependencies, waits",
        run: tidy,
    },
    Stage {
        name: "gen",
        what: "generated files match their sources",
        run: generated,
    },
    Stage {
        name: "clippy",
        what: "no warning in any target",
        run: clippy,
    },
    Stage {
        name: "unit",
        what: "every test that needs no cluster",
        run: unit,
    },
    Stage {
        name: "simulate",
        what: "ten thousand random lives of a pair of engines",
        run: simulated,
    },
    Stage {
        name: "processes",
        what: "twenty rounds of faults, and twenty of power cuts, on two replicators under load",
        run: processes,
    },
    Stage {
        name: "fuzz",
        what: "a minute of each fuzz target, from what was found before",
        run: fuzz,
    },
    Stage {
        name: "deny",
        what: "banned crates, licences and sources of dependencies",
        run: deny,
    },
    Stage {
        name: "helm",
        what: "the chart lints and renders, with each set of values",
        run: helm,
    },
    Stage {
        name: "api",
        what: "manifests and bad input against a real API server",
        run: api,
    },
    Stage {
        name: "e2e",
        what: "the lab on two real clusters, in both modes",
        run: e2e,
    },
    Stage {
        name: "situations",
        what: "bad input, losses and roles at a bad moment, on two real clusters",
        run: situations,
    },
];

fn fmt(log: &Log) -> Result<()> {
    log.run(cargo().args(["fmt", "--all", "--", "--check"]), QUICK)?;
    let targets = [
        "fmt",
        "--manifest-path",
        "replicator/fuzz/Cargo.toml",
        "--",
        "--check",
    ];
    log.run(cargo().args(targets), QUICK)
}

fn clippy(log: &Log) -> Result<()> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    log.run(cargo().args(arguments), COMPILE)
}

fn unit(log: &Log) -> Result<()> {
    // The replicator's tests make file systems and mount them.
    packages::ensure_also(&simulate::PACKAGES, &Progress::silent())?;
    // Tests that bring clusters up are not among the default ones of their package.
    log.run(
        cargo().args(["test", "--workspace", "--no-fail-fast"]),
        COMPILE,
    )
}

fn simulated(log: &Log) -> Result<()> {
    log.run(&mut simulate::campaign(10_000, 1), COMPILE)
}

fn processes(log: &Log) -> Result<()> {
    packages::ensure_also(&simulate::PACKAGES, &Progress::silent())?;
    for campaign in [simulate::FAULTS, simulate::POWER_CUTS] {
        log.run(&mut simulate::rounds(campaign, 20, 1), COMPILE)?;
    }
    Ok(())
}

fn tidy(log: &Log) -> Result<()> {
    log.run(
        cargo().args(["test", "--package", "drqm-tests", "--test", "tidy"]),
        COMPILE,
    )
}

fn generated(log: &Log) -> Result<()> {
    log.run(
        cargo().args(["run", "--quiet", "--package", "drqm-gen", "--", "--check"]),
        COMPILE,
    )
}

fn deny(log: &Log) -> Result<()> {
    let program = cargo_tool(log, "cargo-deny", CARGO_DENY)?;
    let mut deny = Command::new(program);
    deny.current_dir(repository::root());
    deny.args([
        "--config",
        ".deny.toml",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    log.run(&mut deny, QUICK)
}

/// cargo-deny from the cache, installed there first if it is missing.
/// A subcommand of cargo at a version, from the cache.
fn cargo_tool(log: &Log, tool: &str, version: &str) -> Result<PathBuf> {
    let name = format!("{tool}-{version}");
    let folder = Cache::open()?.ensure(&name, &Progress::silent(), |folder| {
        let mut install = cargo();
        // Away from the checkout: its target and flags are for our own binaries.
        install.current_dir("/").env_remove("RUSTFLAGS");
        install.args(["install", tool, "--version", version]);
        // It runs for a second: a quick build is worth more than a quick program.
        install.args(["--locked", "--debug", "--root"]).arg(folder);
        log.run(&mut install, COMPILE)
    })?;
    Ok(folder.join("bin").join(tool))
}

fn fuzz(log: &Log) -> Result<()> {
    // libFuzzer is compiled from source.
    packages::ensure_also(&["g++"], &Progress::silent())?;
    let program = cargo_tool(log, "cargo-fuzz", CARGO_FUZZ)?;
    for target in FUZZ_TARGETS {
        // What this run finds of interest stays out of the checkout.
        let found = repository::scratch("fuzz")?.join(target);
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        let folder = repository::root().join("replicator/fuzz");
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(&found).arg("-xzf");
        unpack.arg(folder.join("corpus").join(format!("{target}.tar.gz")));
        log.run(&mut unpack, QUICK)?;
        let mut fuzz = Command::new(&program);
        fuzz.current_dir(repository::root().join("replicator"));
        // Without a sanitizer, so that the stable compiler can do it: there is no unsafe code in what is fuzzed.
        fuzz.args(["fuzz", "run", "--sanitizer", "none", "--target-dir"]);
        fuzz.arg(repository::scratch("fuzz")?.join("build"))
            .arg(target);
        fuzz.arg(&found);
        let regressions = folder.join("regressions").join(target);
        if regressions.exists() {
            fuzz.arg(regressions);
        }
        fuzz.args(["--", "-max_len=1024", "-print_final_stats=1"]);
        fuzz.arg(format!("-max_total_time={FUZZ_SECONDS}"));
        log.run(&mut fuzz, COMPILE)?;
    }
    Ok(())
}

fn helm(log: &Log) -> Result<()> {
    let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::silent())?;
    let helm = || {
        let mut helm = Command::new(toolchain.helm());
        helm.current_dir(repository::root());
        helm
    };
    let chart = "charts/drqm";
    let mut values: Vec<Option<PathBuf>> = vec![None];
    let folder = repository::root().join(chart).join("ci");
    for entry in folder
        .read_dir()
        .with_context(|| folder.display().to_string())?
    {
        values.push(Some(entry?.path()));
    }
    for file in values {
        let arguments = file
            .iter()
            .flat_map(|file| ["--values".into(), file.clone().into_os_string()]);
        let arguments: Vec<_> = arguments.collect();
        log.run(
            helm().args(["lint", "--strict", chart]).args(&arguments),
            QUICK,
        )?;
        log.run(
            helm()
                .args(["template", "drqm", chart, "-n", "drqm-system"])
                .args(&arguments),
            QUICK,
        )?;
    }
    let whole = [
        "template",
        "drqm",
        chart,
        "-n",
        "drqm-system",
        "--include-crds",
    ];
    let rendered = process::run(helm().args(whole), QUICK)?;
    let folder = repository::root().join("deploy");
    let namespace = fs::read_to_string(folder.join("namespace.yaml"))?;
    let kept = fs::read_to_string(folder.join("install.yaml"))?;
    if kept != format!("{namespace}{}", rendered.stdout) {
        bail!("deploy/install.yaml is not what the chart renders; deploy/README.md says how");
    }
    Ok(())
}

fn api(log: &Log) -> Result<()> {
    cluster_test(log, "admission")
}

fn e2e(log: &Log) -> Result<()> {
    cluster_test(log, "e2e")
}

fn situations(log: &Log) -> Result<()> {
    cluster_test(log, "situations")
}

/// There is one lab per machine, so its tests run one after the other.
fn cluster_test(log: &Log, name: &str) -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--package", "drqm-tests", "--test", name, "--"]);
    test.args(["--nocapture", "--test-threads", "1"]);
    log.run(&mut test, COMPILE + CLUSTERS)
}
