"""Helpers for the tests' Python programs: `from prelude import *`.

Only the standard library of Debian 12's Python is used.
"""
import array
import ctypes
import errno
import fcntl
import hashlib
import os
import random
import resource
import select
import signal
import struct
import sys
import threading
import time
from socket import *

# Not all of these have a name in the socket module.
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2
IP_RECVERR = 11
IP_MTU = 14
IPV6_MTU_DISCOVER = 23
IPV6_MTU = 24
IPV6_RECVERR = 25
IP_PKTINFO = 8
UDP_SEGMENT = 103
PATIENCE = 15


def ready():
    print("ready", flush=True)


def family(address):
    return AF_INET6 if ":" in address else AF_INET


def tcp(address="0.0.0.0", rcvbuf=None, sndbuf=None, timeout=PATIENCE):
    s = socket(family(address), SOCK_STREAM)
    if rcvbuf:
        s.setsockopt(SOL_SOCKET, SO_RCVBUF, rcvbuf)
    if sndbuf:
        s.setsockopt(SOL_SOCKET, SO_SNDBUF, sndbuf)
    s.settimeout(timeout)
    return s


def connect(address, port, **options):
    s = tcp(address, **options)
    s.connect((address, port))
    return s


def listen(port, address="::", rcvbuf=None):
    """A listener; `::` takes IPv4 as well."""
    s = socket(family(address), SOCK_STREAM)
    if address == "::":
        s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    if rcvbuf:
        s.setsockopt(SOL_SOCKET, SO_RCVBUF, rcvbuf)
    s.bind((address, port))
    s.listen(4096)
    return s


def reset(s):
    """Ends a connection with RST."""
    s.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def outcome(action):
    """What became of a system call: its result, or the error's name."""
    try:
        return action()
    except timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def raise_limits(files=20000):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))


# The known stream: not periodic in any power of two, so that a lost, doubled
# or moved block changes the digest.
_BLOCK = random.Random(1).randbytes(1_000_003)


def stream(count):
    sent = 0
    while sent < count:
        part = _BLOCK[: count - sent]
        yield part
        sent += len(part)


def stream_digest(count):
    digest = hashlib.sha256()
    for part in stream(count):
        digest.update(part)
    return digest.hexdigest()


def send_stream(s, count):
    for part in stream(count):
        s.sendall(part)


def read_all(s, chunk=1 << 20, pause=0):
    """Reads to the end: (count, digest)."""
    digest = hashlib.sha256()
    count = 0
    while True:
        data = s.recv(chunk)
        if not data:
            return count, digest.hexdigest()
        digest.update(data)
        count += len(data)
        if pause:
            time.sleep(pause)


def read_exactly(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += part
    return data


def read_line(s):
    line = b""
    while not line.endswith(b"\n"):
        part = s.recv(1)
        if not part:
            raise EOFError(line)
        line += part
    return line.decode().strip()


def download(address, port, count, **options):
    """Fetches `count` bytes of the known stream and checks each of them."""
    with connect(address, port, **options) as s:
        s.sendall(f"get {count}\n".encode())
        got = read_all(s)
    assert got == (count, stream_digest(count)), f"got {got[0]} of {count} bytes, or others"


def upload(address, port, count, **options):
    """Sends `count` bytes of the known stream and has each of them checked."""
    with connect(address, port, **options) as s:
        s.sendall(b"put\n")
        send_stream(s, count)
        s.shutdown(SHUT_WR)
        got = read_line(s)
        assert s.recv(1) == b""
    assert got == f"{count} {stream_digest(count)}", f"arrived: {got}"


def _serve_one(s):
    try:
        with s:
            s.settimeout(60)
            request = read_line(s).split()
            if request[0] == "get":
                send_stream(s, int(request[1]))
                s.shutdown(SHUT_WR)
                s.recv(1)
            elif request[0] == "put":
                count, digest = read_all(s)
                s.sendall(f"{count} {digest}\n".encode())
            elif request[0] == "echo":
                while data := s.recv(1 << 16):
                    s.sendall(data)
    except (OSError, EOFError) as error:
        print("server:", error, file=sys.stderr)


def serve_tcp(port):
    raise_limits()
    threading.stack_size(256 << 10)
    listener = listen(port)
    ready()
    while True:
        s, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(s,), daemon=True).start()


