//! /healthz, /readyz, /metrics over plain HTTP on the node's address.
//!
//! Does not live here: control. Nothing here changes anything.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::node::Node;

/// The data thread answers in this time, or the process is not alive.
const LIVENESS_LIMIT: Duration = Duration::from_secs(10);

/// Serves until dropped.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    node: Arc<Node>,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(node);
    axum::serve(listener, app).await
}

async fn healthz(State(node): State<Arc<Node>>) -> (StatusCode, &'static str) {
    match tokio::time::timeout(LIVENESS_LIMIT, node.shard().ping()).await {
        Ok(true) => (StatusCode::OK, "ok\n"),
        Ok(false) | Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the data thread does not answer\n",
        ),
    }
}

async fn readyz(State(node): State<Arc<Node>>) -> (StatusCode, &'static str) {
    if node.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "volumes are being opened\n",
        )
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match crate::metrics::render(node.reports().await) {
        Ok(text) => (StatusCode::OK, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}
