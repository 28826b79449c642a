//! What the gateway leans on in the kernel, without the gateway.
//!
//! When one of these fails, tests of the gateway fail for a reason that is not
//! in the gateway.

use crate::harness::World;

/// Opens a TAP by its name, with offloads; `frame()` reads one, without its
/// virtio header: (gso_type, gso_size, frame).
const TAP: &str = r#"
def open_tap(flags=0x4000):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | flags))
    return fd
def offload(fd, flags):
    fcntl.ioctl(fd, 0x400454d0, flags)
def up():
    os.system("ip link set tap0 address 02:00:00:00:00:64 mtu 1500 up; "
              "ip addr add 10.0.2.100/24 dev tap0; "
              "ip neigh replace 10.0.2.2 lladdr 02:00:00:00:00:02 dev tap0")
def frame(fd, wanted, seconds=5):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]: break
        data = os.read(fd, 70000)
        flags, gso, header, size, start, offset = struct.unpack("=BBHHHH", data[:10])
        if data[22:24] == b"\x08\0" and data[33] == wanted:
            return gso, size, data[10:]
    raise TimeoutError("no such frame")
CSUM, TSO4, TSO6, USO4, USO6 = 1, 2, 4, 0x20, 0x40
"#;

fn in_a_guest(script: &str) -> String {
    let world = World::new();
    world.guest.py(&format!("{TAP}\n{script}"))
}

#[test]
fn an_unprivileged_namespace_can_make_a_tap() {
    in_a_guest("open_tap(0)");
}

#[test]
fn a_tap_goes_with_its_last_descriptor() {
    in_a_guest(
        "fd = open_tap()
assert 'tap0' in os.popen('ip link').read()
os.close(fd)
assert 'tap0' not in os.popen('ip link').read()",
    );
}

#[test]
fn the_virtio_header_can_be_added_to_a_tap_of_somebody_else() {
    in_a_guest(
        "os.system('ip tuntap add dev tap0 mode tap')
fd = open_tap()
offload(fd, CSUM | TSO4 | TSO6)
assert struct.unpack('I', fcntl.ioctl(fd, 0x800454cf, bytes(4)))",
    );
}

#[test]
fn tcp_super_frames_cross_at_mtu_1500_both_ways() {
    in_a_guest(
        r#"
fd = open_tap()
offload(fd, CSUM | TSO4 | TSO6)
up()
def segment(flags, seq, ack, data=b"", options=b"", gso=0):
    offset = (5 + len(options) // 4) << 4
    length = 20 + len(options) + len(data)
    pseudo = inet_aton("10.0.2.2") + inet_aton("10.0.2.100") + struct.pack("!BBH", 0, 6, length)
    partial = ~checksum(pseudo) & 0xffff
    tcp = struct.pack("!HHIIBBHHH", 7000, port, seq, ack, offset, flags, 65535, partial, 0)
    packet = ipv4("10.0.2.2", "10.0.2.100", 6, tcp + options + data)
    header = struct.pack("=BBHHHH", 1, 1 if gso else 0, 54 if gso else 0, gso, 34, 16)
    ether = bytes.fromhex("020000000064" "020000000002") + b"\x08\0"
    os.write(fd, header + ether + packet)
client = tcp()
port = None
thread = threading.Thread(target=lambda: (client.connect(("10.0.2.2", 7000))))
thread.start()
_, _, syn = frame(fd, 6)
port, _, seq = struct.unpack("!HHI", syn[34:42])
# MSS 1460, window scale 8
segment(0x12, 1000, seq + 1, options=bytes.fromhex("020405b4" "01030308"))
thread.join()
frame(fd, 6)
down = random.Random(1).randbytes(40000)
segment(0x18, 1001, seq + 1, down, gso=1460)
assert read_exactly(client, 40000) == down
client.setblocking(False)
client.setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 20)
client.send(bytes(1 << 18))
sizes = []
at = seq + 1
for _ in range(10):
    gso, size, data = frame(fd, 6)
    payload = data[34 + (data[46] >> 4) * 4:]
    if payload:
        sizes.append(len(payload))
        if len(payload) > 1460: assert gso & 0x7f == 1 and size <= 1460, (gso, size)
        at += len(payload)
        segment(0x10, 41001, at)
    if max(sizes, default=0) > 1460: break
assert max(sizes) > 1460, sizes
"#,
    );
}

#[test]
fn udp_super_frames_cross_both_ways() {
    let said = in_a_guest(
        r#"
fd = open_tap()
try:
    offload(fd, CSUM | TSO4 | TSO6 | USO4 | USO6)
except OSError as error:
    print("this kernel has no USO (Linux 6.2 has):", error)
    sys.exit()
up()
s = udp(port=5555)
s.setsockopt(17, UDP_SEGMENT, 1000)
s.sendto(bytes(20500), ("10.0.2.2", 7000))
gso, size, data = frame(fd, 17)
assert (gso & 0x7f, size) == (5, 1000) and len(data) == 42 + 20500, (gso, size, len(data))
data = random.Random(1).randbytes(20500)
pseudo = inet_aton("10.0.2.2") + inet_aton("10.0.2.100") + struct.pack("!BBH", 0, 17, 20508)
partial = ~checksum(pseudo) & 0xffff
packet = ipv4("10.0.2.2", "10.0.2.100", 17, struct.pack("!HHHH", 7000, 5555, 20508, partial) + data)
header = struct.pack("=BBHHHH", 1, 5, 42, 1000, 34, 6)
os.write(fd, header + bytes.fromhex("020000000064" "020000000002") + b"\x08\0" + packet)
got = [s.recv(70000) for _ in range(21)]
assert got == [data[i:i + 1000] for i in range(0, 20500, 1000)]
print("both ways")
"#,
    );
    if said != "both ways" {
        eprintln!("SKIPPED: {said}");
    }
}

#[test]
fn a_frame_may_be_larger_than_64_kib_with_its_headers() {
    // At MTU 65520 an Ethernet frame has 65534 bytes; a buffer of 65536 with
    // the virtio header in it would cut it.
    in_a_guest(
        r#"
fd = open_tap()
offload(fd, CSUM | TSO4 | TSO6)
up()
os.system("ip link set tap0 mtu 65520")
s = udp(port=5555)
s.sendto(bytes(65520 - 28), ("10.0.2.2", 7000))
_, _, data = frame(fd, 17)
assert len(data) == 14 + 65520, len(data)
"#,
    );
}

#[test]
fn ping_sockets_work_for_the_group_range() {
    let world = World::new();
    world
        .outer
        .py("s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)
s.settimeout(3)
s.connect(('192.0.2.1', 0))
s.send(struct.pack('!BBHHH', 8, 0, 0, 0, 1) + b'payload')
assert s.recv(100).endswith(b'payload')");
}
