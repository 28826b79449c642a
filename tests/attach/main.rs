//! Attaching to real namespaces: what the guest sees, frames both ways, and
//! what is said when it does not work. Needs root.

mod harness;
mod sandbox;
mod tun;

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use gw::config::{Configure, GuestSockets, InterfaceConfig};
use gw::net::{AddressPlan, MacAddr, Mtu, PlanV4, PlanV6};
use gw::tap::netns::{Attached, NetnsTarget, attach};
use gw::tap::{AttachError, Checksum, Gso, GsoKind, Link, MAX_FRAME_LEN, Offload, Received};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: these tests make namespaces and need root; run them with sudo");
        return ExitCode::SUCCESS;
    }
    harness::main(&[
        ("configures_the_guest", configures_the_guest),
        ("is_fast", is_fast),
        (
            "leaves_alone_what_it_is_told_to",
            leaves_alone_what_it_is_told_to,
        ),
        (
            "a_tap_of_others_gets_offloads",
            a_tap_of_others_gets_offloads,
        ),
        ("reads_super_frames", reads_super_frames),
        ("sends_super_frames", sends_super_frames),
        ("reads_datagram_batches", reads_datagram_batches),
        ("works_without_offloads", works_without_offloads),
        (
            "sees_an_ignored_sigchld_through",
            sees_an_ignored_sigchld_through,
        ),
        ("names_and_paths", names_and_paths),
        (
            "keeps_an_existing_default_route",
            keeps_an_existing_default_route,
        ),
        ("works_without_ipv6", works_without_ipv6),
        ("says_what_is_wrong", says_what_is_wrong),
        ("configures_a_tun", tun::configures_a_tun),
        ("a_tun_reaches_the_gateway", tun::a_tun_reaches_the_gateway),
        (
            "works_for_an_unprivileged_user",
            works_for_an_unprivileged_user,
        ),
        (
            "forbidden_system_calls_kill",
            sandbox::forbidden_system_calls_kill,
        ),
        (
            "what_serving_needs_is_not_forbidden",
            sandbox::what_serving_needs_is_not_forbidden,
        ),
        (
            "an_open_directory_is_no_way_out",
            sandbox::an_open_directory_is_no_way_out,
        ),
        (
            "the_host_keeps_its_mounts",
            sandbox::the_host_keeps_its_mounts,
        ),
        (
            "who_has_no_power_makes_some",
            sandbox::who_has_no_power_makes_some,
        ),
    ])
}

/// A process in a network namespace of its own; both end with it.
struct Guest {
    child: Child,
}

impl Guest {
    fn new() -> Self {
        Self::with(Command::new("unshare").args(["-n", "--"]))
    }

    fn with(command: &mut Command) -> Self {
        let mut child = command
            .args(["sh", "-c", "echo ready; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut ready = [0; 6];
        child
            .stdout
            .take()
            .expect("stdout")
            .read_exact(&mut ready)
            .expect("namespace is made");
        Self { child }
    }

    fn pid(&self) -> i32 {
        self.child.id().try_into().expect("pid")
    }

    fn target(&self) -> NetnsTarget {
        NetnsTarget::Pid(self.pid())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n"]);
        let user = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).expect("link");
        if user("self") != user(&self.pid().to_string()) {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["--", program]);
        command
    }

    fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = self
            .command(words.next().expect("program"))
            .args(words)
            .output()
            .expect("nsenter");
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(line)).expect("JSON")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plan(mtu: u32) -> AddressPlan {
    AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
        v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
        gateway_mac: GATEWAY,
        mtu: Mtu::new(mtu).expect("MTU"),
    }
}

fn tap0() -> InterfaceConfig {
    InterfaceConfig {
        name: "tap0".to_owned(),
        mac: None,
        configure: Configure::Static,
        guest_sockets: GuestSockets::Unseen,
        processes: GuestSockets::Unseen,
    }
}

fn attach_to(guest: &Guest, interface: &InterfaceConfig, mtu: u32) -> Attached {
    attach(&guest.target(), None, interface, &plan(mtu)).expect("attached")
}

fn refused(target: &NetnsTarget, interface: &InterfaceConfig) -> AttachError {
    attach(target, None, interface, &plan(1500))
        .map(|_| ())
        .expect_err("refused")
}

