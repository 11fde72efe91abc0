//! One run of fio against an NBD socket.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::contestant::SIZE;
use crate::process;

/// What fio may take beyond the time it writes.
const AROUND: Duration = Duration::from_secs(60);

/// Seconds of writing before it counts.
pub(super) const WARM_UP: u32 = 1;

/// How fio writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    block: &'static str,
    depth: &'static str,
}

/// A queue manager's log, many of them, and a restore.
pub(super) const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "4 KiB, depth 1",
        block: "4k",
        depth: "1",
    },
    Workload {
        name: "4 KiB, depth 32",
        block: "4k",
        depth: "32",
    },
    Workload {
        name: "1 MiB, depth 4",
        block: "1m",
        depth: "4",
    },
];

/// What a run found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// Writes per second.
    pub(super) rate: f64,
    /// What half of the writes took at most, microseconds.
    pub(super) p50_micros: f64,
}

/// Writes to a socket for so many seconds.
pub(super) fn run(socket: &Path, workload: Workload, seconds: u32) -> Result<Run> {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=write",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--time_based",
    ]);
    fio.arg(format!("--ramp_time={WARM_UP}"));
    fio.args(["--norandommap", "--randrepeat=0", "--output-format=json"]);
    fio.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
    fio.arg(format!("--bs={}", workload.block))
        .arg(format!("--iodepth={}", workload.depth));
    fio.arg(format!("--size={SIZE}"))
        .arg(format!("--runtime={seconds}"));
    let finished = process::run(&mut fio, AROUND + Duration::from_secs(seconds.into()))?;
    ensure!(
        finished.is_success(),
        "fio on {}: {}",
        socket.display(),
        finished.complaint()
    );
    found(&finished.stdout).with_context(|| format!("fio on {} printed no rate", socket.display()))
}

/// Writes a whole volume once, with bytes that are different each time.
pub(super) fn fill(socket: &Path, size: u64) -> Result<()> {
    let mut fio = Command::new("fio");
    fio.args(["--name=fill", "--ioengine=nbd", "--rw=write", "--bs=1m"]);
    fio.args(["--iodepth=4", "--randrepeat=0", "--refill_buffers=1"]);
    fio.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
    fio.arg(format!("--size={size}"));
    process::output(&mut fio, AROUND)?;
    Ok(())
}

/// Its JSON comes after whatever else it has to say.
fn found(text: &str) -> Option<Run> {
    let document: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = &document["jobs"][0];
    let rate = job["write"]["iops"].as_f64()?;
    let p50 = job["write"]["clat_ns"]["percentile"]["50.000000"].as_f64()?;
    let run = Run {
        rate,
        p50_micros: p50 / 1e3,
    };
    (job["error"] == 0 && rate > 0.0).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_and_errors_are_none() {
        let write = r#"{"iops":12.5,"clat_ns":{"percentile":{"50.000000":21000}}}"#;
        let good = format!(r#"note: latency {{"jobs":[{{"error":0,"write":{write}}}]}}"#);
        let run = Run {
            rate: 12.5,
            p50_micros: 21.0,
        };
        assert_eq!(found(good.trim_start_matches("note: latency ")), Some(run));
        assert_eq!(found(&good), Some(run));
        assert_eq!(found(&good.replace("\"error\":0", "\"error\":5")), None);
        assert_eq!(found("nothing"), None);
    }
}
