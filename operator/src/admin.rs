//! Health, metrics and the exact state, over HTTP.
//!
//! Lives here: routes. Nothing here changes anything. Does not live here: where the state comes
//! from (`controller::observe`), what is counted (`metrics`).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{context::Context, controller::observe, telemetry::chain};

/// The owner loop ticks every second; so long without a tick means that it hangs.
const LONGEST_TICK: Duration = Duration::from_secs(30);
/// All of a live answer; the plugin falls back to status after that.
const LIVE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that outlive a shutdown are cut after that.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// What the probes look at; written by `runtime`.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    last_tick_millis: AtomicU64,
    caches_filled: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last_tick_millis: AtomicU64::new(0),
            caches_filled: AtomicBool::new(false),
        }
    }
}

impl Health {
    /// The owner loop is alive.
    pub fn tick(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_tick_millis.store(millis, Ordering::Relaxed);
    }

    /// Every cache has been filled once.
    pub fn caches_filled(&self) {
        self.caches_filled.store(true, Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.last_tick_millis.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last) < LONGEST_TICK
    }

    /// Whether every cache has been filled once.
    pub fn is_ready(&self) -> bool {
        self.caches_filled.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Admin {
    health: Arc<Health>,
    context: Arc<Context>,
}

/// Serves until `shutdown`.
///
/// *Errors*: the address cannot be bound, or accepting fails.
pub async fn serve(
    listen: SocketAddr,
    health: Arc<Health>,
    context: Arc<Context>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/live/{namespace}/{name}", get(live))
        .with_state(Admin { health, context });
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(%listen, "serving health and metrics");
    let graceful =
        axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = graceful.into_future() => ended,
        () = wait_past(&shutdown, SHUTDOWN_DEADLINE) => Ok(()),
    }
}

/// Ends `limit` after the shutdown began.
async fn wait_past(shutdown: &CancellationToken, limit: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(limit).await;
}

async fn healthz(State(admin): State<Admin>) -> Response {
    probe(admin.health.is_alive(), "the reconcile loop does not tick")
}

async fn readyz(State(admin): State<Admin>) -> Response {
    probe(admin.health.is_ready(), "the caches are not filled yet")
}

fn probe(good: bool, complaint: &'static str) -> Response {
    if good {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, complaint).into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.context.metrics.text()).into_response()
}

async fn live(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let answer = timeout(
        LIVE_DEADLINE,
        observe::live(&admin.context, &namespace, &name),
    )
    .await;
    match answer {
        Ok(Ok(Some(state))) => Json(state).into_response(),
        Ok(Ok(None)) => {
            let error = format!("DrQueueManager {namespace}/{name} does not exist");
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
        Ok(Err(error)) => {
            let body = Json(json!({ "error": chain(&error) }));
            (StatusCode::BAD_GATEWAY, body).into_response()
        }
        Err(_) => {
            let body = Json(json!({ "error": "no answer in time" }));
            (StatusCode::GATEWAY_TIMEOUT, body).into_response()
        }
    }
}
