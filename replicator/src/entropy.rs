//! Random numbers, from the TLS library's generator: the process needs no second one.

/// 128 random bits.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's generator works once the process has started");
    u128::from_be_bytes(bytes)
}

/// 64 random bits.
pub(crate) fn random_u64() -> u64 {
    random_u128() as u64
}
