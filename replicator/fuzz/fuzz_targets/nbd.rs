//! Any bytes as an NBD client's half of the handshake: it ends, well or with an error.
#![no_main]

use drqm_replicator_fuzz::frontend::nbd::{Export, negotiate};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Builder;

fuzz_target!(|bytes: &[u8]| {
    let runtime = Builder::new_current_thread().enable_io().build();
    runtime.expect("a runtime").block_on(async {
        let (mut server, mut client) = UnixStream::pair().expect("a pair of sockets");
        let export = Export {
            name: "ns_qm1".to_owned(),
            size: 64 << 20,
        };
        let talk = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut answers = Vec::new();
            let _ = client.read_to_end(&mut answers).await;
        };
        let serve = async {
            let _ = negotiate(&mut server, &export).await;
            drop(server);
        };
        tokio::join!(talk, serve);
    });
});