/// Waits for a frame that `wanted` accepts; others are passed over.
fn receive(
    link: &mut impl Link,
    buf: &mut [u8],
    wanted: impl Fn(&[u8], &Received) -> bool,
) -> Received {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match link.recv(buf) {
            Ok(received) if wanted(&buf[..received.len], &received) => return received,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let fd = PollFd::new(link.readiness(), PollFlags::POLLIN);
                poll(&mut [fd], PollTimeout::from(100u8)).expect("poll");
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("no such frame within 5 s");
}

/// Names the gateway's MAC address to the guest, so that it need not ask.
fn add_neighbours(guest: &Guest) {
    for addr in ["10.0.2.2", "fd00::2"] {
        guest.run(&format!(
            "ip neigh replace {addr} lladdr {GATEWAY} dev tap0"
        ));
    }
}

fn configures_the_guest() {
    let guest = Guest::new();
    let mac = MacAddr([2, 1, 2, 3, 4, 5]);
    let interface = InterfaceConfig {
        mac: Some(mac),
        ..tap0()
    };
    let attached = attach_to(&guest, &interface, 65520);
    assert_eq!(attached.made.warnings, Vec::<String>::new());
    assert_eq!(attached.made.guest_mac, mac.0);

    let links = guest.json("ip -j -d addr");
    let link = |name: &str| {
        links
            .as_array()
            .expect("list")
            .iter()
            .find(|l| l["ifname"] == name)
            .expect("link")
            .clone()
    };
    assert!(
        link("lo")["flags"]
            .as_array()
            .expect("flags")
            .contains(&"UP".into())
    );
    let tap = link("tap0");
    assert_eq!(tap["mtu"], 65520);
    assert_eq!(tap["address"], mac.to_string());
    assert_eq!(tap["linkinfo"]["info_data"]["type"], "tap");
    assert!(
        tap["flags"]
            .as_array()
            .expect("flags")
            .contains(&"LOWER_UP".into())
    );
    let addrs = tap["addr_info"].as_array().expect("addresses");
    let addr = |text: &str| {
        addrs
            .iter()
            .find(|a| a["local"] == text)
            .unwrap_or_else(|| panic!("{addrs:?}"))
    };
    assert_eq!(addr("10.0.2.100")["prefixlen"], 24);
    assert_eq!(addr("10.0.2.100")["broadcast"], "10.0.2.255");
    assert_eq!(addr("fd00::100")["prefixlen"], 64);
    assert!(
        addr("fd00::100")["tentative"].is_null(),
        "usable at once: {addrs:?}"
    );

    let routes = guest.json("ip -j route show default");
    assert_eq!(routes[0]["gateway"], "10.0.2.2");
    assert_eq!(routes[0]["dev"], "tap0");
    let routes = guest.json("ip -j -6 route show default");
    assert_eq!(routes[0]["gateway"], "fd00::2");
    let caps = attached.tap.caps();
    assert!(caps.checksum && caps.tso, "{caps:?}");
}

fn is_fast() {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let guest = Guest::new();
        let start = Instant::now();
        let attached = attach_to(&guest, &tap0(), 1500);
        best = best.min(start.elapsed());
        drop(attached);
    }
    println!("attached in {best:?} at best");
    assert!(best < Duration::from_millis(50), "{best:?}");
}

fn leaves_alone_what_it_is_told_to() {
    let guest = Guest::new();
    let interface = InterfaceConfig {
        configure: Configure::LeaveAlone,
        ..tap0()
    };
    let attached = attach_to(&guest, &interface, 9000);
    let links = guest.json("ip -j addr show dev tap0");
    assert_eq!(links[0]["mtu"], 1500);
    assert_eq!(links[0]["addr_info"].as_array().map(Vec::len), Some(0));
    assert!(
        !links[0]["flags"]
            .as_array()
            .expect("flags")
            .contains(&"UP".into())
    );
    drop(attached);
    let links = guest.json("ip -j link");
    assert_eq!(links.as_array().map(Vec::len), Some(1), "only lo stays");
}

