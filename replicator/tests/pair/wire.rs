//! What may arrive on the peer port and must cost a session at most: the process lives, a counter
//! counts, and the real peer is served as before.

use bytes::Bytes;
use drqm_rpc::peer::v1 as peer;
use prost::Message as _;

use crate::pki::Ca;
use crate::stranger::{Stranger, framed, hello};
use crate::support::{
    LIMIT, Mounted, Site, free_port, pair_in_sync, request, until_normal, with_peer,
};

const SMALL: u64 = 64 << 20;

#[tokio::test]
async fn garbage_on_the_peer_port_costs_a_connection_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut site = Site::start("one").await;
    site.configure(with_peer(request(SMALL, "ext4"), &Ca::new(), free_port()))
        .await
        .unwrap();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[0x16, 3, 1, 255, 255],
    ] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", site.replication))
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    site.state().await;
    site.until_counter("refused", "peer_connections_rejected_total", |n| n == 3)
        .await;
}

/// Frames that no peer sends, each with what comes before it in the stream.
fn impossible() -> Vec<(&'static str, Vec<u8>)> {
    let write = peer::Write {
        seq: 1,
        offset: SMALL,
        kind: 1,
        crc32c: 1,
        data: Bytes::from(vec![1; 4096]),
        ..peer::Write::default()
    };
    let beyond = peer::Frame {
        body: Some(peer::frame::Body::Writes(peer::WriteBatch {
            writes: vec![write],
            ..peer::WriteBatch::default()
        })),
    };
    let beyond = beyond.encode_to_vec();
    vec![
        ("claims 100 MiB", framed(100 << 20, &[0; 1000])),
        ("is 3 MiB", framed(3 << 20, &vec![0; 3 << 20])),
        (
            "ends in the middle of its message",
            framed(beyond.len() - 100, &beyond[..beyond.len() - 100]),
        ),
        ("is no message", framed(64, &[0xff; 64])),
        ("writes beyond the volume", framed(beyond.len(), &beyond)),
        ("is empty", framed(0, &[])),
        (
            "is compressed by nobody's algorithm",
            vec![1, 0, 0, 0, 4, 1, 2, 3, 4],
        ),
    ]
}

#[tokio::test]
async fn impossible_frames_end_the_session_and_the_real_peer_comes_back() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync(&ca).await;
    let mounted = Mounted::new(&one.device(), &one.dir.path().join("mnt"), "ext4");
    let mut counted = one.counter("peer_violations_total").await;
    for greets in [true, false] {
        for (what, bytes) in impossible() {
            let mut stranger = Stranger::dial(one.replication, &ca).await;
            if greets {
                stranger.say(&hello(1..=1)).await;
                stranger.hear().await;
            }
            stranger.say_bytes(bytes).await;
            stranger.until_ended().await;
            counted = one
                .until_counter(what, "peer_violations_total", |n| n > counted)
                .await;
        }
    }
    // A message that is cut off by the end of the stream.
    let mut stranger = Stranger::dial(one.replication, &ca).await;
    stranger.say(&hello(1..=1)).await;
    stranger.hear().await;
    stranger.say_bytes(framed(1000, &[0; 10])).await;
    stranger.stop_talking();
    stranger.until_ended().await;
    one.until_counter("cut off", "peer_violations_total", |n| n > counted)
        .await;

    until_normal(&mut one, &mut two).await;
    crate::write_durably(&mounted.path().join("file"), b"still here");
    until_normal(&mut one, &mut two).await;
    drop(mounted);
}
