//! Keys of a pair that is measured with TLS.
//!
//! Does not live here: who reads them (the replicator's `standalone --tls`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The name that the replicator's `standalone` expects.
const NAME: &str = "measure.pair.drqm.io";

/// Writes `ca.crt`, `tls.crt` and `tls.key` into a folder; both halves use the same.
pub(super) fn make(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &ca)?;
    for (name, text) in [
        ("ca.crt", ca.pem()),
        ("tls.crt", leaf.pem()),
        ("tls.key", key.serialize_pem()),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
