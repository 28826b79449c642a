//! Arbitrary bytes from guests and servers, and the bound on queries.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::alias;
use super::super::message::{Arrived, Query, question_end, truncate};
use super::super::testing::{Upstream, ask, config, edns_query, name, plan, query};
use super::super::{MAX_QUERIES_IN_FLIGHT, Resolver, Transport};
use crate::config::DnsConfig;

/// A resolver whose only server refuses connections, with searching on.
fn lonely() -> Resolver {
    let upstreams = vec!["127.0.0.1:1".parse().expect("address")];
    let search = Some(vec!["a.example".into(), "b.example".into()]);
    Resolver::new(
        DnsConfig {
            upstreams,
            search,
            ..config()
        },
        &plan(),
    )
    .expect("resolver")
}

fn answer_of(bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("runtime")
        .block_on(lonely().answer(bytes, transport))
}

/// Holds for every answer to every message.
fn check(bytes: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let Some(answer) = answer_of(bytes, transport) else {
        return Ok(());
    };
    let answer = Message::from_vec(&answer).expect("an answer can be read");
    prop_assert_eq!(answer.id.to_be_bytes(), [bytes[0], bytes[1]]);
    match Message::from_vec(bytes) {
        Ok(asked) if !answer.queries.is_empty() => prop_assert_eq!(answer.queries, asked.queries),
        _ => {}
    }
    Ok(())
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// A good query with a few bytes changed, and cut or grown.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        Just("localhost."),
        Just("a.b.example."),
        Just("x."),
        Just(".")
    ];
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (
        names,
        any::<u16>(),
        any::<bool>(),
        changes,
        vec(any::<u8>(), 0..40),
    )
        .prop_map(|(name, qtype, edns, changes, tail)| {
            let qtype = RecordType::from(qtype);
            let message = if edns {
                edns_query(name, qtype, 900)
            } else {
                query(name, qtype)
            };
            let mut bytes = message.to_vec().expect("query");
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(tail);
            bytes
        })
}

proptest! {
    #[test]
    fn any_bytes_from_a_guest(bytes in vec(any::<u8>(), 0..600), transport in transport()) {
        check(&bytes, transport)?;
    }

    #[test]
    fn damaged_queries_from_a_guest(bytes in damaged(), transport in transport()) {
        check(&bytes, transport)?;
    }

    #[test]
    fn any_bytes_from_a_server(
        mut bytes in vec(any::<u8>(), 12..600),
        limit in 512_usize..1232,
        forge: bool,
    ) {
        let asked = edns_query("a.example.", RecordType::A, 1232).to_vec().expect("query");
        let query = Query::parse(&asked).expect("query");
        let outgoing = query.outgoing(1232);
        if forge {
            // Right where it is looked at first, so that the rest is read.
            bytes[..2].copy_from_slice(&outgoing.bytes()[..2]);
            bytes[2] = 0x80;
            bytes.splice(12..12, outgoing.bytes()[12..query.question_end].iter().copied());
            let counts = [0, 1, 0, bytes[7] & 7, 0, bytes[9] & 1, 0, bytes[11] & 3];
            bytes[4..12].copy_from_slice(&counts);
        }
        if let Arrived::Answer(answer) = outgoing.judge(&bytes) {
            alias::judge(&answer, query.qtype);
            alias::reply(&query, &name("a.b.example."), &answer);
            let answer = query.adopt(answer);
            let end = question_end(&answer).expect("a question");
            let cut = truncate(answer, end, limit);
            prop_assert_eq!(&cut[..2], &asked[..2]);
        }
    }

    #[test]
    fn answers_are_cut_between_records(
        lens in vec(0_usize..200, 0..40),
        sections in vec(0_u8..3, 40),
        opt: bool,
        limit in 512_usize..2048,
    ) {
        let asked = edns_query("a.example.", RecordType::TXT, 1232);
        let mut message = super::super::testing::response(
            &asked, hickory_proto::op::ResponseCode::NoError, Vec::new());
        if !opt {
            message.edns = None;
        }
        for (len, section) in lens.iter().zip(&sections) {
            let data = hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(*len)]);
            let data = hickory_proto::rr::RData::TXT(data);
            let record = hickory_proto::rr::Record::from_rdata(asked.queries[0].name().clone(), 1, data);
            match section {
                0 => message.add_answer(record),
                1 => message.add_authority(record),
                _ => message.add_additional(record),
            };
        }
        let whole = message.to_vec().expect("message");
        let end = question_end(&whole).expect("question");
        let cut = truncate(whole.clone(), end, limit);
        prop_assert!(cut.len() <= limit);
        let read = Message::from_vec(&cut).expect("still a message");
        prop_assert_eq!(&read.queries, &message.queries);
        prop_assert_eq!(&read.edns, &message.edns);
        prop_assert!(message.answers.starts_with(&read.answers));
        prop_assert!(message.authorities.starts_with(&read.authorities));
        prop_assert!(message.additionals.starts_with(&read.additionals));
        let lost = read.answers.len() < message.answers.len()
            || read.authorities.len() < message.authorities.len();
        prop_assert_eq!(read.truncation, lost);
        if whole.len() <= limit {
            prop_assert_eq!(cut, whole);
        }
    }
}

#[tokio::test]
async fn queries_over_the_bound_are_dropped() {
    let upstream = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let question = query("a.example.", RecordType::A);
    resolver.shared.in_flight.set(MAX_QUERIES_IN_FLIGHT);
    let bytes = question.to_vec().expect("query");
    assert_eq!(resolver.answer(&bytes, Transport::Udp).await, None);
    // What is known here needs no place.
    ask(
        &resolver,
        &query("localhost.", RecordType::A),
        Transport::Udp,
    )
    .await;
    resolver.shared.in_flight.set(MAX_QUERIES_IN_FLIGHT - 1);
    ask(&resolver, &question, Transport::Udp).await;
    // A guest that goes away gives its place back.
    let waiting = resolver.answer(&bytes, Transport::Udp);
    drop(tokio::time::timeout(std::time::Duration::ZERO, waiting).await);
    assert_eq!(resolver.shared.in_flight.get(), MAX_QUERIES_IN_FLIGHT - 1);
}
