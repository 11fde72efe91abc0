//! Two hosts, each a network namespace, with one link between them, and what happens to links.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of the link at both ends.
const LINK: &str = "pair";

/// The hosts; they go with the value.
pub(crate) struct Hosts {
    names: [String; 2],
}

impl Hosts {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let names = ["a", "b"].map(|side| format!("drqm-{own}-{side}"));
        let hosts = Self { names };
        for name in &hosts.names {
            run(&["ip", "netns", "add", name]);
            run(&["ip", "-n", name, "link", "set", "lo", "up"]);
        }
        let [a, b] = &hosts.names;
        run(&[
            "ip", "link", "add", LINK, "netns", a, "type", "veth", "peer", "name", LINK, "netns", b,
        ]);
        for (n, name) in hosts.names.iter().enumerate() {
            let address = format!("{}/30", Self::address(n));
            run(&["ip", "-n", name, "address", "add", &address, "dev", LINK]);
            run(&["ip", "-n", name, "link", "set", LINK, "up"]);
        }
        hosts
    }

    /// Name of a host's namespace.
    pub(crate) fn name(&self, n: usize) -> &str {
        &self.names[n]
    }

    /// A host's address on the link.
    pub(crate) fn address(n: usize) -> String {
        format!("10.0.0.{}", n + 1)
    }

    /// Nothing passes, and both see that the link is gone.
    pub(crate) fn cut(&self) {
        run(&["ip", "-n", &self.names[0], "link", "set", LINK, "down"]);
    }

    /// What a host sends is lost without a word; what it is sent arrives.
    pub(crate) fn silence(&self, n: usize) {
        self.inside(n, &["iptables", "-A", "OUTPUT", "-o", LINK, "-j", "DROP"]);
    }

    /// Both directions carry so little.
    pub(crate) fn slow(&self, bits_per_second: u32) {
        let rate = bits_per_second.to_string();
        for n in 0..2 {
            let limit = ["rate", &rate, "burst", "16kb", "latency", "200ms"];
            let words = ["tc", "qdisc", "replace", "dev", LINK, "root", "tbf"];
            self.inside(n, &[&words[..], &limit[..]].concat());
        }
    }

    /// As in the beginning.
    pub(crate) fn heal(&self) {
        for n in 0..2 {
            self.inside(n, &["iptables", "-F", "OUTPUT"]);
            // There is none unless the link was slow.
            let mut shape = self.command(n, &["tc", "qdisc", "del", "dev", LINK, "root"]);
            let _ = shape.stderr(Stdio::null()).status();
        }
        run(&["ip", "-n", &self.names[0], "link", "set", LINK, "up"]);
    }

    fn command(&self, n: usize, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.names[n]));
        command.args(words);
        command
    }

    fn inside(&self, n: usize, words: &[&str]) {
        let status = self.command(n, words).status();
        assert!(status.is_ok_and(|s| s.success()), "{words:?}");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // The link goes with its namespaces.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.is_ok_and(|s| s.success()), "{words:?}");
}