fn a_tap_of_others_gets_offloads() {
    for queues in ["", " multi_queue", " vnet_hdr"] {
        let guest = Guest::new();
        guest.run(&format!("ip tuntap add dev tap0 mode tap{queues}"));
        guest.run("ip addr add 10.0.2.50/24 dev tap0");
        guest.run("ip link set tap0 up");
        let interface = InterfaceConfig {
            configure: Configure::LeaveAlone,
            ..tap0()
        };
        let attached = attach_to(&guest, &interface, 1500);
        let caps = attached.tap.caps();
        assert!(caps.checksum && caps.tso, "{queues}: {caps:?}");
        drop(attached);
        let links = guest.json("ip -j addr show dev tap0");
        assert_eq!(
            links[0]["addr_info"][0]["local"], "10.0.2.50",
            "it stays as it was"
        );
    }
}

/// A TCP peer good enough for one connection: answers the SYN, then the guest
/// sends what it likes.
fn accept_connection(link: &mut impl Link, buf: &mut [u8]) -> Vec<u8> {
    let is_syn = |frame: &[u8], _: &Received| {
        frame.len() > 54 && frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] == 0x02
    };
    let received = receive(link, buf, is_syn);
    let syn = buf[..received.len].to_vec();
    let seq = u32::from_be_bytes([syn[38], syn[39], syn[40], syn[41]]);
    let port = |at: usize| u16::from_be_bytes([syn[at], syn[at + 1]]);
    let mac = |at: usize| <[u8; 6]>::try_from(&syn[at..at + 6]).expect("MAC");
    let mut answer = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac(0), mac(6))
        .ipv4([10, 0, 2, 2], [10, 0, 2, 100], 64)
        .tcp(port(36), port(34), 1000, 65535)
        .syn()
        .ack(seq.wrapping_add(1))
        .options(&[
            etherparse::TcpOptionElement::MaximumSegmentSize(1460),
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::WindowScale(8),
        ])
        .expect("options")
        .write(&mut answer, &[])
        .expect("packet");
    link.send(&Offload::default(), &[IoSlice::new(&answer)])
        .expect("sent");
    syn
}

fn reads_super_frames() {
    let guest = Guest::new();
    let mut tap = attach_to(&guest, &tap0(), 1500).tap;
    add_neighbours(&guest);
    let mut client = guest
        .command("nc")
        .args(["-n", "10.0.2.2", "5000"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nc");
    let mut stdin = client.stdin.take().expect("stdin");
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&vec![b'x'; 1 << 20]);
    });
    let mut buf = vec![0; MAX_FRAME_LEN];
    accept_connection(&mut tap, &mut buf);
    let received = receive(&mut tap, &mut buf, |_, received| {
        received.offload.gso.is_some()
    });
    let gso = received.offload.gso.expect("super-frame");
    assert_eq!(
        gso,
        Gso {
            kind: GsoKind::Tcp4,
            size: 1460,
            header_len: 54
        }
    );
    assert_eq!(
        received.offload.checksum,
        Checksum::Partial {
            start: 34,
            offset: 16
        }
    );
    assert!(received.len > 1514, "{received:?}");
    client.kill().expect("kill");
    client.wait().expect("wait");
    writer.join().expect("writer");
}

/// A UDP super-frame of 2500 payload bytes to the guest's port 7000, cut every
/// 1000, with the pseudo header's sum alone as an offloading stack leaves it.
fn udp_super_frame(mac: [u8; 6]) -> (Vec<u8>, Offload) {
    let payload: Vec<u8> = (0u32..2500)
        .map(|i| u8::try_from(i % 251).expect("byte"))
        .collect();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(GATEWAY.0, mac)
        .ipv4([10, 0, 2, 2], [10, 0, 2, 100], 64)
        .udp(53, 7000)
        .write(&mut frame, &payload)
        .expect("packet");
    let words = [0x0a00u32, 0x0202, 0x0a00, 0x0264, 17, 8 + 2500];
    let sum: u32 = words.iter().sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    let offload = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 6,
        },
        gso: Some(Gso {
            kind: GsoKind::Udp,
            size: 1000,
            header_len: 42,
        }),
    };
    (frame, offload)
}

