//! Addresses of the peer that are names: asked of the name servers in the machine's resolv.conf.
//!
//! The C library's resolver is not there in a static binary. Lives here: turning `host:port` into
//! socket addresses, and saying what went wrong in words that name the field. Does not live here:
//! dialling ([`super::connect`]).
//!
//! Each question reads resolv.conf and hosts anew: it is asked at most once per dial, and an answer
//! that was kept would outlive the reason to dial again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::time::timeout;

/// The whole question, with every name server and search domain.
const NAME_LIMIT: Duration = Duration::from_secs(3);

/// One packet's answer. Two more follow within [`NAME_LIMIT`].
const PACKET_LIMIT: Duration = Duration::from_millis(900);
const REPEATS: usize = 2;

/// Addresses of one name that are dialled; more would make a round of dials too long.
pub(super) const MAX_TARGETS: usize = 3;

type Builder = ResolverBuilder<TokioRuntimeProvider>;

/// The socket addresses of `host:port`. An address that is no name is taken as it is.
pub(super) async fn resolve(
    address: &str,
    local: Option<IpAddr>,
) -> Result<Vec<SocketAddr>, String> {
    resolve_by(address, local, || {
        TokioResolver::builder_tokio()
            .map_err(|e| format!("the name servers of /etc/resolv.conf cannot be used: {e}"))
    })
    .await
}

async fn resolve_by(
    address: &str,
    local: Option<IpAddr>,
    builder: impl FnOnce() -> Result<Builder, String> + Send + 'static,
) -> Result<Vec<SocketAddr>, String> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let found = match address.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) => look_up(host, builder)
                .await
                .map(|found| targets(&found, port, local)),
            Err(_) => Err("has no port; write host:port".to_owned()),
        },
        None => Err("has no port; write host:port".to_owned()),
    };
    found.map_err(|why| format!("spec.replication.peer.addresses: {address}: {why}"))
}

async fn look_up(
    host: &str,
    builder: impl FnOnce() -> Result<Builder, String> + Send + 'static,
) -> Result<Vec<IpAddr>, String> {
    let asked = async {
        // Files are read: not on the thread that carries the data.
        let resolver = tokio::task::spawn_blocking(move || prepare(builder()?))
            .await
            .map_err(|e| e.to_string())??;
        let answer = resolver.lookup_ip(host).await.map_err(|e| words(&e))?;
        Ok::<_, String>(answer.iter().collect::<Vec<_>>())
    };
    timeout(NAME_LIMIT, asked)
        .await
        .map_err(|_| "the name servers do not answer".to_owned())?
}

fn prepare(mut builder: Builder) -> Result<TokioResolver, String> {
    let options = builder.options_mut();
    options.timeout = PACKET_LIMIT;
    options.attempts = REPEATS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(|e| e.to_string())
}

/// Without what changes from one question to the next: the text becomes part of a status.
fn words(error: &NetError) -> String {
    if error.is_nx_domain() {
        "there is no such name".to_owned()
    } else if error.is_no_records_found() {
        "the name has no address".to_owned()
    } else if matches!(error, NetError::Timeout) {
        "the name servers do not answer".to_owned()
    } else {
        super::chain(error)
    }
}

/// Those first that the local address can reach.
fn targets(found: &[IpAddr], port: u16, local: Option<IpAddr>) -> Vec<SocketAddr> {
    let mut targets: Vec<_> = found
        .iter()
        .map(|ip| SocketAddr::new(*ip, port))
        .filter(|target| local.is_none_or(|l| l.is_ipv4() == target.is_ipv4()))
        .collect();
    targets.dedup();
    targets.truncate(MAX_TARGETS);
    targets
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server on loopback that answers as told; its packets are its owner's.
    async fn server(answer: impl Fn(&str, RecordType) -> Answer + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                let request = Message::from_vec(&packet[..len]).unwrap();
                let query = request.queries[0].clone();
                let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
                let name = query.name().to_string();
                match answer(&name, query.query_type()) {
                    Answer::Silence => continue,
                    Answer::Missing => reply.metadata.response_code = ResponseCode::NXDomain,
                    Answer::Records(records) => {
                        for data in records {
                            let record = Record::from_rdata(query.name().clone(), 60, data);
                            reply.add_answer(record);
                        }
                    }
                }
                reply.add_query(query);
                let bytes = reply.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        address
    }

    enum Answer {
        Silence,
        Missing,
        Records(Vec<RData>),
    }

    async fn ask(address: &str, server: SocketAddr) -> Result<Vec<SocketAddr>, String> {
        ask_from(address, None, server).await
    }

    async fn ask_from(
        address: &str,
        local: Option<IpAddr>,
        server: SocketAddr,
    ) -> Result<Vec<SocketAddr>, String> {
        let builder = move || {
            let mut connection = ConnectionConfig::udp();
            connection.port = server.port();
            let servers = NameServerConfig::new(server.ip(), true, vec![connection]);
            let config = ResolverConfig::from_name_servers(vec![servers]);
            Ok(TokioResolver::builder_with_config(
                config,
                TokioRuntimeProvider::default(),
            ))
        };
        resolve_by(address, local, builder).await
    }

    fn both_families(name: &str, kind: RecordType) -> Answer {
        assert_eq!(name, "dr2.example.");
        Answer::Records(if kind == RecordType::AAAA {
            vec![RData::AAAA(AAAA("fd00::1".parse().unwrap()))]
        } else {
            (1..=2)
                .map(|n| RData::A(A(Ipv4Addr::new(10, 0, 2, n))))
                .collect()
        })
    }

    #[tokio::test]
    async fn a_name_is_asked_of_the_name_server() {
        let server = server(both_families).await;
        let mut found = ask("dr2.example:7001", server).await.unwrap();
        found.sort();
        let wanted = ["10.0.2.1:7001", "10.0.2.2:7001", "[fd00::1]:7001"];
        assert_eq!(found, wanted.map(|a| a.parse().unwrap()));

        let local = Some("fd00::2".parse().unwrap());
        let reachable = ask_from("dr2.example:7001", local, server).await.unwrap();
        assert_eq!(reachable, ["[fd00::1]:7001".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_literal_is_asked_of_nobody() {
        for (text, port) in [("10.0.2.15:7001", 7001), ("[fd00::1]:7002", 7002)] {
            let nobody = || panic!("nobody is asked");
            let found = resolve_by(text, None, nobody).await.unwrap();
            assert_eq!((found.len(), found[0].port()), (1, port));
        }
    }

    #[tokio::test]
    async fn failures_name_the_field_the_address_and_the_reason() {
        let missing = server(|_, _| Answer::Missing).await;
        let empty = server(|_, _| Answer::Records(Vec::new())).await;
        let silent = server(|_, _| Answer::Silence).await;
        for (server, reason) in [
            (missing, "there is no such name"),
            (empty, "the name has no address"),
            (silent, "the name servers do not answer"),
        ] {
            let error = ask("dr2.example:7001", server).await.unwrap_err();
            let wanted = format!("spec.replication.peer.addresses: dr2.example:7001: {reason}");
            assert_eq!(error, wanted);
        }
    }
}