def udp(address="0.0.0.0", port=None, connected=None, timeout=5, rcvbuf=4 << 20):
    s = socket(family(address), SOCK_DGRAM)
    s.settimeout(timeout)
    s.setsockopt(SOL_SOCKET, SO_RCVBUF, rcvbuf)
    if port is not None:
        s.bind((address, port))
    if connected:
        s.connect((address, connected))
    return s


def serve_udp_echo(port):
    """Echoes from the address that was asked (IP_PKTINFO)."""
    s4 = socket(AF_INET, SOCK_DGRAM)
    s4.setsockopt(IPPROTO_IP, IP_PKTINFO, 1)
    s4.bind(("0.0.0.0", port))
    s6 = socket(AF_INET6, SOCK_DGRAM)
    s6.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
    s6.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    s6.bind(("::", port))
    for s in s4, s6:
        s.setsockopt(SOL_SOCKET, SO_RCVBUF, 4 << 20)
        s.setsockopt(SOL_SOCKET, SO_SNDBUF, 4 << 20)
    ready()
    while True:
        for s in select.select([s4, s6], [], [])[0]:
            data, control, _, peer = s.recvmsg(65535, 256)
            level, kind, info = control[0]
            if s is s4:
                # ipi_spec_dst names the source of the answer.
                info = struct.pack("=I4s4s", 0, info[4:8], bytes(4))
            else:
                info = info[:16] + bytes(4)
            s.sendmsg([data], [(level, kind, info)], 0, peer)


def dns_name(name):
    labels = [label for label in name.split(".") if label]
    return b"".join(bytes([len(l)]) + l.encode() for l in labels) + b"\0"


def dns_question(message):
    labels, at = [], 12
    while message[at]:
        length = message[at]
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    kind, _ = struct.unpack_from("!HH", message, at + 1)
    return ".".join(labels).lower(), kind, at + 5


def dns_answer(message, address, over_tcp):
    """The scripted server's answer, or None for silence.

    The first label says what happens: `nx`, `servfail`, `refused`, `silent`,
    `big` (truncated over UDP), `once-...` (exists only under that suffix),
    `empty`; everything else exists with `address`.
    """
    name, kind, end = dns_question(message)
    print(f"query {name} {kind} {'tcp' if over_tcp else 'udp'}", flush=True)
    first = name.split(".")[0]
    if first == "silent":
        return None
    rcode = {"nx": 3, "servfail": 2, "refused": 5}.get(first, 0)
    flags = 0x8180 | rcode
    answers = []
    if first.startswith("only-"):
        wanted = first + "." + first.removeprefix("only-").replace("-", ".")
        if name != wanted:
            flags |= 3
            first = "nx"
    if rcode == 0 and not flags & 15 and first != "empty":
        if first == "big" and not over_tcp:
            flags |= 0x0200
        elif first == "big":
            text = b"".join(b"\xff" + bytes([97 + i]) * 255 for i in range(16))
            answers.append((16, text))
        elif kind == 1 and ":" not in address:
            answers.append((1, inet_aton(address)))
        elif kind == 28:
            v6 = address if ":" in address else "2001:db8::" + address.split(".")[-1]
            answers.append((28, inet_pton(AF_INET6, v6)))
    head = message[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
    body = message[12:end]
    for rtype, data in answers:
        body += b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, 1, len(data)) + data
    return head + body