/// UDP super-frames of the kernel's own making, and what software makes of them.
fn reads_datagram_batches() {
    use gw::wire::segment::Segmenter;
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("namespace");
    let (handed, _) = gw::tap::netns::make_here(&tap0(), &plan(1500)).expect("made");
    let mut tap = gw::tap::Tap::from_fd(handed.tap).expect("taken over");
    if !tap.caps().uso {
        eprintln!("SKIPPED: this kernel has no USO (Linux 6.2)");
        return;
    }
    let mut buf = vec![0; MAX_FRAME_LEN];
    for (addr, local, header_len) in [
        ("10.0.2.2", "10.0.2.100:0", 42u16),
        ("fd00::2", "[fd00::100]:0", 62),
    ] {
        let mac = GATEWAY.to_string();
        let status = Command::new("ip")
            .args(["neigh", "replace", addr, "lladdr", &mac, "dev", "tap0"])
            .status();
        assert!(status.expect("ip").success());
        let socket = std::net::UdpSocket::bind(local).expect("socket");
        setsockopt(&socket, UdpGsoSegment, &1000).expect("UDP_SEGMENT");
        let remote = (addr.parse::<std::net::IpAddr>().expect("address"), 7000);
        socket.send_to(&[7; 4500], remote).expect("sent");
        let received = receive(&mut tap, &mut buf, |_, r| r.offload.gso.is_some());
        assert_eq!(received.len, usize::from(header_len) + 4500);
        let gso = received.offload.gso.expect("super-frame");
        assert_eq!(
            gso,
            Gso {
                kind: GsoKind::Udp,
                size: 1000,
                header_len
            }
        );

        let mut lengths = Vec::new();
        let emit = |piece: &[u8]| {
            let packet = etherparse::SlicedPacket::from_ethernet(piece).expect("a frame");
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP: {packet:?}");
            };
            let sum = match packet.net.expect("IP") {
                etherparse::NetSlice::Ipv4(v4) => udp
                    .to_header()
                    .calc_checksum_ipv4(&v4.header().to_header(), udp.payload()),
                etherparse::NetSlice::Ipv6(v6) => udp
                    .to_header()
                    .calc_checksum_ipv6(&v6.header().to_header(), udp.payload()),
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum(), sum.expect("checksum"));
            lengths.push(udp.payload().len());
            Ok::<_, ()>(())
        };
        Segmenter::default()
            .each(
                tap.caps().medium,
                &received.offload,
                &buf[..received.len],
                emit,
            )
            .expect("cuttable")
            .expect("emitted");
        assert_eq!(lengths, [1000, 1000, 1000, 1000, 500]);
    }
}

/// A TAP without the virtio header, as another program may hand it over: all
/// is done in software.
fn works_without_offloads() {
    use std::os::fd::AsRawFd as _;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("namespace");
    let tun = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("tun");
    // SAFETY: all zero bytes are an ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).expect("flags");
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let mut tap = gw::tap::Tap::from_fd(tun.into()).expect("taken over");
    let caps = tap.caps();
    assert!(!caps.checksum && !caps.tso && !caps.uso, "{caps:?}");
    for line in [
        "link set lo up",
        "addr add 10.0.2.100/24 dev tap0",
        "link set tap0 up",
    ] {
        let status = Command::new("ip")
            .args(line.split(' '))
            .status()
            .expect("ip");
        assert!(status.success(), "{line}");
    }
    let socket = std::net::UdpSocket::bind("10.0.2.100:7000").expect("socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    // Broadcast Ethernet, unicast IP: no need to learn the MAC address.
    let (frame, offload) = udp_super_frame([0xff; 6]);
    let (head, body) = frame.split_at(42);
    tap.send(&offload, &[IoSlice::new(head), IoSlice::new(body)])
        .expect("sent");
    let mut got = Vec::new();
    for len in [1000, 1000, 500] {
        let mut buf = [0; 2000];
        let n = socket
            .recv(&mut buf)
            .expect("a datagram with a good checksum");
        assert_eq!(n, len);
        got.extend_from_slice(&buf[..n]);
    }
    assert_eq!(got, body);
}

/// Callers may have SIGCHLD ignored, which children inherit.
fn sees_an_ignored_sigchld_through() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("signal");
    let mut child = gw::tap::sys::fork_child(|| 3).expect("fork");
    let status = child.wait().expect("not reaped by the kernel");
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child.pid(), 3));
}

