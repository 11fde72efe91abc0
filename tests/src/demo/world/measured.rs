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
    /// From the patch to Primary of a healthy pair until the pod is Ready.
    pub promotions: Vec<Duration>,
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
        if let (Some(ready), Some(plain)) = (mean(&self.promotions), mean(&self.plain)) {
            lines.push(format!(
                "patch to Ready of a healthy pair {:.2} s ({}), the same StatefulSet 0 to 1 on a plain local \
                 volume {:.2} s ({}): {:+.2} s (means, in turn)",
                ready.as_secs_f64(),
                list(&self.promotions),
                plain.as_secs_f64(),
                list(&self.plain),
                ready.as_secs_f64() - plain.as_secs_f64(),
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

/// Of starts that are spread evenly over the beat that they wait for.
fn mean(times: &[Duration]) -> Option<Duration> {
    let count = u32::try_from(times.len()).ok().filter(|count| *count > 0)?;
    Some(times.iter().sum::<Duration>() / count)
}

fn list(times: &[Duration]) -> String {
    let seconds = times
        .iter()
        .map(|time| format!("{:.2}", time.as_secs_f64()));
    seconds.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_of_means() {
        let seconds = |all: &[u64]| all.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let measured = Measured {
            switches: vec![Switch {
                to: "dr2".into(),
                stop: None,
                ready: Duration::from_secs(9),
            }],
            promotions: seconds(&[1_400, 1_600, 1_500]),
            plain: seconds(&[700, 600, 800]),
            memory: vec![("dr1: drqm-operator".into(), 2_048)],
        };
        let text = measured.lines().join("\n");
        assert!(
            text.contains("1.50 s (1.40 1.60 1.50), the same") && text.contains("+0.80 s"),
            "{text}"
        );
        assert!(
            text.contains("2.0 MiB") && text.contains("was dead"),
            "{text}"
        );
    }
}
