//! Tests of the DHCP server: scripted conversations in virtual time.

use dhcproto::v4::{Flags, OptionCode};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

use super::leases::POOL_SIZE;
use super::*;
use crate::net::{AddressPlan, Mtu};
use crate::services::search::SearchList;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const LEASE_15: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// A server, its settings and a clock.
struct Bench {
    server: Server,
    settings: Settings,
    plan: PlanV4,
    now: Instant,
}

impl Bench {
    fn new(search: &[&str]) -> Self {
        let plan = PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan");
        let search: Vec<String> = search.iter().map(|s| (*s).to_owned()).collect();
        let settings = Settings {
            plan: AddressPlan {
                v4: Some(plan),
                v6: None,
                gateway_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                mtu: Mtu::ETHERNET,
            },
            announce_dns: true,
            search: SearchList::new(&search),
            lease_time: Duration::from_secs(86_400),
        };
        let server = Server::new(&settings, &plan);
        Self {
            server,
            settings,
            plan,
            now: Instant::now(),
        }
    }

    fn handle(&mut self, message: &Message) -> Result<Outcome, Reason> {
        let bytes = message.to_vec().expect("encodes");
        self.server
            .handle(self.now, &self.settings, &self.plan, &bytes)
    }

    /// Sends `message` and takes the reply apart.
    fn ask(&mut self, message: &Message) -> (Message, Reply) {
        match self.handle(message) {
            Ok(Outcome::Reply(reply)) => {
                assert!(reply.message.len() >= MIN_MESSAGE);
                let parsed = Message::decode(&mut Decoder::new(&reply.message)).expect("decodes");
                assert_eq!(parsed.opcode(), Opcode::BootReply);
                assert_eq!(parsed.xid(), message.xid());
                assert_eq!(parsed.chaddr(), message.chaddr());
                assert_eq!(server_id(&parsed), GATEWAY);
                (parsed, reply)
            }
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    fn kind(&mut self, message: &Message) -> MessageType {
        self.ask(message).0.opts().msg_type().expect("a type")
    }

    /// The whole cycle from nothing; the address leased.
    fn lease(&mut self, mac: MacAddr) -> Ipv4Addr {
        let (offer, _) = self.ask(&discover(mac));
        let (ack, _) = self.ask(&select(mac, offer.yiaddr()));
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        ack.yiaddr()
    }
}

fn server_id(message: &Message) -> Ipv4Addr {
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(addr)) => *addr,
        other => panic!("no server identifier: {other:?}"),
    }
}

fn from_client(mac: MacAddr, kind: MessageType, ciaddr: Ipv4Addr) -> Message {
    let mut message = Message::new_with_id(0x1234_5678, ciaddr, NONE, NONE, NONE, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn with(mut message: Message, options: impl IntoIterator<Item = DhcpOption>) -> Message {
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

fn discover(mac: MacAddr) -> Message {
    from_client(mac, MessageType::Discover, NONE)
}

/// A request in state SELECTING.
fn select(mac: MacAddr, addr: Ipv4Addr) -> Message {
    with(
        from_client(mac, MessageType::Request, NONE),
        [
            DhcpOption::RequestedIpAddress(addr),
            DhcpOption::ServerIdentifier(GATEWAY),
        ],
    )
}

/// A request in state INIT-REBOOT.
fn reboot(mac: MacAddr, addr: Ipv4Addr) -> Message {
    with(
        from_client(mac, MessageType::Request, NONE),
        [DhcpOption::RequestedIpAddress(addr)],
    )
}

/// A request in state RENEWING or REBINDING.
fn renew(mac: MacAddr, addr: Ipv4Addr) -> Message {
    from_client(mac, MessageType::Request, addr)
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, number])
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, last)
}

