//! A disk that forgets what was not flushed: nbdkit with its cache filter, whose memory goes with the process.
//!
//! A file of tmpfs, nbdkit, nbdfuse, a loop device that goes past the page cache, ext4. Killing nbdkit is a power cut
//! for everything above it. Needs the packages nbdkit and libnbd-bin.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// For nbdkit and nbdfuse to come up on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The disk, and where its file system is mounted while it has power.
pub(crate) struct VolatileDisk {
    /// Memory: the image, the socket, what nbdkit keeps.
    memory: PathBuf,
    /// Where nbdfuse shows the disk as a file.
    shown: PathBuf,
    mounted: PathBuf,
    power: Option<Power>,
}

struct Power {
    nbdkit: Child,
    nbdfuse: Child,
    device: String,
}

impl VolatileDisk {
    /// Makes the disk and mounts an empty file system at `mounted`, an existing directory.
    pub(crate) fn new(folder: &Path, mounted: &Path, bytes: u64) -> Self {
        let [memory, shown] = ["memory", "shown"].map(|name| folder.join(name));
        for path in [&memory, &shown] {
            std::fs::create_dir(path).unwrap();
        }
        mount("tmpfs", &memory, "tmpfs", MountFlags::empty(), None).unwrap();
        let image = std::fs::File::create(memory.join("image")).unwrap();
        image.set_len(bytes).unwrap();
        let mut disk = Self {
            memory,
            shown,
            mounted: mounted.to_owned(),
            power: None,
        };
        disk.plug();
        let device = &disk.power.as_ref().unwrap().device;
        succeed(Command::new("mkfs.ext4").args(["-q", device]));
        disk.mount();
        disk
    }

    /// Power is back: a file system that was not unmounted.
    pub(crate) fn power_on(&mut self) {
        if self.power.is_none() {
            self.plug();
            self.mount();
        }
    }

    /// Whoever uses the file system must be dead.
    pub(crate) fn cut_power(&mut self) {
        let Some(mut power) = self.power.take() else {
            return;
        };
        // The cache is nbdkit's memory: it goes first, before anybody can write it back.
        for child in [&mut power.nbdkit, &mut power.nbdfuse] {
            let _ = child.kill();
            let _ = child.wait();
        }
        // What the kernel still holds of the file system has nowhere to go.
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
        let _ = Command::new("losetup").args(["-d", &power.device]).status();
        let _ = unmount(&self.shown, UnmountFlags::DETACH);
    }

    fn plug(&mut self) {
        let socket = self.memory.join("socket");
        let _ = std::fs::remove_file(&socket);
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.env("TMPDIR", &self.memory);
        nbdkit.args([
            "--foreground",
            "--exit-with-parent",
            "--filter=cache",
            "--unix",
        ]);
        nbdkit
            .arg(&socket)
            .arg("file")
            .arg(self.memory.join("image"));
        let nbdkit = start(nbdkit.arg("cache=writeback"));
        wait_for(&socket);
        let file = self.shown.join("disk");
        let mut nbdfuse = Command::new("nbdfuse");
        let nbdfuse = start(nbdfuse.arg(&file).arg("--unix").arg(&socket));
        wait_for(&file);
        let mut losetup = Command::new("losetup");
        losetup
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&file);
        let device = succeed(&mut losetup);
        self.power = Some(Power {
            nbdkit,
            nbdfuse,
            device,
        });
    }

    fn mount(&self) {
        let device = &self.power.as_ref().unwrap().device;
        mount(
            device.as_str(),
            &self.mounted,
            "ext4",
            MountFlags::empty(),
            None,
        )
        .unwrap();
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        self.cut_power();
        let _ = unmount(&self.memory, UnmountFlags::DETACH);
    }
}

fn start(command: &mut Command) -> Child {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.unwrap_or_else(|e| panic!("{command:?}: {e}; apt-get install nbdkit libnbd-bin"))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}
