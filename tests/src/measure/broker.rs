//! `cargo measure broker`: messages per second that a broker confirms, each on disk before, with its store on the
//! device that drqm gives it (FUSE and loop). The same device without replication is in the same run.
//!
//! Lives here: file systems and brokers on the devices, the order of the runs, the table. Does not live here: how
//! halves are started ([`super::halves`]), the client (`drqm-load`).

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drqm_lab::{Cache, Toolchain, packages};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use super::halves::{self, Halves, Outlet, end, free_port, until};
use super::{RunArgs, Scratch, median};
use crate::build;
use crate::process::{self, Background};
use crate::ui::Ui;

/// mkfs.xfs.
const PACKAGES: [&str; 1] = ["xfsprogs"];

/// Bytes of each volume; only what is written takes memory.
const SIZE: u64 = 2 << 30;

/// For the client beyond the time that it puts.
const AROUND: Duration = Duration::from_secs(60);

/// What is measured: a name, and what the halves of a pair are told; `None`: there is no pair.
const CASES: [(&str, Option<&str>); 4] = [
    ("without replication", None),
    ("asynchronous", Some("")),
    ("flush-synchronous", Some("--flush-synchronous")),
    ("synchronous", Some("--synchronous")),
];

/// What a client saw.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Confirmed messages per second.
    rate: f64,
    /// Processor time of both halves per message.
    micros: f64,
}

/// Programs that are needed.
struct Programs {
    replicator: PathBuf,
    broker: PathBuf,
    load: PathBuf,
}

/// Runs all and prints the table.
///
/// # Errors
/// When a program is missing or fails, a confirmed message is missing, or copies differ at the end.
pub fn broker(args: &RunArgs, ui: &Ui) -> Result<()> {
    packages::ensure_also(&PACKAGES, ui.progress())?;
    let toolchain = Toolchain::ensure(&Cache::open()?, ui.progress())?;
    let programs = Programs {
        replicator: build::measuring_replicator(&args.profile)?,
        broker: toolchain.nats_server(),
        load: build::load(&args.profile)?,
    };
    let scratch = Scratch::new()?;
    let mut served = Vec::new();
    for (name, flag) in CASES {
        served.push(Served::start(&programs, &scratch.0, name, flag)?);
    }
    let mut results = vec![Vec::new(); served.len()];
    for round in 1..=args.rounds {
        for (one, samples) in served.iter().zip(&mut results) {
            let item = format!("round {round} of {}: {}", args.rounds, one.name);
            let item = ui.progress().item(&item);
            samples.push(one.put(&programs.load, round, args.seconds)?);
            item.done();
        }
    }
    for one in served {
        one.check(&programs.load, args.rounds)?;
        one.stop_and_compare()?;
    }
    ui.print(
        "every confirmed message is there, and both copies of every replicated volume are equal",
    );
    ui.print(&render(&results));
    Ok(())
}

/// A broker on a device.
struct Served {
    name: &'static str,
    folder: PathBuf,
    port: u16,
    // In the order in which they end.
    broker: Background,
    mounted: Mounted,
    halves: Vec<Background>,
    _remains: Remains,
    copies: Option<[PathBuf; 2]>,
}