#[test]
fn a_client_gets_everything_it_needs() {
    let mut bench = Bench::new(&["corp.example", "example"]);
    let (offer, _) = bench.ask(&discover(MAC));
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert_eq!(offer.yiaddr(), LEASE_15);
    let (ack, _) = bench.ask(&select(MAC, LEASE_15));
    assert_eq!(ack.yiaddr(), LEASE_15);
    let names = ["corp.example.", "example."].map(|n| Name::from_ascii(n).expect("name"));
    let expected = [
        DhcpOption::MessageType(MessageType::Ack),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![DNS]),
        DhcpOption::DomainName("corp.example".to_owned()),
        DhcpOption::InterfaceMtu(1500),
        DhcpOption::BroadcastAddr(ip(255)),
        DhcpOption::AddressLeaseTime(86_400),
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::Renewal(43_200),
        DhcpOption::Rebinding(75_600),
        DhcpOption::DomainSearch(names.to_vec()),
    ];
    assert_eq!(*ack.opts(), expected.into_iter().collect());
    let lease = bench.server.leases().next().expect("a lease");
    assert_eq!((lease.addr, lease.mac), (LEASE_15, MAC));
    assert_eq!(lease.expires, bench.now + Duration::from_secs(86_400));
}

#[test]
fn the_resolver_is_not_told_when_there_is_none() {
    let mut bench = Bench::new(&[]);
    bench.settings.announce_dns = false;
    let (offer, _) = bench.ask(&discover(MAC));
    for absent in [
        OptionCode::DomainNameServer,
        OptionCode::DomainName,
        OptionCode::DomainSearch,
    ] {
        assert!(!offer.opts().contains(absent), "{absent:?}");
    }
}

#[test]
fn replies_go_where_rfc_2131_sends_them() {
    let mut bench = Bench::new(&[]);
    let (_, reply) = bench.ask(&discover(MAC));
    assert_eq!(
        (reply.to, reply.station),
        (LEASE_15, MAC),
        "unicast to yiaddr"
    );

    // RFC 2131 table 3: an offer's ciaddr is 0 whatever the client wrote.
    let (offer, _) = bench.ask(&from_client(MAC, MessageType::Discover, ip(40)));
    assert_eq!((offer.ciaddr(), offer.yiaddr()), (NONE, LEASE_15));

    let mut broadcast = discover(MAC);
    broadcast.set_flags(Flags::default().set_broadcast());
    let (offer, reply) = bench.ask(&broadcast);
    assert_eq!(
        (reply.to, reply.station),
        (Ipv4Addr::BROADCAST, MacAddr::BROADCAST)
    );
    assert!(offer.flags().broadcast(), "flags are returned");

    bench.ask(&select(MAC, LEASE_15));
    let mut renewal = renew(MAC, LEASE_15);
    renewal.set_flags(Flags::default().set_broadcast());
    let (ack, reply) = bench.ask(&renewal);
    assert_eq!(
        (reply.to, reply.station),
        (LEASE_15, MAC),
        "unicast to ciaddr"
    );
    assert_eq!(ack.ciaddr(), LEASE_15);

    let (nak, reply) = bench.ask(&reboot(MAC, ip(99)));
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
    assert_eq!(
        (reply.to, reply.station),
        (Ipv4Addr::BROADCAST, MacAddr::BROADCAST)
    );
    assert_eq!((nak.yiaddr(), nak.ciaddr()), (NONE, NONE));
    assert!(!nak.opts().contains(OptionCode::AddressLeaseTime));
}

#[test]
fn the_nak_table() {
    use MessageType::{Ack, Nak};
    let other = mac(1);
    let stranger = mac(2);
    let table = [
        ("selecting what was offered", select(MAC, ip(15)), Ack),
        ("selecting something else", select(MAC, ip(16)), Nak),
        ("selecting the gateway", select(MAC, GATEWAY), Nak),
        (
            "selecting another network's address",
            select(MAC, Ipv4Addr::new(192, 168, 1, 5)),
            Nak,
        ),
        ("rebooting with the right address", reboot(MAC, ip(15)), Ack),
        ("rebooting with a wrong one", reboot(MAC, ip(20)), Nak),
        (
            "rebooting in another network",
            reboot(MAC, Ipv4Addr::new(192, 168, 1, 5)),
            Nak,
        ),
        ("a stranger's taken address", reboot(stranger, ip(15)), Nak),
        ("a stranger's free address", reboot(stranger, ip(25)), Ack),
        (
            "a stranger outside the pool",
            reboot(stranger, ip(100)),
            Nak,
        ),
        ("renewing", renew(MAC, ip(15)), Ack),
        ("renewing another's", renew(other, ip(15)), Nak),
        ("renewing the broadcast address", renew(MAC, ip(255)), Nak),
        ("renewing after a restart", renew(stranger, ip(26)), Ack),
    ];
    for (name, message, expected) in table {
        let mut bench = Bench::new(&[]);
        assert_eq!(bench.lease(MAC), ip(15));
        assert_eq!(bench.lease(other), ip(16));
        assert_eq!(bench.kind(&message), expected, "{name}");
    }
}

