//! Where the guest of a forwarded port is: asking for its hardware address, and
//! trying one of its addresses after the other.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::{ArpOperation, NetSlice, SlicedPacket, TransportSlice};
use gw::slirp::DropReason;

use crate::host::{Got, read};
use crate::inbound::{
    BOTH, V4, V6, accept, announce, arp, assert_reset, next, publish, publish_at, refuse, syn,
};
use crate::raw::{ACK, PSH, RST, SYN};
use crate::world::{GATEWAY4, GATEWAY6, GUEST4, GUEST6, Options, World};

const SECOND: Duration = Duration::from_secs(1);

/// The targets that the frames at the guest ask for: ARP and discovery.
fn asked(world: &mut World) -> Vec<String> {
    world.settle();
    let mut asked = Vec::new();
    while let Some(frame) = world.arrived() {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        match (&packet.net, &packet.transport) {
            (Some(NetSlice::Arp(arp)), _) => {
                let arp = arp.to_packet().try_eth_ipv4().unwrap();
                assert_eq!(arp.operation, ArpOperation::REQUEST);
                assert_eq!(Ipv4Addr::from(arp.sender_ipv4), GATEWAY4);
                asked.push(Ipv4Addr::from(arp.target_ipv4).to_string());
            }
            (_, Some(TransportSlice::Icmpv6(icmp))) if icmp.slice()[0] == 135 => {
                let target: [u8; 16] = icmp.slice()[8..24].try_into().unwrap();
                asked.push(std::net::Ipv6Addr::from(target).to_string());
            }
            _ => {}
        }
    }
    asked
}

#[test]
fn a_guest_that_has_not_spoken_yet_is_asked_for_and_connects_at_once() {
    let mut world = World::raw(&Options::default());
    let port = publish(&mut world, V4);
    let _client = port.client();
    assert_eq!(asked(&mut world), ["10.0.2.100"]);
    let before = world.now;
    world.inject(&arp(ArpOperation::REPLY, GUEST4));
    let syn = syn(&mut world);
    assert_eq!(world.now, before, "the SYN waited for the answer only");
    accept(&mut world, &syn);
}

#[test]
fn an_ipv6_guest_is_asked_for_by_discovery() {
    let mut world = World::raw(&Options::default());
    let port = publish_at(&mut world, "[::1]:0", V6);
    let _client = port.client();
    assert_eq!(asked(&mut world), ["fd00::100"]);
    announce(&mut world);
    let syn = syn(&mut world);
    assert_eq!(
        (syn.from.ip(), syn.to),
        (GATEWAY6.into(), (GUEST6, 80).into())
    );
    accept(&mut world, &syn);
}

#[test]
fn an_address_that_nobody_has_is_asked_for_three_times() {
    let mut world = World::raw(&Options::default());
    let port = publish(&mut world, V4);
    let mut client = port.client();
    world.advance(Duration::from_millis(1900));
    assert_eq!(asked(&mut world), ["10.0.2.100"; 3]);
    assert_eq!(read(&mut client, 100), Got::Nothing);
    world.advance(Duration::from_millis(200));
    assert_reset(&mut world, &mut client);
    assert!(
        world
            .slirp
            .counters()
            .dropped(DropReason::NoHardwareAddress)
            > 0
    );
    world.advance(20 * SECOND);
    world.assert_clean();
}

#[test]
fn a_refused_family_leads_to_the_other() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    for (at, order) in [
        ("[::1]:0", [GUEST6.into(), GUEST4.into()]),
        (
            "127.0.0.1:0",
            [std::net::IpAddr::from(GUEST4), GUEST6.into()],
        ),
    ] {
        let port = publish_at(&mut world, at, BOTH);
        let mut client = port.client();
        let first = syn(&mut world);
        assert_eq!(first.to.ip(), order[0]);
        refuse(&mut world, &first);
        let second = syn(&mut world);
        assert_eq!(second.to.ip(), order[1]);
        let mut raw = accept(&mut world, &second);
        raw.send(&mut world, ACK | PSH, b"welcome");
        world.settle();
        assert_eq!(read(&mut client, 100), Got::Bytes(b"welcome".to_vec()));
        raw.send_at(&mut world, RST | ACK, raw.seq, &[]);
        assert_reset(&mut world, &mut client);
        // Both refuse.
        let mut client = port.client();
        for _ in 0..2 {
            let segment = syn(&mut world);
            refuse(&mut world, &segment);
        }
        assert_reset(&mut world, &mut client);
        world.slirp.unlisten(port.id);
    }
    world.assert_clean();
}

#[test]
fn a_silent_family_leads_to_the_other_and_back() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish_at(&mut world, "[::1]:0", BOTH);
    let _client = port.client();
    let start = world.now;
    let first = syn(&mut world);
    assert_eq!(first.to.ip(), GUEST6);
    let next_syn = |world: &mut World| {
        std::iter::from_fn(|| next(world, 3 * SECOND))
            .find(|s| s.is(SYN))
            .expect("a SYN")
    };
    let second = next_syn(&mut world);
    assert_eq!(second.to.ip(), GUEST4);
    assert!(world.now - start <= Duration::from_millis(310));
    refuse(&mut world, &second);
    let third = next_syn(&mut world);
    assert_eq!(third.to.ip(), GUEST6, "it has not refused");
    accept(&mut world, &third);
}

#[test]
fn a_guest_without_ipv6_costs_a_head_start_only_once() {
    let mut world = World::raw(&Options::default());
    world.inject(&arp(ArpOperation::REPLY, GUEST4));
    let port = publish_at(&mut world, "[::1]:0", BOTH);
    let _first = port.client();
    let start = world.now;
    let segment = next(&mut world, SECOND).expect("a SYN");
    assert_eq!(segment.to.ip(), GUEST4);
    assert!(world.now - start <= Duration::from_millis(310));
    accept(&mut world, &segment);
    world.advance(3 * SECOND);
    let _second = port.client();
    assert_eq!(syn(&mut world).to.ip(), GUEST4);
}

#[test]
fn an_address_of_the_plan_that_nobody_has_is_replaced_by_the_guests() {
    let mut world = World::raw(&Options::default());
    let leased = Ipv4Addr::new(10, 0, 2, 15);
    world.inject(&arp(ArpOperation::REPLY, leased));
    let port = publish(&mut world, V4);
    let _client = port.client();
    let segment = next(&mut world, SECOND).expect("a SYN");
    assert_eq!(segment.to, (leased, 80).into());
    accept(&mut world, &segment);
    // The next client need not wait any more.
    world.advance(3 * SECOND);
    let _client = port.client();
    assert_eq!(syn(&mut world).to, (leased, 80).into());
}
