//! Wiring: the data thread, the control thread, start and stop.
//!
//! Two threads, each with a runtime of its own: volumes on the data thread, everything that talks to
//! operator and people on the control thread, so that a slow disk or peer never delays a command's
//! arrival, nor a command a write. Does not live here: any work of theirs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::node::Node;

/// Tasks on their way to a shard.
const TASKS: usize = 64;

/// How long all volumes together may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The way to the data thread. There is one; a volume would keep its shard for life if there were
/// several.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    tasks: mpsc::Sender<Task>,
}

impl Shard {
    /// Starts the thread. A panic on it ends the process: nothing goes on half-dead.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (tasks, mut queue) = mpsc::channel::<Task>(TASKS);
        let runtime = current_thread()?;
        let body = move || {
            if let Some(warning) = crate::sys::harden_data_thread() {
                tracing::warn!(warning);
            }
            runtime.block_on(async move {
                let mut running = JoinSet::new();
                loop {
                    tokio::select! {
                        task = queue.recv() => match task {
                            Some(task) => drop(running.spawn(task)),
                            None => break,
                        },
                        Some(ended) = running.join_next() => {
                            if ended.is_err_and(|e| e.is_panic()) {
                                std::process::abort();
                            }
                        }
                    }
                }
            });
        };
        std::thread::Builder::new()
            .name("data-0".to_owned())
            .spawn(body)?;
        Ok(Self { tasks })
    }

    /// Runs a task on the data thread.
    pub(crate) async fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .send(Box::pin(task))
            .await
            .expect("the data thread lives as long as the process");
    }

    /// Whether the thread gets around to its tasks.
    pub(crate) async fn ping(&self) -> bool {
        let (answer, pong) = oneshot::channel();
        self.run(async move {
            let _ = answer.send(());
        })
        .await;
        pong.await.is_ok()
    }
}

pub(crate) fn current_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The whole process: until SIGTERM or SIGINT, or an error at start.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    crate::telemetry::init(&args.log, args.log_json)?;
    crate::host::set_pid(args.host_pid);
    install_crypto();
    let shard = Shard::start()?;
    current_thread()?.block_on(control_thread(args, shard))
}

/// One TLS provider for the process.
pub(crate) fn install_crypto() {
    // An error only says that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

async fn control_thread(args: RunArgs, shard: Shard) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let admin = tokio::net::TcpListener::bind(args.metrics_listen)
        .await
        .with_context(|| format!("--metrics-listen {}", args.metrics_listen))?;
    let control = tokio::net::TcpListener::bind(args.control_listen)
        .await
        .with_context(|| format!("--control-listen {}", args.control_listen))?;
    let tls = crate::control::tls::load(&args.control_tls_dir)
        .with_context(|| format!("--control-tls-dir {}", args.control_tls_dir.display()))?;
    let node = Arc::new(Node::open(args, shard).await?);
    let mut servers = JoinSet::new();
    let admin_node = node.clone();
    servers.spawn(async move { Ok(crate::admin::serve(admin, admin_node).await?) });
    servers.spawn(crate::memory::give_back());
    node.start_volumes().await;
    servers.spawn(crate::control::serve(control, tls, node.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = servers.join_next() => match ended {
            Ok(Ok(())) => Err(anyhow::anyhow!("a server ended")),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(panic.into()),
        },
    };
    tracing::info!("stopping");
    let stopping = tokio::time::timeout(STOP_LIMIT, node.stop());
    tokio::select! {
        stopped = stopping => if stopped.is_err() {
            tracing::warn!("not every volume stopped in time");
        },
        // A second signal: at once.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    ended
}
