//! Figures that need two looks: the speed of a resync (an average over the last minute) and the CPU
//! use of the device's users, from the moments somebody asked.

use std::collections::VecDeque;
use std::time::Duration;

use drqm_engine::report::SyncReport;
use drqm_engine::time::Mono;

/// What the average covers.
const WINDOW: Duration = Duration::from_secs(60);

/// Samples are at least this far apart, so that many askers do not fill the memory.
const STEP: Duration = Duration::from_secs(1);

/// Remembers how far a resync was.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    resync: Option<(Mono, u64)>,
    samples: VecDeque<(Mono, u64)>,
    cpu: Option<(Mono, f64)>,
    cpu_percent: f64,
}

impl RateMeter {
    /// Bytes per second of a running resync; 0 while nothing can be said.
    pub(crate) fn sample(&mut self, now: Mono, sync: &SyncReport) -> u64 {
        let resync = Some((sync.started, sync.total));
        if self.resync != resync {
            self.resync = resync;
            self.samples = VecDeque::from([(sync.started, 0)]);
        }
        while self.samples.len() > 1 && now.since(self.samples[1].0) >= WINDOW {
            self.samples.pop_front();
        }
        let rate = self.samples.front().map_or(0, |&(at, done)| {
            let micros = now.since(at).as_micros() as u64;
            let bytes = u128::from(sync.done.saturating_sub(done)) * 1_000_000;
            if micros == 0 {
                0
            } else {
                (bytes / u128::from(micros)) as u64
            }
        });
        if self
            .samples
            .back()
            .is_none_or(|(at, _)| now.since(*at) >= STEP)
        {
            self.samples.push_back((now, sync.done));
        }
        rate
    }

    /// Per cent of one CPU since the last look; 0 at the first.
    pub(crate) fn cpu_percent(&mut self, now: Mono, seconds: f64) -> f64 {
        match self.cpu {
            Some((at, _)) if now.since(at) < STEP => return self.cpu_percent,
            Some((at, before)) => {
                // The users may be others by now.
                let used = (seconds - before).max(0.0);
                self.cpu_percent = used / now.since(at).as_secs_f64() * 100.0;
            }
            None => {}
        }
        self.cpu = Some((now, seconds));
        self.cpu_percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Mono {
        Mono(second * 1_000_000)
    }

    fn sync(done: u64) -> SyncReport {
        SyncReport {
            source: true,
            done,
            total: 1000,
            started: at(10),
        }
    }

    #[test]
    fn the_average_forgets_what_is_older_than_a_minute() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.sample(at(10), &sync(0)), 0);
        assert_eq!(meter.sample(at(20), &sync(100)), 10);
        for second in 21..=100 {
            meter.sample(at(second), &sync(100));
        }
        assert_eq!(meter.sample(at(110), &sync(160)), 1);
    }

    #[test]
    fn a_new_resync_starts_anew() {
        let mut meter = RateMeter::default();
        meter.sample(at(20), &sync(500));
        let next = SyncReport {
            started: at(30),
            ..sync(10)
        };
        assert_eq!(meter.sample(at(40), &next), 1);
    }
}
