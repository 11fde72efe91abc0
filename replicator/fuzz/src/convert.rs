//! As much of the replicator's module as the decoder needs.

#[path = "../../src/convert/refusal_code.rs"]
mod refusal_code;

pub(crate) use refusal_code::{refusal_code, refusal_from_code};
