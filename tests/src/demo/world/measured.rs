//! Times and sizes that are printed at the end. They are never part of an expectation.

use std::time::Duration;

/// A switch of the queue manager from one side to the other.
#[derive(Clone, Debug)]
pub struct Switch {
    /// The side that serves now.
    pub to: String,
    /// From the patch of the old side until it is Secondary; nothing, if it was dead.
    pub stop: Option<Duration>,
    /// From the patch of the new side until the pod is Ready.
    pub ready: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Switches, planned ones and the one after the power cut.
    pub switches: Vec<Switch>,
    /// From scaling the same StatefulSet on a plain local volume to 1 until its pod is Ready.
    pub plain: Vec<Duration>,
    /// Resident memory in KiB, by side and program.
    pub memory: Vec<(String, u64)>,
}

impl Measured {
    /// The lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for switch in &self.switches {
            let stop = match switch.stop {
                Some(stop) => format!("stopping the old side {:.2} s", stop.as_secs_f64()),
                None => "the old side was dead".to_owned(),
            };
            lines.push(format!(
                "switch to {}: {stop}, patch to Ready {:.2} s",
                switch.to,
                switch.ready.as_secs_f64()
            ));
        }
        let planned = self.switches.iter().filter(|switch| switch.stop.is_some());
        let ready = median(planned.map(|switch| switch.ready).collect());
        if let (Some(ready), Some(plain)) = (ready, median(self.plain.clone())) {
            lines.push(format!(
                "patch to Ready of a healthy pair {:.2} s, the same StatefulSet 0 to 1 on a plain local volume \
                 {:.2} s: {:+.2} s (medians of {} and {})",
                ready.as_secs_f64(),
                plain.as_secs_f64(),
                ready.as_secs_f64() - plain.as_secs_f64(),
                self.switches.iter().filter(|switch| switch.stop.is_some()).count(),
                self.plain.len()
            ));
        }
        for (program, kibibytes) in &self.memory {
            lines.push(format!(
                "resident memory of {program}: {:.1} MiB",
                *kibibytes as f64 / 1024.0
            ));
        }
        lines
    }
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_of_medians_and_without_the_disaster() {
        let switch = |stop: Option<u64>, ready| Switch {
            to: "dr2".into(),
            stop: stop.map(Duration::from_millis),
            ready: Duration::from_millis(ready),
        };
        let measured = Measured {
            switches: vec![
                switch(Some(900), 1_500),
                switch(None, 9_000),
                switch(Some(800), 1_400),
            ],
            plain: vec![Duration::from_millis(700)],
            memory: vec![("dr1: drqm-operator".into(), 2_048)],
        };
        let text = measured.lines().join("\n");
        assert!(
            text.contains("1.50 s, the same") && text.contains("+0.80 s"),
            "{text}"
        );
        assert!(
            text.contains("2.0 MiB") && text.contains("was dead"),
            "{text}"
        );
    }
}
