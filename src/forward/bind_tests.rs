use std::net::{TcpListener, TcpStream, UdpSocket};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::super::testing::{at_home, here};
use super::*;

fn publish(text: &str) -> Publish {
    at_home(text).parse().expect("a forward")
}

fn bound(text: &str) -> Bound {
    ports(&publish(text), Inquiry::LookUp).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn port_of(bound: &Bound) -> u16 {
    match &bound.at {
        BoundAt::Ports { ports, .. } => ports.first,
        BoundAt::Unix(_) => panic!("a path"),
    }
}

#[test]
fn one_socket_takes_clients_of_both_families() {
    let bound = bound("0:80");
    assert_eq!(bound.sockets.len(), 1);
    let socket = &bound.sockets[0];
    assert_eq!((socket.kind, socket.port), (SocketKind::Tcp, 80));
    let flags = fcntl(&socket.socket, FcntlArg::F_GETFL).expect("flags");
    assert!(OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
    let port = port_of(&bound);
    assert_eq!(bound.at.to_string(), format!("*:{port}"));
    TcpStream::connect(("127.0.0.1", port)).expect("IPv4");
    TcpStream::connect(("::1", port)).expect("IPv6");
}

#[test]
fn an_address_is_the_only_one() {
    let v4 = bound("127.0.0.1::80");
    let port = port_of(&v4);
    assert_eq!(v4.at.to_string(), format!("127.0.0.1:{port}"));
    TcpStream::connect(("127.0.0.1", port)).expect("IPv4");
    TcpStream::connect(("127.0.0.2", port)).expect_err("another address");
    let v6 = bound("[::]::80");
    TcpStream::connect(("::1", port_of(&v6))).expect("IPv6");
    TcpStream::connect(("127.0.0.1", port_of(&v6))).expect_err("the other family");
    bound("%lo:0:80/udp");
}

#[test]
fn a_range_is_bound_as_a_whole_or_not_at_all() {
    // Ports that the system gives to nobody by itself.
    let range = bound("HERE:20100-20109:100-109/udp");
    assert_eq!(range.sockets.len(), 10);
    assert!(range.sockets.iter().map(|s| s.port).eq(100..=109));
    drop(range);
    let taken = UdpSocket::bind((here(), 20105)).expect("a port");
    let range = publish("HERE:20100-20109/udp");
    let error = ports(&range, Inquiry::Skip)
        .expect_err("in use")
        .to_string();
    assert!(
        error.contains("port 20105 is in use by another program"),
        "{error}"
    );
    UdpSocket::bind((here(), 20104)).expect("free again");
    drop(taken);
}

#[test]
fn who_is_in_the_way_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    let me = std::process::id();
    for text in [format!("127.0.0.1:{port}:80"), format!("{port}:80")] {
        let error = ports(&publish(&text), Inquiry::LookUp).expect_err("in use");
        let error = error.to_string();
        assert!(
            error.starts_with(&format!("port {port} is in use by ")),
            "{error}"
        );
        assert!(error.contains(&format!("(process {me})")), "{error}");
        assert!(error.contains(":80"), "{error}");
    }
}

#[test]
fn what_the_host_has_not_is_named() {
    for (text, why) in [
        ("192.0.2.77:20200:80", "this host has no address 192.0.2.77"),
        ("%nosuch0:20200:80", "this host has no interface 'nosuch0'"),
        (
            "[fe80::1%nosuch0]:20200:80",
            "this host has no interface 'nosuch0'",
        ),
    ] {
        let error = ports(&publish(text), Inquiry::LookUp).expect_err(text);
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

#[test]
fn suggested_ports_are_ports() {
    for port in [1, 80, 443, 1023, 1024, 8080, 57535, 57536, 65534, 65535] {
        assert_ne!(other_port(port), port);
        assert!(other_port(port) >= 1024);
        assert!(higher_port(port) >= 1024);
    }
}
