//! Peers that must be kept out, whose word cannot be understood, or whose name is not known: each
//! says so on the side that noticed, and nothing is opened.

use std::sync::Arc;

use drqm_rpc::control::v1 as pb;
use drqm_rpc::{PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::pki::{Ca, PAIR_NAME, client_config, tls};
use crate::stranger::{Stranger, hello};
use crate::support::{
    LIMIT, Site, free_port, link, pair_in_sync, request, until_normal, with_leaf, with_peer,
};

const SMALL: u64 = 64 << 20;

#[tokio::test]
async fn a_peer_with_another_pairs_certificate_is_kept_out() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let (one_port, two_port) = (one.replication, two.replication);
    one.configure(with_peer(request(SMALL, "ext4"), &Ca::new(), two_port))
        .await
        .unwrap();
    two.configure(with_peer(request(SMALL, "ext4"), &Ca::new(), one_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("kept out", |s| link(s) == pb::LinkState::AuthFailed)
            .await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_know_the_pair_says_so() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let (one_port, two_port) = (one.replication, two.replication);
    let ca = Ca::new();
    one.configure(with_peer(request(SMALL, "ext4"), &ca, two_port))
        .await
        .unwrap();
    let unknown = |s: &pb::VolumeState| {
        let link = s.link.as_ref().unwrap();
        link.detail.contains("does not know this pair")
    };
    let state = one.until("told", unknown).await;
    assert_eq!(link(&state), pb::LinkState::Down);
    two.configure(with_peer(request(SMALL, "ext4"), &ca, one_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("let in", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
}

#[tokio::test]
async fn a_peer_whose_certificate_has_expired_is_kept_out_until_it_is_renewed() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let (one_port, two_port) = (one.replication, two.replication);
    let ca = Ca::new();
    one.configure(with_peer(request(SMALL, "ext4"), &ca, two_port))
        .await
        .unwrap();
    let expired = ca.leaf_until(PAIR_NAME, 2020);
    two.configure(with_leaf(request(SMALL, "ext4"), &ca, expired, one_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        let state = site
            .until("kept out", |s| link(s) == pb::LinkState::AuthFailed)
            .await;
        let detail = state.link.unwrap().detail.to_lowercase();
        assert!(detail.contains("expired"), "{detail}");
    }
    two.configure(with_peer(request(SMALL, "ext4"), &ca, one_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("let in", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_kept_out() {
    let mut site = Site::start("one").await;
    let ca = Ca::new();
    site.configure(with_peer(request(SMALL, "ext4"), &ca, free_port()))
        .await
        .unwrap();
    let config = Arc::new(client_config(&ca, None));
    // TLS 1.3: the client believes that it is connected until it reads.
    let mut stream = tls(site.replication, config, PAIR_NAME).await.unwrap();
    let ended = timeout(LIMIT, stream.read(&mut [0])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
    let state = site
        .until("kept out", |s| link(s) == pb::LinkState::AuthFailed)
        .await;
    let detail = state.link.unwrap().detail.to_lowercase();
    assert!(detail.contains("certificate"), "{detail}");
    site.until_counter("refused", "peer_connections_rejected_total", |n| n == 1)
        .await;
}

#[tokio::test]
async fn a_peer_of_another_protocol_version_is_named_by_whoever_is_dialled() {
    let mut site = Site::start("one").await;
    let ca = Ca::new();
    site.configure(with_peer(request(SMALL, "ext4"), &ca, free_port()))
        .await
        .unwrap();
    let stranger = Stranger::dial(site.replication, &ca).await;
    stranger.say(&hello(7..=9)).await;
    stranger.until_ended().await;
    mismatch(&mut site).await;
}

#[tokio::test]
async fn a_peer_of_another_protocol_version_is_named_by_whoever_dials() {
    let mut site = Site::start("one").await;
    let ca = Ca::new();
    let port = crate::stranger::serve(&ca, hello(7..=9)).await;
    site.configure(with_peer(request(SMALL, "ext4"), &ca, port))
        .await
        .unwrap();
    mismatch(&mut site).await;
}

#[tokio::test]
async fn a_renewed_certificate_costs_no_session() {
    let ca = Ca::new();
    let (mut one, mut two) = pair_in_sync(&ca).await;
    let opened = |site: &Site| site.log().matches("session opened").count();
    let before = [&one, &two].map(opened);
    let (one_port, two_port) = (one.replication, two.replication);
    // A new leaf of the same authority on either side.
    for (site, peer) in [(&mut one, two_port), (&mut two, one_port)] {
        site.configure(with_peer(request(SMALL, "ext4"), &ca, peer))
            .await
            .unwrap();
        assert_eq!(link(&site.state().await), pb::LinkState::Connected);
    }
    until_normal(&mut one, &mut two).await;
    assert_eq!([&one, &two].map(opened), before);
    // Another authority: whoever was let in by the old one has to come again.
    let other = Ca::new();
    one.configure(with_peer(request(SMALL, "ext4"), &other, two_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("kept out", |s| link(s) == pb::LinkState::AuthFailed)
            .await;
    }
}

#[tokio::test]
async fn keys_that_are_taken_back_let_nobody_in_who_is_half_inside() {
    let mut site = Site::start("one").await;
    let (old, new) = (Ca::new(), Ca::new());
    site.configure(with_peer(request(SMALL, "ext4"), &old, free_port()))
        .await
        .unwrap();
    let has_a_stream = Stranger::dial(site.replication, &old).await;
    site.configure(with_peer(request(SMALL, "ext4"), &new, free_port()))
        .await
        .unwrap();
    let had_a_connection = has_a_stream.again().await;
    for stranger in [has_a_stream, had_a_connection] {
        stranger
            .say(&hello(PEER_PROTOCOL_MIN..=PEER_PROTOCOL_MAX))
            .await;
        assert_eq!(stranger.until_ended().await, 0, "the stranger was greeted");
    }
    // Whoever has the new ones is.
    let mut friend = Stranger::dial(site.replication, &new).await;
    friend
        .say(&hello(PEER_PROTOCOL_MIN..=PEER_PROTOCOL_MAX))
        .await;
    friend.hear().await;
}

#[tokio::test]
async fn a_peer_may_be_named_and_a_name_that_is_not_known_is_reported() {
    let (mut one, mut two) = (Site::start("one").await, Site::start("two").await);
    let ca = Ca::new();
    let named = |name: String, peer: u16| {
        let mut request = with_peer(request(SMALL, "ext4"), &ca, peer);
        request.peer.as_mut().unwrap().addresses = vec![name];
        request
    };
    let two_port = two.replication;
    two.configure(with_peer(request(SMALL, "ext4"), &ca, free_port()))
        .await
        .unwrap();
    one.configure(named("nowhere.invalid:7001".to_owned(), two_port))
        .await
        .unwrap();
    let state = one
        .until("reported", |s| link(s) == pb::LinkState::Down)
        .await;
    let detail = state.link.unwrap().detail;
    let wanted = "spec.replication.peer.addresses: nowhere.invalid:7001: ";
    assert!(detail.contains(wanted), "{detail}");
    // Only this side can dial.
    one.configure(named(format!("localhost:{two_port}"), two_port))
        .await
        .unwrap();
    for site in [&mut one, &mut two] {
        site.until("linked", |s| link(s) == pb::LinkState::Connected)
            .await;
    }
}

async fn mismatch(site: &mut Site) {
    let state = site
        .until("named", |s| link(s) == pb::LinkState::ProtocolMismatch)
        .await;
    let detail = state.link.unwrap().detail;
    assert!(detail.contains("protocol 7 to 9"), "{detail}");
}
