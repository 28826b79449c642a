//! What the core tells of its flows.

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use gw::policy::Protocol;
use gw::slirp::{Direction, FlowInfo, FlowState};

use crate::host::{Got, Host, read, write};
use crate::inbound::{V4, accept, announce, publish, syn};
use crate::inbound_udp;
use crate::raw::{ACK, PSH, RST, Raw};
use crate::world::{GATEWAY4, GUEST4, Options, World};

const SECOND: Duration = Duration::from_secs(1);

fn only(world: &World) -> FlowInfo {
    let flows = world.slirp.flow_list();
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0].clone()
}

#[test]
fn a_clients_connection_is_listed_and_can_be_closed() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let syn = syn(&mut world);
    let asked = only(&world);
    assert_eq!(asked.state, FlowState::Connecting);
    let mut raw = accept(&mut world, &syn);
    raw.send(&mut world, ACK | PSH, b"welcome");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"welcome".to_vec()));
    assert_eq!(write(&mut client, b"hello"), 5);
    world.settle();
    world.advance(3 * SECOND);
    let open = only(&world);
    let here = client.local_addr().unwrap();
    assert_eq!(open.id, asked.id);
    assert_eq!(
        (open.protocol, open.direction, open.state),
        (Protocol::Tcp, Direction::Inbound, FlowState::Open)
    );
    assert_eq!(open.guest, (GUEST4, 80).into());
    assert_eq!(open.remote, (GATEWAY4, here.port()).into());
    assert_eq!(open.peer, Some(here));
    assert_eq!((open.to_guest, open.from_guest), (5, 7));
    assert!(open.age >= 3 * SECOND && open.idle <= open.age, "{open:?}");
    client.shutdown(Shutdown::Write).unwrap();
    world.settle();
    assert_eq!(only(&world).state, FlowState::HalfClosed);
    // By its name as people see it.
    let id = open.id.to_string().parse().unwrap();
    assert!(world.slirp.close_flow(id));
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Reset);
    assert!(raw.heard(&mut world).iter().any(|s| s.flags & RST != 0));
    assert!(!world.slirp.close_flow(id));
    assert!(world.slirp.flow_list().is_empty());
    world.assert_clean();
}

#[test]
fn the_guests_own_connection_is_listed() {
    let mut world = World::raw(&Options::default());
    let host = Host::listen();
    let mut raw = Raw::new(40_000, host.gateway());
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, ACK | PSH, b"question");
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"question".to_vec()));
    let flow = only(&world);
    assert_eq!(
        (flow.direction, flow.state),
        (Direction::Outbound, FlowState::Open)
    );
    assert_eq!((flow.guest, flow.remote), (raw.guest, host.gateway()));
    assert_eq!(flow.peer, Some((Ipv4Addr::LOCALHOST, host.port).into()));
    assert_eq!((flow.to_guest, flow.from_guest), (0, 8));
}

#[test]
fn datagrams_are_listed_and_can_be_forgotten() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = inbound_udp::publish(&mut world, "127.0.0.1:0", V4);
    let client = inbound_udp::client("127.0.0.1:0");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let seen = inbound_udp::exchange(&mut world, &client, to);
    let flow = only(&world);
    assert_eq!(
        (flow.protocol, flow.direction, flow.state),
        (Protocol::Udp, Direction::Inbound, FlowState::Open)
    );
    assert_eq!((flow.guest, flow.remote), (seen.to, seen.from));
    assert_eq!(flow.peer, Some(client.local_addr().unwrap()));
    assert_eq!((flow.to_guest, flow.from_guest), (8, 6));
    // Page by page: TCP comes before, nothing behind.
    let host = Host::listen();
    Raw::new(40_000, host.gateway()).open(&mut world);
    let all = world.slirp.flow_list();
    let behind = |id| world.slirp.flows_after(Some(id)).collect::<Vec<_>>();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].protocol, Protocol::Tcp);
    assert_eq!(behind(all[0].id), all[1..]);
    assert_eq!(behind(all[1].id), []);
    for nothing in ["0", "1000000000000", "ffffffffffffffff"] {
        let behind = behind(nothing.parse().unwrap());
        assert!(behind.len() <= 1, "{behind:?}");
    }
    assert!(world.slirp.close_flow(all[0].id));
    world.settle();
    assert!(world.slirp.close_flow(flow.id));
    assert!(!world.slirp.close_flow(flow.id));
    world.assert_clean();
}
