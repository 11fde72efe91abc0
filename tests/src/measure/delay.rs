//! A path that takes time: a proxy on loopback that hands on every byte a fixed time after it came, as far as the
//! path is never full. Order and rate stay; only distance is added.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::wait::wait_out;

/// Pieces on their way in one direction; each is a read of up to [`PIECE`] bytes.
const ON_THE_WAY: usize = 8192;

const PIECE: usize = 64 << 10;

/// Listens at a port of its own and leads to another address. A connection's threads end with it,
/// the one that listens with the program.
pub(super) fn path(to: SocketAddr, one_way: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port on loopback")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for here in listener.incoming() {
            let Ok(here) = here else { continue };
            // Nobody listens there yet: the dialler sees a connection that ends.
            let Ok(there) = TcpStream::connect(to) else {
                continue;
            };
            if let (Ok(back), Ok(forth)) = (here.try_clone(), there.try_clone()) {
                carry(here, there, one_way);
                carry(forth, back, one_way);
            }
        }
    });
    Ok(address)
}

/// One direction: a thread that reads, and one that writes when it is time.
fn carry(mut from: TcpStream, mut to: TcpStream, one_way: Duration) {
    let (send, arrive): (SyncSender<(Instant, Vec<u8>)>, Receiver<_>) = sync_channel(ON_THE_WAY);
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let due = Instant::now() + one_way;
            if send.send((due, piece[..count].to_vec())).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Read);
    });
    std::thread::spawn(move || {
        while let Ok((due, bytes)) = arrive.recv() {
            wait_out(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_later_and_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let way = Duration::from_millis(20);
        let address = path(listener.local_addr().expect("bound"), way).expect("a path");
        let mut near = TcpStream::connect(address).expect("a connection");
        let (mut far, _) = listener.accept().expect("the other end");
        let begun = Instant::now();
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        near.write_all(&sent).expect("sent");
        near.shutdown(Shutdown::Write).expect("shut");
        let mut came = Vec::new();
        far.read_to_end(&mut came).expect("read");
        assert!(came == sent && begun.elapsed() >= way);
    }
}
