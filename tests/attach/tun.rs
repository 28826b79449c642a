//! A TUN in a namespace, with the gateway behind it.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use gw::config::{Config, DEFAULT_MEMORY, IcmpPolicy, InterfaceConfig, ObserveConfig};
use gw::gateway::{Gateway, Inherited, StopReason};
use gw::net::MacAddr;
use gw::policy::HostLoopback;
use gw::tap::netns::{Attached, attach_tun};
use gw::tap::{IpEther, IpGuest, Link, Medium};

use super::{Guest, plan, tap0};

/// Bytes of a download: many super-frames.
const DOWNLOAD: usize = 4 << 20;

fn tun0() -> InterfaceConfig {
    InterfaceConfig {
        name: "tun0".to_owned(),
        ..tap0()
    }
}

fn config() -> Config {
    Config {
        plan: plan(1500),
        interface: tun0(),
        host_loopback: HostLoopback::Open,
        outbound4: None,
        outbound6: None,
        dns: None,
        icmp: IcmpPolicy::GatewayOnly,
        forwards: Vec::new(),
        auto_publish: None,
        observe: ObserveConfig::default(),
        impairments: Vec::new(),
        memory: DEFAULT_MEMORY,
        ready_fd: None,
        exit_fd: None,
        pid_file: None,
        control: None,
        slirp4netns_api: None,
    }
}

fn attach_to(guest: &Guest) -> Attached {
    attach_tun(&guest.target(), None, &tun0(), &plan(1500)).expect("attached")
}

pub(super) fn configures_a_tun() {
    let guest = Guest::new();
    let attached = attach_to(&guest);
    assert_eq!(attached.made.warnings, Vec::<String>::new());
    assert_eq!(attached.tap.caps().medium, Medium::Ip);
    assert!(MacAddr(attached.made.guest_mac).is_unicast());
    let addresses = guest.run("ip -o addr show dev tun0");
    assert!(addresses.contains("10.0.2.100/24"), "{addresses}");
    assert!(addresses.contains("fd00::100/64"), "{addresses}");
    for version in ["-4", "-6"] {
        let routes = guest.run(&format!("ip {version} route show default"));
        assert!(routes.starts_with("default dev tun0"), "{routes}");
    }
}

/// Sends everyone who connects the same bytes.
fn server(address: SocketAddr) -> u16 {
    let listener = TcpListener::bind(address).expect("bind");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..=250u8).cycle().take(DOWNLOAD).collect();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&bytes);
        }
    });
    port
}

pub(super) fn a_tun_reaches_the_gateway() {
    let guest = Guest::new();
    let Attached { tap, made, .. } = attach_to(&guest);
    let config = config();
    let identity = IpGuest {
        mac: MacAddr(made.guest_mac),
        ..IpGuest::new(&config.plan).expect("random numbers")
    };
    let link = IpEther::new(Box::new(tap), identity).expect("link");
    let port4 = server((Ipv4Addr::LOCALHOST, 0).into());
    let port6 = server((Ipv6Addr::LOCALHOST, 0).into());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let client = std::thread::spawn(move || {
        guest.run("ping -c 2 -i 0.2 -W 2 10.0.2.2");
        guest.run("ping -c 2 -i 0.2 -W 2 fd00::2");
        for to in [format!("10.0.2.2:{port4}"), format!("[fd00::2]:{port6}")] {
            let output = guest
                .command("socat")
                .args(["-u", &format!("TCP:{to}"), "-"])
                .output()
                .expect("socat");
            let expected: Vec<u8> = (0..=250u8).cycle().take(DOWNLOAD).collect();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.stdout == expected, "{to}: {said}");
        }
        let _ = stop.send(());
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let gateway = Gateway::new(&config, Box::new(link), Inherited::default());
        let gateway = gateway.expect("gateway");
        let stop = async {
            // An error is the client's panic, which is told of below.
            let _ = tokio::time::timeout(Duration::from_secs(30), stopped).await;
            StopReason::CommandEnded
        };
        gateway.run(|| {}, stop).await.expect("served");
    });
    client.join().expect("the guest got everything");
}
