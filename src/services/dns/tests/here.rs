//! What is answered without asking anyone.

use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use super::super::testing::{Upstream, ask, config, edns_query, plan, query, resolver};
use super::super::{DnsError, HostRemoval, Resolver, Transport};
use crate::config::DnsConfig;

fn data(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|r| r.data.to_string()).collect()
}

#[tokio::test]
async fn the_gateways_names_and_static_names() {
    let upstream = Upstream::silent().await;
    let hosts = vec![
        (
            "db.example".to_owned(),
            "192.0.2.1".parse().expect("address"),
        ),
        (
            "db.example".to_owned(),
            "192.0.2.2".parse().expect("address"),
        ),
    ];
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        hosts,
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let no_error = ResponseCode::NoError;
    for (name, qtype, code, expected) in [
        ("host.gw.internal.", "A", no_error, &["10.0.2.2"][..]),
        ("HOST.gw.Internal.", "AAAA", no_error, &["fd00::2"]),
        ("host.containers.internal.", "A", no_error, &["10.0.2.2"]),
        (
            "gateway.gw.internal.",
            "ANY",
            no_error,
            &["10.0.2.2", "fd00::2"],
        ),
        ("dns.gw.internal.", "A", no_error, &["10.0.2.3"]),
        ("host.gw.internal.", "MX", no_error, &[]),
        ("host.gw.internal.", "HTTPS", no_error, &[]),
        ("other.gw.internal.", "A", ResponseCode::NXDomain, &[]),
        ("localhost.", "A", no_error, &["127.0.0.1"]),
        ("localhost.", "AAAA", no_error, &["::1"]),
        ("db.example.", "A", no_error, &["192.0.2.1", "192.0.2.2"]),
        ("db.example.", "AAAA", no_error, &[]),
        (
            "2.2.0.10.in-addr.arpa.",
            "PTR",
            no_error,
            &["gateway.gw.internal."],
        ),
        ("2.2.0.192.in-addr.arpa.", "PTR", no_error, &["db.example."]),
        ("2.2.0.192.in-addr.arpa.", "TXT", no_error, &[]),
        (
            "100.2.0.10.in-addr.arpa.",
            "PTR",
            ResponseCode::NXDomain,
            &[],
        ),
    ] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = ask(
                &resolver,
                &query(name, qtype.parse().expect("type")),
                transport,
            )
            .await;
            assert_eq!(
                (answer.response_code, &data(&answer)[..]),
                (
                    code,
                    &expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]
                ),
                "{name} {qtype}"
            );
            assert!(answer.recursion_available);
        }
    }
    assert!(upstream.asked().is_empty());
}

#[tokio::test]
async fn other_classes_are_not_answered_here() {
    let upstream = Upstream::start(|q, _| {
        let mut answer = q.to_vec();
        answer[2] |= 0x80;
        vec![answer]
    })
    .await;
    let resolver = resolver(&[&upstream]);
    let mut query = query("localhost.", RecordType::TXT);
    query.queries[0].set_query_class(DNSClass::CH);
    ask(&resolver, &query, Transport::Udp).await;
    assert_eq!(upstream.asked().len(), 1);
}

