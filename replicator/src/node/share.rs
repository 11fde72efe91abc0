//! Memory for what peers do not have yet: each volume of the node has its part.

use drqm_engine::settings::WINDOW_BYTES;

use super::Node;
use crate::driver::DriverCommand;
use crate::pool::VolumeKey;

/// Less would hold up a single large write.
const LEAST: u64 = 1 << 20;

/// The part of each of so many volumes.
fn part(memory: u64, volumes: usize) -> u64 {
    (memory / (volumes.max(1) as u64)).clamp(LEAST, WINDOW_BYTES)
}

impl Node {
    /// What a volume may keep for its peer, beside the others that there are.
    pub(super) fn log_share(&self, key: &VolumeKey) -> u64 {
        let others = self.keys().iter().filter(|k| *k != key).count();
        part(self.args.log_memory, others + 1)
    }

    /// Tells every running volume its part; called when one came or went.
    pub(super) async fn share_log_memory(&self) {
        for key in self.keys() {
            let Some(entry) = self.entry(&key) else {
                continue;
            };
            let settings = entry.config.settings(self.log_share(&key));
            if let Ok(handle) = entry.running {
                let _ = handle
                    .commands
                    .send(DriverCommand::Configure(settings))
                    .await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_bounded_and_together_no_more_than_there_is() {
        assert_eq!(part(512 << 20, 0), WINDOW_BYTES);
        assert_eq!(part(512 << 20, 8), WINDOW_BYTES);
        assert_eq!(part(512 << 20, 9), (512 << 20) / 9);
        assert_eq!(part(512 << 20, 100_000), LEAST);
        assert!((1..400).all(|n| part(512 << 20, n) * n as u64 <= 512 << 20));
    }
}