fn sends_super_frames() {
    let guest = Guest::new();
    let mut tap = attach_to(&guest, &tap0(), 1500).tap;
    add_neighbours(&guest);
    let mac: Vec<u8> = {
        let links = guest.json("ip -j link show dev tap0");
        let text = links[0]["address"].as_str().expect("MAC").to_owned();
        text.split(':')
            .map(|b| u8::from_str_radix(b, 16).expect("hex"))
            .collect()
    };
    let mut server = guest
        .command("socat")
        .args(["-u", "UDP4-RECV:7000", "STDOUT"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat");
    while !guest.run("ss -Hlun").contains(":7000") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (frame, offload) = udp_super_frame(mac[..].try_into().expect("MAC"));
    // Header and payload from different places; more slices than one call takes.
    let (head, body) = frame.split_at(42);
    let mut slices = vec![IoSlice::new(head)];
    slices.extend(body.chunks(25).map(IoSlice::new));
    assert!(slices.len() > 64);
    tap.send(&offload, &slices).expect("sent");
    tap.send(&offload, &[IoSlice::new(head), IoSlice::new(body)])
        .expect("sent");
    let mut got = vec![0; 5000];
    server
        .stdout
        .take()
        .expect("stdout")
        .read_exact(&mut got)
        .expect("both datagrams");
    assert_eq!(got, [body, body].concat());
    server.kill().expect("kill");
    server.wait().expect("wait");
}

/// A named namespace that is removed at the end.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        let status = Command::new("ip")
            .args(["netns", "add", name])
            .status()
            .expect("ip");
        assert!(status.success());
        Self(name.to_owned())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.0])
            .stderr(Stdio::null())
            .status();
    }
}

fn names_and_paths() {
    let name = format!("gw-test-{}", std::process::id());
    let named = Named::new(&name);
    let path = PathBuf::from("/run/netns").join(&name);
    let by_name = NetnsTarget::Name(name.clone());
    let attached = attach(&by_name, None, &tap0(), &plan(1500)).expect("attached by name");
    let other = InterfaceConfig {
        name: "tap1".to_owned(),
        ..tap0()
    };
    let second = attach(&NetnsTarget::Path(path), None, &other, &plan(1500)).expect("by path");
    assert_eq!(second.made.warnings.len(), 2, "{:?}", second.made.warnings);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("rt");
    runtime.block_on(async {
        let short = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(short, attached.watch.gone())
                .await
                .is_err(),
            "still there"
        );
        drop(named);
        let second = Duration::from_secs(1);
        tokio::time::timeout(second, attached.watch.gone())
            .await
            .expect("seen")
            .expect("watched");
    });
    drop(second);

    let guest = Guest::new();
    let own_userns = Some(Path::new("/proc/self/ns/user"));
    let attached =
        attach(&guest.target(), own_userns, &tap0(), &plan(1500)).expect("our own userns");
    runtime.block_on(async {
        drop(guest);
        let second = Duration::from_secs(1);
        tokio::time::timeout(second, attached.watch.gone())
            .await
            .expect("seen")
            .expect("watched");
    });
}

fn keeps_an_existing_default_route() {
    let guest = Guest::new();
    guest.run("ip link add veth0 type veth peer name veth1");
    guest.run("ip link set veth0 up");
    guest.run("ip route add default dev veth0");
    let attached = attach_to(&guest, &tap0(), 1500);
    let warnings = &attached.made.warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("default IPv4 route"), "{warnings:?}");
    assert_eq!(guest.json("ip -j route show default")[0]["dev"], "veth0");
}

fn works_without_ipv6() {
    let guest = Guest::new();
    let plan = AddressPlan {
        v6: None,
        ..plan(68)
    };
    attach(&guest.target(), None, &tap0(), &plan).expect("attached");
    // Namespaces inherit what the host has switched off.
    let guest = Guest::new();
    guest.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let attached = attach_to(&guest, &tap0(), 1500);
    assert_eq!(attached.made.warnings, Vec::<String>::new());
    assert_eq!(
        guest.json("ip -j -6 addr show dev tap0")[0]["addr_info"][0]["local"],
        "fd00::100"
    );
}

