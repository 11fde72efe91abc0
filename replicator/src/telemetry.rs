//! Logging: levels, filter, form. Does not live here: what is logged.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Installs the log writer (standard error).
///
/// # Errors
/// The filter does not parse.
pub(crate) fn init(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| anyhow::anyhow!("--log: {e}; use a level or target=level,…"))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    done.map_err(|e| anyhow::anyhow!("logging: {e}"))
}
