//! What the tests of this room share: settings, and a server that follows a
//! script on real sockets of the loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::{Resolver, Transport};
use crate::config::DnsConfig;
use crate::net::{AddressPlan, MacAddr, Mtu, PlanV4, PlanV6};

/// The default address plan.
pub(super) fn plan() -> AddressPlan {
    AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
        v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
        gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: Mtu::ETHERNET,
    }
}

/// The default settings, with a resolv.conf that does not exist.
pub(super) fn config() -> DnsConfig {
    DnsConfig {
        upstreams: Vec::new(),
        resolv_conf: PathBuf::from("/nonexistent/resolv.conf"),
        search: None,
        ndots: 1,
        hosts: Vec::new(),
        outbound4: None,
        outbound6: None,
        deadline: Duration::from_secs(10),
    }
}

/// A resolver that asks `upstreams`.
pub(super) fn resolver(upstreams: &[&Upstream]) -> Resolver {
    let upstreams = upstreams.iter().map(|u| u.addr).collect();
    Resolver::new(
        DnsConfig {
            upstreams,
            ..config()
        },
        &plan(),
    )
    .expect("resolver")
}

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("name")
}

/// A query as a stub resolver sends it.
pub(super) fn query(text: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), qtype));
    message
}

/// The same with an OPT record.
pub(super) fn edns_query(text: &str, qtype: RecordType, udp_len: u16) -> Message {
    let mut message = query(text, qtype);
    let mut edns = Edns::new();
    edns.set_max_payload(udp_len);
    message.set_edns(edns);
    message
}

/// Asks, and checks what holds for every answer.
pub(super) async fn ask(resolver: &Resolver, query: &Message, transport: Transport) -> Message {
    let bytes = query.to_vec().expect("query");
    let answer = resolver.answer(&bytes, transport).await.expect("an answer");
    if transport == Transport::Udp {
        assert!(
            answer.len() <= usize::from(query.max_payload()),
            "{} bytes",
            answer.len()
        );
    }
    let answer = Message::from_vec(&answer).expect("answer");
    assert_eq!(answer.id, query.id);
    assert_eq!(answer.queries, query.queries);
    assert!(answer.queries[0].name().eq_case(query.queries[0].name()));
    answer
}

/// A response to `query` with these answers.
pub(super) fn response(query: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut message = Message::response(query.id, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.recursion_desired = query.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.iter().cloned());
    message.add_answers(answers);
    message.edns.clone_from(&query.edns);
    message
}

/// What a server sends back: any number of messages, with the header's
/// identifier as it stands.
pub(super) type Script = dyn Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync;

/// A server on UDP and TCP. It ends with the test's runtime.
pub(super) struct Upstream {
    pub(super) addr: SocketAddr,
    seen: Arc<Mutex<Vec<(Message, Transport)>>>,
}

impl Upstream {
    /// A server that follows `script`.
    pub(super) async fn start(
        script: impl Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    pub(super) async fn start_at(
        addr: &str,
        script: impl Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind(addr).await.expect("listener");
            let port = tcp.local_addr().expect("address");
            // The port may be in use by UDP: then another one.
            if let Ok(udp) = UdpSocket::bind(port).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().expect("address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(serve_udp(udp, Arc::clone(&script), Arc::clone(&seen)));
        tokio::spawn(serve_tcp(tcp, script, Arc::clone(&seen)));
        Self { addr, seen }
    }

    /// A server that knows these names: `(name, "A 192.0.2.1")`, one line per
    /// record, `"SERVFAIL"`, `"REFUSED"`, `"SILENT"`, `"EMPTY"`. All others do
    /// not exist.
    pub(super) async fn with_zone(zone: &'static [(&'static str, &'static str)]) -> Self {
        Self::start(move |query, _| from_zone(zone, query)).await
    }

    /// A server that says nothing.
    pub(super) async fn silent() -> Self {
        Self::start(|_, _| Vec::new()).await
    }

    /// What was asked since the last time this was asked, as text.
    pub(super) fn asked(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().expect("lock"));
        seen.iter()
            .map(|(m, t)| {
                let tcp = if *t == Transport::Tcp { " tcp" } else { "" };
                format!("{} {}{tcp}", m.queries[0].name(), m.queries[0].query_type())
            })
            .collect()
    }

    /// Messages since the last time this was asked.
    pub(super) fn messages(&self) -> Vec<Message> {
        std::mem::take(&mut *self.seen.lock().expect("lock"))
            .into_iter()
            .map(|(m, _)| m)
            .collect()
    }
}

type Seen = Arc<Mutex<Vec<(Message, Transport)>>>;

async fn serve_udp(socket: UdpSocket, script: Arc<Script>, seen: Seen) {
    let mut buffer = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let query = Message::from_vec(&buffer[..len]).expect("query");
        seen.lock().expect("lock").push((query, Transport::Udp));
        for answer in script(&buffer[..len], Transport::Udp) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Script>, seen: Seen) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut query = vec![0; len.into()];
                stream.read_exact(&mut query).await.expect("query");
                let message = Message::from_vec(&query).expect("query");
                seen.lock().expect("lock").push((message, Transport::Tcp));
                for answer in script(&query, Transport::Tcp) {
                    let len = u16::try_from(answer.len()).expect("length");
                    stream.write_all(&len.to_be_bytes()).await.expect("write");
                    stream.write_all(&answer).await.expect("write");
                }
            }
        });
    }
}

fn from_zone(zone: &[(&str, &str)], query: &[u8]) -> Vec<Vec<u8>> {
    let query = Message::from_vec(query).expect("query");
    let question = query.queries[0].clone();
    let entries: Vec<_> = zone
        .iter()
        .filter(|(n, _)| name(n) == *question.name())
        .flat_map(|(_, value)| value.split('\n'))
        .collect();
    let code = match entries[..] {
        [] => ResponseCode::NXDomain,
        ["SERVFAIL"] => ResponseCode::ServFail,
        ["REFUSED"] => ResponseCode::Refused,
        ["SILENT"] => return Vec::new(),
        _ => ResponseCode::NoError,
    };
    let mut records = Vec::new();
    for entry in entries {
        let Some((rtype, value)) = entry.split_once(' ') else {
            continue;
        };
        let rtype: RecordType = rtype.parse().expect("type");
        if rtype == question.query_type() {
            let data = RData::try_from_str(rtype, value).expect("data");
            records.push(Record::from_rdata(question.name().clone(), 300, data));
        }
    }
    vec![response(&query, code, records).to_vec().expect("response")]
}
