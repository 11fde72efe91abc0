//! Keys and certificates of a cluster, made with openssl once and kept with the host's state.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{QUICK, run};
use crate::network::Node;

/// A lab lives for hours; this is for the one that somebody keeps.
const DAYS: &str = "3650";

/// Makes what is missing in `folder`: `ca`, `sa` and one pair of files per user of the API.
pub(crate) fn ensure(folder: &Path, node: Node, management: Ipv4Addr) -> Result<()> {
    if folder.join("complete").exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let subject = format!("/CN={node}-ca");
    openssl(
        folder,
        &[
            "req", "-x509", "-nodes", "-days", DAYS, "-subj", &subject, "-out", "ca.crt",
        ],
        "ca.key",
    )?;
    run(
        Command::new("openssl")
            .current_dir(folder)
            .args(["genrsa", "-out", "sa.key", "2048"]),
        QUICK,
    )?;
    run(
        Command::new("openssl")
            .current_dir(folder)
            .args(["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"]),
        QUICK,
    )?;

    let address = node.address();
    let server = format!(
        "subjectAltName=IP:127.0.0.1,IP:{address},IP:{management},IP:10.96.0.1,DNS:localhost,DNS:{node},\
         DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc\n\
         extendedKeyUsage=serverAuth,clientAuth"
    );
    let kubelet =
        format!("subjectAltName=IP:{address},DNS:{node}\nextendedKeyUsage=serverAuth,clientAuth");
    let client = "extendedKeyUsage=clientAuth";
    for (name, subject, extensions) in [
        ("apiserver", "/CN=kube-apiserver", &*server),
        ("admin", "/O=system:masters/CN=admin", client),
        (
            "kubelet",
            &*format!("/O=system:nodes/CN=system:node:{node}"),
            &*kubelet,
        ),
        (
            "controller-manager",
            "/CN=system:kube-controller-manager",
            client,
        ),
        ("scheduler", "/CN=system:kube-scheduler", client),
        ("proxy", "/CN=system:kube-proxy", client),
    ] {
        issue(folder, name, subject, extensions)?;
    }
    fs::write(folder.join("complete"), "").context("the PKI's mark")
}

fn issue(folder: &Path, name: &str, subject: &str, extensions: &str) -> Result<()> {
    let [key, request, certificate, file] =
        ["key", "csr", "crt", "ext"].map(|suffix| format!("{name}.{suffix}"));
    fs::write(folder.join(&file), extensions)?;
    openssl(
        folder,
        &["req", "-nodes", "-subj", subject, "-out", &request],
        &key,
    )?;
    let mut sign = Command::new("openssl");
    sign.current_dir(folder).args([
        "x509",
        "-req",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ]);
    sign.args([
        "-days",
        DAYS,
        "-in",
        &request,
        "-out",
        &certificate,
        "-extfile",
        &file,
    ]);
    run(&mut sign, QUICK)?;
    Ok(())
}

/// Runs an openssl command that also makes a key. P-256: ten times faster to make than RSA.
fn openssl(folder: &Path, arguments: &[&str], key: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments);
    command.args([
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-keyout",
        key,
    ]);
    run(&mut command, QUICK)?;
    Ok(())
}

/// A file in base64, on one line.
pub(crate) fn base64(file: &Path) -> Result<String> {
    let text = run(
        Command::new("openssl")
            .args(["base64", "-A", "-in"])
            .arg(file),
        QUICK,
    )?;
    Ok(text.trim().to_owned())
}
