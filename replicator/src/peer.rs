//! The connection to the other half: TLS, dialling, accepting, sessions, wire format.
//!
//! Lives here: the words shared by its parts. Does not live here: what frames mean (the engine).
//!
//! ```text
//! listen ── routes by TLS name ──► link (one task per volume) ◄── dials ── connect
//!                                   │ one session at most
//!                                   ▼
//!                                 session ── frames ──► driver
//! ```

pub(crate) mod codec;
pub(crate) mod connect;
pub(crate) mod crossing;
pub(crate) mod link;
pub(crate) mod listen;
mod names;
pub(crate) mod session;
pub(crate) mod tls;

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

use drqm_engine::event::LinkFault;

/// How a volume reaches its peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LinkSettings {
    /// Whether there is a peer at all; without one nobody is let in.
    pub(crate) has_peer: bool,
    /// host:port, in the order of preference; empty without a peer.
    pub(crate) addresses: Vec<String>,
    /// What is dialled from.
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) security: Security,
}

/// How a connection is protected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Security {
    /// No keys yet: nothing is dialled or accepted.
    #[default]
    None,
    Tls(Arc<tls::PairKeys>),
    #[cfg(feature = "measure")]
    Plain,
}

impl Security {
    fn keys(&self) -> Option<&Arc<tls::PairKeys>> {
        match self {
            Self::Tls(keys) => Some(keys),
            Self::None => None,
            #[cfg(feature = "measure")]
            Self::Plain => None,
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// What a transport error was: TLS that failed, or a connection that is gone.
pub(crate) fn fault_of(error: &(dyn Error + 'static)) -> LinkFault {
    let text = chain(error);
    if is_tls(error) {
        LinkFault::AuthFailed(text)
    } else {
        LinkFault::Lost(text)
    }
}

fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return true;
        }
        // An io::Error hides what it wraps from `source`.
        let wrapped = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if wrapped.is_some_and(|w| is_tls(w)) {
            return true;
        }
        next = cause.source();
    }
    false
}
