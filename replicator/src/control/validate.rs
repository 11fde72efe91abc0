//! What the operator sends as a configuration, checked field by field. Pure: the machine is asked
//! later, by whoever owns the thing.

use std::net::{IpAddr, SocketAddr};

use drqm_rpc::control::v1 as pb;

use crate::pool::config::{
    CONFIG_VERSION, Fs, PeerConfig, ReplicationMode, Snapshots, TlsConfig, VerifyConfig,
    VolumeConfig,
};

/// Sizes are whole pages.
const PAGE: u64 = 4096;

/// Addresses of one peer; more would make a round of dials too long.
const MAX_ADDRESSES: usize = 8;

/// Longest name of a verification, bytes.
const MAX_NAME: usize = 128;

/// What the node knows of itself.
pub(crate) struct Bounds {
    pub(crate) own_addresses: Vec<IpAddr>,
    pub(crate) shared_port: u16,
}

/// The configuration, or a text that names the field of the resource and the way out.
pub(crate) fn config(
    request: pb::ConfigureRequest,
    bounds: &Bounds,
) -> Result<VolumeConfig, String> {
    let mode = request.mode();
    if request.queue_manager_name.is_empty() {
        return Err("spec.queueManager.name: missing".to_owned());
    }
    let size_bytes = size(request.size_bytes)?;
    let fs = match request.fs_type.as_str() {
        "xfs" => Fs::Xfs,
        "ext4" => Fs::Ext4,
        other => {
            return Err(format!(
                "spec.storage.fsType: {other:?} is neither xfs nor ext4"
            ));
        }
    };
    let mode = match mode {
        pb::Mode::Synchronous => ReplicationMode::Synchronous,
        pb::Mode::FlushSynchronous => ReplicationMode::FlushSynchronous,
        pb::Mode::Asynchronous => ReplicationMode::Asynchronous,
        pb::Mode::Unspecified => return Err("spec.replication.mode: missing".to_owned()),
    };
    let port = match request.port {
        0 => bounds.shared_port,
        port => u16::try_from(port)
            .map_err(|_| format!("spec.replication.port: {port} is not a port; use 1 to 65535"))?,
    };
    let local_address = match request.local_address.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| {
            format!("spec.replication.localAddress: {text:?} is not an IP address")
        })?),
    };
    let own: Vec<IpAddr> = bounds
        .own_addresses
        .iter()
        .copied()
        .chain(local_address)
        .collect();
    let snapshots = match request.snapshots() {
        pb::SnapshotPolicy::Unspecified | pb::SnapshotPolicy::Required => Snapshots::Required,
        pb::SnapshotPolicy::BestEffort => Snapshots::BestEffort,
        pb::SnapshotPolicy::Never => Snapshots::Never,
    };
    let peer = request.peer.map(|p| peer(p, &own, port)).transpose()?;
    let tls = request.tls.map(tls).transpose()?;
    if peer.is_some() && tls.is_none() {
        return Err(
            "spec.replication.tls.secretName: a peer is configured and no keys were sent"
                .to_owned(),
        );
    }
    Ok(VolumeConfig {
        version: CONFIG_VERSION,
        cr_uid: request.cr_uid,
        queue_manager: request.queue_manager_name,
        size_bytes,
        fs,
        mode,
        port,
        local_address,
        peer,
        tls,
        peer_check_timeout_seconds: request.start_peer_check_timeout_seconds,
        hold_when_peer_unknown: request.start_hold_when_peer_unknown,
        suspend_io_on_peer_loss: request.suspend_io_on_peer_loss,
        pull_ahead_on_congestion: request.pull_ahead_on_congestion,
        snapshots,
        resync_rate: (request.resync_bytes_per_second > 0)
            .then_some(request.resync_bytes_per_second),
        verify: verify(request.verify_request, request.verify_repair)?,
    })
}

fn verify(request: String, repair: bool) -> Result<Option<VerifyConfig>, String> {
    if request.len() > MAX_NAME {
        return Err(format!(
            "spec.replication.verify.requestId: longer than {MAX_NAME} bytes"
        ));
    }
    Ok((!request.is_empty()).then_some(VerifyConfig { request, repair }))
}