fn says_what_is_wrong() {
    let guest = Guest::new();
    guest.run("ip link add tap0 type veth peer name veth1");
    let text = refused(&guest.target(), &tap0()).to_string();
    assert_eq!(
        text,
        "the name 'tap0' is taken by an interface that is not a TAP; choose another with --ifname"
    );
    guest.run("ip tuntap add dev tap1 mode tun");
    let tap1 = InterfaceConfig {
        name: "tap1".to_owned(),
        ..tap0()
    };
    let text = refused(&guest.target(), &tap1).to_string();
    assert!(
        text.starts_with("cannot make the TAP 'tap1' (Invalid argument)"),
        "{text}"
    );
    let tap2 = InterfaceConfig {
        name: "tap2".to_owned(),
        ..tap0()
    };
    let held = attach_to(&guest, &tap2, 1500);
    let text = refused(&guest.target(), &tap2).to_string();
    assert_eq!(
        text,
        "the TAP 'tap2' is in use by another program; stop it, or choose another name with --ifname"
    );
    drop(held);
    let long = InterfaceConfig {
        name: "a-name-too-long-for-it".to_owned(),
        ..tap0()
    };
    let text = refused(&guest.target(), &long).to_string();
    assert!(
        text.starts_with("'a-name-too-long-for-it' cannot be an interface's name"),
        "{text}"
    );
    let text = {
        let userns = Path::new("/proc/self/ns/net");
        let result = attach(&guest.target(), Some(userns), &tap0(), &plan(1500));
        result.map(|_| ()).expect_err("refused").to_string()
    };
    assert_eq!(
        text,
        "'/proc/self/ns/net' is not a user namespace; give a file such as /proc/PID/ns/user"
    );
    let own = i32::try_from(std::process::id()).expect("pid");
    let text = refused(&NetnsTarget::Pid(own), &tap0()).to_string();
    assert!(
        text.contains("is in the network namespace that gw itself runs in"),
        "{text}"
    );
    let pid = guest.pid();
    drop(guest);
    let text = refused(&NetnsTarget::Pid(pid), &tap0()).to_string();
    assert!(
        text.starts_with(&format!("there is no process {pid};")),
        "{text}"
    );
}

/// Runs `body` as another user in a child; true when it returned.
fn as_nobody(body: impl FnOnce()) -> bool {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let mut child = gw::tap::sys::fork_child(|| {
        let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
        setgroups(&[]).expect("setgroups");
        setresgid(gid, gid, gid).expect("setresgid");
        setresuid(uid, uid, uid).expect("setresuid");
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
        body();
        0
    })
    .expect("fork");
    let exited = nix::sys::wait::WaitStatus::Exited(child.pid(), 0);
    child.wait().expect("wait") == exited
}

/// Gives the TUN device this mode in a mount namespace of this process's own.
fn with_tun_device(mode: u32) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    unshare(CloneFlags::CLONE_NEWNS).expect("mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
    mount(
        Some("tmpfs"),
        "/dev/net",
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .expect("tmpfs");
    let device = Path::new("/dev/net/tun");
    let (kind, number) = (SFlag::S_IFCHR, makedev(10, 200));
    mknod(device, kind, Mode::empty(), number).expect("mknod");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(device, mode).expect("chmod");
}

fn works_for_an_unprivileged_user() {
    let root_guest = Guest::new();
    with_tun_device(0o600);
    assert!(as_nobody(|| {
        let guest = Guest::with(Command::new("unshare").args(["-Urn", "--"]));
        let text = refused(&guest.target(), &tap0()).to_string();
        assert_eq!(
            text,
            "/dev/net/tun cannot be opened (Permission denied); let this user read and write it, \
             for example with 'chmod 666 /dev/net/tun'"
        );
    }));
    with_tun_device(0o666);
    assert!(as_nobody(|| {
        let guest = Guest::with(Command::new("unshare").args(["-Urn", "--"]));
        let attached = attach_to(&guest, &tap0(), 1500);
        assert_eq!(attached.made.warnings, Vec::<String>::new());
        assert_eq!(
            guest.json("ip -j route show default")[0]["gateway"],
            "10.0.2.2"
        );
        assert!(attached.tap.caps().tso);
        assert!(attached.tap.as_fd().try_clone_to_owned().is_ok());
        let userns = PathBuf::from(format!("/proc/{}/ns/user", guest.pid()));
        let net = NetnsTarget::Path(format!("/proc/{}/ns/net", guest.pid()).into());
        let tap1 = InterfaceConfig {
            name: "tap1".to_owned(),
            ..tap0()
        };
        attach(&net, Some(&userns), &tap1, &plan(1500)).expect("with --userns");
        attach(&net, None, &tap1, &plan(1500)).expect("by path, its owner found");

        let text = refused(&root_guest.target(), &tap0()).to_string();
        assert!(
            text.starts_with("not permitted to open the namespaces of process"),
            "{text}"
        );
    }));
}