def serve_dns(at, address, port=53):
    u = socket(family(at), SOCK_DGRAM)
    u.bind((at, port))
    t = listen(port, at)

    def over_tcp():
        while True:
            s, _ = t.accept()
            threading.Thread(target=one_tcp, args=(s,), daemon=True).start()

    def one_tcp(s):
        try:
            with s:
                s.settimeout(30)
                while True:
                    (length,) = struct.unpack("!H", read_exactly(s, 2))
                    answer = dns_answer(read_exactly(s, length), address, True)
                    if answer:
                        s.sendall(struct.pack("!H", len(answer)) + answer)
        except (OSError, EOFError):
            pass

    threading.Thread(target=over_tcp, daemon=True).start()
    ready()
    while True:
        message, peer = u.recvfrom(65535)
        try:
            answer = dns_answer(message, address, False)
        except (IndexError, struct.error):
            continue
        if answer:
            u.sendto(answer, peer)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, destination, protocol, payload, ttl=64, ident=1, flags=0, **broken):
    """An IPv4 packet; `broken` overrides version_ihl, total, checksum."""
    total = broken.get("total", 20 + len(payload))
    start = struct.pack(
        "!BBHHHBBH4s4s",
        broken.get("version_ihl", 0x45), 0, total, ident, flags, ttl, protocol, 0,
        inet_aton(source), inet_aton(destination),
    )
    right = checksum(start)
    value = broken.get("checksum", right)
    return start[:10] + struct.pack("!H", value) + start[12:] + payload


def ipv6(source, destination, next_header, payload, hops=64, **broken):
    return struct.pack(
        "!IHBB16s16s",
        broken.get("first_word", 0x60000000), broken.get("length", len(payload)),
        next_header, hops,
        inet_pton(AF_INET6, source), inet_pton(AF_INET6, destination),
    ) + payload


def udp_segment(source_port, destination_port, payload, **broken):
    """A UDP datagram without a checksum (IPv4 allows it)."""
    length = broken.get("length", 8 + len(payload))
    return struct.pack("!HHHH", source_port, destination_port, length, 0) + payload


class Ether:
    """Raw frames on an interface, without the kernel's stack."""

    def __init__(self, name="tap0", gateway="10.0.2.2"):
        self.socket = socket(AF_PACKET, SOCK_RAW, htons(3))
        self.socket.bind((name, 0))
        self.socket.settimeout(3)
        self.mac = self.socket.getsockname()[4]
        self.gateway = gateway

    def gateway_mac(self):
        for _ in range(5):
            self.arp(self.gateway)
            answer = self.arp_reply(self.gateway, 1)
            if answer:
                return answer
        raise TimeoutError("no ARP answer from the gateway")

    def send(self, destination, kind, payload):
        self.socket.send(destination + self.mac + struct.pack("!H", kind) + payload)

    def arp(self, target, source="10.0.2.100"):
        self.send(
            b"\xff" * 6, 0x0806,
            struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, self.mac,
                        inet_aton(source), bytes(6), inet_aton(target)),
        )

    def arp_reply(self, target, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                frame = self.socket.recv(65535)
            except timeout:
                return None
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" \
                    and frame[28:32] == inet_aton(target):
                return frame[22:28]
        return None

    def dhcp_message(self, kind, options, ciaddr):
        everything = {53: bytes([kind]), 55: bytes([1, 3, 6, 26, 51, 119]), **options}
        encoded = b"".join(bytes([k, len(v)]) + v for k, v in everything.items())
        return struct.pack(
            "!BBBBIHH4s4s4s4s16s64s128sI", 1, 1, 6, 0, 0x1234, 0, 0x8000,
            inet_aton(ciaddr), bytes(4), bytes(4), bytes(4), self.mac + bytes(10),
            bytes(64), bytes(128), 0x63825363,
        ) + encoded + b"\xff"

    def send_dhcp(self, body):
        segment = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
        self.send(b"\xff" * 6, 0x0800, ipv4("0.0.0.0", "255.255.255.255", 17, segment))

    def dhcp(self, kind, options={}, ciaddr="0.0.0.0", answer=True):
        """One exchange: (message type, yiaddr, options) of the answer."""
        self.send_dhcp(self.dhcp_message(kind, options, ciaddr))
        deadline = time.monotonic() + (5 if answer else 0)
        while time.monotonic() < deadline:
            frame = self.socket.recv(65535)
            if frame[12:14] != b"\x08\0" or frame[23] != 17 or frame[36:38] != b"\0\x44":
                continue
            body = frame[42:]
            got, at = {}, 240
            while body[at] != 255:
                if body[at] == 0:
                    at += 1
                    continue
                got[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
                at += 2 + body[at + 1]
            return got[53][0], inet_ntoa(body[16:20]), got
