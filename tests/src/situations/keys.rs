//! Keys of one's own, in the form that cert-manager makes: they are exchanged while the queue manager
//! serves, and keys that do not belong to the pair are kept out.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drqm_api::conditions::reason;
use drqm_api::v1alpha1::DrStatusWord;
use serde_json::json;

use super::pair::{apply, delete, manifest, pod_uid, sides, wait_until_normal};
use crate::demo::broker::NAMESPACE;
use crate::demo::side::Side;
use crate::demo::world::{PATIENCE, SYNCHRONIZATION, World};
use crate::process;
use crate::repository;
use crate::wait::{Look, wait_until};

/// The resource, and what its certificates are called after.
const KEYED: &str = "keyed";

/// The name that certificates of a queue manager called KEYED carry.
const PAIR_NAME: &str = "keyed.pair.drqm.io";

/// An authority `$1` and a certificate of it for the name `$2`.
const MAKE: &str = "set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -days 100 -subj /CN=$1 -keyout $1-ca.key -out $1-ca.crt
openssl req $new -subj /CN=$1-leaf -addext subjectAltName=DNS:$2 \
  -addext extendedKeyUsage=serverAuth,clientAuth -keyout $1.key -out $1.csr
openssl x509 -req -days 90 -copy_extensions copy -CA $1-ca.crt -CAkey $1-ca.key -CAcreateserial \
  -in $1.csr -out $1.crt";

pub(super) fn are_exchanged(world: &mut World) -> Result<()> {
    let both = sides(world, KEYED);
    let [first, second] = &both;
    for authority in ["old", "new", "stranger"] {
        make(authority)?;
    }
    for (side, peer, role) in [(first, second, "Primary"), (second, first, "Secondary")] {
        give(world, side, "old", &["old"])?;
        let mut wanted = manifest(world, side, Some(peer));
        wanted["spec"]["role"] = json!(role);
        wanted["spec"]["replication"]["tls"] = json!({"secretName": KEYED});
        apply(world, side, &wanted)?;
    }
    first.wait_until_serving(SYNCHRONIZATION)?;
    wait_until_normal(&both)?;
    let pod = pod_uid(first)?;

    // As every rotation goes: trust both, change the certificates, trust the new one only. A Secret of
    // somebody else's is looked at twice a minute, or when the resource is touched; the certificates are left
    // to the former.
    for (leaf, trusted, is_told) in [
        ("old", &["new", "old"][..], true),
        ("new", &["new", "old"], false),
        ("new", &["new"], true),
    ] {
        for side in &both {
            give(world, side, leaf, trusted)?;
            if is_told {
                touch(world, side)?;
            }
        }
        for side in &both {
            wait_for_issuer(world, side, leaf)?;
        }
        wait_until_normal(&both)?;
    }

    give(world, second, "stranger", &["stranger"])?;
    touch(world, second)?;
    for side in &both {
        side.wait_for("the stranger is kept out", PATIENCE, |status| {
            let mut conditions = status.conditions.iter();
            let found = conditions.find(|one| one.type_ == "PeerConnected")?;
            (found.reason == reason::AUTH_FAILED).then_some(())
        })?;
        side.wait_for_dr(DrStatusWord::RemoteUnavailable, PATIENCE)?;
    }
    give(world, second, "new", &["new"])?;
    touch(world, second)?;
    wait_until_normal(&both)?;
    ensure!(
        first.status()?.serving && pod_uid(first)? == pod,
        "the queue manager was interrupted"
    );
    both.iter().try_for_each(|side| delete(world, side))
}

fn folder() -> Result<PathBuf> {
    repository::scratch("demo/keys")
}

fn make(authority: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.current_dir(folder()?);
    process::output(
        shell.args(["-c", MAKE, "sh", authority, PAIR_NAME]),
        PATIENCE,
    )?;
    Ok(())
}

/// Puts a certificate into the side's Secret, with the authorities that the side trusts.
fn give(world: &World, side: &Side, leaf: &str, trusted: &[&str]) -> Result<()> {
    let read = |name: &str| {
        let path = folder()?.join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let mut authorities = String::new();
    for authority in trusted {
        authorities.push_str(&read(&format!("{authority}-ca.crt"))?);
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": KEYED, "namespace": NAMESPACE},
        "stringData": {
            "ca.crt": authorities,
            "tls.crt": read(&format!("{leaf}.crt"))?,
            "tls.key": read(&format!("{leaf}.key"))?,
        },
    });
    apply(world, side, &secret)
}

/// Has the operator look at the resource now.
fn touch(world: &World, side: &Side) -> Result<()> {
    world.typed(&format!(
        "kubectl annotate drqm {KEYED} -n {NAMESPACE} --context {} --overwrite looked-at=\"$(date +%s%N)\"",
        side.context
    ))?;
    Ok(())
}

/// Waits until the replicator shows a certificate of this authority to whoever asks for the pair.
fn wait_for_issuer(world: &World, side: &Side, authority: &str) -> Result<()> {
    let host = side.host.context("a host of the lab")?;
    let ask = format!(
        "openssl s_client -connect {}:7001 -servername {PAIR_NAME} </dev/null 2>&1 | openssl x509 -noout -issuer",
        side.address
    );
    let what = format!("{} shows a certificate of {authority}", side.context);
    wait_until(&what, PATIENCE, || {
        let shown = world.in_host(host, &["sh", "-c", &ask]).unwrap_or_default();
        Ok(match shown.trim().ends_with(authority) {
            true => Look::Holds(()),
            false => Look::NotYet(shown),
        })
    })
}