#[test]
fn what_is_meant_for_another_server_is_left_to_it() {
    let mut bench = Bench::new(&[]);
    let (offer, _) = bench.ask(&discover(MAC));
    let chosen = with(
        from_client(MAC, MessageType::Request, NONE),
        [
            DhcpOption::RequestedIpAddress(offer.yiaddr()),
            DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 9)),
        ],
    );
    assert_eq!(bench.handle(&chosen), Err(Reason::OtherServer));
    assert_eq!(bench.server.leases().count(), 0);
    assert_eq!(bench.lease(mac(1)), ip(16), "addresses nobody had go first");
    assert_eq!(bench.lease(MAC), ip(15));
}

#[test]
fn release_decline_and_inform() {
    let mut bench = Bench::new(&["example"]);
    let addr = bench.lease(MAC);
    let release = from_client(MAC, MessageType::Release, addr);
    assert_eq!(bench.handle(&release), Ok(Outcome::Noted));
    assert_eq!(bench.server.leases().count(), 0);
    assert_eq!(
        bench.handle(&from_client(mac(5), MessageType::Release, addr)),
        Err(Reason::NoSuchLease)
    );

    assert_eq!(bench.lease(MAC), addr, "the same address again");
    let decline = with(
        from_client(MAC, MessageType::Decline, NONE),
        [
            DhcpOption::RequestedIpAddress(addr),
            DhcpOption::ServerIdentifier(GATEWAY),
        ],
    );
    assert_eq!(bench.handle(&decline), Ok(Outcome::Noted));
    assert_eq!(
        bench.lease(MAC),
        ip(16),
        "a declined address is not offered again"
    );
    assert_eq!(bench.handle(&decline), Err(Reason::NoSuchLease));

    let (ack, reply) = bench.ask(&from_client(mac(3), MessageType::Inform, ip(100)));
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((ack.yiaddr(), ack.ciaddr()), (NONE, ip(100)));
    assert_eq!((reply.to, reply.station), (ip(100), mac(3)));
    for absent in [
        OptionCode::AddressLeaseTime,
        OptionCode::Renewal,
        OptionCode::Rebinding,
    ] {
        assert!(!ack.opts().contains(absent), "{absent:?}");
    }
    assert!(ack.opts().contains(OptionCode::DomainNameServer));
    for bad in [NONE, Ipv4Addr::new(8, 8, 8, 8), GATEWAY, ip(255)] {
        let inform = from_client(mac(3), MessageType::Inform, bad);
        assert_eq!(bench.handle(&inform), Err(Reason::Malformed), "{bad}");
    }
}

#[test]
fn clients_are_told_apart_by_identifier_first() {
    let mut bench = Bench::new(&[]);
    let named = |mac, id: &[u8]| with(discover(mac), [DhcpOption::ClientIdentifier(id.to_vec())]);
    let (first, _) = bench.ask(&named(mac(1), b"\x00one"));
    let (same, _) = bench.ask(&named(mac(2), b"\x00one"));
    let (second, _) = bench.ask(&named(mac(1), b"\x00two"));
    let (bare, _) = bench.ask(&discover(mac(1)));
    assert_eq!(first.yiaddr(), same.yiaddr());
    let addresses = [first.yiaddr(), second.yiaddr(), bare.yiaddr()];
    assert_eq!(addresses, [ip(15), ip(16), ip(17)]);
    // RFC 6842: the identifier is returned.
    let returned = first.opts().get(OptionCode::ClientIdentifier);
    assert_eq!(
        returned,
        Some(&DhcpOption::ClientIdentifier(b"\x00one".to_vec()))
    );
    assert!(!bare.opts().contains(OptionCode::ClientIdentifier));
    let (empty, _) = bench.ask(&named(mac(1), b""));
    assert_eq!(empty.yiaddr(), bare.yiaddr());
}

