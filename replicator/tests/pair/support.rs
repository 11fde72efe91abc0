//! Two replicator processes on loopback with certificates of their own, and their operators.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use drqm_rpc::control::v1 as pb;
use pb::control_client::ControlClient;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::pki::{Ca, PAIR_NAME, connect};
use crate::volatile::VolatileDisk;

/// No step of a test takes longer on a machine that is busy with a build.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Below the kernel's default range for outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Where a pool is, and how many bytes it has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pool {
    /// What was written is there until the machine ends.
    Memory(u64),
    /// On a disk that forgets what was not flushed when the site is killed.
    Volatile(u64),
}

/// One site: a replicator process with its directories, and its operator's client.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    name: &'static str,
    /// The network namespace that it lives in; this process' one if none.
    host: Option<String>,
    /// What the pool is on, if it forgets.
    disk: Option<VolatileDisk>,
    /// Devices are found again by it: no other site of this machine has it.
    node: String,
    control_ca: Ca,
    pub(crate) replication: u16,
    pub(crate) control: u16,
    metrics: u16,
    log_filter: &'static str,
    child: Option<Child>,
    pub(crate) client: Option<ControlClient<Channel>>,
}

/// A port that nobody listens on. Not one of those that the kernel gives to outgoing connections: it
/// could be taken again before a process listens on it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 64;
        let port = PORTS.start + (n % u32::from(PORTS.end - PORTS.start)) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Site {
    pub(crate) async fn start(name: &'static str) -> Self {
        let mut site = Self::new(name, None);
        site.log_filter = "drqm_replicator=trace,info";
        site.spawn().await;
        site
    }

    /// With a log of what matters only.
    pub(crate) async fn start_quiet(name: &'static str) -> Self {
        let mut site = Self::new(name, None);
        site.spawn().await;
        site
    }

    /// In a network namespace, with a pool that has so much room.
    pub(crate) async fn start_on(name: &'static str, host: &str, pool: Pool) -> Self {
        let mut site = Self::new(name, Some(host.to_owned()));
        let state = site.dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        match pool {
            Pool::Memory(room) => {
                let options = std::ffi::CString::new(format!("size={room}")).unwrap();
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("tmpfs", &state, "tmpfs", flags, &*options).unwrap();
            }
            Pool::Volatile(room) => {
                site.disk = Some(VolatileDisk::new(site.dir.path(), &state, room));
            }
        }
        site.spawn().await;
        site
    }

    fn new(name: &'static str, host: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control_ca = Ca::new();
        let tls = dir.path().join("tls");
        std::fs::create_dir(&tls).unwrap();
        let (certificate, key) = control_ca.leaf("replicator.control.drqm.io");
        std::fs::write(tls.join("ca.crt"), control_ca.pem()).unwrap();
        std::fs::write(tls.join("server.crt"), certificate).unwrap();
        std::fs::write(tls.join("server.key"), key).unwrap();
        let [replication, control, metrics] = [free_port(), free_port(), free_port()];
        Self {
            dir,
            name,
            host,
            disk: None,
            node: format!("{name}-{}-{replication}", std::process::id()),
            control_ca,
            replication,
            control,
            metrics,
            // Rounds of faults write too much for a log of every step.
            log_filter: "info",
            child: None,
            client: None,
        }
    }

    /// Starts the process (again) and connects to it.
    pub(crate) async fn spawn(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.power_on();
        }
        let at = |port: u16| format!("127.0.0.1:{port}");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        // What is measured is another build of it.
        let program = std::env::var("DRQM_REPLICATOR");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_drqm-replicator").to_owned());
        let (mut command, everywhere) = match &self.host {
            Some(host) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{host}")).arg(program);
                (command, "0.0.0.0")
            }
            None => (Command::new(program), "127.0.0.1"),
        };
        let child = command
            .args(["--node-name", &self.node])
            .arg("--state-dir")
            .arg(self.dir.path().join("state"))
            .arg("--replication-listen")
            .arg(format!("{everywhere}:{}", self.replication))
            .args(["--control-listen", &at(self.control)])
            .args(["--metrics-listen", &at(self.metrics)])
            .arg("--control-tls-dir")
            .arg(self.dir.path().join("tls"))
            .arg("--device-dir")
            .arg(self.dir.path().join("dev"))
            .arg("--nbd-dir")
            .arg(self.dir.path().join("nbd"))
            // Process 1 may belong to somebody whom even root of a container cannot look into.
            .args(["--host-pid", &std::process::id().to_string()])
            .args(["--log", self.log_filter])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let identity = self.control_ca.leaf("operator.control.drqm.io");
        let host = self.host.as_deref();
        let connect = || connect(host, self.control, &self.control_ca, &identity);
        let deadline = Instant::now() + LIMIT;
        self.client = loop {
            match connect().await {
                Ok(channel) => break Some(ControlClient::new(channel)),
                Err(error) => assert!(Instant::now() < deadline, "{error}\n{}", self.log()),
            }
            sleep(Duration::from_millis(50)).await;
        };
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// As a power cut would; its disk loses what was not flushed only if it is one that forgets.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(disk) = &mut self.disk {
            disk.cut_power();
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// As kubelet would; returns the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let mut child = self.child.take()?;
        let ended = timeout(LIMIT, async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code();
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        ended
            .await
            .unwrap_or_else(|_| panic!("the process did not end\n{}", self.log()))
    }

    pub(crate) fn device(&self) -> PathBuf {
        self.dir.path().join("dev/ns_qm1")
    }

    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join(folder));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The copy as it is on the disk.
    pub(crate) fn data(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("state/pool/ns_qm1/data")).unwrap()
    }

    /// Removes what a person had given up, as a person would who needs it no more.
    pub(crate) async fn remove_kept_copies(&mut self) {
        for path in self.state().await.kept_copies {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Takes all room that the pool has; the file that does it.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.dir.path().join("state/filler");
        let free = rustix::fs::statvfs(self.dir.path().join("state")).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let all = free.f_bavail * free.f_frsize;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, all).unwrap();
        path
    }

    pub(crate) async fn configure(
        &mut self,
        request: pb::ConfigureRequest,
    ) -> Result<pb::VolumeState, tonic::Status> {
        let answer = self.client.as_mut().unwrap().configure(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn state(&mut self) -> pb::VolumeState {
        self.state_of(false).await
    }

    /// The state after news of the peer: it is dialled at once.
    pub(crate) async fn fresh_state(&mut self) -> pb::VolumeState {
        self.state_of(true).await
    }

    async fn state_of(&mut self, refresh: bool) -> pb::VolumeState {
        let request = pb::GetStateRequest {
            volume: volume(),
            refresh,
        };
        self.client
            .as_mut()
            .unwrap()
            .get_state(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until the state is as wanted; prints the last one seen if it never is.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&pb::VolumeState) -> bool,
    ) -> pb::VolumeState {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = self.state().await;
            if wanted(&state) {
                return state;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {what}: {state:#?}\n{}",
                self.name,
                self.log()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn set_role(
        &mut self,
        role: pb::Role,
        epoch: &str,
        without_peer: bool,
    ) -> Option<pb::Refusal> {
        let judged = pb::JudgedRequest {
            cr_uid: "uid".into(),
            generation: 1,
            role: role.into(),
            verdict: "Proceed".into(),
            ..pb::JudgedRequest::default()
        };
        let request = pb::SetRoleRequest {
            volume: volume(),
            command_id: format!("{role:?} {epoch} {:?}", std::time::SystemTime::now()),
            role: role.into(),
            expected_epoch: epoch.into(),
            initialize: epoch.is_empty(),
            without_peer,
            request: Some(judged),
        };
        let answer = self.client.as_mut().unwrap().set_role(request).await;
        answer
            .unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
            .into_inner()
            .refusal
    }

    /// Orders the copy back to its snapshot.
    pub(crate) async fn revert(&mut self, epoch: &str) -> Option<pb::Refusal> {
        let request = pb::RevertRequest {
            volume: volume(),
            command_id: format!("revert {:?}", std::time::SystemTime::now()),
            expected_epoch: epoch.into(),
        };
        let client = self.client.as_mut().unwrap();
        client.revert(request).await.unwrap().into_inner().refusal
    }

    /// A person's word about a partition.
    pub(crate) async fn resolve(&mut self, keep: pb::Keep, epoch: &str) -> Option<pb::Refusal> {
        let request = pb::ResolveRequest {
            volume: volume(),
            command_id: format!("resolve {:?}", std::time::SystemTime::now()),
            expected_epoch: epoch.into(),
            keep: keep.into(),
        };
        let client = self.client.as_mut().unwrap();
        client.resolve(request).await.unwrap().into_inner().refusal
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The most memory that the process has had, bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kib << 10
    }

    /// Demotes, as soon as the device's last user has let it go.
    pub(crate) async fn demote(&mut self, epoch: &str) {
        let deadline = Instant::now() + LIMIT;
        while let Some(refusal) = self.set_role(pb::Role::Secondary, epoch, false).await {
            assert!(
                Instant::now() < deadline,
                "{}: {refusal:?}\n{}",
                self.name,
                self.log()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn delete(&mut self, erase: bool) -> Option<pb::Refusal> {
        let request = pb::DeleteVolumeRequest {
            volume: volume(),
            erase,
        };
        self.client
            .as_mut()
            .unwrap()
            .delete_volume(request)
            .await
            .unwrap()
            .into_inner()
            .refusal
    }

    pub(crate) async fn heal(&mut self) -> pb::VolumeState {
        let request = pb::HealDeviceRequest { volume: volume() };
        let answer = self.client.as_mut().unwrap().heal_device(request).await;
        answer
            .unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
            .into_inner()
    }

    /// The value of a counter.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let metrics = self.admin("/metrics").await;
        let value = metrics.lines().find_map(|line| {
            line.strip_prefix("drqm_replicator_")?
                .strip_prefix(name)?
                .strip_prefix(' ')
        });
        value
            .unwrap_or_else(|| panic!("{name}: {metrics}"))
            .parse()
            .unwrap()
    }

    /// Waits until a counter is as wanted: what is counted may be seen before its count.
    pub(crate) async fn until_counter(
        &self,
        what: &str,
        name: &str,
        wanted: impl Fn(u64) -> bool,
    ) -> u64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            let value = self.counter(name).await;
            if wanted(value) {
                return value;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {what}: {name} is {value}\n{}",
                self.name,
                self.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Body of a page of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(LIMIT, stream.read_to_string(&mut text))
            .await
            .unwrap()
            .unwrap();
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.child.as_mut().map(Child::try_wait);
            eprintln!("--- {}, {status:?}, its log ---\n{}", self.name, self.log());
        }
        // Nobody comes after this process who would find its devices by their labels.
        let devices = self.entries("dev").into_iter();
        let devices: Vec<_> = devices.filter_map(|link| link.read_link().ok()).collect();
        self.kill();
        let mut mounted = self.entries("state/run");
        mounted.push(self.dir.path().join("state"));
        for at in mounted {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
        for device in devices {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}

pub(crate) fn volume() -> Option<pb::VolumeRef> {
    Some(pb::VolumeRef {
        namespace: "ns".into(),
        name: "qm1".into(),
    })
}

/// A configuration of 64 MiB with ext4; the peer is added by [`with_peer`].
pub(crate) fn request(size_bytes: u64, fs: &str) -> pb::ConfigureRequest {
    pb::ConfigureRequest {
        volume: volume(),
        cr_uid: "uid".into(),
        queue_manager_name: "QM1".into(),
        size_bytes,
        fs_type: fs.into(),
        mode: pb::Mode::Synchronous.into(),
        start_peer_check_timeout_seconds: 30,
        suspend_io_on_peer_loss: false,
        pull_ahead_on_congestion: false,
        ..pb::ConfigureRequest::default()
    }
}

pub(crate) fn with_peer(request: pb::ConfigureRequest, ca: &Ca, peer: u16) -> pb::ConfigureRequest {
    with_leaf(request, ca, ca.leaf(PAIR_NAME), peer)
}

pub(crate) fn with_leaf(
    request: pb::ConfigureRequest,
    ca: &Ca,
    (certificate, key): (String, String),
    peer: u16,
) -> pb::ConfigureRequest {
    pb::ConfigureRequest {
        peer: Some(pb::Peer {
            name: "other".into(),
            addresses: vec![format!("127.0.0.1:{peer}")],
        }),
        tls: Some(pb::PairTls {
            ca: ca.pem().into(),
            certificate: certificate.into(),
            key: key.into(),
            pair_id: "ab".repeat(16),
            server_name: PAIR_NAME.into(),
        }),
        ..request
    }
}

/// A pair whose first half is Primary with an open device, and whose second is in sync.
pub(crate) async fn pair_in_sync(ca: &Ca) -> (Site, Site) {
    pair_in_sync_of(ca, 64 << 20, "ext4").await
}

pub(crate) async fn pair_in_sync_of(ca: &Ca, size: u64, fs: &str) -> (Site, Site) {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let (one_port, two_port) = (one.replication, two.replication);
    one.configure(with_peer(request(size, fs), ca, two_port))
        .await
        .unwrap();
    two.configure(with_peer(request(size, fs), ca, one_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("linked", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
    assert_eq!(one.set_role(pb::Role::Primary, "", false).await, None);
    one.until("open", |s| gate(s) == pb::Gate::Open).await;
    until_normal(&mut one, &mut two).await;
    (one, two)
}

/// Waits until both halves are connected and equal.
pub(crate) async fn until_normal(one: &mut Site, two: &mut Site) {
    for site in [one, two] {
        site.until("normal", is_normal).await;
    }
}

/// Whether a half is connected and equal to the other.
pub(crate) fn is_normal(state: &pb::VolumeState) -> bool {
    link(state) == pb::LinkState::Connected
        && state.data() == pb::Data::UpToDate
        && state.out_of_sync_bytes == 0
}

pub(crate) fn gate(state: &pb::VolumeState) -> pb::Gate {
    state
        .device
        .as_ref()
        .map_or(pb::Gate::Unspecified, pb::Device::gate)
}

pub(crate) fn link(state: &pb::VolumeState) -> pb::LinkState {
    state
        .link
        .as_ref()
        .map_or(pb::LinkState::Unspecified, pb::Link::state)
}

/// A file system mounted for the time of a test.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(device: &Path, at: &Path, fs: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        let options = (fs == "xfs").then_some(c"nouuid");
        rustix::mount::mount(device, at, fs, flags, options).unwrap();
        Self(at.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
