//! Logging, the end at a panic, and the one place that renders an error with its sources.
//!
//! Lives here: the subscriber, the panic hook. Does not live here: metrics (`metrics`).

use std::{
    error::Error,
    fmt::Write,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::args::{LogArgs, LogFormat};

/// Longest rendered error. Conditions and Events take at most this much of a message.
const MAX_ERROR_BYTES: usize = 1024;

/// Installs the subscriber. A filter that cannot be read falls back to `info` and says so.
pub fn install(args: &LogArgs) {
    let (filter, complaint) = match EnvFilter::try_new(&args.filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    // `try_init`, because a test may have installed a subscriber of its own.
    let is_terminal = io::stderr().is_terminal();
    let installed = match args.format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(is_terminal)
                    .with_writer(io::stderr),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .with_writer(io::stderr),
            )
            .try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a subscriber was installed before");
    }
    if let Some(error) = complaint {
        tracing::warn!(filter = args.filter, %error, "cannot read --log-filter; using info");
    }
}

/// From here on a panic on any thread or task ends the process: nothing goes on half-dead, and the
/// pod's restart begins with what is in the cluster.
pub fn end_at_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

/// An error and its sources, joined by `: `, cut at a character boundary.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Libraries often print their source in their own message; once is enough.
        if !text.contains(&cause_text) {
            write!(text, ": {cause_text}").expect("writing to a String cannot fail");
        }
        source = cause.source();
    }
    if text.len() > MAX_ERROR_BYTES {
        let end = (0..=MAX_ERROR_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .expect("zero is a boundary");
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn sources_are_joined_and_cut_at_a_boundary() {
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        let long = chain(&io::Error::other("é".repeat(2000)));
        assert!(long.len() <= MAX_ERROR_BYTES && long.ends_with('é'));
    }
}