#[test]
fn clients_fit_and_one_more_waits_for_a_lease_to_end() {
    let mut bench = Bench::new(&[]);
    let size = u8::try_from(POOL_SIZE).expect("a small pool");
    for n in 0..size {
        assert_eq!(bench.lease(mac(n)), ip(15 + n));
        bench.now += Duration::from_secs(1);
    }
    assert_eq!(
        bench.handle(&discover(mac(size))),
        Err(Reason::NoFreeAddress)
    );
    bench.now += Duration::from_secs(86_400 - u64::from(size));
    assert_eq!(bench.lease(mac(size)), ip(15));
    assert_eq!(bench.kind(&renew(mac(0), ip(15))), MessageType::Nak);
    assert_eq!(bench.kind(&renew(mac(1), ip(16))), MessageType::Ack);
}

#[test]
fn a_lease_is_as_long_as_asked_within_bounds() {
    for (asked, expected) in [
        (0, 60),
        (59, 60),
        (600, 600),
        (86_401, 86_400),
        (u32::MAX, 86_400),
    ] {
        let mut bench = Bench::new(&[]);
        let (offer, _) = bench.ask(&with(discover(MAC), [DhcpOption::AddressLeaseTime(asked)]));
        let told = offer.opts().get(OptionCode::AddressLeaseTime);
        assert_eq!(
            told,
            Some(&DhcpOption::AddressLeaseTime(expected)),
            "{asked}"
        );
    }
}

#[test]
fn the_host_name_stays_with_the_lease() {
    let mut bench = Bench::new(&[]);
    let name = DhcpOption::Hostname("Web-1.example.org".to_owned());
    bench.ask(&with(discover(MAC), [name.clone()]));
    bench.ask(&with(select(MAC, LEASE_15), [name]));
    let lease = bench.server.leases().next().expect("a lease");
    assert_eq!(lease.hostname.as_deref(), Some("web-1"));
}

#[test]
fn a_long_search_list_is_compressed_split_in_order_and_cut_to_the_clients_size() {
    let owned: Vec<String> = (0..12)
        .map(|i| format!("department-number-{i}.corp-network.example.com"))
        .collect();
    let domains: Vec<&str> = owned.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&domains);
    let roomy = with(discover(MAC), [DhcpOption::MaxMessageSize(1500)]);
    let (_, reply) = bench.ask(&roomy);
    // RFC 3397: the pieces of option 119, in the order they stand, are one list.
    let pieces = option_pieces(&reply.message, 119);
    assert!(
        pieces.len() > 1 && pieces[0].len() == 255,
        "split at 255: {pieces:?}"
    );
    let list = pieces.concat();
    assert_eq!(decompress(&list), domains);
    let spelled_out = SearchList::new(&owned).uncompressed().len();
    assert!(
        list.len() < spelled_out,
        "{} bytes of {spelled_out}",
        list.len()
    );

    // Not told otherwise, a client takes 576 bytes of IP packet.
    let (_, reply) = bench.ask(&discover(MAC));
    assert!(reply.message.len() <= 548);
    let kept = decompress(&option_pieces(&reply.message, 119).concat());
    assert!(
        !kept.is_empty()
            && domains.starts_with(&kept.iter().map(String::as_str).collect::<Vec<_>>())
    );
}

/// The values of one option in a message, in the order they stand.
fn option_pieces(message: &[u8], code: u8) -> Vec<Vec<u8>> {
    let mut rest = &message[240..];
    let mut pieces = Vec::new();
    while let [found, tail @ ..] = rest {
        match found {
            0 => rest = tail,
            255 => break,
            _ => {
                let (len, tail) = tail.split_first().expect("a length");
                let (value, tail) = tail.split_at(usize::from(*len));
                if *found == code {
                    pieces.push(value.to_vec());
                }
                rest = tail;
            }
        }
    }
    pieces
}

/// Reads compressed names (RFC 1035 section 4.1.4), offsets from the list's start.
fn decompress(list: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let (mut labels, mut cursor, mut end) = (Vec::new(), at, None);
        loop {
            match usize::from(list[cursor]) {
                0 => break,
                len @ 1..=63 => {
                    let label = &list[cursor + 1..cursor + 1 + len];
                    labels.push(String::from_utf8(label.to_vec()).expect("text"));
                    cursor += 1 + len;
                }
                high => {
                    end.get_or_insert(cursor + 2);
                    let target = (high & 0x3f) << 8 | usize::from(list[cursor + 1]);
                    assert!(target < cursor, "pointers go back");
                    cursor = target;
                }
            }
        }
        at = end.unwrap_or(cursor + 1);
        names.push(labels.join("."));
    }
    names
}

