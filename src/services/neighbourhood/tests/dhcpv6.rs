//! DHCPv6.

use super::*;

fn wanted(codes: &[OptionCode]) -> DhcpOption {
    // Written by hand: the library has no codes for every option.
    let bytes = codes
        .iter()
        .flat_map(|code| u16::from(*code).to_be_bytes())
        .collect();
    DhcpOption::Unknown(dhcproto::v6::UnknownOption::new(OptionCode::ORO, bytes))
}

#[test]
fn an_information_request_gets_resolver_and_search_list() {
    let mut bench = Bench::new(config(&["corp.example", "example"]));
    let client = DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
    let asks = wanted(&[
        OptionCode::DomainNameServers,
        OptionCode::DomainSearchList,
        OptionCode::InformationRefreshTime,
    ]);
    let request = information_request([client.clone(), asks]);
    let answer = bench.answer(&dhcpv6_frame("ff02::1:2", &request));
    assert_eq!(answer[..6], GUEST_MAC.0);
    let sliced = SlicedPacket::from_ethernet(&answer).expect("well-formed");
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(found))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("not UDP");
    };
    assert_eq!(ip.header().source_addr(), v6("fe80::2"));
    assert_eq!(ip.header().destination_addr(), v6("fe80::9"));
    assert_eq!((found.source_port(), found.destination_port()), (547, 546));
    let reply = Message::from_bytes(found.payload()).expect("decodes");
    assert_eq!(
        (reply.msg_type(), reply.xid()),
        (MessageType::Reply, [1, 2, 3])
    );
    let names = ["corp.example.", "example."]
        .map(|n| n.parse().expect("name"))
        .to_vec();
    let expected = [
        client,
        DhcpOption::ServerId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 2]),
        DhcpOption::DomainNameServers(vec![v6("fd00::3")]),
        DhcpOption::DomainSearchList(names),
    ];
    for option in expected {
        assert_eq!(reply.opts().get(OptionCode::from(&option)), Some(&option));
    }
    // RFC 8415 section 10: never compressed.
    let list = b"\x00\x18\x00\x17\x04corp\x07example\x00\x07example\x00";
    assert!(
        found
            .payload()
            .windows(list.len())
            .any(|window| window == list)
    );
}

#[test]
fn only_what_is_asked_for_is_told() {
    let mut bench = Bench::new(config(&["example"]));
    let request = information_request([wanted(&[OptionCode::DomainSearchList])]);
    let answer = bench.answer(&dhcpv6_frame("ff02::1:2", &request));
    let reply = Message::from_bytes(&answer[62..]).expect("decodes");
    assert!(reply.opts().get(OptionCode::DomainSearchList).is_some());
    assert!(reply.opts().get(OptionCode::DomainNameServers).is_none());
    let answer = bench.answer(&dhcpv6_frame("ff02::1:2", &information_request([])));
    let reply = Message::from_bytes(&answer[62..]).expect("decodes");
    assert!(reply.opts().get(OptionCode::DomainNameServers).is_some());
}

#[test]
fn a_stateless_server_ignores_the_rest() {
    let mut bench = Bench::new(config(&[]));
    let solicit = Message::new_with_id(MessageType::Solicit, [1, 2, 3])
        .to_vec()
        .expect("encodes");
    let with_addresses = information_request([DhcpOption::IANA(dhcproto::v6::IANA {
        id: 1,
        t1: 0,
        t2: 0,
        opts: dhcproto::v6::DhcpOptions::new(),
    })]);
    let to_other = information_request([DhcpOption::ServerId(vec![0, 3, 0, 1, 9])]);
    let cut = information_request([DhcpOption::ClientId(vec![7; 20])]);
    let table = [
        ("ff02::1:2", &solicit[..], Reason::Stateless),
        ("ff02::1:2", &with_addresses, Reason::Stateless),
        ("ff02::1:2", &to_other, Reason::OtherServer),
        ("ff02::1:2", &cut[..20], Reason::Malformed),
        ("ff02::1:2", &[12, 0, 0, 0], Reason::Relayed),
        ("ff02::1:2", &[], Reason::Malformed),
        ("fd00::2", &cut, Reason::Unsupported),
    ];
    for (dst, message, reason) in table {
        assert_eq!(
            bench.ignored(&dhcpv6_frame(dst, message)),
            reason,
            "{dst}: {message:?}"
        );
    }
    let elsewhere = dhcpv6_frame("2001:db8::1", &cut);
    assert_eq!(bench.handle(&elsewhere).0, Handled::NotMine);
}
