use bytes::Bytes;
use drqm_engine::command::Identity;
use drqm_engine::ids::{JobId, NodeId, VolumeId};
use drqm_engine::settings::WINDOW_BYTES;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::*;
use crate::disk::MetaJob;
use crate::pool::testing::config;

const SIZE: u64 = 1 << 20;

/// Takes everything and answers nothing.
struct SilentDisk;

impl Disk for SilentDisk {
    fn submit(&mut self, _: DiskJob) {}
    fn write_meta(&mut self, _: MetaJob) {}
    fn undo(&mut self, _: UndoJob) {}
}

struct Volume {
    commands: mpsc::Sender<DriverCommand>,
    completions: mpsc::UnboundedSender<Event>,
    link: mpsc::Sender<LinkEvent>,
    _guests: mpsc::Sender<GuestCall>,
    link_orders: UnboundedReceiver<LinkOrder>,
    running: JoinHandle<UnboundedReceiver<Event>>,
}

fn volume() -> Volume {
    let node = NodeId(1);
    let identity = Identity {
        node,
        volume: VolumeId::NONE,
        size: SIZE,
    };
    let mut raw = vec![0; Engine::metadata_len(SIZE) as usize];
    for (offset, block) in Engine::format(&identity) {
        raw[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
    }
    let clock = Clock::start();
    let engine = Engine::open(&raw, config(SIZE).settings(WINDOW_BYTES), 1, clock.now()).unwrap();
    let (commands, commands_out) = mpsc::channel(4);
    let (completions, completions_out) = mpsc::unbounded_channel();
    let (link, link_out) = mpsc::channel(4);
    let (guests, guests_out) = mpsc::channel(4);
    let (link_in, link_orders) = mpsc::unbounded_channel();
    let ports = Ports {
        disk: Box::new(SilentDisk),
        device: mpsc::unbounded_channel().0,
        link: link_in,
        notify: broadcast::channel(4).0,
    };
    let key = VolumeKey::new("ns", "qm1").unwrap();
    let inputs = Inputs {
        commands: commands_out,
        completions: completions_out,
        link: link_out,
        guests: guests_out,
    };
    let running = tokio::spawn(Driver::new(key, clock, engine, ports).run(inputs));
    Volume {
        commands,
        completions,
        link,
        _guests: guests,
        link_orders,
        running,
    }
}

impl Volume {
    async fn report(&self) -> Box<Report> {
        let (answer, report) = oneshot::channel();
        let sent = self.commands.send(DriverCommand::Report(answer)).await;
        sent.unwrap();
        report.await.unwrap()
    }

    /// An answer to a question that was never asked: the engine panics.
    async fn panic(&self) {
        let event = Event::DataRead {
            job: JobId(999),
            result: Ok(Bytes::new()),
        };
        self.completions.send(event).unwrap();
        while self.report().await.data != Data::Failed {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_panic_of_the_engine_fences_the_volume_and_status_says_so() {
    let volume = volume();
    assert_eq!(volume.report().await.error, "");
    volume.panic().await;
    let report = volume.report().await;
    assert!(report.error.contains("restart"), "{}", report.error);
    assert!(matches!(report.link, LinkReport::Down(_)));
}

#[tokio::test]
async fn a_fenced_volume_refuses_commands_and_sessions_and_stops_at_once() {
    let mut volume = volume();
    volume.panic().await;
    let (answer, answered) = oneshot::channel();
    let order = DriverCommand::Order {
        id: CommandId(1),
        command: Command::HealDevice,
        answer,
    };
    volume.commands.send(order).await.unwrap();
    assert!(matches!(
        answered.await.unwrap(),
        Err(Refusal::DiskFailed(_))
    ));

    let opened = LinkEvent::Opened {
        session: SessionId(7),
        hello: drqm_engine::frame::PeerHello {
            node: NodeId(2),
            version: String::new(),
            site: String::new(),
        },
        remote: String::new(),
        outbound: crate::peer::session::testing::nowhere(),
    };
    volume.link.send(opened).await.unwrap();
    loop {
        match volume.link_orders.recv().await.unwrap() {
            LinkOrder::Close { session, .. } => break assert_eq!(session, SessionId(7)),
            LinkOrder::DialNow | LinkOrder::Settings(_) | LinkOrder::Last => {}
        }
    }

    let stop = DriverCommand::Stop { drain: true };
    volume.commands.send(stop).await.unwrap();
    volume.running.await.unwrap();
}