#[tokio::test]
async fn many_addresses_are_cut_to_what_the_guest_takes() {
    let resolver = resolver(&[]);
    for i in 0..200 {
        let addr = IpAddr::from([192, 0, 2, i]);
        resolver.add_host("many.example", addr).expect("room");
    }
    let short = ask(
        &resolver,
        &query("many.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert!(short.truncation && short.answers.len() > 25);
    let whole = ask(
        &resolver,
        &query("many.example.", RecordType::A),
        Transport::Tcp,
    )
    .await;
    assert!(!whole.truncation && whole.answers.len() == 200);
}

#[tokio::test]
async fn names_come_and_go_at_run_time() {
    let upstream = Upstream::with_zone(&[]).await;
    let resolver = resolver(&[&upstream]);
    let other_handle = resolver.clone();
    let addr = "192.0.2.1".parse().expect("address");
    let question = query("new.example.", RecordType::A);
    other_handle.add_host("New.Example", addr).expect("room");
    assert_eq!(
        data(&ask(&resolver, &question, Transport::Udp).await),
        ["192.0.2.1"]
    );
    assert_eq!(
        other_handle.remove_host("new.example.", addr),
        Ok(HostRemoval::Removed)
    );
    assert_eq!(
        other_handle.remove_host("new.example.", addr),
        Ok(HostRemoval::Unknown)
    );
    let answer = ask(&resolver, &question, Transport::Udp).await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
}

#[test]
fn settings_are_checked() {
    let new = |config| Resolver::new(config, &plan()).map(drop);
    let many = |n: usize| (0..n).map(|i| format!("d{i}")).collect::<Vec<_>>();
    let server = "192.0.2.1:53".parse().expect("address");
    let hosts = vec![("a..b".to_owned(), IpAddr::from([192, 0, 2, 1]))];
    for (config, error) in [
        (
            DnsConfig {
                search: Some(vec!["..".into()]),
                ..config()
            },
            DnsError::SearchDomain("..".into()),
        ),
        (
            DnsConfig {
                search: Some(many(33)),
                ..config()
            },
            DnsError::TooManySearchDomains(33),
        ),
        (
            DnsConfig {
                upstreams: vec![server; 17],
                ..config()
            },
            DnsError::TooManyServers(17),
        ),
        (
            DnsConfig { hosts, ..config() },
            DnsError::HostName("a..b".into()),
        ),
    ] {
        assert_eq!(new(config), Err(error));
    }
    assert_eq!(
        new(DnsConfig {
            search: Some(many(32)),
            ..config()
        }),
        Ok(())
    );
}

#[tokio::test]
async fn what_is_no_proper_query_is_refused_or_dropped() {
    let resolver = resolver(&[]);
    let good = query("localhost.", RecordType::A).to_vec().expect("query");
    let code = async |bytes: &[u8]| {
        let answer = resolver.answer(bytes, Transport::Udp).await?;
        let answer = Message::from_vec(&answer).expect("answer");
        assert_eq!(answer.id.to_be_bytes(), bytes[..2]);
        Some(answer.response_code)
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(code(&good).await, Some(ResponseCode::NoError));
    assert_eq!(code(&[]).await, None);
    assert_eq!(code(&good[..11]).await, None, "no header");
    assert_eq!(code(&with(2, 0x80)).await, None, "a response");
    assert_eq!(
        code(&good[..12]).await,
        Some(ResponseCode::FormErr),
        "no question"
    );
    assert_eq!(
        code(&good[..good.len() - 1]).await,
        Some(ResponseCode::FormErr),
        "half of one"
    );
    assert_eq!(code(&with(5, 0)).await, Some(ResponseCode::FormErr), "none");
    assert_eq!(code(&with(5, 2)).await, Some(ResponseCode::FormErr), "two");
    assert_eq!(
        code(&with(12, 0xc0)).await,
        Some(ResponseCode::FormErr),
        "compressed name"
    );
    assert_eq!(
        code(&with(12, 0x40)).await,
        Some(ResponseCode::FormErr),
        "unknown label"
    );
    assert_eq!(
        code(&with(11, 1)).await,
        Some(ResponseCode::FormErr),
        "a missing record"
    );
    for op in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let bytes = with(2, u8::from(op) << 3);
        assert_eq!(code(&bytes).await, Some(ResponseCode::NotImp), "{op:?}");
    }
    for transfer in [RecordType::AXFR, RecordType::IXFR] {
        let bytes = query("example.", transfer).to_vec().expect("query");
        assert_eq!(code(&bytes).await, Some(ResponseCode::NotImp), "{transfer}");
    }
    assert_eq!(
        code(&[&good[..], &[0; 5000]].concat()).await,
        Some(ResponseCode::FormErr),
        "long"
    );
    // Bytes behind the message are not looked at.
    assert_eq!(
        code(&[&good[..], b"tail"].concat()).await,
        Some(ResponseCode::NoError)
    );
}

#[tokio::test]
async fn opt_records_are_checked() {
    let resolver = resolver(&[]);
    let good = edns_query("localhost.", RecordType::A, 1232)
        .to_vec()
        .expect("query");
    let opt = good.len() - 11;
    let code = async |bytes: &[u8]| {
        let answer = resolver
            .answer(bytes, Transport::Udp)
            .await
            .expect("answer");
        Message::from_vec(&answer).expect("answer").response_code
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(code(&good).await, ResponseCode::NoError);
    // BADVERS, whose number is BADSIG's too.
    assert_eq!(u16::from(code(&with(opt + 6, 1)).await), 16);
    // Two of them; an owner that is not the root; half an option.
    let mut two = with(11, 2);
    two.extend_from_slice(&good[opt..]);
    assert_eq!(code(&two).await, ResponseCode::FormErr);
    let mut owner = good.clone();
    owner.splice(opt..=opt, [1, b'x', 0]);
    assert_eq!(code(&owner).await, ResponseCode::FormErr);
    let mut half = with(opt + 10, 3);
    half.extend_from_slice(&[0, 10, 0]);
    assert_eq!(code(&half).await, ResponseCode::FormErr);
    let mut overlong = with(opt + 10, 4);
    overlong.extend_from_slice(&[0, 10, 0, 1]);
    assert_eq!(code(&overlong).await, ResponseCode::FormErr);
}