impl Served {
    fn start(
        programs: &Programs,
        scratch: &Path,
        name: &'static str,
        flag: Option<&str>,
    ) -> Result<Self> {
        let folder = scratch.join(name.replace(' ', "-"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let link = folder.join("device");
        let all = Halves {
            replicator: &programs.replicator,
            folder: &folder,
            size: SIZE,
        };
        let outlet = Outlet::Device(&link);
        let (commands, copies) = match flag {
            None => (vec![all.alone(outlet)], None),
            Some(flag) => {
                let flags = ["--plaintext", flag].map(OsString::from);
                let flags = flags.into_iter().filter(|flag| !flag.is_empty());
                let pair = all.pair(outlet, &flags.collect::<Vec<_>>(), None)?;
                (pair.into(), Some(all.copies()))
            }
        };
        // What is declared first goes last.
        let remains = Remains {
            link: link.clone(),
            folder: folder.clone(),
        };
        let mut halves = Vec::new();
        for mut command in commands {
            halves.push(Background::start(&mut command, None)?);
        }
        until(name, &mut halves, || link.exists())?;
        let mounted = Mounted::new(&link, &folder.join("data"))?;
        let port = free_port()?;
        let mut broker = [Background::start(
            &mut nats(programs, &folder, &mounted.0, port)?,
            None,
        )?];
        until("the broker", &mut broker, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        let [broker] = broker;
        Ok(Self {
            name,
            folder,
            port,
            broker,
            mounted,
            halves,
            _remains: remains,
            copies,
        })
    }

    /// Puts messages for so many seconds.
    fn put(&self, load: &Path, round: u32, seconds: u32) -> Result<Sample> {
        let mut command = self.client(load, "put", round);
        command.args(["--for-seconds", &seconds.to_string()]);
        let limit = AROUND + Duration::from_secs(seconds.into());
        let before = self.processor_time()?;
        let said: Value = serde_json::from_str(&process::output(&mut command, limit)?)?;
        let took = self.processor_time()? - before;
        let confirmed = said["confirmed"].as_u64().context("drqm-load put")?;
        ensure!(confirmed > 0, "{}: nothing was confirmed", self.name);
        Ok(Sample {
            rate: confirmed as f64 / f64::from(seconds),
            micros: took * 1e6 / confirmed as f64,
        })
    }

    /// What drqm has taken so far, on both sides; seconds.
    fn processor_time(&self) -> Result<f64> {
        self.halves.iter().map(Background::processor_time).sum()
    }

    /// Looks for every message that was confirmed.
    fn check(&self, load: &Path, rounds: u32) -> Result<()> {
        for round in 1..=rounds {
            process::output(&mut self.client(load, "check", round), AROUND)
                .with_context(|| self.name)?;
        }
        Ok(())
    }

    fn client(&self, load: &Path, what: &str, round: u32) -> Command {
        let stream = format!("round-{round}");
        let mut command = Command::new(load);
        command.args([what, "--server", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--stream", &stream]).arg("--log");
        command.arg(self.folder.join(format!("{stream}.log")));
        command
    }

    /// Ends everything in order and compares the copies if there are two.
    fn stop_and_compare(mut self) -> Result<()> {
        end("the broker", &mut self.broker)?;
        drop(self.mounted);
        for half in &mut self.halves {
            end(self.name, half)?;
        }
        halves::compare(self.name, self.copies.as_ref())
    }
}

/// A file system that is mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, place: &Path) -> Result<Self> {
        fs::create_dir(place).with_context(|| place.display().to_string())?;
        mount(device, place, "xfs", MountFlags::empty(), None)
            .with_context(|| format!("mount {}", device.display()))?;
        Ok(Self(place.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A broker that was not ended in order still has files open there.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What a replicator leaves behind that was killed, since something failed. Goes after it.
struct Remains {
    link: PathBuf,
    folder: PathBuf,
}

impl Drop for Remains {
    fn drop(&mut self) {
        for half in ["one", "primary"] {
            let _ = unmount(self.folder.join(half).join("fuse"), UnmountFlags::DETACH);
        }
        // The link is there as long as the device is.
        if let Ok(device) = fs::read_link(&self.link) {
            let _ = process::run(Command::new("losetup").arg("-d").arg(device), AROUND);
        }
    }
}

fn nats(programs: &Programs, folder: &Path, store: &Path, port: u16) -> Result<Command> {
    let file = folder.join("nats.conf");
    let store = store.display();
    let text = format!(
        "listen: 127.0.0.1:{port}\njetstream {{ store_dir: \"{store}\", sync_interval: always }}\n"
    );
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let mut command = Command::new(&programs.broker);
    command.arg("-c").arg(file);
    Ok(command)
}

fn render(results: &[Vec<Sample>]) -> String {
    let middle = |samples: &[Sample], what: fn(&Sample) -> f64| {
        median(&samples.iter().map(what).collect::<Vec<_>>())
    };
    let alone = middle(&results[0], |s| s.rate);
    let rows = CASES.iter().zip(results).map(|((name, _), samples)| {
        let rate = middle(samples, |s| s.rate);
        let each = samples.iter().map(|s| format!("{:.0}", s.rate));
        vec![
            (*name).to_owned(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / alone),
            each.collect::<Vec<_>>().join(" "),
            format!("{:.0}", middle(samples, |s| s.micros)),
        ]
    });
    let header = [
        "broker on the device",
        "messages per second",
        "/ without",
        "each",
        "processor of drqm, µs per message",
    ];
    super::table(&header, rows)
}