fn size(bytes: u64) -> Result<u64, String> {
    if bytes == 0 {
        Err("spec.storage.size: must not be 0".to_owned())
    } else if !bytes.is_multiple_of(PAGE) {
        Err(format!(
            "spec.storage.size: {bytes} is not a multiple of {PAGE} bytes"
        ))
    } else {
        Ok(bytes)
    }
}

fn peer(peer: pb::Peer, own: &[IpAddr], own_port: u16) -> Result<PeerConfig, String> {
    const FIELD: &str = "spec.replication.peer.addresses";
    if peer.addresses.is_empty() {
        return Err(format!("{FIELD}: name at least one, as host:port"));
    }
    if peer.addresses.len() > MAX_ADDRESSES {
        return Err(format!("{FIELD}: more than {MAX_ADDRESSES}"));
    }
    for address in &peer.addresses {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty());
        let port = port
            .and_then(|(_, port)| port.parse::<u16>().ok())
            .filter(|p| *p > 0);
        if port.is_none() {
            return Err(format!("{FIELD}: {address:?} has no port; write host:port"));
        }
        if let Ok(literal) = address.parse::<SocketAddr>()
            && own.contains(&literal.ip())
            && literal.port() == own_port
        {
            return Err(format!(
                "{FIELD}: {address} is this node itself; name the other site's"
            ));
        }
    }
    Ok(PeerConfig {
        name: peer.name,
        addresses: peer.addresses,
    })
}

fn tls(tls: pb::PairTls) -> Result<TlsConfig, String> {
    const FIELD: &str = "spec.replication.tls.secretName";
    let text = |name: &str, bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{FIELD}: {name}: not PEM"))
    };
    let hex = tls.pair_id.len() == 32 && tls.pair_id.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex {
        return Err(format!("{FIELD}: pair-id: not 32 hexadecimal digits"));
    }
    Ok(TlsConfig {
        ca: text("ca.crt", &tls.ca)?,
        certificate: text("tls.crt", &tls.certificate)?,
        key: text("tls.key", &tls.key)?,
        pair_id: tls.pair_id,
        server_name: tls.server_name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::ConfigureRequest {
        pb::ConfigureRequest {
            queue_manager_name: "QM1".into(),
            size_bytes: 1 << 30,
            fs_type: "xfs".into(),
            mode: pb::Mode::Asynchronous.into(),
            port: 7001,
            peer: Some(pb::Peer {
                name: "dr2".into(),
                addresses: vec!["10.0.2.15:7001".into()],
            }),
            tls: Some(pb::PairTls {
                pair_id: "a".repeat(32),
                ..pb::PairTls::default()
            }),
            ..pb::ConfigureRequest::default()
        }
    }

    fn bounds() -> Bounds {
        Bounds {
            own_addresses: vec!["10.0.2.14".parse().unwrap()],
            shared_port: 7001,
        }
    }

    #[test]
    fn a_complete_request_is_taken() {
        assert_eq!(
            config(request(), &bounds()).unwrap().peer.unwrap().name,
            "dr2"
        );
    }

    #[test]
    fn each_error_names_its_field() {
        type Change = fn(&mut pb::ConfigureRequest);
        let cases: [(&str, Change); 10] = [
            ("spec.queueManager.name", |r| r.queue_manager_name.clear()),
            ("spec.storage.size", |r| r.size_bytes = 0),
            ("spec.storage.size", |r| r.size_bytes = 4097),
            ("spec.storage.fsType", |r| r.fs_type = "btrfs".into()),
            ("spec.replication.mode", |r| r.mode = 0),
            ("spec.replication.port", |r| r.port = 70_000),
            ("spec.replication.localAddress", |r| {
                r.local_address = "here".into()
            }),
            ("spec.replication.peer.addresses", |r| {
                r.peer.as_mut().unwrap().addresses = vec!["10.0.2.15".into()];
            }),
            ("spec.replication.peer.addresses", |r| {
                r.peer.as_mut().unwrap().addresses = vec!["10.0.2.14:7001".into()];
            }),
            ("spec.replication.tls.secretName", |r| r.tls = None),
        ];
        for (field, change) in cases {
            let mut request = request();
            change(&mut request);
            let error = config(request, &bounds()).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
