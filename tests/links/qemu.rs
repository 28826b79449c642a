//! QEMU at every link that it can be plugged into. No operating system is needed:
//! its network card's boot program gets itself an address by DHCP, which takes
//! frames both ways.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use gw::config::Config;
use gw::gateway::{Gateway, Inherited, StopReason};
use gw::tap::Access;
use gw::tap::listen::{ListenAddress, Listener, UnixgramLink};
use gw::tap::switch::Switch;
use gw::tap::udp::{UdpLink, UdpOptions};
use gw::tap::vde::switch::{SwitchOptions, VdeSwitch};

use crate::guests::config;
use crate::harness::{OURS, Program, place, single, switch};

/// A DHCP message's magic number (RFC 2131 section 3) and what says that it is
/// an acknowledgement (RFC 2132 section 9.6).
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const ACKNOWLEDGEMENT: [u8; 3] = [53, 1, 5];

/// A machine with nothing to boot but the network; its traffic goes to a file.
/// Emulated: what boot programs do in real mode is more than some KVMs can.
fn qemu(netdev: &str, capture: &Path) -> Program {
    let netdev = format!("{netdev},id=net");
    let dump = format!("filter-dump,id=dump,netdev=net,file={}", capture.display());
    Program::start(
        "qemu-system-x86_64",
        &[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc,accel=tcg",
            "-m",
            "64",
            "-netdev",
            &netdev,
            "-device",
            "virtio-net-pci,netdev=net",
            "-object",
            &dump,
            "-boot",
            "n",
        ],
    )
}

fn has_lease(capture: &Path) -> bool {
    let bytes = fs::read(capture).unwrap_or_default();
    let mut frames = bytes.windows(COOKIE.len()).enumerate();
    frames.any(|(at, window)| {
        let options = &bytes[at..bytes.len().min(at + 64)];
        window == COOKIE
            && options
                .windows(ACKNOWLEDGEMENT.len())
                .any(|option| option == ACKNOWLEDGEMENT)
    })
}

/// Serves a machine until it has its address.
fn gets_an_address(link: Switch, netdev: &str) {
    let (_dir, capture) = place("capture");
    let config: Config = config();
    let _machine = qemu(netdev, &capture);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let gateway = Gateway::new(&config, Box::new(link), Inherited::default());
        let gateway = gateway.expect("gateway");
        let stop = async {
            let end = Instant::now() + Duration::from_secs(60);
            while !has_lease(&capture) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            StopReason::CommandEnded
        };
        gateway.run(|| {}, stop).await.expect("served");
    });
    assert!(has_lease(&capture), "{netdev}");
}

#[test]
fn stream_over_a_unix_socket() {
    let (_dir, path) = place("stream");
    let at = ListenAddress::Unix {
        path: path.clone(),
        access: Access::default(),
    };
    let link = switch(OURS, Listener::qemu(&at).expect("listens"));
    let netdev = format!(
        "stream,server=off,addr.type=unix,addr.path={}",
        path.display()
    );
    gets_an_address(link, &netdev);
}

#[test]
fn socket_over_tcp() {
    let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
    let listener = Listener::qemu(&any).expect("listens");
    let address = listener.local_addr().expect("TCP");
    gets_an_address(switch(OURS, listener), &format!("socket,connect={address}"));
}

fn udp() -> (Switch, SocketAddr, SocketAddr) {
    let options = UdpOptions::new("127.0.0.1:0".parse().expect("address"), OURS);
    let link = UdpLink::new(&options).expect("link");
    let ours = link.local_addr().expect("address");
    let theirs = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let theirs = theirs.local_addr().expect("address");
    (single(OURS, link), ours, theirs)
}

#[test]
fn dgram_over_udp() {
    let (link, ours, theirs) = udp();
    let netdev = format!(
        "dgram,remote.type=inet,remote.host=127.0.0.1,remote.port={},\
         local.type=inet,local.host=127.0.0.1,local.port={}",
        ours.port(),
        theirs.port()
    );
    gets_an_address(link, &netdev);
}

#[test]
fn socket_over_udp() {
    let (link, ours, theirs) = udp();
    gets_an_address(link, &format!("socket,udp={ours},localaddr={theirs}"));
}

#[test]
fn dgram_over_a_unix_socket() {
    let (dir, path) = place("gram");
    let theirs = dir.path().join("theirs");
    let link = UnixgramLink::new(&path, &Access::default()).expect("link");
    let netdev = format!(
        "dgram,remote.type=unix,remote.path={},local.type=unix,local.path={}",
        path.display(),
        theirs.display()
    );
    gets_an_address(single(OURS, link), &netdev);
}

#[test]
fn vde() {
    let (_dir, path) = place("switch");
    let source = VdeSwitch::new(&SwitchOptions::new(path.clone())).expect("made");
    let link = switch(OURS, source);
    gets_an_address(link, &format!("vde,sock={}", path.display()));
}