#[test]
fn messages_that_are_not_for_this_server_are_ignored_by_name() {
    let mut relayed = discover(MAC);
    relayed.set_giaddr(Ipv4Addr::new(10, 0, 2, 77));
    let mut reply = discover(MAC);
    reply.set_opcode(Opcode::BootReply);
    let bootp = Message::new_with_id(1, NONE, NONE, NONE, NONE, &MAC.0);
    let mut group = discover(MAC);
    group.set_chaddr(&[0xff; 6]);
    let mut long = discover(MAC);
    long.set_chaddr(&[2; 16]);
    let table = [
        ("relayed", relayed, Reason::Relayed),
        ("a server's message", reply, Reason::Unsupported),
        ("BOOTP", bootp, Reason::Unsupported),
        ("from a group address", group, Reason::Malformed),
        ("a long hardware address", long, Reason::Malformed),
        (
            "an offer",
            from_client(MAC, MessageType::Offer, NONE),
            Reason::Unsupported,
        ),
        (
            "a request for nothing",
            from_client(MAC, MessageType::Request, NONE),
            Reason::Malformed,
        ),
    ];
    for (name, message, reason) in table {
        assert_eq!(Bench::new(&[]).handle(&message), Err(reason), "{name}");
    }
}

#[test]
fn options_are_found_in_file_and_sname_too() {
    let mut bytes = discover(MAC).to_vec().expect("encodes");
    bytes.truncate(240);
    bytes.extend_from_slice(&[52, 1, 3, 255]);
    bytes[108..112].copy_from_slice(&[53, 1, 1, 255]);
    bytes[44..51].copy_from_slice(&[50, 4, 10, 0, 2, 23, 255]);
    let request = Request::parse(&bytes).expect("a discover");
    assert_eq!(request.kind, MessageType::Discover);
    assert_eq!(request.requested, Some(ip(23)));
}

#[test]
fn a_lying_hardware_length_does_no_harm() {
    let mut bytes = discover(MAC).to_vec().expect("encodes");
    for len in 0..=255 {
        bytes[2] = len;
        assert_eq!(Request::parse(&bytes).is_ok(), len == 6, "{len}");
    }
}

/// A message that is right but for some bytes.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![1u8, 3, 4, 7, 8]);
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (
        kinds,
        any::<[u8; 2]>(),
        edits,
        proptest::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(kind, client, edits, tail)| {
            let mac = MacAddr([2, 0, 0, 0, client[0] % 4, client[1] % 8]);
            let addr = ip(15 + client[1] % 18);
            let mut bytes = with(
                from_client(mac, MessageType::from(kind), NONE),
                [DhcpOption::RequestedIpAddress(addr)],
            )
            .to_vec()
            .expect("encodes");
            bytes.extend_from_slice(&tail);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        })
}

proptest! {
    #[test]
    fn any_conversation_keeps_to_the_pool(
        messages in proptest::collection::vec(nearly_right(), 1..40),
        steps in proptest::collection::vec(0u64..50_000, 1..40),
    ) {
        let mut bench = Bench::new(&["example"]);
        for (bytes, step) in messages.iter().zip(steps.iter().cycle()) {
            bench.now += Duration::from_secs(*step);
            let done = bench.server.handle(bench.now, &bench.settings, &bench.plan, bytes);
            if let Ok(Outcome::Reply(reply)) = done {
                let parsed = Message::decode(&mut Decoder::new(&reply.message)).expect("decodes");
                let given = parsed.yiaddr();
                prop_assert!(given == NONE || (15..=78).contains(&given.octets()[3]), "{}", given);
                prop_assert!(reply.message.len() >= MIN_MESSAGE);
            }
            let leases: Vec<Ipv4Addr> = bench.server.leases().map(|l| l.addr).collect();
            prop_assert!(leases.is_sorted() && leases.len() <= POOL_SIZE);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Request::parse(&bytes);
    }

    #[test]
    fn any_options_are_refused_or_understood(tail in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = discover(MAC).to_vec().expect("encodes");
        bytes.truncate(240);
        bytes.extend_from_slice(&tail);
        let _ = Request::parse(&bytes);
    }
}
